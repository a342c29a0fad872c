"""The bill of a fleet, line by line, and what it would be under each other way to pay.

``cost_of([GpuGroup("h100_sxm", num_gpus=16, replicas=8, utilisation=0.6)], "on_demand", book).as_json()``
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from twin.base import HOURS_PER_MONTH, InputError
from twin.results.bill import SPARES, Bill, GpuGroup, Unpriced, bills_of, fixed_lines, missing, spot_fleets, total
from twin.results.money import (
    cash_by_month,
    crossing_month,
    crossover_utilisation,
    payback_month,
    replicas_by_month,
    usd_per_mtok,
)
from twin.results.spot import SpotFleet
from twin.spec.ownership import CAPITAL, Line, monthly_rate
from twin.spec.prices import PriceBook, PriceKind

HORIZON_MONTHS = 36
GPUS_AT_MOST = 1e9
"""A growing fleet larger than this is a slip in the growth."""


@dataclass(frozen=True)
class Way:
    """A way to pay: the bill of a month as the fleet stands, and of each month of the horizon, growth included, which add
    up to ``tco_usd``. Spare replicas of spot are in all of its figures; ``usd_per_gpu_hour`` is of the GPUs planned.
    """

    kind: PriceKind
    usd_per_month: float
    usd_per_gpu_hour: float
    usd_per_mtok: float | None
    tco_usd: float
    usd_by_month: tuple[float, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Idle:
    """What of the bill pays for GPUs that do nothing: a part of its lines, not one more. ``None``: not known."""

    usd_per_month: float | None
    share: float | None


@dataclass(frozen=True)
class Crossover:
    """Rent or buy. ``utilisation``: above this share of hours in use, owning is cheaper than renting only those hours.
    ``month``: from when rent saved has paid the purchase with interest, before any resale; ``None``: not in the lifetime.
    The same of the growing fleet is ``month_as_it_grows``, ``None``: not in the horizon, nor in the lifetime. It is where what
    was spent on buying, ``cash_by_month`` (:func:`twin.results.money.cash_by_month`; as long as the first hardware lives),
    meets what was spent on renting; ``upfront_usd`` of the first month is spent at its start.
    """

    against: PriceKind
    owned_is_cheaper: bool
    utilisation: float | None
    month: float | None
    month_as_it_grows: float | None = None
    upfront_usd: float | None = None
    cash_by_month: tuple[float, ...] = ()


@dataclass(frozen=True)
class CostTree:
    """The bill of ``kind``, the other ways to pay, and what is missing from them. Months are of 730 h. ``gpus_by_month``:
    those that the growing ``fleet`` needs, spares of spot not counted.
    """

    fleet: tuple[GpuGroup, ...]
    kind: PriceKind
    months: int
    growth_per_month: float
    gpus_by_month: tuple[int, ...]
    way: Way
    idle: Idle
    ways: tuple[Way, ...]
    crossover: tuple[Crossover, ...]
    spot: tuple[SpotFleet, ...]
    unpriced: tuple[Unpriced, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data: dicts, lists, numbers, strings and ``None``."""
        return {
            "kind": self.kind,
            "usd_per_month": self.way.usd_per_month,
            "lines": _lines_json(self.way),
            "idle": asdict(self.idle),
            "tco": {
                "months": self.months,
                "growth_per_month": self.growth_per_month,
                "usd": {way.kind: way.tco_usd for way in self.ways},
                "cheapest": min(self.ways, key=lambda way: way.tco_usd).kind,
            },
            "groups": [asdict(group) for group in self.fleet],
            "gpus_by_month": list(self.gpus_by_month),
            "ways": {way.kind: {**_numbers(way), "lines": _lines_json(way)} for way in self.ways},
            "crossover": [{**asdict(each), "cash_by_month": list(each.cash_by_month)} for each in self.crossover],
            "spot": [asdict(each) for each in self.spot],
            "unpriced": [asdict(each) for each in self.unpriced],
        }


def cost_of(
    fleet: Sequence[GpuGroup],
    kind: PriceKind,
    book: PriceBook,
    *,
    months: int = HORIZON_MONTHS,
    region: str | None = None,
    output_tokens_per_s: float | None = None,
    growth_per_month: float = 0.0,
) -> CostTree:
    """The bill of ``fleet`` paid by ``kind``, and its cost over ``months`` each other way that the book can price.

    Rates are today's for the whole horizon. Owning is a level payment per GPU from the month it is needed on; what is
    left of its lifetime at the horizon is not charged. Raises :class:`InputError` where the book lacks the price of
    ``kind``, and for a fleet, horizon or growth that makes no sense.
    """
    _check(fleet, months, growth_per_month)
    grown = [replicas_by_month(group.replicas, growth_per_month, months, group.room) for group in fleet]
    bills, unpriced = bills_of(fleet, book, region)
    if kind not in bills:
        for group in fleet:
            book.price(group.gpu, kind, region)
        raise InputError(next(each.why for each in unpriced if each.item == kind), where=book.name)
    ways = []
    for each, bill in bills.items():
        ways.append(_way(each, bill, fleet, book, grown, output_tokens_per_s))
    chosen = next(way for way in ways if way.kind == kind)
    spot = spot_fleets(fleet, book, region) if "spot" in bills else ()
    return CostTree(
        fleet=tuple(fleet),
        kind=kind,
        months=months,
        growth_per_month=growth_per_month,
        gpus_by_month=tuple(
            sum(group.num_gpus * replicas // group.replicas for group, replicas in zip(fleet, each, strict=True))
            for each in zip(*grown, strict=True)
        ),
        way=chosen,
        idle=_idle(fleet, bills[kind]),
        ways=tuple(ways),
        crossover=tuple(_crossovers(fleet, ways, bills, book, grown)),
        spot=spot,
        unpriced=(*unpriced, *missing(fleet, book, set(bills), spot)),
    )


def _way(
    kind: PriceKind,
    bill: Bill,
    fleet: Sequence[GpuGroup],
    book: PriceBook,
    grown: Sequence[Sequence[int]],
    output_tokens_per_s: float | None,
) -> Way:
    """``grown``: per group of the fleet, its replicas in each month."""
    fixed = fixed_lines(kind, book)
    lines = (*(line for _, part in bill for line in part), *fixed)
    usd = total(lines)
    each = [total(part) / group.replicas for group, part in bill]
    by_month = tuple(
        math.fsum(replica * count for replica, count in zip(each, counts, strict=True)) + total(fixed)
        for counts in zip(*grown, strict=True)
    )
    per_hour = usd / HOURS_PER_MONTH
    return Way(
        kind=kind,
        usd_per_month=usd,
        usd_per_gpu_hour=per_hour / sum(group.num_gpus for group in fleet),
        usd_per_mtok=usd_per_mtok(per_hour, output_tokens_per_s) if output_tokens_per_s else None,
        tco_usd=math.fsum(by_month),
        usd_by_month=by_month,
        lines=lines,
    )


def _idle(fleet: Sequence[GpuGroup], bill: Bill) -> Idle:
    """Spare GPUs are paid for too: only what the planned GPUs do is not idle."""
    if any(group.utilisation is None for group in fleet):
        return Idle(None, None)
    paid = math.fsum(total(lines) for _, lines in bill)
    busy = math.fsum(
        total(line for line in lines if line.name != SPARES) * float(group.utilisation or 0) for group, lines in bill
    )
    idle = max(paid - busy, 0.0)
    return Idle(idle, idle / paid)


def _crossovers(
    fleet: Sequence[GpuGroup],
    ways: Sequence[Way],
    bills: dict[PriceKind, Bill],
    book: PriceBook,
    grown: Sequence[Sequence[int]],
) -> list[Crossover]:
    """Owning against each way to rent, for the fleet as it stands and as it grows."""
    if "owned" not in bills:
        return []
    owned = next(way for way in ways if way.kind == "owned")
    capex = [book.capex_usd(group.gpu) for group in fleet]
    upfront = math.fsum(group.num_gpus * usd for group, usd in zip(fleet, capex, strict=True) if usd is not None)
    running = total(line for line in owned.lines if line.name not in CAPITAL)
    items = math.fsum(item.value for item in book.items.values())  # on both sides, and not by the hour
    found = []
    for way in ways:
        if way.kind == "owned":
            continue
        by_the_hour = way.kind != "reserved"  # a contract is paid used or not
        own, rent = owned.usd_per_month - items, way.usd_per_month - items
        utilisation = crossover_utilisation(own, rent) if by_the_hour else None
        turn = Crossover(way.kind, owned.usd_per_month < way.usd_per_month, utilisation, None)
        if book.ownership is not None and None not in capex:
            rate, life = monthly_rate(book.ownership.interest_per_year.value), book.ownership.lifetime_months.value
            month = payback_month(upfront, way.usd_per_month - running, rate)
            bought, run = (
                series[: int(life)] for series in _cash(bills["owned"], fixed_lines("owned", book), book, grown)
            )
            rented = way.usd_by_month[: len(bought)]
            cash = cash_by_month(bought, run, rented, rate)
            turn = replace(
                turn,
                month=month if month is not None and month <= life else None,
                month_as_it_grows=crossing_month(cash, rented, upfront),
                upfront_usd=upfront,
                cash_by_month=tuple(cash),
            )
        found.append(turn)
    return found


def _cash(
    bill: Bill, fixed: Sequence[Line], book: PriceBook, grown: Sequence[Sequence[int]]
) -> tuple[list[float], list[float]]:
    """By month, what is spent on hardware that comes, and on running what is needed. Nothing is sold."""
    bought, running = [0.0] * len(grown[0]), [total(fixed)] * len(grown[0])
    for (group, lines), counts in zip(bill, grown, strict=True):
        replica = group.num_gpus / group.replicas * (book.capex_usd(group.gpu) or 0.0)
        run = total(line for line in lines if line.name not in CAPITAL) / group.replicas
        most = 0
        for month, count in enumerate(counts):
            bought[month] += replica * max(count - most, 0)
            running[month] += run * count
            most = max(most, count)
    return bought, running


def _check(fleet: Sequence[GpuGroup], months: int, growth_per_month: float) -> None:
    """Raises :class:`InputError`."""
    if not fleet or any(group.num_gpus < 1 or group.replicas < 1 for group in fleet):
        raise InputError("a fleet needs at least one GPU and one replica of each type")
    if any(group.utilisation is not None and not 0 <= group.utilisation <= 1 + 1e-9 for group in fleet):
        raise InputError("utilisation is a share between 0 and 1")
    if any(group.board_kwh_per_month is not None and group.board_kwh_per_month < 0 for group in fleet):
        raise InputError("energy should not be negative")
    if not 1 <= months <= 240:
        raise InputError(f"a horizon is 1 to 240 months, not {months}")
    largest = max(group.num_gpus for group in fleet)
    grown = math.isfinite(growth_per_month) and growth_per_month > -1
    if not grown or math.log(largest) + months * math.log1p(growth_per_month) > math.log(GPUS_AT_MOST):
        raise InputError(
            f"growth of {growth_per_month:.0%} a month over {months} months makes no fleet that can be priced"
        )


def _numbers(way: Way) -> dict[str, Any]:
    found = {name: value for name, value in asdict(way).items() if name not in ("kind", "lines")}
    return found | {"usd_by_month": list(way.usd_by_month)}


def _lines_json(way: Way) -> list[dict[str, Any]]:
    return [{**line._asdict(), "share": line.usd_per_month / way.usd_per_month} for line in way.lines]
