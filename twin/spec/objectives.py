"""What a plan weighs: objectives by name, and weights that follow the load."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import field_validator, model_validator

from twin.base import Frozen, InputError, unknown_name
from twin.spec.slo import LATENCIES

NAMED = ("cost", "first_tokens", "next_tokens", "goodput", "throughput", "energy")
"""Objectives beside the quantiles of latency."""

WEIGHED = ("cost", "latency", "throughput", "energy")
LOADS = ("all", "peak", "trough")

_QUANTILE = re.compile(rf"p(\d+(?:\.\d+)?)_({'|'.join(LATENCIES)})")
_HOURS = re.compile(r"(\d{1,2})-(\d{1,2})")
_WINDOWS = (*LOADS, "9-17")


class Weights(Frozen):
    """What counts how much in one window of the load: ``{when: peak, weights: {throughput: 3, latency: 1}}``.

    ``peak``: the busiest quarter of five-minute windows by arrivals; ``trough``: the calmest quarter; ``all``; or hours of
    the trace's own day (it begins at hour 0) such as ``9-17``, over midnight where the second is not above the first.
    """

    when: str
    weights: dict[str, float]

    @field_validator("when")
    @classmethod
    def _window(cls, when: str) -> str:
        return str(_value(check_window, when))

    @field_validator("weights")
    @classmethod
    def _weights(cls, weights: dict[str, float]) -> dict[str, float]:
        _value(check_weights, weights)
        return weights

    @property
    def hours(self) -> tuple[int, int] | None:
        """First hour and the one after the last; ``None`` for windows by load."""
        match = _HOURS.fullmatch(self.when)
        return (int(match[1]), int(match[2])) if match else None


class Objectives(Frozen):
    """``minimise``: what the search trades off (nothing: cost and the two sides of latency). ``weights``: a schedule that
    chooses the recommended option among those that hold.
    """

    minimise: tuple[str, ...] = ()
    weights: tuple[Weights, ...] = ()

    @field_validator("minimise")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        _value(check_objectives, names)
        return names

    @model_validator(mode="after")
    def _once(self) -> Objectives:
        windows = [item.when for item in self.weights]
        if twice := [when for when in windows if windows.count(when) > 1]:
            raise ValueError(f"the window {twice[0]} has weights twice")
        return self

    @property
    def weighed(self) -> tuple[str, ...]:
        """What the schedule gives weight to, in the order of ``WEIGHED``."""
        return tuple(name for name in WEIGHED if any(item.weights.get(name, 0.0) > 0 for item in self.weights))


USUAL_OBJECTIVES = Objectives()


def quantile_of(name: str) -> tuple[str, float] | None:
    """``p99_ttft`` → ``("ttft", 0.99)``; ``None`` for other names."""
    match = _QUANTILE.fullmatch(name)
    share = float(match[1]) / 100 if match else 0.0
    return (match[2], share) if match and 0 < share < 1 else None


def check_objectives(names: Sequence[str]) -> None:
    """Raises :class:`InputError` for an unknown name, one that stands twice, or a single one (nothing to trade off)."""
    for name in names:
        if name not in NAMED and quantile_of(name) is None:
            raise unknown_name("objective", name, [*NAMED, "p99_ttft", "p90_tpot", "p50_e2el"])
        if list(names).count(name) > 1:
            raise InputError(f"the objective {name} stands twice")
    if len(names) == 1:
        raise InputError(f"{names[0]} alone leaves nothing to trade off; name two objectives or more")


def check_window(when: str) -> str:
    match = _HOURS.fullmatch(when)
    if when in LOADS or (match and int(match[1]) < 24 and 0 < int(match[2]) <= 24 and match[1] != match[2]):
        return when
    raise InputError(f"{when!r} is not a window of the load", allowed=_WINDOWS)


def check_weights(weights: Mapping[str, float]) -> None:
    """Raises :class:`InputError` for an unknown name, a weight that is negative or no number, and no weight above 0."""
    for name, weight in weights.items():
        if name not in WEIGHED:
            raise unknown_name("weight", name, WEIGHED)
        if not (math.isfinite(weight) and weight >= 0):
            raise InputError(f"the weight of {name} is at least 0, not {weight:g}")
    if not any(weights.values()):
        raise InputError("no weight is above 0")


def parse_objectives(text: str) -> tuple[str, ...]:
    """``cost,p99_ttft,energy``. Raises :class:`InputError`."""
    names = tuple(part.strip() for part in text.split(","))
    check_objectives(names)
    return names


def parse_weights(text: str) -> Weights:
    """``peak:throughput=3,latency=1`` or ``9-17:cost=1``. Raises :class:`InputError`."""
    when, _, rest = (side.strip() for side in text.partition(":"))
    where = f"--weights {when}"
    weights: dict[str, float] = {}
    try:
        check_window(when)
        for part in rest.split(","):
            name, _, value = (side.strip() for side in part.partition("="))
            try:
                weights[name] = float(value)
            except ValueError:
                raise InputError(f"{part.strip()!r} is not a weight", allowed=["latency=3"]) from None
        check_weights(weights)
    except InputError as error:
        raise InputError(error.what, where=where, allowed=error.allowed, nearest=error.nearest) from None
    return Weights(when=when, weights=weights)


def _value(check: Any, value: Any) -> Any:
    """What pydantic wants to hear of a check."""
    try:
        return check(value)
    except InputError as error:
        raise ValueError(str(error)) from None
