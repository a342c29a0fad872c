"""A replica in simulated time: an engine whose steps and leaps are SimPy events."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from simpy import Environment
from simpy.events import Event, Timeout

from twin.engine.batching import BatchCore
from twin.engine.core import EngineCore
from twin.engine.request import Request


class Replica:
    """Runs an engine on the clock of ``env``.

    ``on_finish`` hears of every finished request; what it submits in turn must come through an event of its own. A replica
    that is ``alone`` knows that the next event is an arrival here, where a leap would end.
    """

    def __init__(
        self,
        env: Environment,
        engine: EngineCore | BatchCore,
        index: int,
        on_finish: Callable[[Request], None] | None = None,
        *,
        alone: bool = False,
    ) -> None:
        self.env = env
        self.index = index
        self.engine = engine
        self.load = 0
        self.on_finish = on_finish
        self._alone = alone
        self._busy = False
        self._pending: Event | None = None
        self._end = 0.0

    def submit(self, request: Request) -> None:
        """Queue a request now. A leap under way is cut to the step in flight."""
        request.replica = self.index
        self.engine.scheduler.add_request(request)
        self.load += 1
        if self._busy:
            end = self.engine.cut(self.env.now)
            if end != self._end:
                self._wake(end, self._settle)
        elif self._pending is None:
            # Through the queue, so that requests of the same instant share the first step.
            self._wake(self.env.now, self._start)

    def drain(self) -> bool:
        """Nothing more will come by itself: start what waits for a batch to fill, if anything does."""
        if not isinstance(self.engine, BatchCore) or not self.engine.drain():
            return False
        self._wake(max(self.env.now, self._end), self._start)
        return True

    def before_steps(self, listener: Callable[[float], None]) -> None:
        """Call ``listener`` with the time before each of its steps or leaps begins."""
        begin = self.engine.begin

        def heard(now: float, horizon: float = inf) -> float | None:
            listener(now)
            return begin(now, horizon)

        self.engine.begin = heard  # type: ignore[method-assign]

    def _wake(self, at: float, callback: Callable[[Event], None]) -> None:
        self._end = at
        env = self.env
        delay = at - env.now
        event = Timeout(env, delay if delay > 0.0 else 0.0)
        event.callbacks.append(callback)
        self._pending = event

    def _start(self, event: Event) -> None:
        self._begin(self._end)

    def _settle(self, event: Event) -> None:
        if event is self._pending:  # otherwise this leap was cut, and a nearer event has replaced it
            self._finish()
            self._begin(self._end)

    def _finish(self) -> None:
        done = self.engine.end()
        if done:
            self.load -= len(done)
            if self.on_finish is not None:
                for request in done:
                    self.on_finish(request)

    def _begin(self, now: float) -> None:
        """Begin the next step or leap. As long as nothing else happens before it ends, settle it and go on: the queue
        would only hand the event straight back."""
        engine = self.engine
        next_event = self.env.peek()
        horizon = next_event if self._alone else inf
        end = engine.begin(now, horizon)
        if self.on_finish is None:
            while end is not None and end < next_event:
                self._end = end
                self._finish()
                end = engine.begin(end, horizon)
        self._busy = end is not None
        if end is None:
            self._pending = None
        else:
            self._wake(end, self._settle)
