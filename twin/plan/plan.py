"""The answer: what to run for this traffic, model, promises and budget.

Memory prunes, the closed form screens, a search spends simulations on what survives, and the best of it is
simulated on the whole trace. Only that last simulation decides whether an option holds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from twin.plan.annexes import Annexes, check_explained, explanation, held, money, price_book, risk, sure, unexplained
from twin.plan.answer import SCHEMA_VERSION, notes_of, option_of, point, rejections, traffic
from twin.plan.asked import scores_of
from twin.plan.choice import choose, recommended_of
from twin.plan.fleet import Pooled
from twin.plan.found import Found, Running, by_cost, searched
from twin.plan.load_curve import load_curves
from twin.plan.pools import pooled
from twin.plan.power import power
from twin.plan.request import PlanRequest
from twin.plan.risk import Risks
from twin.plan.why_not import nearness, why_not
from twin.search.evaluate import Outcome
from twin.search.objectives import nondominated_of
from twin.search.screen import Screen, screen
from twin.search.space import ReplicaKind, replica_kinds

NEAR_MISSES = 3
MOST_JUDGED = 6
"""Of the front's fleets, cheapest first, so many are put into possible worlds."""


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
    check_explained(asked, request, judged)
    found = searched(request, judged, judged.alive(), running)
    fleets = pooled(request, lambda asked, share: _pool(asked, share, found, running))
    holding: list[Outcome | Pooled] = [*found.holding, *fleets]
    front = _front(request, found, fleets)
    chosen = choose(holding, request.objectives.weights)
    binding, misses = None, [(o, o.misses) for o in found.whole if not o.holds]
    if not chosen and not running.interrupted:
        binding, misses = why_not(request, kinds, refused, judged, found, running)
    shortlist = _shortlist(asked, holding, [o for o, _ in chosen], front)
    risks, of_plan, among = _risk(asked, request, shortlist, running)
    chosen = choose(holding, request.objectives.weights, among)
    recommended = next((o for o, names in chosen if "recommended" in names), None)
    near = sorted(misses, key=nearness)[:NEAR_MISSES]
    nearest = near[0][0] if near else None
    weighed = scores_of(holding, request.objectives.weights)
    options: list[dict[str, object]] = [
        {
            **option_of(request, o, names),
            **weighed.get(o.candidate.id, {}),
            **money(asked, request, o, risks),
            **power(request, o, asked.book),
            **({"risk": risks[o.candidate.id]} if o.candidate.id in risks else {}),
        }
        for o, names in chosen
    ]
    curves = _curves(recommended or nearest, request, running)
    payload = {
        "schema_version": SCHEMA_VERSION,
        "model": request.model_name,
        "traffic": traffic(request.load),
        "options": options,
        "recommended": recommended.candidate.id if recommended else None,
        "near_misses": [
            {**option_of(request, o, ()), **power(request, o, asked.book), "misses": list(said)} for o, said in near
        ],
        "front": [{**point(request, o), **held(risks, o)} for o in front],
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
        **price_book(asked, options),
        **explanation(asked, request, chosen, found.whole, kinds, nearest),
        **curves,
        "notes": [
            *notes_of(request, len(chosen)),
            *_losses(found),
            *_unsure(asked, risks, recommended),
            *unexplained(asked, chosen, nearest),
        ],
    }
    return Plan(payload, recommended, nearest, running.interrupted)


def _risk(
    asked: Annexes,
    request: PlanRequest,
    shortlist: list[Outcome | Pooled],
    running: Running,
) -> tuple[Risks, dict[str, object], list[Outcome | Pooled]]:
    """The risk of each, of the plan, and which are sure enough to be recommended (all, where none is or nobody asked).

    Nothing where the user has stopped the plan before it was done.
    """
    schedule = request.objectives.weights
    found: list[Outcome | Pooled] = list(shortlist)

    def decide(risks: Risks) -> tuple[Outcome | Pooled | None, list[Outcome]]:
        found[:] = [o for o in shortlist if sure(risks[o.candidate.id], asked.confidence)] or shortlist
        return recommended_of(found, schedule), [o for o in found if isinstance(o, Outcome)]

    if running.interrupted:
        return {}, {}, found
    try:
        risks, of_plan = risk(
            asked, request, shortlist, decide, lambda some: recommended_of(some, schedule), running.progress
        )
    except KeyboardInterrupt:
        running.interrupted = True
        return {}, {}, list(shortlist)
    return risks, of_plan, found


def _shortlist(
    asked: Annexes, holding: list[Outcome | Pooled], named: list[Outcome | Pooled], front: list[Outcome | Pooled]
) -> list[Outcome | Pooled]:
    """What may be recommended: everything that holds; where risk decides, the named and the fastest of each fleet on the
    front, as possible worlds take time."""
    if not asked.worlds:
        return holding
    fastest: dict[tuple[object, ...], Outcome | Pooled] = {}
    for option in sorted(front, key=lambda o: (o.latency_score, *by_cost(o))):
        fastest.setdefault((option.candidate.gpu, option.candidate.num_gpus), option)
    fleets = sorted(fastest.values(), key=by_cost)[:MOST_JUDGED]
    return sorted({o.candidate.id: o for o in [*named, *fleets]}.values(), key=by_cost)


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


def _curves(option: Outcome | Pooled | None, request: PlanRequest, running: Running) -> dict[str, object]:
    """Latency against load, which takes a second: of no option where the user has asked to stop."""
    if option is None or running.interrupted:
        return {}
    try:
        return load_curves(option, request)
    except KeyboardInterrupt:
        running.interrupted = True
        return {}


def _front(request: PlanRequest, found: Found, fleets: list[Pooled]) -> list[Outcome | Pooled]:
    every: list[Outcome | Pooled] = [*found.front, *fleets]
    return sorted(nondominated_of(every, request.minimise), key=by_cost) if fleets else every


def _unsure(asked: Annexes, risks: Risks, recommended: Outcome | Pooled | None) -> list[str]:
    if recommended is None or not risks or sure(risks[recommended.candidate.id], asked.confidence):
        return []
    return [f"nothing on the front holds in {asked.confidence:.0%} of the worlds: the recommended option is a gamble"]


def _losses(found: Found) -> list[str]:
    lost = found.lost
    return [f"{len(lost)} evaluations were lost with their workers: {', '.join(sorted(lost))}"] if lost else []
