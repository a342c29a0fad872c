"""What a search minimises, and the front of it: what nothing else beats in every objective at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twin.search.evaluate import Outcome
from twin.search.objectives import USUAL, objective_values

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

LEAST, MOST = 1e-3, 1e3
"""Between these a value counts by its logarithm; nearer zero is as good as zero, a lost simulation at the end."""

BEYOND = 1.1
"""The corner that volume is measured from lies this far out, in spans of the front: its ends count too."""


@dataclass(frozen=True)
class Scored:
    """What an algorithm hears of a row: ``objectives``, all minimised, and by how much it breaks its promises (at most 0:
    it keeps them)."""

    objectives: tuple[float, ...]
    violation: float

    @property
    def holds(self) -> bool:
        return self.violation <= 0.0


def scored(outcome: Outcome, minimise: Sequence[str] = USUAL) -> Scored:
    """An outcome as algorithms hear of it. One that breaks another promise than its bounds is out by at least 1."""
    excess = outcome.worst - 1.0 if outcome.bounds else 0.0
    if not outcome.holds and outcome.slo_met:
        excess = max(excess, 1.0)
    return Scored(tuple(objective_values(outcome, minimise)), excess)


def nondominated(points: Floats) -> Flags:
    """Of points (n, objectives), those that no other beats or equals in every objective; of equal ones the first."""
    kept = np.ones(len(points), dtype=bool)
    for at in np.lexsort(points.T[::-1]).tolist():
        if kept[at]:
            beaten = (points >= points[at]).all(axis=1) & kept
            beaten &= (points > points[at]).any(axis=1) | (np.arange(len(points)) > at)
            kept[beaten] = False
    return kept


def front(outcomes: Mapping[int, Outcome], minimise: Sequence[str] = USUAL) -> list[int]:
    """Rows that no other row beats or equals in every objective, among those that hold; by cost."""
    rows = [row for row, outcome in sorted(outcomes.items()) if outcome.holds]
    if not rows:
        return []
    kept = nondominated(np.array([objective_values(outcomes[row], minimise) for row in rows]))
    found = [row for row, keep in zip(rows, kept.tolist(), strict=True) if keep]
    return sorted(found, key=lambda row: (outcomes[row].usd_per_hour, row))


def front_points(told: Mapping[int, Scored]) -> Floats:
    """The front of what was told, (n, objectives)."""
    points = np.array([item.objectives for _, item in sorted(told.items()) if item.holds])
    return points[nondominated(points)] if points.size else np.zeros((0, 0))


def hypervolume(points: Floats, ideal: Sequence[float] | Floats, nadir: Sequence[float] | Floats) -> float:
    """Share of the box between ``ideal`` and a corner ``BEYOND`` the ``nadir`` that ``points`` (n, objectives) dominate.

    Fonseca, Paquete and López-Ibáñez 2006 through pymoo; exact.
    """
    from pymoo.indicators.hv import HV

    if not points.size:
        return 0.0
    low = np.asarray(ideal, dtype=np.float64)
    span = np.asarray(nadir, dtype=np.float64) - low
    unit = (points - low) / np.where(span > 0, span, 1.0)
    corner = np.full(points.shape[1], BEYOND)
    unit = np.maximum(unit[(unit < corner).all(axis=1)], 0.0)
    return float(HV(ref_point=corner)(unit)) / BEYOND ** len(corner) if unit.size else 0.0


def relative(values: Floats) -> Floats:
    """Objectives so that equal differences are equal ratios; still less is better. Negative ones are those of which more is
    better."""
    return np.asarray(np.sign(values) * np.log(np.clip(np.abs(values), LEAST, MOST) / LEAST), dtype=np.float64)


def gains(points: Floats, front: Floats) -> Floats:
    """By how much each of ``points`` (n, objectives) would push ``front`` out: the additive ε that would let the front
    cover it; not above 0 for what it covers already. Without a front the least sum of objectives gains most."""
    if not len(front):
        total = points.sum(axis=1)
        return np.asarray(total.max() + 1.0 - total, dtype=np.float64)
    kept = front[nondominated(front)]
    return np.asarray((kept[None, :, :] - points[:, None, :]).max(axis=2).min(axis=1), dtype=np.float64)
