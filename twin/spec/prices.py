"""What a GPU hour costs: a price book, shipped (``hwprofiles/prices.yaml``) or the user's own.

A book holds rent by GPU and kind (``prices``, and ``regions`` where they differ), what buying takes (``assets``), what is
assumed about owning and spot (``ownership``), and what else is on the bill (``items``). Nothing but prices is needed;
what is absent is listed as not priced, never taken as zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from twin.base import HOURS_PER_MONTH, Frozen, InputError, Origin, data_dir, unknown_name
from twin.spec.ownership import OWN_SOURCE, Assets, Figure, Line, Ownership, capex_usd, check_spread, owned_lines
from twin.spec.yaml import check, read_yaml

PriceKind = Literal["on_demand", "reserved", "spot", "owned"]
PRICE_KINDS: tuple[PriceKind, ...] = get_args(PriceKind)


class Price(Frozen):
    """Dollars per GPU and hour, and where that comes from; ``n`` providers, from ``low`` to ``high``, stand behind it."""

    usd_per_gpu_hour: float = Field(gt=0, allow_inf_nan=False)
    low: float | None = Field(None, gt=0, allow_inf_nan=False)
    high: float | None = Field(None, gt=0, allow_inf_nan=False)
    origin: Origin = "assumed"
    source: str = OWN_SOURCE
    date: str = ""
    n: int | None = None
    note: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> Price:
        check_spread(self.low, self.usd_per_gpu_hour, self.high)
        return self

    @property
    def figure(self) -> Figure:
        return Figure(value=self.usd_per_gpu_hour, **self.model_dump(exclude={"usd_per_gpu_hour"}))


Offers = dict[str, dict[PriceKind, Price]]


class PriceBook(Frozen):
    """Prices by GPU and kind. In a file, a price may be a bare number of dollars per GPU hour.

    ``items``: what else the fleet costs a month (USD by name), however its GPUs are paid for.
    """

    schema_version: Literal[1] = 1
    rule: str = ""
    prices: Offers
    regions: dict[str, Offers] = Field(default_factory=dict)
    assets: dict[str, Assets] = Field(default_factory=dict)
    ownership: Ownership | None = None
    items: dict[str, Figure] = Field(default_factory=dict)
    name: str = "price book"

    @field_validator("prices", mode="before")
    @classmethod
    def _bare_prices(cls, data: Any) -> Any:
        return _priced(data, depth=2)

    @field_validator("regions", mode="before")
    @classmethod
    def _bare_regions(cls, data: Any) -> Any:
        return _priced(data, depth=3)

    @field_validator("items")
    @classmethod
    def _not_negative(cls, items: dict[str, Figure]) -> dict[str, Figure]:
        for name, item in items.items():
            if item.at(0) < 0:
                raise ValueError(f"{name}: {item.at(0):g} USD a month should not be negative")
        return items

    def price(self, gpu: str, kind: PriceKind, region: str | None = None) -> Figure:
        """Dollars per GPU hour; in a ``region``, only what the book has of that region.

        ``owned`` needs no price of its own: it is worked out of ``assets`` and ``ownership``, wherever it stands.
        Raises :class:`InputError` for an unknown kind or region, and naming the price that the book lacks.
        """
        if kind not in PRICE_KINDS:
            raise unknown_name("price kind", kind, PRICE_KINDS)
        if region is not None and region not in self.regions:
            raise unknown_name("region", region, self.regions, where=self.name)
        offers = self.prices if region is None else self.regions[region]
        found = offers.get(gpu, {}).get(kind)
        if found is None and kind == "owned":
            found = self.prices.get(gpu, {}).get(kind)
        if found is not None:
            return found.figure
        if kind == "owned" and (worked_out := self._owned(gpu)) is not None:
            return worked_out
        known = [other for other in PRICE_KINDS if other in offers.get(gpu, {})]
        place = f" in {region}" if region else ""
        bought = ", or what it takes to buy (assets and ownership)," if kind == "owned" else ""
        raise InputError(
            f"no {kind} price of {gpu}{place}; write one{bought} into a price book of your own (--price-book)"
            + (f", or take one of its other kinds: {', '.join(known)}" if known else ""),
            where=self.name,
        )

    def owned_lines(self, gpu: str, board_kwh_per_month: float | None = None) -> list[Line]:
        """What one owned GPU costs a month (:func:`twin.spec.ownership.owned_lines`); empty where the book gives an
        ``owned`` price, or lacks what buying takes.
        """
        if self.ownership is None or gpu not in self.assets or "owned" in self.prices.get(gpu, {}):
            return []
        return owned_lines(self.assets[gpu], self.ownership, board_kwh_per_month)

    def capex_usd(self, gpu: str) -> float | None:
        """What one GPU and its share of server and network cost to buy; ``None`` where the book does not break it down."""
        if self.ownership is None or not self.owned_lines(gpu):
            return None
        return capex_usd(self.assets[gpu], self.ownership)

    def part_of(self, gpus: Iterable[str], region: str | None = None) -> dict[str, Any]:
        """What bills of these GPUs rest on, as plain data: prices per GPU hour by kind as :meth:`price` finds them (``owned``
        only where it is not worked out line by line), assets, ownership and items. What the book lacks is absent.
        """
        prices: dict[str, dict[str, Any]] = {}
        for gpu in gpus:
            prices[gpu] = {}
            for kind in PRICE_KINDS:
                if kind == "owned" and self.owned_lines(gpu):
                    continue
                with suppress(InputError):
                    prices[gpu][kind] = _plain(self.price(gpu, kind, region))
        return {
            "name": self.name,
            "region": region,
            "prices": prices,
            "assets": {gpu: _plain(self.assets[gpu]) for gpu in prices if gpu in self.assets},
            "ownership": None if self.ownership is None else _plain(self.ownership),
            "items": {name: _plain(item) for name, item in self.items.items()},
        }

    def drawn(self, draw: Random) -> PriceBook:
        """This book with each figure drawn from its spread (:meth:`Figure.at`), independently of the others."""
        return self.model_copy(update={name: _drawn(value, draw) for name, value in self if name != "name"})

    def _owned(self, gpu: str) -> Figure | None:
        """Owning worked out, per GPU hour. Its spread is that of the purchase price, widened to what others published:
        the other figures of ``ownership`` stay at their values (:meth:`drawn` draws them too).
        """
        lines = self.owned_lines(gpu)
        if not lines:
            return None
        dear = [self._bought_at(gpu, share).owned_lines(gpu) for share in (0.0, 0.5, 1.0)]
        hourly = [math.fsum(line.usd_per_month for line in each) / HOURS_PER_MONTH for each in dear]
        if (published := self.assets[gpu].published_usd_per_gpu_hour) is not None:
            hourly += [published.at(0), published.at(1)]
        source = f"worked out of a purchase price ({lines[0].source}), power and the book's ownership"
        return Figure(value=hourly[1], low=min(hourly), high=max(hourly), source=source, date=lines[0].date)

    def _bought_at(self, gpu: str, share: float) -> PriceBook:
        assets = self.assets.get(gpu)
        if assets is None:
            return self
        capex = {
            name: Figure(value=figure.at(share))
            for name in ("capex_usd_per_gpu", "capex_usd_per_node")
            if (figure := getattr(assets, name)) is not None
        }
        return self.model_copy(update={"assets": {**self.assets, gpu: assets.model_copy(update=capex)}})


def load_price_book(path: Path | None = None) -> PriceBook:
    """The shipped price book, or the user's instead of it. What an ``ownership`` section of theirs must have and leaves out,
    a lifetime or an interest, is the shipped one's; so are all prices where theirs names none.

    Raises :class:`InputError` with file and line.
    """
    shipped = data_dir("hwprofiles") / "prices.yaml"
    document = read_yaml(shipped if path is None else path)
    document.data.setdefault("name", document.name)
    if path is not None and document.data.keys() <= {"schema_version", "name", "ownership", "items"}:
        document.data = {**read_yaml(shipped).data, **document.data}
    if path is not None and isinstance(own := document.data.get("ownership"), dict):
        needed = {name for name, field in Ownership.model_fields.items() if field.is_required()} - own.keys()
        usual = read_yaml(shipped).data["ownership"] if needed else {}
        document.data["ownership"] = {**{name: usual[name] for name in usual if name in needed}, **own}
    return check(document, PriceBook)


def _priced(data: Any, depth: int) -> Any:
    """The numbers ``depth`` keys down as prices."""
    if isinstance(data, dict) and depth:
        return {key: _priced(value, depth - 1) for key, value in data.items()}
    bare = not depth and isinstance(data, int | float) and not isinstance(data, bool)
    return {"usd_per_gpu_hour": data} if bare else data


def _plain(part: Frozen) -> dict[str, Any]:
    return part.model_dump(mode="json", exclude_none=True)


def _drawn(value: Any, draw: Random) -> Any:
    if isinstance(value, dict):
        return {key: _drawn(item, draw) for key, item in value.items()}
    if isinstance(value, Price):
        return value.model_copy(update={"usd_per_gpu_hour": value.figure.at(draw.random()), "low": None, "high": None})
    if isinstance(value, Figure):
        return value.model_copy(update={"value": value.at(draw.random()), "low": None, "high": None})
    return value.model_copy(update=dict(_parts(value, draw))) if isinstance(value, Frozen) else value


def _parts(value: Frozen, draw: Random) -> Iterator[tuple[str, Any]]:
    for name, part in value:
        yield name, _drawn(part, draw)
