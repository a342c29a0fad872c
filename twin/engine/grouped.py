"""The same schedule at a cost that follows what changes: running decodes are one group, and equal steps one leap.

As long as every running request can be served in full, the order of the running list does not matter, and the decodes are
a few integers (:mod:`twin.engine.decode_group`). When tokens or blocks run short the group dissolves into its members for
that step, and :class:`~twin.engine.scheduler.Scheduler` walks them as vLLM does.
"""

from __future__ import annotations

from twin.engine.config import EngineConfig
from twin.engine.decode_group import DecodeGroup
from twin.engine.request import RUNNING, Request
from twin.engine.scheduler import Scheduler, SchedulerOutput


class GroupedScheduler(Scheduler):
    """A :class:`Scheduler` for engines without speculation and pipeline stages: there a decode is one token a step.

    Attributes:
        decodes: the requests that compute one token in every step.
        ungrouped: all other running requests, in running order.
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self.decodes = DecodeGroup(config.block_size)
        self.ungrouped: list[Request] = []
        # Under asynchronous scheduling the value of the token before the one being scheduled is not known yet.
        self._lag = 1 if config.async_scheduling else 0
        self._in_flight: SchedulerOutput | None = None
        self._counts_flight = False  # only what a dissolved group has in flight can become stale

    def leap_steps(self) -> int:
        """How many coming steps compute the same decodes, and no others: up to the last of the first member to end.

        Under asynchronous scheduling the first of them has been decided, and so as many again are yet to be: to where the
        member ends, and if nobody waits for its seat, the one that goes on without it.
        """
        group = self.decodes
        if not group.n or len(self.running) != group.n or group.n > self._step_budget:
            return 0
        waiting = bool(self.waiting)
        if waiting and not (self.blocked and self._head_is_blocked()):
            return 0
        self.blocked = waiting
        steps = group.steps_to_first_end()
        if not waiting:
            steps += self._lag
        return self._steps_with_blocks(steps)

    def _steps_with_blocks(self, steps: int) -> int:
        """How many of ``steps`` decode steps there are blocks for."""
        group, free = self.decodes, self.kv.free
        if (steps // self.config.block_size + 1) * group.n > free and group.blocks_needed(steps) > free:
            steps = group.steps_within(free)
        return steps

    def take_leap(self, steps: int) -> tuple[SchedulerOutput | None, SchedulerOutput | None]:
        """Run ``steps`` steps: (the one in which members ended, the one that is decided but has not run)."""
        if not self._lag:
            return self.leap(steps), None
        first_end = self.decodes.steps_to_first_end()
        if steps <= first_end:
            return None, self.leap(steps)
        return self.leap(first_end), self.leap(1) if self.decodes.n else None

    def leap(self, steps: int) -> SchedulerOutput:
        """Decide ``steps`` decode steps, up to the first that ends a member; the last of them."""
        group = self.decodes
        needed = group.blocks_needed(steps)
        if needed:
            self.kv.take(needed)
        self.free_blocks = self.kv.free
        output = SchedulerOutput()
        output.num_decodes = group.n
        output.decode_context = group.context + (steps - 1) * group.n
        output.ending = group.advance(steps)
        self._in_flight = output
        return output

    def schedule(self) -> SchedulerOutput:
        """See :meth:`Scheduler.schedule`."""
        if not self.ungrouped and not self.waiting:
            group = self.decodes
            if 0 < group.n <= self._step_budget and group.most_needed_now() <= self.kv.free:
                self.blocked = False
                return self.leap(1)
        output = super().schedule()
        self._in_flight = output
        join = self.decodes.join
        for request in output.sampling:
            # One whose output has keys is not like the others: others may hit what it fills, in the order it is filled.
            if request.num_computed_tokens + 1 < request.total_tokens and not (
                request.keys and self.kv.unhashed_keys(request)
            ):
                join(request)
        if self.ungrouped:
            self.ungrouped = [request for request in self.ungrouped if request.end_step < 0]
        for request in output.admitted:
            if request.end_step < 0:
                self.ungrouped.append(request)
        return output

    def abort(self, request: Request) -> None:
        """See :meth:`Scheduler.abort`."""
        if request.end_step >= 0:
            self._leave_group(request)
        elif self._in_flight is not None and request in self._in_flight.ending:
            self._settle(request)
        super().abort(request)
        self.ungrouped = [other for other in self.ungrouped if other is not request]

    def _run(self, output: SchedulerOutput) -> None:
        """Serve all in full if tokens and blocks suffice for that; otherwise as vLLM does, one by one."""
        group, kv = self.decodes, self.kv
        budget = self._budget - group.n
        needed = blocks = group.blocks_needed_now()
        grants: dict[Request, int] = {}
        if self.ungrouped:
            last = next(reversed(self.running))
            for request in self.ungrouped:
                tokens = self._num_new_tokens(request, budget)
                if tokens >= budget and request is not last:
                    budget = -1  # those behind it would get less: the order decides
                    break
                if tokens:
                    blocks += self._blocks_to_grow(request, tokens)
                    grants[request] = tokens
                    budget -= tokens
        if budget < 0 or blocks > kv.free:
            self._walk(output)
            return
        self._budget = budget
        if group.n:
            output.num_decodes, output.decode_context = group.n, group.context
            if needed:
                kv.take(needed)
            output.ending = group.advance(1)
        for request, tokens in grants.items():
            self._grow(request, tokens, self._blocks_to_grow(request, tokens))
            self._serve(output, request, tokens)

    def _walk(self, output: SchedulerOutput) -> None:
        self._dissolve()
        super()._run(output)
        self.ungrouped = list(self.running)

    def _finish(self, done: list[Request]) -> None:
        super()._finish(done)
        if self.ungrouped:
            self.ungrouped = [request for request in self.ungrouped if request.status == RUNNING]

    def _dissolve(self) -> None:
        """Make every member of the group, and the output in flight, explicit for a step in which their order matters."""
        output = self._in_flight
        members = [request for request in self.running if request.end_step >= 0]
        for request in members:
            self._leave_group(request)
        if not self._lag or output is None:
            return
        apart = {request for request, _, _ in output.apart}
        for request in output.ending:
            self._settle(request)
        grouped = [
            request for request in (*members, *output.ending) if request not in apart and request.status == RUNNING
        ]
        output.sampling += grouped
        output.decodes += [(request, 1, request.num_computed_tokens - 1) for request in grouped]
        output.ending = ()
        output.counted = True
        for request, tokens, _ in output.apart:
            request.num_in_flight_tokens = tokens

    def _leave_group(self, request: Request) -> None:
        self.decodes.leave(request)
        self._settle(request)

    def _settle(self, request: Request) -> None:
        """Give a former member the counters that the group kept for it."""
        computed = request.num_computed_tokens
        request.num_tokens = computed + 1 - self._lag
        request.num_output_placeholders = self._lag
        request.is_prefill_chunk = False
        request.hashed_tokens = max(request.hashed_tokens, computed - self._lag)

    def _head_is_blocked(self) -> bool:
        """No seat, no token or no blocks for the first waiting request, as long as nothing but decodes runs."""
        if len(self.running) >= self._seats:
            return True
        self._open_step()
        self._budget -= self.decodes.n
        request = self.waiting.peek()
        hits = self.kv.find_hits(request) if request.keys else []
        cached = len(hits) * self.config.block_size
        tokens = self._tokens_to_admit(SchedulerOutput(), request, cached)
        if self._budget <= 0 or not tokens:
            return True
        return self._head_lacks_blocks(request, hits, cached + tokens)

    def _head_lacks_blocks(self, request: Request, hits: list[int], tokens: int) -> bool:
        free = self.kv.free
        if not self.kv.idle_among(hits):  # otherwise a decode may take the very block that the head would hit
            free -= self.decodes.blocks_needed_now()
        return self._blocks_to_admit(request, hits, self.kv.blocks_for(tokens)) > free
