"""What is told on stderr while a plan is searched: a bar per stage and the front so far; to a program the same as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from twin.cli.common import Session, session

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from twin.plan.found import Running
    from twin.search.evaluate import Outcome
    from twin.search.journal import Journal

Watching = Literal["bars", "json"]


@contextmanager
def watched(journal: Journal, watching: Watching = "bars") -> Iterator[Running]:
    """How a plan is made before someone's eyes; unseen under ``--quiet``, bars also when stderr is no terminal."""
    from twin.plan.found import Running

    if watching == "json":
        yield Running(_progress, journal, _front)
        return
    if session.get(Session()).quiet or not sys.stderr.isatty():
        yield Running(journal=journal)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        screen = _Screen(bars)
        yield Running(screen.progress, journal, screen.front)


def tell(watching: Watching, **said: object) -> None:
    """One JSON object on a line of stderr, for who asked for ``--progress json``: ``{"stage", "done", "total"}``,
    ``{"front": [{"id", "usd_per_month", "p99_ttft_ms", "p99_tpot_ms"}]}``, ``{"search": hidden folder}``, ``{"run": folder}``.
    """
    if watching == "json" and not session.get(Session()).quiet:
        print(json.dumps(said), file=sys.stderr, flush=True)


def _progress(stage: str, done: int, total: int) -> None:
    tell("json", stage=stage, done=done, total=max(done, total))


def _front(outcomes: list[Outcome]) -> None:
    from twin.results.money import usd_per_month

    points = [
        {
            "id": outcome.candidate.id,
            "usd_per_month": usd_per_month(outcome.usd_per_hour),
            **{f"p99_{name}_ms": 1e3 * value for name, value in outcome.measured.p99_s.items() if name != "e2el"},
        }
        for outcome in outcomes
    ]
    tell("json", front=points)


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
