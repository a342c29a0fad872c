"""Demand that grows: how much more traffic there is in a month, and how sure that is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import exp, isfinite, log, log1p

import numpy as np
from numpy.typing import NDArray

from twin.base import InputError, split_number

Floats = NDArray[np.float64]

LOOKED_AHEAD_MONTHS = 36
"""As far as a three-year cost is reckoned."""

MOST_FACTOR = 1e4
"""Growth beyond this is a slip of the pen, not a forecast."""

PERIODS = {"": 1.0, "/month": 1.0, "/mo": 1.0, "/yr": 12.0, "/year": 12.0}


@dataclass(frozen=True)
class Growth:
    """``per_month``: share by which traffic grows each month (0.05), ``stderr``: of it, lognormal in the factor of a month.

    ``planned_months``: the traffic that was planned for is that of this month; ``months``: how far ahead is looked.
    """

    per_month: float
    stderr: float = 0.0
    planned_months: float = 0.0
    months: int = LOOKED_AHEAD_MONTHS

    def factors(self, z: Floats) -> Floats:
        """Traffic over what was planned for, shape (len(z), months + 1), by month from today; ``z`` standard normal."""
        rate = log1p(self.per_month) + self.stderr / (1.0 + self.per_month) * z
        ahead = np.arange(self.months + 1) - self.planned_months
        return np.asarray(np.exp(np.outer(rate, ahead)), dtype=np.float64)

    def __str__(self) -> str:
        sure = f" ± {self.stderr:.1%}" if self.stderr else ""
        return f"{self.per_month:.1%}{sure} a month"


def parse_growth(text: str, *, planned_months: float = 0.0, months: int = LOOKED_AHEAD_MONTHS) -> Growth:
    """``5%/month``, ``60%/yr``, or with its standard error ``5%±2%/month``, compounded.

    Raises :class:`InputError` for anything else, and for a growth that over the months is no forecast any more.
    """
    known = ("5%/month", "5%±2%/month", "60%/yr")
    bare = re.sub(r"\s", "", text).replace("+-", "±")
    head, _, sure = bare.partition("±")
    value, unit = split_number(head, what="--growth")
    error, error_unit = split_number(sure, what="--growth") if sure else (0.0, unit)
    period = PERIODS.get(error_unit.removeprefix("%"))
    per = {"%", "", error_unit} if sure else {unit}
    if period is None or "%" not in bare or unit not in per or value <= -100 or error < 0:
        raise InputError(f"--growth: {text!r} is not a growth", allowed=known)
    factor = 1.0 + value / 100
    monthly = exp(log(factor) / period) - 1.0
    stderr = error / 100 / factor * (1.0 + monthly) / period
    return checked(Growth(monthly, stderr, planned_months, months), text)


def checked(growth: Growth, text: str = "") -> Growth:
    """``growth``, unless it overflows. Raises :class:`InputError`."""
    if not isfinite(growth.planned_months) or growth.planned_months < 0 or growth.months < 1:
        raise InputError("--horizon is a number of months of at least 0")
    furthest = max(float(growth.months), growth.planned_months)
    grown = abs(log1p(growth.per_month)) * furthest
    if grown > log(MOST_FACTOR):
        asked = text or str(growth)
        raise InputError(
            f"--growth: {asked} over {furthest:g} months is a factor of more than {MOST_FACTOR:,.0f}; that is no forecast:"
            " give a lower growth or a shorter --horizon"
        )
    return growth
