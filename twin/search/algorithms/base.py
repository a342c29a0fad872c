"""What the search and its algorithms say to each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Protocol

from twin.search.front import Floats, Scored, front_points, hypervolume

STALLED = 3
LEAST_GROWTH = 1e-3
"""The front has stopped moving when its volume grew by less than this share over so many tells."""


class Algorithm(Protocol):
    """Chooses what to simulate. What it asks depends on its space, its seed and what it was told, nothing else: so a search
    taken up again asks the same, and the answers may come from any number of processes.
    """

    def ask(self) -> list[int]:
        """Rows wanted next, none of which it was told; empty when it has stopped."""
        ...

    def tell(self, scored: Mapping[int, Scored]) -> None:
        """What came of rows. More than were asked for is welcome, fewer is a budget spent."""
        ...


class Stall:
    """Whether the front still moves: its volume, in the box of the present front, against some tells ago."""

    def __init__(self, tells: int = STALLED) -> None:
        self._fronts: deque[Floats] = deque(maxlen=tells + 1)

    def watch(self, told: Mapping[int, Scored]) -> bool:
        """True when what was told last, and some tells before, has hardly moved the front. Nothing that holds yet is a
        search that must go on."""
        self._fronts.append(front_points(told))
        before, now = self._fronts[0], self._fronts[-1]
        if len(self._fronts) < (self._fronts.maxlen or 0) or not before.size:
            return False
        ideal, nadir = now.min(axis=0), now.max(axis=0)
        return hypervolume(now, ideal, nadir) <= (1 + LEAST_GROWTH) * hypervolume(before, ideal, nadir)
