"""A question with classes of requests and objectives of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from twin.base import Estimate
from twin.cost.step import RESTING_POWER
from twin.plan.request import PlanRequest
from twin.results.energy import IDLE_POWER, kwh_per_month, wh_per_1k_tokens
from twin.search.evaluate import Measured
from twin.search.objectives import Choice, Judged, check_energy, objective, scores, wants_of
from twin.spec.classes import RequestClass, labelled, promised
from twin.spec.objectives import USUAL_OBJECTIVES, Objectives, Weights
from twin.spec.slo import Bound

OF_POOLS = (
    "fleets of several pools route each class to its own; a promise to all requests is held in every pool, and the busiest"
    " five minutes of a pool are those of its own requests"
)
OF_WEIGHTS = "the recommended option is the one of least score under --weights among those that hold"


def asked_of(
    request: PlanRequest, classes: Sequence[RequestClass] = (), objectives: Objectives = USUAL_OBJECTIVES
) -> PlanRequest:
    """The request with its traffic told apart by class, the promises of each class beside those of all, and what simulations
    must measure for it. The same request without either.

    Raises :class:`twin.base.InputError` for classes or windows that this traffic cannot have, and for energy of a GPU whose
    power is unknown.
    """
    if not classes and objectives == USUAL_OBJECTIVES:
        return request
    check_energy(objectives, request.profiles)
    load = replace(request.load, trace=labelled(request.load.trace, classes))
    names = tuple(item.name for item in classes)
    return replace(
        request,
        load=load,
        slo=promised(request.slo, classes),
        classes=names,
        objectives=objectives,
        wants=wants_of(objectives, load.trace, names),
        notes=(
            *request.notes,
            *(said for given, said in ((names, OF_POOLS), (objectives.weights, OF_WEIGHTS)) if given),
        ),
    )


class Shown(Judged, Protocol):
    """An outcome, of one fleet or of several pools, that was simulated with every metric."""

    @property
    def candidate(self) -> Counted: ...
    @property
    def measured(self) -> Measured: ...
    @property
    def bounds(self) -> tuple[Bound, ...]: ...
    @property
    def values_s(self) -> tuple[float, ...]: ...
    @property
    def busiest_s(self) -> tuple[float, ...]: ...


class Counted(Protocol):
    @property
    def num_gpus(self) -> int: ...


def bounds_of(outcome: Shown) -> list[dict[str, object]]:
    """Each promise with what came of it: over the whole trace and its busiest minutes the worse, and in the latter."""
    return [
        {
            **({} if b.request_class is None else {"request_class": b.request_class}),
            "metric": b.metric,
            "quantile": b.quantile,
            "seconds": b.seconds,
            "worst_s": value,
            "busiest_s": busiest,
        }
        for b, value, busiest in zip(outcome.bounds, outcome.values_s, outcome.busiest_s, strict=True)
    ]


def extras(outcome: Shown) -> dict[str, object]:
    """What an option's JSON holds besides, where it was asked for: ``classes``, ``windows``, ``energy``; else nothing."""
    measured = outcome.measured
    found: dict[str, object] = {}
    if measured.classes:
        found["classes"] = [{"name": name, **said} for name, said in measured.classes.items()]
    if measured.windows:
        found["windows"] = measured.windows
    if "energy" in measured.figures:
        rate = float(str(measured.summary["output_throughput"]))
        found["energy"] = energy(outcome.candidate.num_gpus, outcome.limit_w, measured.figures["energy"], rate)
    return found


def scores_of(outcomes: Sequence[Choice], schedule: Sequence[Weights]) -> dict[str, dict[str, object]]:
    """By id, what a schedule of weights says of each option, for its JSON; empty without a schedule."""
    if not schedule:
        return {}
    judged = zip(outcomes, scores(outcomes, schedule), strict=True)
    return {o.candidate.id: {"score": {"value": score.value, "parts": score.parts}} for o, score in judged}


def energy(boards: int, limit_w: float, share: float, output_tokens_per_s: float) -> dict[str, object]:
    """What ``boards`` with a power limit of ``limit_w`` together draw at this share of it, and on what that rests."""
    each = limit_w / boards
    return {
        "boards": boards,
        "limit_w": limit_w,
        "mean_share_of_limit": share,
        "kwh_per_month": kwh_per_month(boards, each, share),
        "wh_per_1k_output_tokens": wh_per_1k_tokens(boards, each, share, output_tokens_per_s),
        "idle_share": IDLE_POWER.model_dump(mode="json"),
        "waiting_share": WAITING_POWER.model_dump(mode="json"),
        "covers": "GPU boards over the traffic as it was simulated; hosts, network and cooling are not in it",
    }


WAITING_POWER = Estimate(
    value=RESTING_POWER,
    origin="assumed",
    source="share of its limit that a busy board draws in kernels that wait for memory or links; in those that compute it"
    " draws all of it (RESTING_POWER in twin/cost/step.py)",
    date="2026-11-21",
)


def objectives_point(outcome: Judged, chosen: Sequence[str]) -> Mapping[str, Any]:
    """The objectives of a point of the front by name, each in the unit of its row; ``None`` of a lost simulation."""
    if outcome.load == "lost":
        return dict.fromkeys(chosen)
    return {name: objective(name).of(outcome) for name in chosen}
