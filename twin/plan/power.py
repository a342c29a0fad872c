"""The power and the nodes that an option takes: what a data centre must have ready for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from twin.base import HOURS_PER_MONTH, Estimate
from twin.plan.fleet import Option, pools_of
from twin.plan.request import PlanRequest
from twin.results.energy import IDLE_POWER
from twin.search.evaluate import Outcome
from twin.spec.layout import fleet_nodes
from twin.spec.ownership import kwh_at_the_meter
from twin.spec.prices import PriceBook


@dataclass(frozen=True)
class Power:
    """kW of all GPUs, ``None`` where it is not known of every one. ``boards_kw``: the limit of their boards; ``drawn_kw``: what
    the boards draw in the mean of the simulation; ``meter_kw``: provisioned all in, as the price book has it;
    ``kwh_per_month``: at the meter, what an owned fleet pays for, which is ``billed`` as ``provisioned`` (all hours), or as
    ``drawn`` where energy is an objective. ``gpus_per_node``: ``None`` where nodes differ.
    """

    boards_kw: float | None
    drawn_kw: float | None
    meter_kw: float | None
    kwh_per_month: float | None
    billed: str | None
    nodes: int
    gpus_per_node: int | None
    sources: dict[str, dict[str, str]] = field(default_factory=dict)


def power(request: PlanRequest, option: Option, book: PriceBook | None) -> dict[str, object]:
    """:class:`Power` of an option under ``power``, of pools in all."""
    parts = [_of_pool(outcome, book) for outcome, _ in pools_of(option, request)]
    return {"power": asdict(parts[0] if len(parts) == 1 else together(parts))}


def _of_pool(outcome: Outcome, book: PriceBook | None) -> Power:
    candidate, facts = outcome.candidate, outcome.deployment.step.profile.facts
    gpus, board, share = candidate.num_gpus, facts.board_power_w, outcome.measured.power_share
    assets = None if book is None else book.assets.get(candidate.gpu)
    owning = None if book is None else book.ownership
    limit = None if board is None else gpus * board.value / 1e3
    drawn = None if limit is None or share is None else limit * share
    all_in = None if assets is None else assets.all_in_kw
    metered = drawn if "energy" in outcome.figures and owning is not None and owning.server_power_ratio else None
    kwh = None
    if assets is not None and owning is not None:
        kwh = kwh_at_the_meter(assets, owning, None if metered is None else metered * HOURS_PER_MONTH / gpus)
    named = {f"board power limit of {candidate.gpu}": board, f"all-in power of {candidate.gpu}": all_in}
    if drawn is not None:
        named["share of its limit that an idle board draws"] = IDLE_POWER
    return Power(
        boards_kw=limit,
        drawn_kw=drawn,
        meter_kw=None if all_in is None else all_in.value * gpus,
        kwh_per_month=None if kwh is None else kwh * gpus,
        billed=None if kwh is None else "provisioned" if metered is None else "drawn",
        nodes=fleet_nodes(candidate.layout, candidate.replicas, facts.num_gpus_per_node),
        gpus_per_node=facts.num_gpus_per_node,
        sources={name: _source(figure) for name, figure in named.items() if figure is not None},
    )


def together(pools: list[Power]) -> Power:
    """Of the pools of one fleet: sums, ``None`` where a pool's is not known."""
    sources: dict[str, dict[str, str]] = {}
    for pool in pools:
        sources |= pool.sources
    billed, sizes = {pool.billed for pool in pools}, {pool.gpus_per_node for pool in pools}
    return Power(
        boards_kw=_sum(pool.boards_kw for pool in pools),
        drawn_kw=_sum(pool.drawn_kw for pool in pools),
        meter_kw=_sum(pool.meter_kw for pool in pools),
        kwh_per_month=_sum(pool.kwh_per_month for pool in pools),
        billed=billed.pop() if len(billed) == 1 else None,
        nodes=sum(pool.nodes for pool in pools),
        gpus_per_node=sizes.pop() if len(sizes) == 1 else None,
        sources=sources,
    )


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else math.fsum(value for value in known if value is not None)


def _source(figure: Estimate) -> dict[str, str]:
    return {"origin": figure.origin, "source": figure.source, "date": figure.date}
