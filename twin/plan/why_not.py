"""Why nothing holds: which constraint binds, and what comes nearest."""

from __future__ import annotations

from collections import Counter

import numpy as np

from twin.plan.found import Found, Running, searched, simulator_of
from twin.plan.request import PlanRequest
from twin.results.money import usd_per_month
from twin.search.evaluate import Outcome
from twin.search.limits import PURSE
from twin.search.precisions import limit_of
from twin.search.screen import OVERLOADED, Screen
from twin.search.search import Ints
from twin.search.space import ReplicaKind
from twin.search.workload import bound_text


def why_not(
    request: PlanRequest,
    kinds: list[ReplicaKind],
    refused: Counter[str],
    judged: Screen,
    found: Found,
    running: Running,
) -> tuple[str, list[tuple[Outcome, tuple[str, ...]]]]:
    """Which constraint binds, in a sentence that begins with its name, and the outcomes nearest to
    holding.
    """
    misses = [(outcome, outcome.misses) for outcome in found.whole]
    if not kinds:
        why = refused.most_common(1)[0][0]
        return f"{limit_of(why) or 'memory'}: {request.model_name} runs on none of these GPUs: {why}", misses
    beyond = judged.alive(within_limits=False)
    beyond = beyond[judged.reason[beyond] > 0]
    if beyond.size:
        relaxed = searched(request, judged, beyond, running)
        found.add(relaxed)
        if relaxed.holding:
            least = relaxed.holding[0]
            return _purse(request, judged, beyond, least), [(least, (_purse_miss(request, least),)), *misses]
        misses += [(o, (*o.misses, _purse_miss(request, o))) for o in relaxed.whole]
    if not misses:
        nearest = _searched_nearest(request, judged, running)
        found.simulated |= {o.candidate.id for o in nearest}
        found.whole += nearest
        misses = [(o, o.misses) for o in nearest if o.misses]
    return _bound_or_load(judged, misses), misses


def _purse(request: PlanRequest, judged: Screen, beyond: Ints, least: Outcome) -> str:
    cost = usd_per_month(least.usd_per_hour)
    candidate = least.candidate
    row = next(int(r) for r in beyond.tolist() if judged.candidate(int(r)) == candidate)
    name = "budget" if judged.reasons[int(judged.reason[row])] == PURSE[0] else "max_gpus"
    return (
        f"{name}: the cheapest option that holds costs ${cost:,.0f}/month"
        f" ({candidate.num_gpus} × {candidate.gpu}, {_power_kw(request, least):.1f} kW of boards)"
    )


def _purse_miss(request: PlanRequest, outcome: Outcome) -> str:
    asked = request.budget_text if request.budget else f"--max-gpus {request.max_gpus}"
    return f"${usd_per_month(outcome.usd_per_hour):,.0f}/month for {outcome.candidate.num_gpus} GPU(s) is over {asked}"


def _power_kw(request: PlanRequest, outcome: Outcome) -> float:
    return outcome.candidate.num_gpus * request.limits.gpu_watts[outcome.candidate.gpu] / 1e3


def _searched_nearest(request: PlanRequest, judged: Screen, running: Running) -> list[Outcome]:
    """Per GPU, the rejected row of least estimated latency that could be bought, simulated: near misses to
    show.
    """
    simulator = simulator_of(request, judged, running)
    limits = request.limits
    rows = np.flatnonzero(judged.utilisation < 1)
    bought = [judged.candidate(row) for row in rows.tolist()]
    rows = rows[np.array([limits.violation(c.gpu, c.num_gpus) is None for c in bought], dtype=bool)]
    score = judged.ttft_s[rows] + judged.tpot_s[rows]
    nearest: dict[str, int] = {}
    for row in rows[np.lexsort((rows, judged.usd_per_hour[rows], score))].tolist():
        nearest.setdefault(judged.candidate(row).gpu, row)
    return simulator.many(list(nearest.values())[: simulator.max_whole], "whole")


def _bound_or_load(judged: Screen, misses: list[tuple[Outcome, tuple[str, ...]]]) -> str:
    if misses:
        outcome, _ = min(misses, key=nearness)
        if outcome.worst > 1.0:
            ratio = [v / b.seconds for v, b in zip(outcome.values_s, outcome.bounds, strict=True)]
            bound, value = outcome.bounds[int(np.argmax(ratio))], outcome.values_s[int(np.argmax(ratio))]
            reached = f"the nearest option reaches {value * 1e3:.0f} ms"
            return f"{bound.metric}: {bound_text(bound)} is missed; {reached}"
        return f"load: {outcome.misses[0]}" if outcome.misses else "budget: nothing within it holds"
    top = judged.rejected().most_common(1)
    return f"load: {top[0][0] if top else OVERLOADED}"


def nearness(miss: tuple[Outcome, tuple[str, ...]]) -> tuple[float, float, str]:
    outcome, _ = miss
    over = max(outcome.worst, outcome.deployment.utilisation / (1 - outcome.headroom))
    return (over + (outcome.load == "overloaded"), outcome.usd_per_hour, outcome.candidate.id)
