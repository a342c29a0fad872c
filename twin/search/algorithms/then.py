"""One algorithm after the other, the second with all that the first was told."""

from __future__ import annotations

from collections.abc import Mapping

from twin.search.algorithms.base import Algorithm
from twin.search.front import Scored


class Then:
    """``first`` until it stops or ``at`` rows are told, then ``second``."""

    def __init__(self, first: Algorithm, second: Algorithm, at: int) -> None:
        self._first, self._second, self._at = first, second, at
        self._told: dict[int, Scored] = {}
        self._turned = False

    def ask(self) -> list[int]:
        if not self._turned:
            wanted = self._first.ask() if len(self._told) < self._at else []
            if wanted:
                return wanted[: self._at - len(self._told)] if self._told else wanted
            self._turned = True
            if self._told:
                self._second.tell(self._told)
        return self._second.ask()

    def tell(self, scored: Mapping[int, Scored]) -> None:
        self._told |= scored
        (self._second if self._turned else self._first).tell(scored)
