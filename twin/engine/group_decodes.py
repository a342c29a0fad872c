"""The decode group of a model with several KV groups: its members take blocks, and free what leaves their windows.

A member takes a block of every group at one step in ``block_size``. Once its window is full a windowed group frees the
blocks of ``period`` tokens at one step in ``period``: at which one follows from the tokens it joined with.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from twin.engine.decode_group import DecodeGroup
from twin.engine.kv_groups import GroupedKVCacheManager
from twin.engine.kv_kinds import Kind
from twin.engine.request import Request


class Window:
    """What the members free of one kind: counts of those with a full window, by the step at which they free."""

    __slots__ = ("active", "blocks", "counts", "lag", "period")

    def __init__(self, kind: Kind, in_flight: int) -> None:
        self.period = kind.period
        self.lag = kind.lag + in_flight
        self.blocks = len(kind.copies) * (kind.period // kind.size)
        self.counts = [0] * (2 * kind.period)
        self.active = 0

    def count(self, phase: int, change: int) -> None:
        """Members that free at steps of this phase become more, or fewer."""
        self.counts[phase] += change
        self.counts[phase + self.period] += change
        self.active += change

    def freed(self, step: int, steps: int) -> int:
        """Blocks that ``steps`` steps after the first ``step`` free."""
        cycles, rest = divmod(steps, self.period)
        start = step % self.period
        return self.blocks * (cycles * self.active + sum(self.counts[start : start + rest]))


class GroupDecodes(DecodeGroup):
    """See :class:`DecodeGroup`. ``in_flight`` tokens of a member are scheduled and not processed when it gets slots.

    It takes in those only whose tables are as a steady decode leaves them.

    Attributes:
        sharing: members with blocks in a window that others may use too: what they free need not become free.
        caching: members with cached blocks in a window, shared or not.
    """

    __slots__ = (
        "_copies",
        "_filling",
        "_joined",
        "_joins",
        "_kv",
        "_phases",
        "_windows",
        "caching",
        "in_flight",
        "sharing",
    )

    def __init__(self, kv: GroupedKVCacheManager, in_flight: int) -> None:
        super().__init__(kv.block_size)
        self._kv = kv
        self.in_flight = in_flight
        self._copies = sum(len(kind.copies) for kind in kv.kinds)
        self._windows = [
            Window(kind, in_flight) for kind in kv.kinds if kind.period and kind.period % kv.block_size == 0
        ]
        # (step from which the window of a member is full, number of its joining, window, member)
        self._filling: list[tuple[int, int, int, Request]] = []
        self._joined: dict[Request, int] = {}
        self._joins = 0
        self.sharing: set[Request] = set()
        self.caching: set[Request] = set()
        # Members by period and phase of (step - computed), for steps in which it matters who comes first.
        self._phases: dict[int, list[dict[Request, None]]] = {
            period: [{} for _ in range(period)]
            for period in {kv.block_size, *(window.period for window in self._windows)}
        }

    def join(self, request: Request) -> None:
        """See :meth:`DecodeGroup.join`."""
        computed = request.num_computed_tokens
        if self.in_flight and request.num_output_placeholders < 2:
            return  # a chunk of a prompt is in flight, not one token
        if not self._kv.is_steady(request, computed, self.in_flight):
            return
        super().join(request)
        self._joins += 1
        self._joined[request] = self._joins
        self.look_at(request)
        for period, phases in self._phases.items():
            phases[(self.step - computed) % period][request] = None
        for index, window in enumerate(self._windows):
            full = self.step - computed + window.lag + window.period
            if full <= self.step:
                window.count(full % window.period, 1)
            else:
                heappush(self._filling, (full, self._joins, index, request))

    def look_at(self, request: Request) -> None:
        """Find out what a member has in its windows."""
        if self._kv.caches_window(request):
            self.caching.add(request)
        else:
            self.caching.discard(request)
        if self._kv.shares_window(request):
            self.sharing.add(request)
        else:
            self.sharing.discard(request)

    def leave(self, request: Request) -> None:
        """See :meth:`DecodeGroup.leave`."""
        computed = self.computed_tokens(request)
        for period, phases in self._phases.items():
            del phases[(self.step - computed) % period][request]
        for window in self._windows:
            full = self.step - computed + window.lag + window.period
            if full <= self.step:
                window.count(full % window.period, -1)
        del self._joined[request]
        self.sharing.discard(request)
        self.caching.discard(request)
        super().leave(request)
        self._kv.settle(request, computed, self.in_flight)

    def blocks_needed_now(self) -> int:
        """See :meth:`DecodeGroup.blocks_needed_now`; less those freed."""
        return self.blocks_needed(1)

    def most_needed_now(self) -> int:
        """New blocks that the next step takes before any is freed."""
        return self._copies * super().blocks_needed_now()

    def blocks_needed(self, steps: int) -> int:
        """See :meth:`DecodeGroup.blocks_needed`; less those freed, if nobody shares them. Not past a window that fills up."""
        taken = self._copies * super().blocks_needed(steps)
        return taken - sum(window.freed(self.step, steps) for window in self._windows)

    def steps_before_full(self) -> int | None:
        """Steps before the next window that fills up frees its first blocks; None: there is none."""
        filling, joined = self._filling, self._joined
        while filling and joined.get(filling[0][3]) != filling[0][1]:
            heappop(filling)
        return filling[0][0] - self.step if filling else None

    def steps_that_fit(self, steps: int, free: int, *, rising: bool) -> int:
        """The most of ``steps`` steps of which each finds the blocks it takes among ``free`` and those freed before.

        Unless ``rising``: up to the last that leaves no more free than there are now.
        """
        before = self.steps_before_full()
        if before is not None:
            steps = min(steps, before)
        if rising and self._copies * super().blocks_needed(steps) <= free:
            return steps
        left, size = free, self._block_size
        for step in range(self.step, self.step + steps):
            taken = self._copies * self._need[step % size]
            freed = sum(window.blocks * window.counts[step % window.period] for window in self._windows)
            if taken > left or (not rising and left - taken + freed > free):
                return step - self.step
            left += freed - taken
        return steps

    def movers(self) -> Iterator[Request]:
        """Members that take or may free blocks in the next step."""
        step, size = self.step, self._block_size
        found = dict(self._phases[size][step % size])
        for window in self._windows:
            found |= self._phases[window.period][(step - window.lag) % window.period]
        return iter(found)

    def advance(self, steps: int) -> list[Request]:
        """See :meth:`DecodeGroup.advance`."""
        filling, end = self._filling, self.step + steps
        while filling and filling[0][0] <= end:
            full, number, index, request = heappop(filling)
            if self._joined.get(request) == number:
                self._windows[index].count(full % self._windows[index].period, 1)
        return super().advance(steps)
