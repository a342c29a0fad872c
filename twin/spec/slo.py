"""What is promised and what may be spent: latency bounds, and a budget in money, GPUs or power."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from pydantic import Field, model_serializer, model_validator

from twin.base import HOURS_PER_MONTH, HOURS_PER_YEAR, Frozen, InputError, parse_duration, split_number

Latency = Literal["ttft", "tpot", "e2el"]
LATENCIES: tuple[Latency, ...] = ("ttft", "tpot", "e2el")
DEFAULT_QUANTILE = 0.99

_QUANTILE = re.compile(r"p(\d+(?:\.\d+)?)\s*:\s*(.+)")


class Bound(Frozen):
    """At least a share ``quantile`` of requests, of those of ``request_class`` where one is named, stays within ``seconds``."""

    metric: Latency
    quantile: float = Field(DEFAULT_QUANTILE, gt=0, lt=1)
    seconds: float = Field(gt=0)
    request_class: str | None = None

    def __str__(self) -> str:
        """``p99:500ms``, which :func:`parse_bound` reads back."""
        return f"p{self.quantile * 100:.10g}:{self.seconds * 1e3:.10g}ms"


class Slo(Frozen):
    """Latency promises; all of them must hold. Written as ``{ttft: 500ms, tpot: "p90:50ms"}``.

    A bare number is milliseconds, a bare bound is p99; a list gives several quantiles of one metric.
    """

    bounds: tuple[Bound, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        if data is None:
            return {}
        if not isinstance(data, dict) or "bounds" in data:
            return data
        if unknown := [name for name in data if name not in LATENCIES]:
            raise ValueError(f"unknown metric {unknown[0]!r} (allowed: {', '.join(LATENCIES)})")
        return {"bounds": tuple(bound for name in LATENCIES for bound in _bounds(name, data.get(name)))}

    @model_serializer
    def _write(self) -> dict[str, str | list[str]]:
        """The bounds of all requests; those of a class are written with their class."""
        every = [bound for bound in self.bounds if bound.request_class is None]
        by_metric = {name: [str(b) for b in every if b.metric == name] for name in LATENCIES}
        return {name: texts[0] if len(texts) == 1 else texts for name, texts in by_metric.items() if texts}

    @classmethod
    def of(cls, *, ttft: str | None = None, tpot: str | None = None, e2el: str | None = None) -> Slo:
        """From the flags of a command line. Raises :class:`InputError`."""
        given: dict[Latency, str | None] = {"ttft": ttft, "tpot": tpot, "e2el": e2el}
        return cls(bounds=tuple(parse_bound(name, text) for name, text in given.items() if text is not None))

    def request_bounds_s(self, request_class: str | None = None) -> dict[str, float]:
        """Seconds that a good request (of a class) meets: per metric, the bound of its highest quantile, of its class before
        that of all requests.
        """
        meant = [bound for bound in self.bounds if bound.request_class in (None, request_class)]
        ordered = sorted(meant, key=lambda bound: (bound.request_class is not None, bound.quantile))
        return {bound.metric: bound.seconds for bound in ordered}


class Budget(Frozen):
    """What may be spent: exactly one of money, GPUs and power (of the boards)."""

    usd_per_hour: float | None = Field(None, gt=0)
    num_gpus: int | None = Field(None, ge=1)
    watts: float | None = Field(None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        if not isinstance(data, str | int | float):
            return data
        try:
            return dict(parse_budget(str(data)))
        except InputError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if sum(value is not None for value in (self.usd_per_hour, self.num_gpus, self.watts)) != 1:
            raise ValueError("a budget is one of usd_per_hour, num_gpus and watts")
        return self

    @model_serializer
    def _write(self) -> str:
        if self.usd_per_hour is not None:
            return f"{self.usd_per_hour!r}/h"
        return f"{self.num_gpus}gpu" if self.num_gpus is not None else f"{self.watts!r}W"


def parse_bound(metric: Latency, text: str | float) -> Bound:
    """``500ms``, ``500`` or ``p90:500ms``. Raises :class:`InputError`."""
    what = f"--{metric}"
    match = _QUANTILE.fullmatch(str(text).strip())
    quantile = float(match[1]) / 100 if match else DEFAULT_QUANTILE
    seconds = parse_duration(match[2] if match else text, what=what)
    if not 0 < quantile < 1:
        raise InputError(f"{what}: a quantile lies between p0 and p100, not p{quantile * 100:g}")
    if not (seconds > 0 and math.isfinite(seconds)):
        raise InputError(f"{what}: a bound is above 0, not {text!r}")
    return Bound(metric=metric, quantile=quantile, seconds=seconds)


_HOURS = {
    "h": 1.0,
    "hour": 1.0,
    "day": 24.0,
    "month": HOURS_PER_MONTH,
    "mo": HOURS_PER_MONTH,
    "yr": HOURS_PER_YEAR,
    "year": HOURS_PER_YEAR,
}
_MONEY = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "m": 1e6}
_WATTS = {"W": 1.0, "kW": 1e3, "MW": 1e6}
_BUDGETS = ("120k/month", "2.5M/yr", "50/h", "64gpu", "400kW")


def parse_budget(text: str) -> Budget:
    """``120k/month``, ``2.5M/yr``, ``$50/h``, ``64gpu`` or ``400kW``; a month is 730 h, a year 8760 h.

    Raises :class:`InputError` for anything else.
    """
    bare = text.strip().removeprefix("$").replace("USD", "").strip()
    value, unit = split_number(bare, what="budget")
    unit = unit.replace(" ", "")
    if value <= 0:
        raise InputError(f"budget: {text!r} is not above 0")
    if unit.lower() in ("gpu", "gpus"):
        if value != int(value):
            raise InputError(f"budget: {text!r} is not a whole number of GPUs")
        return Budget(num_gpus=int(value))
    if unit in _WATTS:
        return Budget(watts=value * _WATTS[unit])
    scale, slash, period = unit.partition("/")
    if not slash or scale not in _MONEY or period not in _HOURS:
        raise InputError(f"budget: {text!r} is not understood", allowed=_BUDGETS)
    return Budget(usd_per_hour=value * _MONEY[scale] / _HOURS[period])


def _bounds(metric: Latency, written: Any) -> tuple[Bound, ...]:
    try:
        if written is None:
            return ()
        return tuple(parse_bound(metric, text) for text in (written if isinstance(written, list) else [written]))
    except InputError as error:
        raise ValueError(str(error).removeprefix("--")) from None
