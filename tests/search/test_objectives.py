"""Objectives as a table, windows of the load, and the score that a schedule of weights gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from planning import asked, workload

from twin.base import InputError
from twin.plan.asked import asked_of
from twin.plan.choice import choose
from twin.search.evaluate import Measured, Outcome
from twin.search.objectives import OBJECTIVES, USUAL, chosen_of, nondominated_of, objective_values, scores, spans_of
from twin.search.screen import screen
from twin.search.simulator import Simulator
from twin.search.space import replica_kinds
from twin.spec.hardware import load_profile
from twin.spec.objectives import NAMED, Objectives, parse_objectives, parse_weights
from twin.traffic.trace import Trace


@dataclass(frozen=True)
class Made:
    """An outcome made up of its figures."""

    usd_per_hour: float
    latency: tuple[float, float] = (0.5, 0.5)
    load: str = "stable"
    figures: Mapping[str, float] = field(default_factory=dict)
    windows: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    limit_w: float = 700.0
    id: str = "made"

    @property
    def candidate(self) -> Made:
        return self

    @property
    def gpu(self) -> str:
        return "g"

    @property
    def num_gpus(self) -> int:
        return 1

    @property
    def latency_score(self) -> float:
        return math.sqrt(self.latency[0] * self.latency[1])


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """One simulated replica of what chat traffic needs, with every objective measured."""
    objectives = Objectives(minimise=parse_objectives("cost,p50_ttft,p99_ttft,p90_e2el,goodput,throughput,energy"))
    request = asked_of(asked(workload(num_requests=300), "h100_sxm"), (), objectives)
    kinds, _ = replica_kinds(request.model, request.profiles, max_model_len=8192, gpu_memory_utilization=0.92)
    judged = screen(kinds[:1], request.load, request.slo.bounds, request.limits, request.headroom)
    runs = Simulator(judged, request.load, request.slo.bounds, request.headroom, wants=request.wants)
    return runs.many([0], "whole")[0]


def test_the_usual_objectives_are_cost_and_both_sides_of_latency(outcome: Outcome) -> None:
    assert objective_values(outcome) == [outcome.usd_per_hour, *outcome.latency]
    assert chosen_of(Objectives()) == USUAL
    assert set(OBJECTIVES) == set(NAMED)


def test_every_objective_is_what_the_metrics_say(outcome: Outcome) -> None:
    names = ("cost", "p50_ttft", "p99_ttft", "p90_e2el", "goodput", "throughput", "energy")
    values = dict(zip(names, objective_values(outcome, names), strict=True))
    metrics = outcome.summary
    assert values["p50_ttft"] * 1e3 == pytest.approx(metrics["p50_ttft_ms"])
    assert values["p99_ttft"] == pytest.approx(outcome.measured.p99_s["ttft"])
    assert values["p90_e2el"] * 1e3 == pytest.approx(metrics["p90_e2el_ms"])
    assert 1 / values["goodput"] == pytest.approx(metrics["request_goodput"])
    trace = workload(num_requests=300).trace
    rate = trace.output_tokens.sum() / trace.duration_s
    assert 1 / values["throughput"] == pytest.approx(rate / outcome.deployment.utilisation)
    watts = outcome.figures["energy"] * outcome.candidate.num_gpus * 700.0
    assert values["energy"] == pytest.approx(watts * 730 / 1e3)
    assert 0.15 < outcome.figures["energy"] < 1.0


def test_figures_survive_the_journal(outcome: Outcome) -> None:
    assert Measured.from_json(outcome.measured.as_json()) == outcome.measured


def test_a_lost_simulation_is_worst_in_everything_but_cost(outcome: Outcome) -> None:
    lost = Outcome(outcome.deployment, Measured.lost(2), outcome.bounds, 0.2)
    assert objective_values(lost, ("cost", "goodput", "energy")) == [outcome.usd_per_hour, math.inf, math.inf]


def test_what_is_beaten_in_everything_is_not_on_the_front() -> None:
    made = [
        Made(usd, figures={"throughput": rate}) for usd, rate in [(1.0, 10.0), (2.0, 20.0), (3.0, 15.0), (1.0, 10.0)]
    ]
    kept = nondominated_of(made, ("cost", "throughput"))
    assert [(o.usd_per_hour, o.figures["throughput"]) for o in kept] == [(1.0, 10.0), (2.0, 20.0)]


def spread(counts: list[int]) -> Trace:
    """So many arrivals in each five minutes, evenly."""
    arrival = np.concatenate([300.0 * at + np.arange(n) * (300.0 / n) for at, n in enumerate(counts)])
    return Trace(arrival, np.full(arrival.size, 10), np.full(arrival.size, 10))


def test_peak_and_trough_are_the_busiest_and_calmest_quarter() -> None:
    trace = spread([5, 50, 20, 8, 60, 3, 20, 20])
    assert spans_of(parse_weights("peak:cost=1"), trace) == ((300.0, 600.0), (1200.0, 1500.0))
    assert spans_of(parse_weights("trough:cost=1"), trace) == ((0.0, 300.0), (1500.0, 1800.0))
    ((start, end),) = spans_of(parse_weights("all:cost=1"), trace)
    assert (start, end) == (0.0, pytest.approx(trace.duration_s))
    short = spread([30])
    assert spans_of(parse_weights("peak:cost=1"), short) == spans_of(parse_weights("trough:cost=1"), short)


def test_hours_count_from_the_trace_s_beginning_day_by_day_and_over_midnight() -> None:
    day = 24 * 3600.0
    trace = Trace(np.array([0.0, 2 * day]), np.array([1, 1]), np.array([1, 1]))
    nine = spans_of(parse_weights("9-17:cost=1"), trace)
    assert nine == ((9 * 3600.0, 17 * 3600.0), (day + 9 * 3600.0, day + 17 * 3600.0))
    night = spans_of(parse_weights("22-6:cost=1"), trace)
    assert night[0] == (0.0, 6 * 3600.0)
    assert night[1] == (22 * 3600.0, day + 6 * 3600.0)
    with pytest.raises(InputError, match="has no hours 9-17"):
        spans_of(parse_weights("9-17:cost=1"), spread([10, 10]))


def window(first: float, following: float, power: float, seconds: float = 100.0) -> dict[str, float]:
    return {"seconds": seconds, "first": first, "next": following, "power": power}


def test_a_score_is_the_time_weighted_sum_of_logarithms_worked_out_by_hand() -> None:
    schedule = (parse_weights("peak:throughput=3,latency=1"), parse_weights("trough:cost=1,energy=1"))
    made = [
        Made(
            1.0, figures={"throughput": 100.0}, windows={"peak": window(0.4, 0.1, 1), "trough": window(1, 1, 0.2, 300)}
        ),
        Made(
            2.0, figures={"throughput": 200.0}, windows={"peak": window(0.1, 0.1, 1), "trough": window(1, 1, 0.3, 300)}
        ),
    ]
    first, second = scores(made, schedule)
    assert first.value == pytest.approx(0.25 * (3 / 4 * math.log(2) + 1 / 4 * math.log(2)))
    assert second.value == pytest.approx(0.75 * (1 / 2 * math.log(2) + 1 / 2 * math.log(1.5)))
    assert first.parts["peak"] == pytest.approx(
        {"throughput": 0.25 * 0.75 * math.log(2), "latency": 0.0625 * math.log(2)}
    )
    assert sum(second.parts["trough"].values()) == pytest.approx(second.value)


def test_a_third_option_never_changes_the_order_of_two() -> None:
    schedule = (parse_weights("all:cost=1,latency=2"),)
    rng = np.random.default_rng(3)
    made = [Made(u, windows={"all": window(a, b, 1)}) for u, a, b in rng.uniform(0.1, 1, (12, 3)).tolist()]
    every = [score.value for score in scores(made, schedule)]
    for at in range(1, len(made)):
        two = [score.value for score in scores([made[0], made[at]], schedule)]
        assert (two[0] < two[1]) == (every[0] < every[at])


def test_weights_choose_the_recommended_of_what_holds() -> None:
    cheap = Made(1.0, (0.9, 0.9), windows={"all": window(0.9, 0.9, 1)}, id="cheap")
    middle = Made(1.5, (0.4, 0.4), windows={"all": window(0.4, 0.4, 1)}, id="middle")
    fast = Made(9.0, (0.35, 0.35), windows={"all": window(0.35, 0.35, 1)}, id="fast")

    def recommended(*schedule: str) -> str:
        chosen = choose([cheap, middle, fast], tuple(parse_weights(text) for text in schedule))
        return next(option.id for option, names in chosen if "recommended" in names)

    assert recommended() == "cheap"
    assert recommended("all:cost=1,latency=1") == "middle"
    assert recommended("all:latency=1") == "fast"
    assert recommended("all:cost=1") == "cheap"


def test_energy_of_a_device_without_a_known_power_is_refused() -> None:
    request = asked(workload(num_requests=50), "h100_sxm")
    nameless = replace(request, profiles=(load_profile("epyc_zen5_1c"),))
    with pytest.raises(InputError, match="no power of epyc_zen5_1c is known"):
        asked_of(nameless, (), Objectives(minimise=("cost", "energy")))
    assert asked_of(nameless).wants == nameless.wants


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cost,p99_tfft", "did you mean 'p99_ttft'"),
        ("cost,cost", "stands twice"),
        ("energy", "nothing to trade off"),
        ("cost,p0_ttft", "unknown objective"),
    ],
)
def test_objectives_that_make_no_sense(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_objectives(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("noon:cost=1", "'noon' is not a window"),
        ("25-3:cost=1", "is not a window"),
        ("9-9:cost=1", "is not a window"),
        ("peak:cost", "'cost' is not a weight"),
        ("peak:", "is not a weight"),
        ("peak:cost=-1", "at least 0"),
        ("peak:cost=nan", "at least 0"),
        ("peak:cost=0", "no weight is above 0"),
        ("peak:latncy=1", "did you mean 'latency'"),
    ],
)
def test_weights_that_make_no_sense(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_weights(text)
