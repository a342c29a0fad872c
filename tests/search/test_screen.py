"""The closed form against the simulation: bounds hold, ranks agree, capacity is where the backlog starts to grow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planning import asked, workload
from scipy.stats import spearmanr

from twin.plan.plan import solve
from twin.plan.request import PlanRequest
from twin.search.evaluate import evaluate, simulated
from twin.search.screen import OVERLOADED, Screen, screen, unloaded_s
from twin.search.simulator import Simulator
from twin.search.space import replica_kinds
from twin.search.workload import Workload


def judged(request: PlanRequest) -> Screen:
    kinds, _ = replica_kinds(
        request.model,
        request.profiles,
        max_model_len=request.load.max_model_len,
        gpu_memory_utilization=request.gpu_memory_utilization,
    )
    return screen(kinds, request.load, request.slo.bounds, request.limits, request.headroom)


def simulator(request: PlanRequest, found: Screen) -> Simulator:
    return Simulator(found, request.load, request.slo.bounds, request.headroom)


@pytest.fixture(scope="module")
def free(load: Workload) -> PlanRequest:
    """No promise and no budget: the screen rules out only by load."""
    return asked(load, "l40s", "h100_sxm", "a100_sxm", ttft=None, tpot=None, budget=None)


def test_no_request_beats_the_bound_that_discards(free: PlanRequest) -> None:
    found = judged(free)
    runs = simulator(free, found)
    kinds = dict.fromkeys(found.kind[found.alive()].tolist())
    for kind in list(kinds)[::3]:
        least = unloaded_s(found.kinds[kind], free.load)
        row = next(row for row in found.alive().tolist() if found.kind[row] == kind)
        table = simulated(runs.deployment(row), free.load.trace).table
        assert (table.ttft_s >= least["ttft"] * (1 - 1e-9)).all()
        assert (table.e2el_s >= least["e2el"] * (1 - 1e-9)).all()
        defined = ~np.isnan(table.tpot_s)
        assert (table.tpot_s[defined] >= least["tpot"][defined] * (1 - 1e-9)).all()


def test_ranks_agree_with_the_simulation_over_a_grid(free: PlanRequest, record_property: pytest.RecordProperty) -> None:
    found = judged(free)
    runs = simulator(free, found)
    alive = found.alive()
    rows = alive[:: max(1, len(alive) // 60)].tolist()
    tables = [simulated(runs.deployment(row), runs.traces["slice"]).table for row in rows]
    tpot = spearmanr(found.tpot_s[rows], [np.nanmean(table.tpot_s) for table in tables]).statistic
    ttft = spearmanr(found.ttft_s[rows], [table.ttft_s.mean() for table in tables]).statistic
    record_property("spearman_tpot", tpot)
    record_property("spearman_ttft", ttft)
    print(f"closed form against simulation, {len(rows)} configurations: TPOT {tpot:.3f}, TTFT {ttft:.3f}")
    assert tpot > 0.95
    assert ttft > 0.9


@pytest.mark.parametrize(("gpu", "seqs"), [("l40s", 64), ("h100_sxm", 64), ("a100_sxm", 256)])
def test_the_backlog_starts_to_grow_at_capacity(gpu: str, seqs: int) -> None:
    steady = workload(num_requests=3000)
    request = asked(steady, gpu, ttft=None, tpot=None, budget=None)
    found = judged(request)
    row = next(
        row
        for row in range(len(found))
        if (c := found.candidate(row)).max_num_seqs == seqs and c.replicas == 1 and c.tensor_parallel_size == 1
    )
    deployment = simulator(request, found).deployment(row)
    for utilisation, overloaded in ((0.85, False), (1.25, True)):
        busier = steady.trace.scaled(utilisation / deployment.utilisation)
        outcome = evaluate(deployment, busier, (), headroom=0.0)
        assert (outcome.load == "overloaded") is overloaded


def test_what_is_called_overloaded_is(free: PlanRequest) -> None:
    long = workload(num_requests=6000)
    heavy = replace(free, load=replace(long, trace=long.trace.scaled(8.0)))
    found = judged(heavy)
    rows = np.flatnonzero(found.reason == found.reasons.index(OVERLOADED))
    runs = simulator(heavy, found)
    clear = rows[found.utilisation[rows] > 1.3]
    assert clear.size
    for row in clear[:: max(1, clear.size // 6)].tolist():
        assert runs.many([row])[0].load == "overloaded"


def test_replicas_divide_the_load_and_seats_never_lower_capacity(free: PlanRequest) -> None:
    found = judged(free)
    first = {
        (k, s, t, r): u
        for k, s, t, r, u in zip(found.kind, found.seqs, found.tokens, found.replicas, found.utilisation, strict=True)
    }
    for (k, s, t, r), u in first.items():
        assert u == pytest.approx(first[k, s, t, 1] / r)
        if (k, s + 1, t, r) in first and found.kinds[k].num_gpu_blocks[s + 1, t] == found.kinds[k].num_gpu_blocks[s, t]:
            assert first[k, s + 1, t, r] <= u * (1 + 1e-12)


def test_the_screen_alone_would_choose_wrongly_on_bursty_traffic() -> None:
    """Mean rates say that one cheap replica will do; arrivals in bursts miss the promised p99 there."""
    bursty = workload(rate=3.0, burstiness=0.03)
    request = asked(bursty, "l40s", "h100_sxm", "a100_sxm", ttft="700ms", tpot="60ms")
    found = judged(request)
    alive = found.alive()
    bounds = {bound.metric: bound.seconds for bound in request.slo.bounds}
    promising = alive[(found.ttft_s[alive] <= bounds["ttft"]) & (found.tpot_s[alive] <= bounds["tpot"])]
    believed = int(promising[np.lexsort((found.ttft_s[promising], found.usd_per_hour[promising]))[0]])
    truth = simulator(request, found).many([believed], "whole")[0]
    chosen = solve(request).recommended
    assert not truth.holds
    assert chosen is not None
    assert chosen.usd_per_hour > found.usd_per_hour[believed]
