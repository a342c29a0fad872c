"""Data-parallel attention over one set of experts: ranks that schedule for themselves and step together.

Each rank of ``vllm serve --data-parallel-size N`` with a mixture of experts is an engine with its own scheduler and KV cache
(``DPEngineCoreProc``, ``v1/engine/core.py``). Its layers exchange tokens with all other ranks, so a step of one is a step of
all and takes as long as the slowest; a rank without work computes a dummy batch of one token. When the last request is done
the ranks go on so until the next finish-sync, every 16 steps: an arrival then waits for the dummy step in flight.

Ranks of a dense model do not wait for one another: they are replicas (:class:`twin.cluster.replica.Replica`).

Not priced: the two small all-reduces on the host that agree on padding and on the end of a wave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf

from simpy import Environment
from simpy.events import Event, Timeout

from twin.engine.core import steps_in_segment
from twin.engine.rank import RankCore, Run, SharedCost
from twin.engine.request import Request

SYNC_STEPS = 16
"""``dp_sync_interval``, vllm/config/parallel.py."""


class Rank:
    """One engine of a :class:`RankGroup`; to a router it is a replica."""

    def __init__(self, group: RankGroup, engine: RankCore, index: int) -> None:
        self.env = group.env
        self.group = group
        self.engine = engine
        self.index = index
        self.load = 0
        self.listeners: list[Callable[[float], None]] = []

    def submit(self, request: Request) -> None:
        """Queue a request now."""
        request.replica = self.index
        self.engine.scheduler.add_request(request)
        self.load += 1
        self.group.arrived()

    def drain(self) -> bool:
        """A rank waits for nothing to start: see :meth:`twin.cluster.replica.Replica.drain`."""
        return False

    def before_steps(self, listener: Callable[[float], None]) -> None:
        """Call ``listener`` with the time before each of its steps or leaps begins."""
        self.listeners.append(listener)


@dataclass
class _Leap:
    """A leap under way: what each rank at work decodes, since when, and its steps."""

    runs: list[Run]
    start: float
    steps: int


class RankGroup:
    """Runs the ranks of one ``vllm serve`` on the clock of ``env``. ``alone``: as in :class:`Replica`."""

    def __init__(
        self,
        env: Environment,
        engines: Sequence[RankCore],
        first_index: int = 0,
        on_finish: Callable[[Request], None] | None = None,
        *,
        alone: bool = False,
    ) -> None:
        self.env = env
        self.ranks = [Rank(self, engine, first_index + at) for at, engine in enumerate(engines)]
        self._pricing = GroupPrice(engines[0].cost, len(engines))  # type: ignore[arg-type]
        self.on_finish = on_finish
        self._alone = alone
        self._working: list[Rank] = []
        self._leap: _Leap | None = None
        self._pending: Event | None = None
        self._end = 0.0
        self._horizon = inf
        self._steps = 0  # of this wave, so far
        self._idle_since = -inf

    def arrived(self) -> None:
        """A rank has a new request: a leap under way is cut to the step in flight, a wave starts where none runs."""
        now = self.env.now
        if self._working:
            leap = self._leap
            if leap is not None and leap.steps > 1 and now < self._horizon:
                end = self._begin_leap(leap, now - leap.start)
                if end != self._end:
                    self._wake(end, self._settle)
        elif self._pending is None:
            # Through the queue, so that requests of the same instant share the first step.
            self._wake(self._next_boundary(now), self._start)

    def _next_boundary(self, now: float) -> float:
        """When ranks that are idle can start: now, or after the dummy step in flight while the last wave winds up."""
        dummies = 0 if self._steps <= 1 else -self._steps % SYNC_STEPS  # they agree after the first step too
        dummy_s = self._pricing.step_s([])
        if now > self._idle_since + dummies * dummy_s or not dummies:
            self._steps = 0
            return now
        done = ceil((now - self._idle_since) / dummy_s)
        self._steps = (self._steps + done) % SYNC_STEPS
        return max(now, self._idle_since + done * dummy_s)

    def _wake(self, at: float, callback: Callable[[Event], None]) -> None:
        self._end = at
        delay = at - self.env.now
        event = Timeout(self.env, delay if delay > 0.0 else 0.0)
        event.callbacks.append(callback)
        self._pending = event

    def _start(self, event: Event) -> None:
        self._begin(self._end)

    def _settle(self, event: Event) -> None:
        if event is self._pending:  # otherwise this leap was cut, and a nearer event has replaced it
            self._finish()
            self._begin(self._end)

    def _finish(self) -> None:
        self._steps += self._leap.steps if self._leap else 1
        for rank in self._working:
            done = rank.engine.end()
            rank.load -= len(done)
            if self.on_finish is not None:
                for request in done:
                    self.on_finish(request)

    def _begin(self, now: float) -> None:
        """Begin the next step or leap; settle it and go on as long as nothing else happens before it ends."""
        next_event = self.env.peek()
        self._horizon = next_event if self._alone else inf
        self._end = self._begin_step(now)
        if self.on_finish is None:
            while self._working and self._end < next_event:
                self._finish()
                self._end = self._begin_step(self._end)
        if self._working:
            self._wake(self._end, self._settle)
        else:
            self._pending = None

    def _begin_step(self, now: float) -> float:
        """Begin a leap if no rank does anything but decode, else one step of each rank that has one; when it ends."""
        busy = [rank for rank in self.ranks if rank.engine.has_work]
        for rank in self.ranks:
            for listener in rank.listeners:
                listener(now)
        runs = [run for rank in busy if (run := rank.engine.run())]
        if busy and len(runs) == len(busy):
            self._working = busy
            self._leap = _Leap(runs, now, min(run.steps for run in runs))
            return self._begin_leap(self._leap, self._horizon - now)
        self._leap = None
        steps = [(rank, step) for rank in busy if (step := rank.engine.next_step(now))]
        self._working = [rank for rank, _ in steps]
        if not steps:
            self._idle_since = now
            return now
        seconds = self._pricing.step_s([(step.chunks, step.num_decodes, step.decode_context) for _, step in steps])
        for rank, _ in steps:
            rank.engine.step(seconds, now + seconds)
        return now + seconds

    def _begin_leap(self, leap: _Leap, elapsed: float) -> float:
        """Begin a leap of the least steps that last ``elapsed`` seconds, or cut one to them; when it ends."""
        leap.steps, seconds, first_step_s = self._pricing.leap_to(elapsed, leap.runs, leap.steps)
        end = leap.start + seconds
        for rank in self._working:
            rank.engine.leap(leap.start, leap.steps, first_step_s, end)
        return end


class GroupPrice:
    """What a step of ``ranks`` ranks costs: the slowest of what each does alone, and what all do together."""

    def __init__(self, cost: SharedCost, ranks: int) -> None:
        self.cost = cost
        self.ranks = ranks

    def _alone_s(self, seconds: float, tokens: int) -> float:
        """Of a step that costs ``seconds`` when every rank has ``tokens`` tokens, what is not shared."""
        return seconds - self.cost.shared_s(self.ranks * tokens)

    def step_s(self, steps: Sequence[tuple[Sequence[tuple[Request, int, int]], int, int]]) -> float:
        """Seconds of one step: (chunks, decodes, their context sum) of each rank that has work; the others compute one
        token.
        """
        if not steps:
            return self.cost.step_s((), 1, 1)
        tokens, slowest = self.ranks - len(steps), 0.0
        for chunks, num_decodes, context in steps:
            mine = num_decodes + sum(chunk[1] for chunk in chunks)
            tokens += mine
            slowest = max(slowest, self._alone_s(self.cost.step_s(chunks, num_decodes, context), mine))
        return slowest + self.cost.shared_s(tokens)

    def leap_to(self, elapsed: float, runs: Sequence[Run], steps: int) -> tuple[int, float, float]:
        """The least number of decode steps, at most ``steps``, that last ``elapsed`` seconds or more; their seconds; and
        those of the first.
        """
        done, total, first_step = 0, 0.0, 0.0
        shared = self.cost.shared_s(sum(run.num_decodes for run in runs) + self.ranks - len(runs))
        while done < steps:
            first, rise, inside = self._segment(runs, done)
            first += shared
            first_step = first_step or first
            inside = min(inside, steps - done)
            seconds = inside * first + rise * (inside * (inside - 1) // 2)
            if seconds >= elapsed:
                inside = min(steps_in_segment(elapsed, first, rise), inside)
                seconds = inside * first + rise * (inside * (inside - 1) // 2)
                return done + inside, total + seconds, first_step
            done += inside
            total += seconds
            elapsed -= seconds
        return done, total, first_step

    def _segment(self, runs: Sequence[Run], done: int) -> tuple[float, float, int]:
        """After ``done`` steps, of the slowest rank: (seconds alone, rise per step, for how many steps that holds)."""
        lines: list[tuple[float, float]] = []
        inside = inf
        for n, start, _ in runs:
            context = start + done * n
            first, slope, limit = self.cost.decode_segment(n, context)
            lines.append((self._alone_s(first, n), slope * n))
            inside = min(inside, int((limit - context) // n) + 1)
        slowest, rise = max(lines)
        for first, faster_rise in lines:
            if faster_rise > rise:  # it will be the slowest from where the lines cross
                inside = min(inside, int((slowest - first) / (faster_rise - rise)) + 1)
        return slowest, rise, int(inside)
