"""The closed form, corrected with what was simulated: where it puts the front next is simulated next.

A Gaussian process per objective (Rasmussen and Williams 2006, algorithm 2.1) in logarithms: on top of a linear trend in the
screen's estimates, what rows alike in their decisions have in common. A row's prediction is taken optimistically, by one
standard deviation; asked are those that would push the front furthest out, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from twin.search.algorithms.base import Stall
from twin.search.front import LEAST, MOST, Floats, Scored, gains, relative
from twin.search.search_space import Ints, SearchSpace, Variable

BATCH = 8
OPTIMISM = 1.0
LEAST_GAIN = 1e-3
"""A row is worth a simulation if it could push the front out by so much, in relative terms."""

NOISE = 1e-4
LENGTHS = (0.35, 0.7, 1.4, 2.8)
"""Over which rows are alike, in the distance that the variables' weights define; the likeliest is taken."""


class Corrected:
    """Asks for what could be on the front. Stops when nothing could, or when the front has stopped moving."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._told: dict[int, Scored] = {}
        self._stall, self._stopped = Stall(), False
        columns = [v.values if v.is_choice else _spread(v) for v in space.variables]
        self._columns = list(zip(space.variables, columns, strict=True))
        estimates = np.log(np.maximum(np.where(np.isfinite(space.estimates), space.estimates, 1e6), 1e-9))
        spread = np.maximum(estimates.std(axis=0), 1e-9)
        self._trend = np.column_stack([np.ones(len(space.rows)), (estimates - estimates.mean(axis=0)) / spread])

    def ask(self) -> list[int]:
        if self._stopped or len(self._told) == len(self._space.rows):
            return []
        if not self._told:
            return list(self._space.starts)
        return self._most_gain()

    def tell(self, scored: Mapping[int, Scored]) -> None:
        self._told |= scored
        self._stopped = self._stall.watch(self._told)

    def _most_gain(self) -> list[int]:
        space, told = self._space, self._told
        rows = sorted(told)
        at = np.array([space.position[row] for row in rows])
        broken = np.log(np.clip([1 + told[row].violation for row in rows], LEAST, MOST))  # 0 where a promise just holds
        values = np.column_stack([relative(np.array([told[row].objectives for row in rows])), broken])
        mean, deviation = self.predicted(at, values)
        lower = mean - OPTIMISM * deviation
        new = np.ones(len(space.rows), dtype=bool)
        new[at] = False
        holding = values[[told[row].holds for row in rows], :-1]
        if not holding.size:  # nothing holds yet: what comes nearest to it
            nearest = np.argsort(np.where(new, lower[:, -1], np.inf), kind="stable")
            return [int(row) for row in space.rows[nearest[: min(BATCH, int(new.sum()))]]]
        candidates = np.flatnonzero(new & (lower[:, -1] <= 0))
        chosen: list[int] = []
        while len(chosen) < BATCH and candidates.size:
            gain = gains(lower[candidates, :-1], holding)
            best = int(gain.argmax())
            if gain[best] < LEAST_GAIN:
                break
            chosen.append(int(space.rows[candidates[best]]))
            holding = np.vstack([holding, lower[candidates[best], :-1]])
            candidates = np.delete(candidates[gain >= LEAST_GAIN], int((gain[:best] >= LEAST_GAIN).sum()))
        return chosen

    def predicted(self, at: Ints, values: Floats) -> tuple[Floats, Floats]:
        """Of all rows (rows, outputs), the mean and the standard deviation, from ``values`` told at positions ``at``."""
        squared = np.zeros((len(self._space.rows), len(at)))
        for variable, column in self._columns:
            difference = np.subtract.outer(column, column[at])
            squared += variable.weight * ((difference != 0) if variable.is_choice else difference**2)
        trend = self._trend
        solve = np.linalg.lstsq(trend[at], values, rcond=None)[0]
        residual = values - trend[at] @ solve
        mean = trend @ solve
        deviation = np.empty_like(mean)
        for output in range(values.shape[1]):
            length = max(LENGTHS, key=lambda size: _likelihood(squared[at] / size**2, residual[:, output]))
            scale = max(float((residual[:, output] ** 2).mean()), 1e-12)
            across = np.exp(-0.5 * squared / length**2)
            factor = np.linalg.cholesky(across[at] + NOISE * np.eye(len(at)))
            solved = np.linalg.solve(factor, across.T)
            mean[:, output] += solved.T @ np.linalg.solve(factor, residual[:, output])
            deviation[:, output] = np.sqrt(np.maximum(1.0 - (solved**2).sum(axis=0), 0.0) * scale)
        return np.asarray(mean, dtype=np.float64), deviation


def _spread(variable: Variable) -> Floats:
    """From 0 to 1. Replicas by their logarithm, as the other numbers are already in steps of two."""
    values = np.log(variable.values) if variable.name == "replicas" else variable.values.astype(np.float64)
    return np.asarray((values - values.min()) / np.ptp(values), dtype=np.float64)


def _likelihood(squared: Floats, residual: Floats) -> float:
    """Logarithm of the marginal likelihood, its scale at its best."""
    factor = np.linalg.cholesky(np.exp(-0.5 * squared) + NOISE * np.eye(len(residual)))
    half = np.linalg.solve(factor, residual)
    return float(-0.5 * len(residual) * np.log(max(float(half @ half), 1e-12)) - np.log(np.diag(factor)).sum())
