"""One replica without a clock of its own: schedule, run, postprocess; or leap over a stretch of equal decode steps.

vLLM keeps a queue of scheduled steps: with asynchronous scheduling it schedules a step while the one before it runs, so
what is found to be finished, and what arrives, counts one step later.

The caller drives it with times: :meth:`EngineCore.begin` starts the next step or leap and says when it ends,
:meth:`EngineCore.cut` shortens a leap that an arrival interrupts to the step in flight, :meth:`EngineCore.end` settles it.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import MutableSequence, Sequence
from math import ceil, inf, sqrt
from typing import Protocol

from twin.engine.config import EngineConfig
from twin.engine.grouped import GroupedScheduler
from twin.engine.hybrid import scheduler_of
from twin.engine.request import Request
from twin.engine.scheduler import SchedulerOutput

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
        self.scheduler = scheduler_of(config)
        self.cost = cost
        self._leaper = self.scheduler if leaps and isinstance(self.scheduler, GroupedScheduler) else None
        self.log = array("d")
        self.finished = array("d")
        self.gaps: MutableSequence[float] = []
        self._depth = config.batch_queue_size
        self._waits_after_empty_step = not config.rules.fills_with_empty_steps
        self._queue: deque[SchedulerOutput] = deque()
        self._start = 0.0
        self._end = 0.0
        self._horizon = inf
        self._leap = 0  # steps of the leap under way
        self._num_decodes = 0  # in each of them
        self._context = 0  # context sum of its first step
        self._first_step = 0.0
        self._first_free = 0
        self._waiting = 0
        self._preempted: list[Request] = []

    @property
    def num_unfinished(self) -> int:
        """Requests waiting or running."""
        return len(self.scheduler.waiting) + len(self.scheduler.running)

    @property
    def has_work(self) -> bool:
        """Requests, or steps whose output is not known yet."""
        return bool(self.scheduler.waiting or self.scheduler.running or self._queue)

    def begin(self, now: float, horizon: float = inf) -> float | None:
        """Start the next step or leap at ``now``; its end, or None when there is nothing to do.

        A leap ends with the step in flight at ``horizon`` at the latest: as if :meth:`cut` there.
        """
        self._start = now
        self._horizon = horizon
        steps = self._leapable()
        if steps:
            self._leap, seconds = self._leap_to(horizon - now, steps)
            self._end = now + seconds
            return self._end
        step = self._next_step()
        if step is None:
            return None
        scheduler = self.scheduler
        self._waiting = len(scheduler.waiting)
        self._first_free = scheduler.free_blocks
        self._first_step = self.cost.step_s(step.chunks, step.num_decodes, step.decode_context)
        self._end = now + self._first_step
        return self._end

    def _leapable(self) -> int:
        """Steps of one token for each member of the decode group, and no more, that may come now; 0 where none may."""
        self._leap = 0
        leaper = self._leaper
        if leaper is None:
            return 0
        group, queue = leaper.decodes, self._queue
        # A leap may start with what is in flight, if that is one token of each member of the group and no more.
        if queue:
            self._context = queue[0].decode_context
            plain = queue[0].num_decodes == group.n and not queue[0].chunks
        else:
            self._context = group.context
            plain = self._depth == 1
        steps = leaper.leap_steps() if plain else 0
        if steps:
            self._num_decodes = group.n
            self._waiting = len(leaper.waiting)
            self._first_free = leaper.kv.free - group.blocks_needed_now()
        return steps

    def _next_step(self) -> SchedulerOutput | None:
        """Fill the queue as vLLM does before it waits for an output; the step that runs now."""
        scheduler, queue = self.scheduler, self._queue
        while True:
            while len(queue) < self._depth and (scheduler.running or scheduler.waiting):
                output = scheduler.schedule()
                queue.append(output)
                for request, _, _ in output.chunks:
                    if request.scheduled_s < 0.0:
                        request.scheduled_s = self._start
                self._preempted.extend(output.preempted)
                if self._waits_after_empty_step and not (output and queue[0]):
                    break
            if not queue or queue[0]:
                return queue[0] if queue else None
            queue.popleft()  # nothing to compute takes no time

    def cut(self, now: float) -> float:
        """An arrival at ``now``: a leap under way ends with the step in flight. Returns the (new) end."""
        if self._leap > 1 and now < self._horizon:
            self._leap, seconds = self._leap_to(now - self._start, self._leap)
            self._end = self._start + seconds
        return self._end

    def end(self) -> list[Request]:
        """Settle the step or leap that began last; returns the requests that finished with it."""
        scheduler, queue, now = self.scheduler, self._queue, self._end
        if self._leap and self._leaper is not None:
            ended, decided = self._leaper.take_leap(self._leap)
            if queue:
                output = queue.popleft()
            if ended is not None:
                output = ended
            if decided is not None:
                queue.append(decided)
            num_decodes, prefill_tokens = self._num_decodes, 0
        else:
            output = queue.popleft()
            num_decodes, prefill_tokens = output.num_decodes, 0
            for chunk in output.chunks:
                prefill_tokens += chunk[1]
        sampled, done = scheduler.update_from_output(output)
        for request in sampled:
            if request.first_token_s < 0.0:
                request.first_token_s = now
            elif request.last_token_s >= 0.0:
                self.gaps.append(now - request.last_token_s)
                request.last_token_s = -1.0
        if self._preempted:
            self._mark_preempted(now if self._depth > 1 else self._start)
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
                self._leap or 1,
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

    def _mark_preempted(self, last_token_s: float) -> None:
        """Remember when requests that were preempted had their last token: at the end of the step before."""
        for request in self._preempted:
            if request.last_token_s < 0.0 and request.first_token_s >= 0.0:
                request.last_token_s = last_token_s
        self._preempted.clear()

    def _leap_to(self, elapsed: float, steps: int) -> tuple[int, float]:
        """The least number of decode steps from here, at most ``steps``, that last ``elapsed`` seconds or more, and their
        seconds: arithmetic series, segment by segment.
        """
        n, context = self._num_decodes, self._context
        done, total = 0, 0.0
        first, slope, limit = self.cost.decode_segment(n, context)
        self._first_step = first
        while True:
            inside = min(int((limit - context) // n) + 1, steps - done)
            rise = slope * n
            seconds = inside * first + rise * (inside * (inside - 1) // 2)
            if seconds >= elapsed:
                inside = min(steps_in_segment(elapsed, first, rise), inside)
                return done + inside, total + (inside * first + rise * (inside * (inside - 1) // 2))
            done += inside
            total += seconds
            if done >= steps:
                return done, total
            elapsed -= seconds
            context += inside * n
            first, slope, limit = self.cost.decode_segment(n, context)


def steps_in_segment(elapsed: float, first: float, rise: float) -> int:
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
