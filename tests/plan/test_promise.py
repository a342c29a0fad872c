"""The rate that a fleet sustains at a promise, against the highest rate at which simulations of it hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from twin.plan.next_steps import fleet_of, next_steps
from twin.plan.promise import Fleet, Promise
from twin.plan.request import PlanRequest
from twin.search.evaluate import Outcome, evaluate
from twin.search.screen import screen
from twin.search.simulator import Simulator
from twin.search.space import replica_kinds
from twin.search.workload import make_workload
from twin.spec.hardware import load_profile
from twin.spec.model import load_model
from twin.spec.prices import load_price_book
from twin.spec.slo import Slo
from twin.traffic.readers import read_trace

BISECTIONS = 6


@pytest.fixture(scope="module")
def asked(shared: Path) -> PlanRequest:
    trace = read_trace(shared / "traces" / "AzureLLMInferenceTrace_conv.csv").busiest_window(300.0)
    model = load_model("Qwen/Qwen3-8B")
    return PlanRequest(
        model=model,
        load=make_workload(trace, model),
        profiles=(load_profile("l40s"),),
        prices={"l40s": load_price_book().price("l40s", "on_demand")},
        slo=Slo.of(ttft="2s", tpot="50ms"),
    )


@pytest.fixture(scope="module")
def runs(asked: PlanRequest) -> Simulator:
    kinds, _ = replica_kinds(
        asked.model, asked.profiles, max_model_len=asked.load.max_model_len, gpu_memory_utilization=0.92
    )
    judged = screen(kinds, asked.load, asked.slo.bounds, asked.limits, asked.headroom)
    return Simulator(judged, asked.load, asked.slo.bounds, asked.headroom)


def row_of(runs: Simulator, replicas: int, tp: int, quantization: str | None) -> int:
    wanted = ("l40s", tp, replicas, quantization, "auto", 128, 4096)
    names = ("gpu", "tensor_parallel_size", "replicas", "quantization", "kv_cache_dtype", "max_num_seqs")
    names = (*names, "max_num_batched_tokens")
    rows = range(len(runs.screen))
    return next(r for r in rows if tuple(getattr(runs.screen.candidate(r), n) for n in names) == wanted)


def highest_rate(asked: PlanRequest, runs: Simulator, row: int, fleet: Fleet) -> float:
    """By bisection of simulations of the busiest minutes, sped up or slowed down; at most what leaves the head-room."""
    deployment, peak = runs.deployment(row), asked.load.peak_rate_per_s
    high = 0.8 * fleet.capacity_per_s * fleet.replicas / peak
    low = high / 64

    def holds(factor: float) -> bool:
        return evaluate(deployment, asked.load.trace.scaled(factor), asked.slo.bounds, headroom=1.0).worst <= 1.0

    if holds(high):
        return high * peak
    for _ in range(BISECTIONS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low * peak


def test_rates_at_the_promise_are_near_those_that_simulations_sustain(asked: PlanRequest, runs: Simulator) -> None:
    now = runs.many([row_of(runs, 3, 1, None)], "whole")[0]
    promise = Promise.of(now, fleet_of(now, asked, runs.screen.kinds))
    errors = []
    for replicas, tp, quantization in ((3, 1, None), (3, 2, None), (3, 1, "fp8")):
        row = row_of(runs, replicas, tp, quantization)
        fleet = fleet_of(runs.outcome(row, now.measured), asked, runs.screen.kinds)
        errors.append(promise.most(fleet)[0] / highest_rate(asked, runs, row, fleet) - 1)
    assert float(np.abs(errors).mean()) < 0.15
    assert max(map(abs, errors)) < 0.25


def test_an_overloaded_simulation_tells_no_tails(asked: PlanRequest, runs: Simulator) -> None:
    now = runs.many([row_of(runs, 3, 1, None)], "whole")[0]
    stuck = Outcome(now.deployment, replace(now.measured, load="overloaded"), now.bounds, now.headroom)
    promise = Promise.of(stuck, fleet_of(stuck, asked, runs.screen.kinds))
    assert not promise.known
    assert promise.stretches == (1.0, 1.0)
    assert next_steps(stuck, asked, runs.screen.kinds)["tails_known"] is False
