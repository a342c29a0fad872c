"""What an algorithm chooses among: the rows that the screen left, as mixed variables, with the screen's estimates."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from twin.search.screen import Screen
from twin.search.space import ReplicaKind
from twin.spec.slo import Bound

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STARTS = 24
"""Rows simulated before any algorithm has a say."""


@dataclass(frozen=True, eq=False)
class Variable:
    """A decision: ``values`` (rows,) are positions in ``options`` where those have no order (a choice), else whole numbers.

    ``weight``: how far two rows are apart that differ in it alone, from end to end.
    """

    name: str
    values: Ints
    weight: float
    options: tuple[Hashable, ...] | None = None

    @property
    def is_choice(self) -> bool:
        return self.options is not None

    @cached_property
    def low(self) -> int:
        return int(self.values.min())

    @cached_property
    def high(self) -> int:
        return int(self.values.max())

    def apart(self, values: Ints) -> Floats:
        """How far each row (all, then the axes of ``values``) is from ``values``: 0 to 1, 0 or 1 for a choice."""
        difference = np.subtract.outer(self.values, values)
        if self.is_choice:
            return np.asarray(difference != 0, dtype=np.float64)
        return np.abs(difference) / (self.high - self.low)


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """``rows`` of the screen, ascending, and of each, in that order, its ``variables`` and ``estimates`` (rows, 3): USD per
    hour, mean TTFT and TPOT in closed form. ``kind`` (rows,) tells replicas of one kind.

    ``starts``: rows to begin with, likeliest first. ``budget``: rows that may be simulated. ``seed``: of all draws.
    """

    rows: Ints
    variables: tuple[Variable, ...]
    estimates: Floats
    kind: Ints
    starts: tuple[int, ...]
    budget: int
    seed: int

    @cached_property
    def position(self) -> dict[int, int]:
        return {row: at for at, row in enumerate(self.rows.tolist())}

    def nearest(self, points: Ints, taken: Sequence[int] = ()) -> list[int]:
        """The row nearest to each of ``points`` (n, variables), the first of equals; never one of ``taken``."""
        far = np.zeros((len(self.rows), len(points)))
        for variable, values in zip(self.variables, points.T, strict=True):
            far += variable.weight * variable.apart(values)
        far[[self.position[row] for row in taken]] = np.inf
        return [int(self.rows[at]) for at in far.argmin(axis=0).tolist()]

    @cached_property
    def _fleets(self) -> dict[tuple[int, float], list[int]]:
        found: dict[tuple[int, float], list[int]] = {}
        for row, kind, cost in zip(self.rows.tolist(), self.kind.tolist(), self.estimates[:, 0].tolist(), strict=True):
            found.setdefault((kind, cost), []).append(row)
        return found

    def settings(self, row: int, all_but: str | None = None) -> list[int]:
        """The rows of the same fleet: as many replicas of the same kind, whatever their engine settings; or alike in every
        variable but one, if ``all_but`` names it."""
        at = self.position[row]
        fleet = self._fleets[int(self.kind[at]), float(self.estimates[at, 0])]
        if all_but is None:
            return fleet
        places = [self.position[other] for other in fleet]
        same = [v.values[places] == v.values[at] for v in self.variables if v.name != all_but]
        return [other for other, alike in zip(fleet, np.all(same, axis=0).tolist(), strict=True) if alike]

    def values(self, row: int) -> dict[str, int]:
        at = self.position[row]
        return {variable.name: int(variable.values[at]) for variable in self.variables}


def search_space(screen: Screen, rows: Ints, bounds: Sequence[Bound], *, budget: int, seed: int) -> SearchSpace:
    """What ``rows`` of a screen offer."""
    rows = np.sort(rows)
    estimates = np.column_stack([screen.usd_per_hour[rows], screen.ttft_s[rows], screen.tpot_s[rows]])
    starts = tuple(promising(screen, rows, bounds, STARTS))
    return SearchSpace(rows, variables_of(screen, rows), estimates, screen.kind[rows], starts, budget, seed)


CHOICES: tuple[tuple[str, float, Callable[[ReplicaKind], Hashable]], ...] = (
    ("gpu", 8.0, lambda kind: kind.profile.name),
    ("quantization", 2.0, lambda kind: kind.layout.quantization or ""),
    ("kv_cache_dtype", 2.0, lambda kind: kind.layout.kv_cache_dtype),
    ("enable_expert_parallel", 4.0, lambda kind: kind.layout.enable_expert_parallel),
)
POWERS: tuple[tuple[str, float, Callable[[ReplicaKind], int]], ...] = (
    ("tensor_parallel_size", 4.0, lambda kind: kind.layout.tensor_parallel_size),
    ("pipeline_parallel_size", 4.0, lambda kind: kind.layout.pipeline_parallel_size),
    ("data_parallel_size", 4.0, lambda kind: kind.layout.data_parallel_size),
)
"""Decisions of a kind, and how far apart they put two rows: a replica of another GPU is another replica."""


def variables_of(screen: Screen, rows: Ints) -> tuple[Variable, ...]:
    """The decisions that ``rows`` differ in. Powers of two and settings count in steps, replicas as they are."""
    kind = screen.kind[rows]
    found = []
    for name, weight, of in CHOICES:
        options = tuple(sorted({of(screen.kinds[at]) for at in np.unique(kind).tolist()}, key=str))
        place = np.array([options.index(of(k)) if of(k) in options else 0 for k in screen.kinds], dtype=np.int64)
        found.append(Variable(name, place[kind], weight, options))
    for name, weight, size in POWERS:
        steps = np.array([size(k).bit_length() - 1 for k in screen.kinds], dtype=np.int64)
        found.append(Variable(name, steps[kind], weight))
    found.append(Variable("max_num_seqs", screen.seqs[rows], 1.0))
    found.append(Variable("max_num_batched_tokens", screen.tokens[rows], 1.0))
    found.append(Variable("replicas", screen.replicas[rows], 4.0))
    return tuple(variable for variable in found if variable.high > variable.low)


def promising(screen: Screen, rows: Ints, bounds: Sequence[Bound], count: int) -> list[int]:
    """Where a search starts: per kind of replica the cheapest row whose estimated means keep the bounds, cheapest first.

    Of equal cost the least estimated TTFT + TPOT, so each kind starts from its best engine settings.
    """
    ratio = np.zeros(rows.size)
    for metric, values in (("ttft", screen.ttft_s[rows]), ("tpot", screen.tpot_s[rows])):
        tightest = min((bound.seconds for bound in bounds if bound.metric == metric), default=None)
        if tightest is not None:
            ratio = np.maximum(ratio, values / tightest)
    score = screen.ttft_s[rows] + screen.tpot_s[rows]
    order = np.lexsort((rows, score, screen.usd_per_hour[rows], ratio > 1))
    chosen: dict[int, int] = {}
    for at in order.tolist():
        chosen.setdefault(int(screen.kind[rows[at]]), int(rows[at]))
    found = list(chosen.values())
    fastest = rows[np.argsort(score, kind="stable")].tolist()
    return list(dict.fromkeys([*found[: count - 2], *fastest[:2], *found, *fastest]))[:count]
