"""All rows, a batch at a time, so that the front can be watched."""

from __future__ import annotations

from collections.abc import Mapping

from twin.search.front import Scored
from twin.search.search_space import SearchSpace

BATCH = 64


class Enumerate:
    """Every row of the space, likeliest first."""

    def __init__(self, space: SearchSpace) -> None:
        self._left = list(dict.fromkeys([*space.starts, *space.rows.tolist()]))

    def ask(self) -> list[int]:
        return self._left[:BATCH]

    def tell(self, scored: Mapping[int, Scored]) -> None:
        self._left = [row for row in self._left if row not in scored]
