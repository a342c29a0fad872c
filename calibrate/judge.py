"""How far off predictions are on what a fit has not seen: mean errors, and intervals with the share that they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.base import InputError
from twin.cost.tables import Floats
from twin.spec.kernels import Errors, HeldOut


@dataclass(frozen=True)
class Judged:
    """Held-out predictions of one kernel, for a report. ``size``: FLOPs for GEMM and prefill, else bytes."""

    gpu: str
    kernel: str
    size: Floats
    measured_s: Floats
    predicted_s: Floats
    serving: NDArray[np.bool_]


def errors(predicted: Floats, measured: Floats, groups: NDArray[Any] | None = None) -> Errors:
    """Mean absolute and mean relative error, and the 90 % interval of measured / predicted.

    ``groups``: what was left out together; the coverage is then that of intervals set by the other groups.
    :class:`InputError` when there is nothing to compare.
    """
    if len(measured) == 0:
        raise InputError("no measurement left to hold out")
    relative, ratio = predicted / measured - 1.0, measured / predicted
    return Errors(
        mape=float(np.mean(np.abs(relative))),
        bias=float(np.mean(relative)),
        n=len(measured),
        interval90=interval90(ratio),
        coverage90=None if groups is None else coverage90(ratio, groups),
    )


def interval90(ratio: Floats, tail: float = 0.05) -> tuple[float, float]:
    """The quantiles ``tail`` and 1 - ``tail``, at the ranks between which a new value falls with 90 % (i / (n + 1))."""
    low, high = np.quantile(ratio, [tail, 1 - tail], method="weibull")
    return float(low), float(high)


def coverage90(ratio: Floats, groups: NDArray[Any], tail: float = 0.05) -> float | None:
    """Share of each group's values inside the interval of all others; ``None`` with a single group."""
    names = np.unique(groups)
    if len(names) < 2:
        return None
    inside = 0
    for name in names:
        own = groups == name
        low, high = interval90(ratio[~own], tail)
        inside += int(((ratio[own] >= low) & (ratio[own] <= high)).sum())
    return inside / len(ratio)


def rounded(held_out: HeldOut) -> HeldOut:
    return HeldOut(overall=_short(held_out.overall), serving=_short(held_out.serving))


def _short(errors: Errors) -> Errors:
    interval, coverage = errors.interval90, errors.coverage90
    return Errors(
        mape=round_to(errors.mape, 3),
        bias=round_to(errors.bias, 2),
        n=errors.n,
        interval90=interval and (round_to(interval[0]), round_to(interval[1])),
        coverage90=coverage and round_to(coverage, 3),
    )


def round_to(value: float, digits: int = 4) -> float:
    """``value`` to so many significant digits: what a profile shows."""
    return float(f"{value:.{digits}g}")
