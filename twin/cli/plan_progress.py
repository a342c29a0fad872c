"""What a person sees on stderr while a plan is searched: a bar per stage, and the front so far."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from twin.cli.common import Session, session

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from twin.plan.found import Running
    from twin.search.evaluate import Outcome
    from twin.search.journal import Journal


@contextmanager
def watched(journal: Journal) -> Iterator[Running]:
    """How a plan is made before a person's eyes; unseen under ``--quiet`` or when stderr is no terminal."""
    from twin.plan.found import Running

    if session.get(Session()).quiet or not sys.stderr.isatty():
        yield Running(journal=journal)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        screen = _Screen(bars)
        yield Running(screen.progress, journal, screen.front)


class _Screen:
    """Bars by stage, and under them one line on the front."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._stages: dict[str, TaskID] = {}
        self._front: TaskID | None = None

    def progress(self, stage: str, done: int, total: int) -> None:
        if stage not in self._stages:
            self._stages[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._stages[stage], completed=done, total=max(done, total))

    def front(self, outcomes: list[Outcome]) -> None:
        """``outcomes`` by cost."""
        from twin.results.money import usd_per_month

        if not outcomes:
            return
        cheapest, fastest = outcomes[0], min(outcomes, key=lambda outcome: outcome.latency_score)
        said = " … ".join(
            f"${usd_per_month(outcome.usd_per_hour):,.0f}/month ({outcome.candidate.num_gpus} {outcome.candidate.gpu})"
            for outcome in dict.fromkeys((cheapest, fastest))
        )
        if self._front is None:
            self._front = self._bars.add_task("", total=None)
        self._bars.update(self._front, description=f"front: {len(outcomes)} points, {said}")
