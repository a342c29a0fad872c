"""The lines of a fleet's bill under each way to pay, and what no line is there for.

What nobody priced is listed and is never a zero in a sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from twin.base import HOURS_PER_MONTH, InputError
from twin.results.spot import SpotFleet, spot_fleet
from twin.spec.ownership import Line, lacking
from twin.spec.prices import PRICE_KINDS, PriceBook, PriceKind

RENT: dict[PriceKind, str] = {
    "on_demand": "rent, on demand",
    "reserved": "rent, reserved",
    "spot": "rent, spot",
    "owned": "owning, all in",
}
SPARES = "rent, spot: spare replicas for interruptions"
USUAL_ITEMS: dict[str, tuple[PriceKind, ...]] = {
    "network egress": PRICE_KINDS,
    "storage": PRICE_KINDS,
    "support and licences": PRICE_KINDS,
    "taxes": PRICE_KINDS,
    "insurance and repairs": ("owned",),
}
"""What bills usually hold beyond GPUs, by the ways to pay that it comes with."""


@dataclass(frozen=True)
class GpuGroup:
    """GPUs of one type in a fleet. ``utilisation``: mean share of time its GPUs are busy. ``board_kwh_per_month``: drawn by
    its boards alone; without it the provisioned power is paid for all hours. ``room``: how many times the planned traffic it
    serves before it needs more replicas.
    """

    gpu: str
    num_gpus: int
    replicas: int = 1
    utilisation: float | None = None
    board_kwh_per_month: float | None = None
    room: float = 1.0


@dataclass(frozen=True)
class Unpriced:
    """What is not in the sums, and why."""

    item: str
    why: str


Bill = list[tuple[GpuGroup, list[Line]]]
"""The lines of each group of GPUs, USD per month."""


def bills_of(
    fleet: Sequence[GpuGroup], book: PriceBook, region: str | None
) -> tuple[dict[PriceKind, Bill], list[Unpriced]]:
    """The bill of each way to pay that has a price for every group, and why the others have none."""
    makers: dict[PriceKind, Callable[[GpuGroup, PriceBook, str | None], list[Line]]] = {
        "on_demand": _on_demand,
        "reserved": _reserved,
        "spot": _spot,
        "owned": _owned,
    }
    bills: dict[PriceKind, Bill] = {}
    unpriced = []
    for kind, make in makers.items():
        try:
            bills[kind] = [(group, make(group, book, region)) for group in fleet]
        except InputError as error:
            unpriced.append(Unpriced(kind, error.what))
    return bills, unpriced


def _rent(group: GpuGroup, kind: PriceKind, book: PriceBook, region: str | None) -> Line:
    price = book.price(group.gpu, kind, region)
    usd = group.num_gpus * price.value * HOURS_PER_MONTH
    return Line(RENT[kind], usd, price.origin, price.source, price.date, group.gpu)


def _on_demand(group: GpuGroup, book: PriceBook, region: str | None) -> list[Line]:
    return [_rent(group, "on_demand", book, region)]


def _reserved(group: GpuGroup, book: PriceBook, region: str | None) -> list[Line]:
    """A contract's price; without one, the usual discount on the price on demand, where the book assumes one."""
    try:
        return [_rent(group, "reserved", book, region)]
    except InputError:
        if book.ownership is None or (discount := book.ownership.reserved_discount) is None:
            raise
        full = _rent(group, "on_demand", book, region)
    name, usd = f"rent, reserved ({discount.value:.0%} under on demand)", full.usd_per_month * (1 - discount.value)
    return [Line(name, usd, discount.origin, discount.source, discount.date, group.gpu)]


def _spot(group: GpuGroup, book: PriceBook, region: str | None) -> list[Line]:
    """Spot, and the replicas on top that keep as many up as planned."""
    base = _rent(group, "spot", book, region)
    spares = spot_fleets([group], book, region)[0].spare_replicas
    usd = base.usd_per_month * (spares or 0) / group.replicas
    return [base, base._replace(name=SPARES, usd_per_month=usd)] if spares else [base]


def _owned(group: GpuGroup, book: PriceBook, region: str | None) -> list[Line]:
    """Line by line where the book says what buying takes; else its all-in price."""
    kwh = None if group.board_kwh_per_month is None else group.board_kwh_per_month / group.num_gpus
    lines = [
        line._replace(usd_per_month=line.usd_per_month * group.num_gpus, gpu=group.gpu)
        for line in book.owned_lines(group.gpu, kwh)
    ]
    return lines or [_rent(group, "owned", book, region)]


def spot_fleets(fleet: Sequence[GpuGroup], book: PriceBook, region: str | None) -> tuple[SpotFleet, ...]:
    """What each group needs on spot. Raises :class:`InputError` for a missing price, or what no spares can hold."""
    prices = [book.price(group.gpu, "spot", region).value for group in fleet]
    return tuple(
        spot_fleet(group.gpu, group.replicas, usd, book.ownership) for group, usd in zip(fleet, prices, strict=True)
    )


def fixed_lines(kind: PriceKind, book: PriceBook) -> list[Line]:
    """Lines of the fleet as a whole, whatever its size."""
    items = dict(book.items)
    if kind == "owned" and book.ownership is not None and book.ownership.staff_usd_per_month is not None:
        items["staff"] = book.ownership.staff_usd_per_month
    return [Line(name, item.value, item.origin, item.source, item.date) for name, item in items.items()]


def missing(
    fleet: Sequence[GpuGroup], book: PriceBook, kinds: set[PriceKind], spot: Sequence[SpotFleet]
) -> list[Unpriced]:
    """What the sums leave out, once each."""
    found = [
        Unpriced(item, "no figure under items of the price book" + ("" if where == PRICE_KINDS else " (owned only)"))
        for item, where in USUAL_ITEMS.items()
        if item not in book.items and kinds & set(where)
    ]
    if "owned" in kinds and (book.ownership is None or book.ownership.staff_usd_per_month is None):
        found.append(Unpriced("staff", "owned: no ownership.staff_usd_per_month in the price book"))
    for group in fleet if "owned" in kinds else ():
        if book.ownership is not None and book.owned_lines(group.gpu):
            gaps = lacking(book.assets[group.gpu], book.ownership)
            found += [Unpriced(gap, f"owned: the price book has no figure of it for {group.gpu}") for gap in gaps]
    if any(each.spare_replicas is None for each in spot):
        found.append(Unpriced("interruptions of spot", "spot: the price book assumes no interruptions to price"))
    return list(dict.fromkeys(found))


def total(lines: Iterable[Line]) -> float:
    return math.fsum(line.usd_per_month for line in lines)
