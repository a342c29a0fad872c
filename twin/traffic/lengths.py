"""Distributions of token counts, written in a scenario as people say them.

``1200`` · ``{min: 100, max: 400}`` · ``{len: 1024, range_ratio: 0.2}`` · ``{median: 1200, p99: 6000}`` ·
``{median: 1200, mean: 1900}``; the last two may carry ``min`` and ``max`` as bounds.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from pydantic import Field, model_serializer, model_validator

from twin.base import Frozen
from twin.traffic.columns import MAX_TOKENS, Ints

_Z99 = NormalDist().inv_cdf(0.99)
_SHAPES = "a number; {min, max}; {len, range_ratio}; {median, p99} or {median, mean}, both optionally with min, max"


class Lengths(Frozen):
    """A distribution of whole numbers of tokens, each at least 1.

    ``len`` alone is a constant. ``len`` with ``range_ratio`` r draws uniformly from ⌊len·(1−r)⌋ …
    ⌈len·(1+r)⌉, as vLLM's random data set. ``min`` and ``max`` alone draw uniformly, both included.
    ``median`` with ``p99`` or ``mean`` is lognormal: σ = ln(p99/median)/z₀.₉₉, or σ² = 2·ln(mean/median);
    drawn values are rounded and clipped to ``min`` … ``max``.
    """

    len: int | None = Field(None, ge=1, le=MAX_TOKENS)
    range_ratio: float | None = Field(None, ge=0, lt=1)
    min: int | None = Field(None, ge=1, le=MAX_TOKENS)
    max: int | None = Field(None, ge=1, le=MAX_TOKENS)
    median: float | None = Field(None, ge=1, le=MAX_TOKENS)
    p99: float | None = Field(None, ge=1, le=MAX_TOKENS)
    mean: float | None = Field(None, ge=1, le=MAX_TOKENS)

    @model_validator(mode="before")
    @classmethod
    def _number(cls, data: Any) -> Any:
        return {"len": data} if isinstance(data, int | float) and not isinstance(data, bool) else data

    @model_validator(mode="after")
    def _shape(self) -> Lengths:
        given = {name for name in type(self).model_fields if getattr(self, name) is not None}
        bounds = {"min", "max"}
        allowed = [{"len"}, {"len", "range_ratio"}, bounds]
        lognormal = given - bounds in ({"median", "p99"}, {"median", "mean"})
        if not lognormal and given not in allowed:
            raise ValueError(f"give one of: {_SHAPES}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        tail = self.p99 if self.p99 is not None else self.mean
        if self.median is not None and tail is not None and tail < self.median:
            raise ValueError(f"p99 or mean ({tail:g}) is below the median ({self.median:g})")
        return self

    @model_serializer
    def _short(self) -> int | dict[str, float]:
        given = {k: getattr(self, k) for k in type(self).model_fields if getattr(self, k) is not None}
        return int(given["len"]) if set(given) == {"len"} else given

    @property
    def sigma(self) -> float:
        """Standard deviation of ln(length); 0 where the distribution is not lognormal."""
        if self.median is None:
            return 0.0
        if self.p99 is not None:
            return math.log(self.p99 / self.median) / _Z99
        return math.sqrt(2.0 * math.log((self.mean or self.median) / self.median))

    def average(self) -> float:
        """Expected length before rounding and clipping."""
        if self.median is not None:
            return self.median * math.exp(self.sigma**2 / 2)
        low, high = self._uniform()
        return (low + high) / 2

    def sample(self, n: int, rng: np.random.Generator) -> Ints:
        """``n`` lengths, int64."""
        if self.median is not None:
            drawn = np.rint(self.median * np.exp(self.sigma * rng.standard_normal(n)))
            return np.clip(drawn, self.min or 1, self.max or MAX_TOKENS).astype(np.int64)
        low, high = self._uniform()
        return rng.integers(low, high, size=n, endpoint=True)

    def _uniform(self) -> tuple[int, int]:
        if self.len is None:
            return int(self.min or 1), int(self.max or 1)
        spread = self.range_ratio or 0.0
        return max(1, math.floor(self.len * (1 - spread))), math.ceil(self.len * (1 + spread))
