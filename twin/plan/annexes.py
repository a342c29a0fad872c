"""What stands beside the options of a plan: their bills, their risk, and why one of them is as fast as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twin.base import InputError, unknown_name
from twin.plan.explain import explain
from twin.plan.fleet import Option, pools_of
from twin.plan.request import PlanRequest
from twin.plan.risk import Decide, RiskRequest, Risks, assess_plan
from twin.results.bill import GpuGroup
from twin.results.energy import kwh_per_month
from twin.results.tco import cost_of
from twin.risk.growth import Growth
from twin.risk.what_if import Choose
from twin.search.evaluate import Outcome
from twin.search.screen import Screen
from twin.search.simulator import Progress, silent
from twin.search.space import ReplicaKind
from twin.spec.prices import PriceBook, PriceKind
from twin.traffic.synthetic import SyntheticTraffic

NAMES = ("recommended", "cheapest", "best_latency")


@dataclass(frozen=True, eq=False)
class Annexes:
    """What is asked beside the options. Without a ``book`` there are no bills, without ``worlds`` no risk; with them the
    recommended option holds in a share ``confidence`` of them, if any does.

    ``recipe`` and ``rate``: of made-up traffic, and how much it was sped up. ``explained``: an option's id or name.
    """

    book: PriceBook | None = None
    price: PriceKind = "on_demand"
    region: str | None = None
    growth: Growth | None = None
    worlds: int = 0
    confidence: float = 0.9
    recipe: SyntheticTraffic | None = None
    rate: float = 1.0
    explained: str | None = None


def money(asked: Annexes, request: PlanRequest, option: Option, risks: Risks) -> dict[str, object]:
    """The bill, its idle part and each other way to pay, under ``money``; nothing without a price book.

    Replicas are added when the head-room is used up: the simulated one where risk tells it, else the closed form's.
    """
    if asked.book is None:
        return {}
    tree = cost_of(
        [_gpus(outcome, own, risks.get(outcome.candidate.id, {})) for outcome, own in pools_of(option, request)],
        asked.price,
        asked.book,
        region=asked.region,
        output_tokens_per_s=float(str(option.summary["output_throughput"])),
        growth_per_month=asked.growth.per_month if asked.growth else 0.0,
    )
    return {"money": tree.as_json()}


def price_book(asked: Annexes, options: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Under ``price_book``, what the bills of these options rest on; nothing without a price book."""
    gpus = dict.fromkeys(group["gpu"] for item in options if "money" in item for group in item["money"]["groups"])
    return {} if asked.book is None else {"price_book": asked.book.part_of(gpus, asked.region)}


def _gpus(outcome: Outcome, request: PlanRequest, risk: Mapping[str, object]) -> GpuGroup:
    """``utilisation`` is of what the fleet could serve: a replica with one request is busy, and yet has most of itself to
    spare."""
    candidate, load = outcome.candidate, request.load
    used = outcome.deployment.utilisation * len(load.trace) / load.trace.duration_s / load.peak_rate_per_s
    share, watts = outcome.measured.figures.get("energy"), request.limits.gpu_watts[candidate.gpu]
    drawn = None if share is None else kwh_per_month(candidate.num_gpus, watts, share)
    found = risk.get("headroom")
    known = float(found["factor"]) if isinstance(found, Mapping) else 0.0
    room = max(known or (1.0 - outcome.headroom) / outcome.deployment.utilisation, 1.0)
    return GpuGroup(candidate.gpu, candidate.num_gpus, candidate.replicas, min(used, 1.0), drawn, room)


def risk(
    asked: Annexes,
    request: PlanRequest,
    options: Sequence[Option],
    decide: Decide,
    choose: Choose,
    progress: Progress = silent,
) -> tuple[Risks, dict[str, object]]:
    """Of each option by id; and under ``risk``, what moves the recommended option and what would change it."""
    if not asked.worlds:
        return {}, {}
    wanted = RiskRequest(asked.growth, asked.recipe, asked.rate, asked.worlds)
    found = assess_plan(request, wanted, options, decide, choose, progress)
    of_plan = {
        "confidence": asked.confidence,
        "sensitivity": found.sensitivity,
        "would_change": found.would_change,
    }
    return found.options, {"risk": of_plan}


def sure(risk: Mapping[str, object], confidence: float) -> bool:
    """Whether an option holds in so large a share of its worlds."""
    held = risk.get("probability_held")
    return isinstance(held, Mapping) and float(held["value"]) >= confidence


def held(risks: Risks, option: Option) -> dict[str, object]:
    """For a point of the front: in which share of its worlds it holds, where that is known."""
    found = risks.get(option.candidate.id, {}).get("probability_held")
    return {"probability_held": found["value"]} if isinstance(found, Mapping) else {}


def check_explained(asked: Annexes, request: PlanRequest, judged: Screen) -> None:
    """Raises :class:`InputError` before the search for an option that it cannot find; pools are named by what is found."""
    if asked.explained is None or asked.explained in NAMES or request.classes:
        return
    known = {judged.candidate(row).id for row in range(len(judged))}
    if asked.explained not in known:
        near = unknown_name("option", asked.explained, [*NAMES, *known], where="--explain")
        raise InputError(
            near.what, where=near.where, nearest=near.nearest, allowed=[*NAMES, "the id of a configuration"]
        )


def explanation(
    asked: Annexes,
    request: PlanRequest,
    named: Sequence[tuple[Option, tuple[str, ...]]],
    whole: Sequence[Outcome],
    kinds: Sequence[ReplicaKind],
    nearest: Option | None = None,
) -> dict[str, object]:
    """Under ``explanation``: one by pool of the option asked for; for ``recommended`` and the like where nothing holds, of the
    ``nearest`` miss, and nothing without one. Raises :class:`InputError` for one that the plan lacks.
    """
    if asked.explained is None or (nearest is None and _unnamed(asked, named)):
        return {}
    known: dict[str, Option] = {outcome.candidate.id: outcome for outcome in whole}
    known |= {option.candidate.id: option for option, _ in named}
    known |= {name: option for option, names in named for name in names}
    if nearest is not None and _unnamed(asked, named):
        known |= {str(asked.explained): nearest}
    if asked.explained not in known:
        raise unknown_name("option", asked.explained, known, where="--explain")
    pools = pools_of(known[asked.explained], request)
    return {"explanation": [explain(outcome, own, kinds) for outcome, own in pools]}


def unexplained(asked: Annexes, named: Sequence[tuple[Option, tuple[str, ...]]], nearest: Option | None) -> list[str]:
    """What must be said where the option to explain is not there, as nothing holds."""
    if not _unnamed(asked, named):
        return []
    said = f"nothing holds, so there is no {asked.explained} option to explain"
    return [said if nearest is None else f"{said}; {nearest.candidate.id}, the nearest miss, is explained instead"]


def _unnamed(asked: Annexes, named: Sequence[tuple[Option, tuple[str, ...]]]) -> bool:
    return asked.explained in NAMES and not named
