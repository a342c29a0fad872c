"""One replica without a clock of its own: schedule, run, postprocess; or leap over a stretch of equal decode steps.

The caller drives it with times: :meth:`EngineCore.begin` starts the next step or leap and says when it ends,
:meth:`EngineCore.cut` shortens a leap that an arrival interrupts to the step in flight, :meth:`EngineCore.end` settles it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import ceil, sqrt
from typing import Protocol

from twin.engine.request import Request
from twin.engine.scheduler import EngineConfig, Scheduler, SchedulerOutput

LOG_COLUMNS = (
    "start_s",
    "end_s",
    "steps",
    "num_decodes",
    "prefill_tokens",
    "num_running",
    "num_waiting",
    "free_blocks",
    "first_step_s",
    "blocked",
    "first_free_blocks",
)


REQUEST_COLUMNS = (
    "index",
    "arrival_s",
    "queued_s",
    "scheduled_s",
    "first_token_s",
    "finished_s",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "preemptions",
    "replica",
)


class StepCost(Protocol):
    """How long a step takes, seconds. For a fixed number of decodes it is piecewise linear in their context sum."""

    def decode_segment(self, num_decodes: int, context: int) -> tuple[float, float, float]:
        """(seconds at ``context``, seconds per further context token, context sum up to which that holds)."""

    def step_s(self, chunks: Sequence[tuple[Request, int, int]], num_decodes: int, context: int) -> float:
        """Seconds of a step with prefill ``chunks`` (request, tokens, context) beside its decodes."""


class EngineCore:
    """Scheduler, step cost and time stamps of one replica.

    Attributes:
        log: eleven numbers per step or leap (``LOG_COLUMNS``), flat. ``num_waiting`` are those that the scheduler left
            waiting when the step or leap began; an arrival during it counts from the next on, as in vLLM's own gauge.
            ``free_blocks`` are free while its last step runs, ``first_free_blocks`` while its first does.
        finished: eleven numbers per finished request (``REQUEST_COLUMNS``), flat, in the order of finishing.
        gaps: (seconds, 1) of inter-token gaps that a preemption stretched; all others follow from ``log``.
    """

    def __init__(self, config: EngineConfig, cost: StepCost, *, leaps: bool = True) -> None:
        self.scheduler = Scheduler(config)
        self.cost = cost
        self.leaps = leaps
        self.log = array("d")
        self.finished = array("d")
        self.gaps: list[float] = []
        self._start = 0.0
        self._end = 0.0
        self._steps = 0
        self._max_steps = 0
        self._output: SchedulerOutput | None = None
        self._first_step = 0.0
        self._first_free = 0
        self._waiting = 0

    @property
    def num_unfinished(self) -> int:
        """Requests waiting or running."""
        return len(self.scheduler.waiting) + len(self.scheduler.running)

    def begin(self, now: float) -> float | None:
        """Start the next step or leap at ``now``; its end, or None when there is nothing to do."""
        scheduler = self.scheduler
        if not scheduler.running and not scheduler.waiting:
            return None
        self._start = now
        steps = scheduler.leap_steps() if self.leaps else 0
        if steps:
            self._waiting = len(scheduler.waiting)
            self._first_free = scheduler.kv.free - scheduler.decodes.blocks_needed_now()
            self._output = None
            self._steps = self._max_steps = steps
            self._end = now + self._leap_s(steps)
            return self._end
        self._output = output = scheduler.schedule()
        self._waiting = len(scheduler.waiting)
        self._first_free = scheduler.free_blocks
        self._steps = 1
        for request, _, _ in output.chunks:
            if request.scheduled_s < 0.0:
                request.scheduled_s = now
        self._first_step = self.cost.step_s(output.chunks, output.num_decodes, output.decode_context)
        self._end = now + self._first_step
        return self._end

    def cut(self, now: float) -> float:
        """An arrival at ``now``: a leap under way ends with the step in flight. Returns the (new) end."""
        if self._output is None and self._steps > 1:
            steps = self._steps_to(now - self._start)
            if steps < self._steps:
                self._steps = steps
                self._end = self._start + self._leap_s(steps)
        return self._end

    def end(self) -> list[Request]:
        """Settle the step or leap that began last; returns the requests that finished with it."""
        scheduler, now, output = self.scheduler, self._end, self._output
        decodes = scheduler.decodes
        if output is None:
            num_decodes, prefill_tokens = decodes.n, 0
            done = scheduler.take_leap(self._steps)
        else:
            num_decodes, prefill_tokens = output.num_decodes, 0
            for chunk in output.chunks:
                prefill_tokens += chunk[1]
            sampled, done = scheduler.update_from_output(output)
            for request in output.preempted:
                if request.last_token_s < 0.0 and request.first_token_s >= 0.0:
                    request.last_token_s = self._start
            for request in sampled:
                self._stamp_token(request, now)
        for request in done:
            self.finished.extend(
                (
                    request.index,
                    request.arrival_s,
                    request.queued_s,
                    request.scheduled_s,
                    request.first_token_s,
                    now,
                    request.input_tokens,
                    request.output_tokens,
                    request.cached_tokens,
                    request.preemptions,
                    request.replica,
                )
            )
        self.log.extend(
            (
                self._start,
                now,
                self._steps,
                num_decodes,
                prefill_tokens,
                len(scheduler.running) + len(done),
                self._waiting,
                scheduler.free_blocks,
                self._first_step,
                scheduler.blocked,
                self._first_free,
            )
        )
        return done

    def _stamp_token(self, request: Request, now: float) -> None:
        if request.first_token_s < 0.0:
            request.first_token_s = now
        elif request.last_token_s >= 0.0:
            self.gaps.append(now - request.last_token_s)
            request.last_token_s = -1.0

    def _leap_s(self, steps: int) -> float:
        """Seconds of ``steps`` decode steps from here: arithmetic series, segment by segment."""
        n, context = self.scheduler.decodes.n, self.scheduler.decodes.context
        total = 0.0
        first, slope, limit = self.cost.decode_segment(n, context)
        self._first_step = first
        while True:
            inside = min(int((limit - context) // n) + 1, steps)
            total += inside * first + slope * n * (inside * (inside - 1) // 2)
            steps -= inside
            if steps <= 0:
                return total
            context += inside * n
            first, slope, limit = self.cost.decode_segment(n, context)

    def _steps_to(self, elapsed: float) -> int:
        """The least number of steps of this leap that last ``elapsed`` seconds or more."""
        n, context = self.scheduler.decodes.n, self.scheduler.decodes.context
        done, left = 0, self._steps
        while True:
            first, slope, limit = self.cost.decode_segment(n, context)
            inside = min(int((limit - context) // n) + 1, left)
            seconds = inside * first + slope * n * (inside * (inside - 1) // 2)
            if seconds >= elapsed or inside == left:
                break
            elapsed -= seconds
            done += inside
            left -= inside
            context += inside * n
        return done + min(_steps_in_segment(elapsed, first, slope * n), inside)


def _steps_in_segment(elapsed: float, first: float, rise: float) -> int:
    """The least k ≥ 1 with k·first + rise·k(k-1)/2 ≥ elapsed."""
    if rise <= 0.0:
        guess = elapsed / first
    else:
        half = first / rise - 0.5
        guess = 2.0 * elapsed / rise / (half + sqrt(half * half + 2.0 * elapsed / rise))
    steps = max(ceil(guess) - 1, 1)
    while steps * first + rise * (steps * (steps - 1) // 2) < elapsed:
        steps += 1
    return steps
