"""How far predictions are from measurements: the one set of figures that tables, request logs and reports quote."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STATISTICS = ("mape", "median", "p90", "bias", "inside_90")
FACTOR_OF_FIVE = 0.7
"""In powers of ten: a prediction further off than this is no evidence of a unit, nor is one within it an accident."""


def judge(
    measured: Floats, predicted: Floats, low: Floats | None = None, high: Floats | None = None
) -> dict[str, float]:
    """Errors of ``predicted`` relative to ``measured``, arrays of one shape in one unit, at least one value each.

    ``mape``: mean absolute; ``median`` and ``p90``: of the absolute; ``bias``: mean, positive where too much is predicted;
    ``inside_90``: share of the measured inside [low, high], where bounds are given.
    """
    relative = predicted / measured - 1.0
    size = np.abs(relative)
    found = {
        "mape": float(size.mean()),
        "median": float(np.median(size)),
        "p90": float(np.percentile(size, 90)),
        "bias": float(relative.mean()),
    }
    if low is not None and high is not None:
        found["inside_90"] = float(((low <= measured) & (measured <= high)).mean())
    return found


def ks_distance(one: Floats, other: Floats) -> float:
    """Two-sample Kolmogorov–Smirnov distance: the largest gap between the two cumulative shares, 0 to 1."""
    one, other = np.sort(one), np.sort(other)
    every = np.concatenate([one, other])
    shares = [np.searchsorted(values, every, side="right") / len(values) for values in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def relative(measured: float | None, predicted: float | None) -> float | None:
    """Predicted over measured, less 1; None where one is not known or nothing was measured."""
    return predicted / measured - 1.0 if measured and measured > 0 and predicted is not None else None


def thousand_times(measured: Floats, predicted: Floats) -> int:
    """1 or -1 where what was measured is about a thousand times more or less than predicted: another unit. Else 0.

    Decided on the median of the pairs, all positive, within a factor of five of the thousand.
    """
    power = float(np.median(np.log10(measured / predicted)))
    return next((sign for sign in (1, -1) if abs(power - 3 * sign) < FACTOR_OF_FIVE), 0)
