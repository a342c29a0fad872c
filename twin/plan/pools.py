"""Fleets of several pools, each with its own GPUs and layout, requests routed by their class.

Pools do not interact: a pool with the requests of its classes is a fleet with the traffic of a sub-trace. So each set of
classes has a screen and a search of its own, and fleets are made from their fronts: cost adds up, a promise's latency is
that of its pool, or the worst of all pools. As all of these only grow with those of a pool, no fleet of pools on the fronts is
missed by leaving out the others.

A promise to all requests is held in every pool, which is stricter than over all of them together: where at most 1 % of each
pool's requests are late, at most 1 % of all are. Each pool's busiest five minutes are those of its own requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np

from twin.plan.asked import bounds_of, extras
from twin.plan.fleet import Pool, Pooled, Share
from twin.plan.request import PlanRequest
from twin.results.money import usd_per_month, usd_per_mtok
from twin.search.evaluate import Outcome
from twin.search.figures import Wants
from twin.search.objectives import nondominated_of
from twin.search.workload import make_workload
from twin.spec.slo import Slo

Search = Callable[[PlanRequest, float], Sequence[Outcome]]
"""Outcomes on the whole trace for a request, with this share of a search's budget."""

MOST_POOLS = 3


def pooled(request: PlanRequest, searched: Search) -> list[Pooled]:
    """Fleets of two or more pools that hold, within budget and limits, none beaten in every objective of the request by
    another; by cost. Empty with fewer than two classes that have requests.

    ``searched(request, share)`` answers each pool's request as any plan's, with that share of the budget for simulations; of
    what it finds, only what holds is used.
    """
    shares = {share.classes: share for share in shares_of(request)}
    splits = [split for split in partitions(_present(request)) if all(part in shares for part in split)]
    wanted = dict.fromkeys(part for split in splits for part in split)
    fronts = {part: _front(request, searched(shares[part].request, 1 / len(wanted))) for part in wanted}
    fleets = [
        fleet for split in splits for fleet in _combined(request, [(shares[part], fronts[part]) for part in split])
    ]
    return sorted(nondominated_of(fleets, request.minimise), key=lambda fleet: (fleet.usd_per_hour, fleet.candidate.id))


def shares_of(request: PlanRequest) -> list[Share]:
    """Every run of neighbouring classes, but that of all. One whose requests all arrive at one instant has no rate to plan for,
    and is left out. A pool's context is that of its longest request, unless the user chose one."""
    trace, present = request.load.trace, _present(request)
    if len(present) < 2:
        return []
    chosen = request.load.max_model_len
    derived = make_workload(trace, request.model).max_model_len == chosen
    found = []
    for part in dict.fromkeys(part for split in partitions(present) for part in split):
        rows = np.logical_or.reduce([np.asarray(trace.request_class == name, dtype=bool) for name in part])
        own = trace.take(rows)
        if own.duration_s == 0.0:
            continue
        load = make_workload(own, request.model, max_model_len=None if derived else chosen)
        offset = float(trace.arrival_s[int(np.argmax(rows))])
        bounds = tuple(bound for bound in request.slo.bounds if bound.request_class in (None, *part))
        asked = replace(
            request,
            load=load,
            slo=Slo(bounds=bounds),
            classes=tuple(name for name in part if name is not None),
            wants=_shifted(request.wants, offset, part),
        )
        found.append(Share(part, rows, asked, offset))
    return found


def partitions(names: Sequence[str | None]) -> Iterator[tuple[tuple[str | None, ...], ...]]:
    """Ways to cut ``names``, in their order, into two runs or more, at most ``MOST_POOLS``.

    >>> list(partitions(["a", "b", "c"]))
    [(('a',), ('b', 'c')), (('a', 'b'), ('c',)), (('a',), ('b',), ('c',))]
    """
    size = len(names)
    for cuts in sorted(product((False, True), repeat=max(size - 1, 0)), key=lambda cuts: (sum(cuts), cuts[::-1])):
        edges = [0, *(at + 1 for at, cut in enumerate(cuts) if cut), size]
        if 2 < len(edges) <= MOST_POOLS + 1:
            yield tuple(tuple(names[a:b]) for a, b in pairwise(edges))


def _present(request: PlanRequest) -> list[str | None]:
    """Classes that have requests, in their order; requests of none come last."""
    labels = request.load.trace.request_class
    if labels is None or not request.classes:
        return []
    have = set(labels.tolist())
    named: list[str | None] = [name for name in request.classes if name in have]
    rest: list[str | None] = [None] if have - set(named) else []
    return [*named, *rest]


def _shifted(wants: Wants, offset_s: float, part: Sequence[str | None]) -> Wants:
    """What was wanted of all traffic, on the clock of a share of it."""
    windows = {name: tuple((a - offset_s, b - offset_s) for a, b in spans) for name, spans in wants.windows.items()}
    return replace(wants, windows=windows, classes=tuple(name for name in wants.classes if name in part))


def _front(request: PlanRequest, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Of what holds, what no other beats in every objective, and in GPUs and power where these are limited."""
    holding = [outcome for outcome in outcomes if outcome.holds]
    limits = request.limits
    counted = np.isfinite([limits.num_gpus, limits.max_gpus, limits.watts]).any()
    more = [[o.candidate.num_gpus, o.limit_w] if counted else [] for o in holding]
    return nondominated_of(holding, request.minimise, more)


def _combined(request: PlanRequest, parts: Sequence[tuple[Share, Sequence[Outcome]]]) -> list[Pooled]:
    limits, found = request.limits, []
    for chosen in product(*(outcomes for _, outcomes in parts)):
        groups = [(outcome.candidate.gpu, outcome.candidate.num_gpus) for outcome in chosen]
        if limits.violation_of(groups) is None:
            pools = tuple(Pool(share, outcome) for (share, _), outcome in zip(parts, chosen, strict=True))
            found.append(Pooled(pools, request.slo.bounds, request.headroom))
    return found


def pooled_option(
    request: PlanRequest,
    fleet: Pooled,
    names: tuple[str, ...],
    option_of: Callable[[PlanRequest, Outcome, tuple[str, ...]], dict[str, object]],
) -> dict[str, object]:
    """The option object of a fleet of pools: ``pools`` holds each pool's as ``option_of`` makes it, with the classes that it
    ``serves``; above them, what they have in common, ``None`` where they differ, and what is the fleet's.
    """
    each = [option_of(pool.share.request, pool.outcome, ()) for pool in fleet.pools]
    shared: dict[str, object] = {
        key: _common([item[key] for item in each]) for key in each[0] if all(key in i for i in each)
    }
    rate = float(str(fleet.summary["output_throughput"]))
    because = list(dict.fromkeys(reason for item in each for reason in list(item["outside_because"])))  # type: ignore[call-overload]
    return {
        **shared,
        "id": fleet.candidate.id,
        "name": names[0] if names else None,
        "names": list(names),
        "num_gpus": fleet.candidate.num_gpus,
        **dict.fromkeys(("replicas", "num_gpu_blocks", "vllm_command")),
        "routing": "by_class",
        "usd_per_hour": fleet.usd_per_hour,
        "usd_per_month": usd_per_month(fleet.usd_per_hour),
        "usd_per_mtok": usd_per_mtok(fleet.usd_per_hour, rate),
        "metrics": fleet.summary,
        "bounds": bounds_of(fleet),
        "load": fleet.load,
        "peak_utilisation": fleet.utilisation,
        "slo_met": fleet.slo_met,
        "calibrated": "outside" if because else "inside",
        "outside_because": because,
        **extras(fleet),
        "pools": [{"serves": list(pool.share.classes), **item} for pool, item in zip(fleet.pools, each, strict=True)],
    }


def _common(values: Sequence[Any]) -> Any:
    """What all are; of objects with the same keys, key by key; ``None`` where they differ."""
    first = values[0]
    if all(value == first for value in values):
        return first
    if all(isinstance(value, Mapping) and value.keys() == first.keys() for value in values):
        return {key: _common([value[key] for value in values]) for key in first}
    return [] if isinstance(first, list) else None
