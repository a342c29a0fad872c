"""Options on their traffic, and on five times the requests with five times the replicas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr

from twin.plan.plan import screened
from twin.plan.request import PlanRequest
from twin.search.evaluate import Deployment, Measured, measure
from twin.search.simulator import Simulator
from twin.traffic.trace import Trace

TIMES = 5
APART_S = 20.0
"""Each crowd comes so much earlier or later than another: the same hour, but not in step."""


def crowded(trace: Trace, times: int = TIMES, seed: int = 0) -> Trace:
    """As many such crowds at once: ``times`` the requests at ``times`` the rate, at the same time of day."""
    generator = np.random.default_rng(seed)
    arrival = np.concatenate([trace.arrival_s + generator.uniform(-APART_S, APART_S) for _ in range(times)])
    order = np.argsort(arrival, kind="stable")
    lengths = (np.tile(column, times)[order] for column in (trace.input_tokens, trace.output_tokens))
    return Trace(arrival[order], *lengths, name=f"{times} × {trace.name}")


def enlarged(deployment: Deployment, times: int = TIMES) -> Deployment:
    """``times`` the replicas at ``times`` the cost."""
    candidate = replace(deployment.candidate, replicas=times * deployment.candidate.replicas)
    return replace(deployment, candidate=candidate, usd_per_hour=times * deployment.usd_per_hour)


def options(request: PlanRequest, count: int) -> list[Deployment]:
    """Configurations that the screen leaves, from the cheapest to the dearest in even steps."""
    _, _, judged = screened(request)
    rows = judged.alive()
    by_cost = rows[np.lexsort((rows, judged.usd_per_hour[rows]))]
    simulator = Simulator(judged, request.load, request.slo.bounds, request.headroom)
    steps = np.linspace(0, len(by_cost) - 1, count).round().astype(int)
    return [simulator.deployment(int(row)) for row in by_cost[np.unique(steps)]]


def figures(request: PlanRequest, trace: Trace, deployments: Sequence[Deployment]) -> dict[str, list[float]]:
    """Per deployment p99 TTFT and TPOT in seconds, and the USD that a million requests cost that keep their promises."""
    found = [measure(deployment, trace, request.slo.bounds, full=True) for deployment in deployments]
    return {
        "p99 TTFT": [one.p99_s["ttft"] for one in found],
        "p99 TPOT": [one.p99_s["tpot"] for one in found],
        "cost": [_usd_per_million(one, each) for one, each in zip(found, deployments, strict=True)],
    }


def _usd_per_million(measured: Measured, deployment: Deployment) -> float:
    good_per_s = float(str(measured.summary["request_goodput"]))
    return deployment.usd_per_hour / 3600 / max(good_per_s, 1e-9) * 1e6


def correlations(request: PlanRequest, trace: Trace, count: int) -> tuple[dict[str, float], int]:
    """Spearman's rank correlation of each figure between both scales, and of how many options."""
    small = options(request, count)
    once = figures(request, trace, small)
    more = figures(request, crowded(trace), [enlarged(deployment) for deployment in small])
    return {name: float(spearmanr(values, more[name]).statistic) for name, values in once.items()}, len(small)
