"""One rank of a model whose experts are spread over all ranks: its step lasts as long as that of the slowest.

A rank schedules for itself, but its layers wait for one another's tokens; who drives it says how long a step takes
(:class:`twin.cluster.data_parallel.RankGroup`).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from twin.engine.core import EngineCore, StepCost
from twin.engine.scheduler import SchedulerOutput


class SharedCost(StepCost, Protocol):
    """``step_s`` and ``decode_segment`` price a step in which every rank computes the same."""

    def shared_s(self, tokens: int) -> float:
        """The part of a step, seconds, that hangs on the tokens of all ranks together: experts and all-to-all."""


class Run(NamedTuple):
    """What a rank may leap over: its decodes, the sum of their contexts in the first step, and the most steps."""

    num_decodes: int
    context: int
    steps: int


class RankCore(EngineCore):
    """:class:`EngineCore` whose steps are begun in two parts: what it computes, then until when."""

    def run(self) -> Run | None:
        """The decode steps that it may leap over now; None where the next is another step, or none."""
        steps = self._leapable()
        return Run(self._num_decodes, self._context, steps) if steps else None

    def leap(self, now: float, steps: int, first_step_s: float, end: float) -> None:
        """Begin a leap, after :meth:`run`, of at most as many steps."""
        self._start, self._leap, self._first_step, self._end = now, steps, first_step_s, end

    def next_step(self, now: float) -> SchedulerOutput | None:
        """What it computes next, one step of it, or None when there is nothing to do; :meth:`step` must follow."""
        self._start, self._leap = now, 0
        step = self._next_step()
        self._waiting = len(self.scheduler.waiting)
        self._first_free = self.scheduler.free_blocks
        return step

    def step(self, seconds: float, end: float) -> None:
        """Until when the step that :meth:`next_step` gave runs."""
        self._first_step, self._end = seconds, end
