"""Which replica gets a request. A policy is one function and one line in ``ROUTERS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any, Protocol

from twin.cluster.data_parallel import Rank
from twin.cluster.replica import Replica
from twin.engine.request import Request


class Target(Protocol):
    """What gets a request: a replica, a rank, or a ``vllm serve`` of several ranks."""

    @property
    def load(self) -> int:
        """Its unfinished requests."""

    def submit(self, request: Request) -> None:
        """Queue a request now."""


Router = Callable[[], Target]
Counts = tuple[int, int, float]  # waiting, running, share of the KV cache in use

PUBLISH_S = 0.1  # DPCoordinatorProc.min_stats_update_interval_ms
REPUBLISH_S = 5.0  # when nothing changed


def round_robin(replicas: Sequence[Target]) -> Router:
    """Each replica in turn."""
    return cycle(replicas).__next__


def least_loaded(replicas: Sequence[Target]) -> Router:
    """The replica with the fewest unfinished requests; the first of equals."""
    return lambda: min(replicas, key=_load)


def _load(replica: Target) -> int:
    return replica.load


def internal_lb(replicas: Sequence[Replica | Rank]) -> Router:
    """vLLM's internal data-parallel load balancing: one API server before the ranks of one ``vllm serve``.

    The API server scores each rank by the counts that the coordinator published last (:class:`Coordinator`) and by what it
    sent itself (:class:`Balancer`). Ranks of a dense model are replicas, which do not wait for one another. Messages take no
    time, changes of one instant are published together, and there is one API server: those are assumed.
    """
    version = replicas[0].engine.scheduler.config.vllm_version
    balancer = Balancer(len(replicas), version)
    coordinator = Coordinator(len(replicas), balancer.take)
    if version != "0.19" or isinstance(replicas[0], Rank):  # there, ranks of a dense model never send their counts
        for rank, replica in enumerate(replicas):
            _watch(replica, rank, coordinator)

    def route() -> Replica | Rank:
        coordinator.advance(replicas[0].env.now)
        return replicas[balancer.pick([replica.load for replica in replicas])]

    return route


class Balancer:
    """The choice of ``DPLBAsyncMPClient.get_core_engine_for_request``, ``v1/engine/core_client.py``.

    0.32: the least max(own requests in flight, waiting + running), plus 6 · waiting · (KV usage − 0.5) where more than
    half of the KV cache is in use; of equals, the first from a start that moves on by one rank with each request.
    0.19: the least 4 · waiting + running, of equals the lowest rank. Both count a request as waiting once it is sent.
    """

    def __init__(self, ranks: int, version: str) -> None:
        self.version = version
        self._counts: list[Counts] = [(0, 0, 0.0)] * ranks
        self._start = 0

    def take(self, counts: Sequence[Counts]) -> None:
        """What the coordinator published: it replaces what was counted here since."""
        self._counts = list(counts)

    def pick(self, in_flight: Sequence[int]) -> int:
        """The rank of the next request; ``in_flight``: unfinished requests that this API server sent, per rank."""
        counts, ranks = self._counts, len(self._counts)
        older = self.version == "0.19"
        chosen, least = 0, float("inf")
        for offset in range(ranks):
            rank = (self._start + offset) % ranks
            waiting, running, usage = counts[rank]
            if older:
                score: float = 4 * waiting + running
            else:
                score = max(in_flight[rank], waiting + running) + waiting * 6.0 * max(0.0, usage - 0.5)
            if score < least:
                chosen, least = rank, score
        waiting, running, usage = counts[chosen]
        counts[chosen] = (waiting + 1, running, usage)
        if not older:
            self._start = (self._start + 1) % ranks
        return chosen


class Coordinator:
    """When counts are published (``DPCoordinatorProc.process_input_socket``, ``v1/engine/coordinator.py``).

    A change is passed on at once, but not sooner than 100 ms after the last; without changes all is sent again after 5 s.
    It needs no events: what fell due is made up for before each change and each request, with the counts of then.
    """

    def __init__(self, ranks: int, publish: Callable[[Sequence[Counts]], None]) -> None:
        self._publish = publish
        self._counts: list[Counts] = [(0, 0, 0.0)] * ranks
        self._published_s = -PUBLISH_S
        self._changed_s: float | None = None

    def change(self, now: float, rank: int, waiting: int, running: int, usage: float) -> None:
        """A rank's counts at a boundary of its steps. It sends them, with its KV usage, when a count changed."""
        if self._counts[rank][:2] != (waiting, running):
            self.advance(now, inclusive=False)
            self._counts[rank] = (waiting, running, usage)
            if self._changed_s is None:
                self._changed_s = now

    def advance(self, now: float, *, inclusive: bool = True) -> None:
        """Publish what fell due until ``now``."""
        while (due := self._due_s()) < now or (inclusive and due == now):
            if self._changed_s is None:  # the same again, any number of times
                due += (now - due) // REPUBLISH_S * REPUBLISH_S
            self._published_s, self._changed_s = due, None
            self._publish(self._counts)

    def _due_s(self) -> float:
        if self._changed_s is None:
            return self._published_s + REPUBLISH_S
        return max(self._published_s + PUBLISH_S, self._changed_s)


def _watch(replica: Replica | Rank, rank: int, coordinator: Coordinator) -> None:
    """Tell the coordinator of a rank's counts where vLLM's busy loop does: between a step and the next.

    Within a leap no count changes.
    """
    scheduler = replica.engine.scheduler

    def tell(now: float) -> None:
        kv = scheduler.kv
        coordinator.change(now, rank, len(scheduler.waiting), len(scheduler.running), 1.0 - kv.free / kv.usable)

    replica.before_steps(tell)


ROUTERS: dict[str, Callable[[Sequence[Any]], Router]] = {
    "round_robin": round_robin,
    "least_loaded": least_loaded,
    "internal_lb": internal_lb,
}
