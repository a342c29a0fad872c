"""The search on a real screen: what it starts from, what it finds, and that it can be stopped, taken up again and watched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from planning import asked, workload

from twin.base import InputError
from twin.plan.choice import choose
from twin.plan.request import PlanRequest
from twin.search.algorithms import ENUMERATED
from twin.search.evaluate import Outcome
from twin.search.front import front, front_points, hypervolume, scored
from twin.search.journal import Journal
from twin.search.objectives import objective_values
from twin.search.screen import screen
from twin.search.search import longer_look, rerun, search
from twin.search.search_space import promising, search_space
from twin.search.simulator import Fidelity, Simulator
from twin.search.space import replica_kinds

Ask = Callable[..., PlanRequest]


def simulator(request: PlanRequest, journal: Journal | None = None) -> Simulator:
    kinds, _ = replica_kinds(
        request.model, request.profiles, max_model_len=request.load.max_model_len, gpu_memory_utilization=0.92
    )
    judged = screen(kinds, request.load, request.slo.bounds, request.limits, request.headroom)
    found = Simulator(judged, request.load, request.slo.bounds, request.headroom)
    return found if journal is None else replace(found, journal=journal)


@pytest.fixture(scope="module")
def short() -> PlanRequest:
    """A question whose simulations take milliseconds."""
    return asked(workload(num_requests=150), "l40s", "h100_sxm", max_gpus=3)


@pytest.fixture(scope="module")
def every(short: PlanRequest) -> Simulator:
    """All of it simulated: hundreds of configurations."""
    runs = simulator(short)
    search(runs, runs.screen.alive(), 0, "enumerate")
    return runs


def answered(every: Simulator, short: PlanRequest) -> Simulator:
    """A fresh simulator that answers from what was enumerated."""
    journal = Journal({})
    for row, outcome in every.sliced.items():
        journal.put(every.key("slice"), every.screen.candidate(row).id, outcome.measured)
    return simulator(short, journal)


def test_enumeration_simulates_all_whatever_the_budget(every: Simulator) -> None:
    rows = every.screen.alive()
    assert rows.size > 2 * every.max_evaluations
    assert set(every.sliced) == set(rows.tolist())


@pytest.mark.parametrize("algorithm", ["auto", "nsga2", "nsga3"])
def test_the_front_and_what_is_recommended_are_those_of_enumeration(
    every: Simulator, short: PlanRequest, algorithm: str
) -> None:
    best = front_points({row: scored(outcome) for row, outcome in every.sliced.items()})
    wanted = choose([outcome for outcome in every.sliced.values() if outcome.holds])
    for seed in range(2):
        runs = answered(every, short)
        search(runs, runs.screen.alive(), seed, algorithm)
        assert len(runs.sliced) <= runs.max_evaluations
        reached = front_points({row: scored(outcome) for row, outcome in runs.sliced.items()})
        box = best.min(axis=0), best.max(axis=0)
        assert hypervolume(reached, *box) >= 0.99 * hypervolume(best, *box)
        found = choose([outcome for outcome in runs.sliced.values() if outcome.holds])
        assert recommended(found) == recommended(wanted)


def recommended(chosen: Sequence[tuple[Outcome, tuple[str, ...]]]) -> str:
    return next(outcome.candidate.id for outcome, names in chosen if "recommended" in names)


def test_no_point_of_the_front_is_dominated_and_every_other_is(every: Simulator) -> None:
    kept = front(every.sliced)
    points = {row: np.array(objective_values(every.sliced[row])) for row in every.sliced}
    for a, b in permutations(kept, 2):
        assert not (points[a] <= points[b]).all() or (points[a] > points[b]).any()
    for row in set(every.sliced) - set(kept):
        assert not every.sliced[row].holds or any((points[k] <= points[row]).all() for k in kept)


def test_few_survivors_are_enumerated(every: Simulator, short: PlanRequest) -> None:
    runs = answered(every, short)
    rows = runs.screen.alive()[:ENUMERATED]
    search(runs, rows, seed=0)
    assert set(runs.sliced) == set(rows.tolist())


def test_starts_are_distinct_survivors_and_variables_tell_rows_apart(every: Simulator) -> None:
    rows = every.screen.alive()
    found = promising(every.screen, rows, every.bounds, 24)
    assert len(set(found)) == len(found) == 24
    assert set(found) <= set(rows.tolist())
    space = search_space(every.screen, rows, every.bounds, budget=100, seed=0)
    values = np.column_stack([variable.values for variable in space.variables])
    assert len(np.unique(values, axis=0)) == rows.size
    assert space.nearest(values[::50]) == rows[::50].tolist()
    assert not set(space.nearest(values[::50], rows[::50].tolist())) & set(rows[::50].tolist())
    fleet = space.settings(int(rows[0]))
    assert len({(every.screen.candidate(row).num_gpus, int(every.screen.kind[row])) for row in fleet}) == 1


def test_the_front_is_watched_as_it_grows(every: Simulator, short: PlanRequest) -> None:
    runs, seen = answered(every, short), []
    search(runs, runs.screen.alive(), 0, watch=lambda so_far: seen.append([o.candidate.id for o in so_far]))
    assert len(seen) > 3
    assert seen[-1] == [runs.sliced[row].candidate.id for row in front(runs.sliced)]
    assert seen[0] != seen[-1]


@pytest.mark.parametrize("algorithm", ["auto", "nsga2"])
def test_stopped_and_taken_up_again_is_the_same_search(
    short: PlanRequest, algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = simulator(short)
    search(whole, whole.screen.alive(), 1, algorithm, budget=70)
    first = simulator(short, Journal({}, tmp_path / "search.jsonl"))
    plain, calls = Simulator.run, []

    def run(self: Simulator, row: int, fidelity: Fidelity) -> object:
        if len(calls) == 30:
            raise KeyboardInterrupt
        calls.append(row)
        return plain(self, row, fidelity)

    with monkeypatch.context() as patched:
        patched.setattr(Simulator, "run", run)
        with pytest.raises(KeyboardInterrupt):
            search(first, first.screen.alive(), 1, algorithm, budget=70)
    assert len(first.sliced) == 30, "what was simulated is kept"
    again = simulator(short, Journal({}, resume=tmp_path / "search.jsonl"))
    search(again, again.screen.alive(), 1, algorithm, budget=70)
    assert {row: o.measured for row, o in again.sliced.items()} == {row: o.measured for row, o in whole.sliced.items()}
    assert len(again.journal) - again.journal.resumed == len(whole.sliced) - 30


def test_an_hour_is_looked_at_only_where_the_trace_is_longer(every: Simulator, short: PlanRequest) -> None:
    runs = answered(every, short)
    search(runs, runs.screen.alive(), 0)
    rerun(runs)
    assert not runs.done["peak_hour"]
    assert 0 < len(runs.whole) <= 2 * runs.max_whole
    long = asked(workload(rate=0.4, num_requests=2500), "l40s", max_gpus=2)
    assert long.load.trace.duration_s > 5400
    slow = simulator(long)
    search(slow, slow.screen.alive()[::9], 0)
    rerun(slow)
    hour = slow.done["peak_hour"]
    assert set(slow.whole) <= set(hour) <= set(slow.sliced)
    assert len(slow.traces["slice"]) < len(slow.traces["peak_hour"]) < len(slow.load.trace)
    assert set(front(slow.sliced)) <= set(hour)


def test_the_longer_look_goes_to_the_best_first(every: Simulator) -> None:
    order = longer_look(every.sliced)
    holding = [outcome for outcome in every.sliced.values() if outcome.holds]
    assert len(set(order)) == len(order)
    assert every.sliced[order[0]].usd_per_hour == min(outcome.usd_per_hour for outcome in holding)
    assert {every.sliced[row].candidate.gpu for row in order[:6]} == {"l40s", "h100_sxm"}
    assert set(front(every.sliced)) <= set(order)
    failing = [row for row in order if not every.sliced[row].holds]
    assert [every.sliced[row].worst for row in failing[1:]] == sorted(every.sliced[row].worst for row in failing[1:])


def test_an_unknown_algorithm_is_a_sentence(every: Simulator, short: PlanRequest) -> None:
    runs = answered(every, short)
    with pytest.raises(InputError, match="algorithm"):
        search(runs, runs.screen.alive(), 0, "annealing")
    assert not runs.sliced
