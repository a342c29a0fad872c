"""What a GPU hour costs: a price book, shipped (``hwprofiles/prices.yaml``) or the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from twin.base import Estimate, Frozen, InputError, Origin, data_dir, unknown_name
from twin.spec.yaml import check, read_yaml

PriceKind = Literal["on_demand", "reserved", "spot", "owned"]
PRICE_KINDS: tuple[PriceKind, ...] = get_args(PriceKind)


class Price(Frozen):
    """Dollars per GPU and hour, and where that comes from; ``n`` providers stand behind it."""

    usd_per_gpu_hour: float = Field(gt=0, allow_inf_nan=False)
    origin: Origin = "assumed"
    source: str = "the user's price book"
    date: str = ""
    n: int | None = None
    note: str = ""


class PriceBook(Frozen):
    """Prices by GPU and kind. In a file, a price may be a bare number of dollars per GPU hour."""

    schema_version: Literal[1] = 1
    rule: str = ""
    prices: dict[str, dict[PriceKind, Price]]
    name: str = "price book"

    @field_validator("prices", mode="before")
    @classmethod
    def _bare_numbers(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            gpu: {kind: _priced(price) for kind, price in kinds.items()} if isinstance(kinds, dict) else kinds
            for gpu, kinds in data.items()
        }

    def price(self, gpu: str, kind: PriceKind) -> Estimate:
        """Dollars per GPU hour. Raises :class:`InputError` naming the price that the book lacks."""
        if kind not in PRICE_KINDS:
            raise unknown_name("price kind", kind, PRICE_KINDS)
        found = self.prices.get(gpu, {}).get(kind)
        if found is None:
            known = [other for other in PRICE_KINDS if other in self.prices.get(gpu, {})]
            raise InputError(
                f"no {kind} price of {gpu}; write one into a price book of your own (--price-book)"
                + (f", or take one of its other kinds: {', '.join(known)}" if known else ""),
                where=self.name,
            )
        return Estimate(
            value=found.usd_per_gpu_hour, n=found.n, origin=found.origin, source=found.source, date=found.date
        )


def load_price_book(path: Path | None = None) -> PriceBook:
    """The shipped price book, or the user's instead of it. Raises :class:`InputError` with file and line."""
    document = read_yaml(data_dir("hwprofiles") / "prices.yaml" if path is None else path)
    document.data.setdefault("name", document.name)
    return check(document, PriceBook)


def _priced(price: Any) -> Any:
    return {"usd_per_gpu_hour": price} if isinstance(price, int | float) and not isinstance(price, bool) else price
