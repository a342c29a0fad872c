"""The answer: what to run for this traffic, model, promises and budget.

Memory prunes, the closed form screens, a search spends simulations on what survives, and the best of it is
simulated on the whole trace. Only that last simulation decides whether an option holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from twin.plan.annexes import Annexes, explanation, money, risk
from twin.plan.answer import SCHEMA_VERSION, notes_of, option_of, point, rejections, traffic
from twin.plan.asked import scores_of
from twin.plan.fleet import Pooled
from twin.plan.found import Found, Running, by_cost, searched
from twin.plan.pools import pooled
from twin.plan.request import PlanRequest
from twin.plan.why_not import nearness, why_not
from twin.search.evaluate import Outcome
from twin.search.objectives import Some, nondominated_of, scores
from twin.search.screen import Screen, screen
from twin.search.space import ReplicaKind, replica_kinds
from twin.spec.objectives import Weights

NEAR_MISSES = 3
ABOUT_AS_CHEAP = 1.05
"""The recommended option may cost this much more than the cheapest, if it is faster."""


@dataclass
class Plan:
    """The answer as INTERFACE.md's JSON, and the recommended outcome (``None`` when nothing holds), or the nearest."""

    payload: dict[str, object]
    recommended: Outcome | Pooled | None = None
    nearest: Outcome | None = None
    interrupted: bool = False


def make_plan(request: PlanRequest) -> dict[str, object]:
    """The plan as INTERFACE.md's JSON object."""
    return solve(request).payload


def solve(request: PlanRequest, running: Running | None = None, asked: Annexes | None = None) -> Plan:
    """Screen, search, re-run, choose. Infeasible is an answer too: no options, ``binding`` says which
    constraint binds.
    """
    running, asked = running or Running(), asked or Annexes()
    kinds, refused, judged = screened(request)
    found = searched(request, judged, judged.alive(), running)
    fleets = pooled(request, lambda asked, share: _pool(asked, share, found, running))
    holding: list[Outcome | Pooled] = [*found.holding, *fleets]
    chosen = choose(holding, request.objectives.weights)
    binding, misses = None, [(o, o.misses) for o in found.whole if not o.holds]
    if not chosen and not running.interrupted:
        binding, misses = why_not(request, kinds, refused, judged, found, running)
    recommended = next((o for o, names in chosen if "recommended" in names), None)
    near = sorted(misses, key=nearness)[:NEAR_MISSES]
    risks, of_plan = _risk(asked, request, [o for o, _ in chosen], recommended, found, running)
    weighed = scores_of(holding, request.objectives.weights)
    payload = {
        "schema_version": SCHEMA_VERSION,
        "model": request.model_name,
        "traffic": traffic(request.load),
        "options": [
            {
                **option_of(request, o, names),
                **weighed.get(o.candidate.id, {}),
                **money(asked, request, o),
                **risks.get(o.candidate.id, {}),
            }
            for o, names in chosen
        ],
        "recommended": recommended.candidate.id if recommended else None,
        "near_misses": [{**option_of(request, o, ()), "misses": list(said)} for o, said in near],
        "front": [point(request, o) for o in _front(request, found, fleets)],
        "rejected": rejections(refused, judged),
        "screened": len(judged),
        "simulated": len(found.simulated),
        "simulated_on_whole_trace": len(found.whole),
        "gpus_on_whole_trace": sorted({o.candidate.gpu for o in found.whole}),
        "binding": binding,
        "interrupted": running.interrupted,
        "seed": request.seed,
        "vllm_version_modelled": request.vllm_version,
        **of_plan,
        **explanation(asked, request, chosen, found.whole, kinds),
        "notes": [*notes_of(request, len(chosen)), *_losses(found)],
    }
    return Plan(payload, recommended, near[0][0] if near else None, running.interrupted)


def _risk(
    asked: Annexes,
    request: PlanRequest,
    options: list[Outcome | Pooled],
    recommended: Outcome | Pooled | None,
    found: Found,
    running: Running,
) -> tuple[dict[str, dict[str, object]], dict[str, object]]:
    """Nothing where the user has stopped the plan before it was done."""
    schedule = request.objectives.weights

    def again(outcomes: list[Outcome]) -> Outcome | None:
        return next((o for o, names in choose(outcomes, schedule) if "recommended" in names), None)

    if running.interrupted or not options:
        return {}, {}
    try:
        return risk(asked, request, options, recommended, found.whole, again)
    except KeyboardInterrupt:
        running.interrupted = True
        return {}, {}


def screened(request: PlanRequest) -> tuple[list[ReplicaKind], Counter[str], Screen]:
    """What can start, how many settings were refused for which reason, and the closed form's judgement."""
    kinds, refused = replica_kinds(
        request.model,
        request.profiles,
        max_model_len=request.load.max_model_len,
        gpu_memory_utilization=request.gpu_memory_utilization,
        precisions=request.precisions,
        settings=request.settings,
    )
    return kinds, refused, screen(kinds, request.load, request.slo.bounds, request.limits, request.headroom)


def _pool(request: PlanRequest, share: float, found: Found, running: Running) -> list[Outcome]:
    """A search for one pool of a fleet; what it simulated is counted in ``found``."""
    _, _, judged = screened(request)
    own = searched(request, judged, judged.alive(), running, share)
    found.simulated |= {f"{','.join(request.classes)}@{name}" for name in own.simulated}
    found.lost += own.lost
    return own.whole


def _front(request: PlanRequest, found: Found, fleets: list[Pooled]) -> list[Outcome | Pooled]:
    every: list[Outcome | Pooled] = [*found.front, *fleets]
    return sorted(nondominated_of(every, request.minimise), key=by_cost) if fleets else every


def choose(holding: Sequence[Some], schedule: Sequence[Weights] = ()) -> list[tuple[Some, tuple[str, ...]]]:
    """The named options among outcomes that hold: cheapest, best latency, recommended; each outcome once,
    by cost.

    Recommended is the fastest of those that cost at most 5 % more than the cheapest; with a ``schedule`` of weights, the one
    of least score. The cheapest is the fastest of equal cost.
    """
    if not holding:
        return []
    cheapest = min(holding, key=by_cost)
    afford = [o for o in holding if o.usd_per_hour <= ABOUT_AS_CHEAP * cheapest.usd_per_hour]
    recommended = min(afford, key=lambda o: (o.latency_score, *by_cost(o)))
    if schedule:
        judged = zip(scores(holding, schedule), holding, strict=True)
        recommended = min(judged, key=lambda pair: (pair[0].value, *by_cost(pair[1])))[1]
    named = {
        "recommended": recommended,
        "cheapest": cheapest,
        "best_latency": min(holding, key=lambda o: (o.latency_score, *by_cost(o))),
    }
    names: dict[str, tuple[str, ...]] = {}
    for name, outcome in named.items():
        names[outcome.candidate.id] = (*names.get(outcome.candidate.id, ()), name)
    picked = {outcome.candidate.id: outcome for outcome in named.values()}
    return [(o, names[o.candidate.id]) for o in sorted(picked.values(), key=by_cost)]


def _losses(found: Found) -> list[str]:
    lost = found.lost
    return [f"{len(lost)} evaluations were lost with their workers: {', '.join(sorted(lost))}"] if lost else []
