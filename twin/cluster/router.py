"""Which replica gets a request. A policy is one function and one line in ``ROUTERS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle

from twin.cluster.replica import Replica

Router = Callable[[], Replica]


def round_robin(replicas: Sequence[Replica]) -> Router:
    """Each replica in turn."""
    return cycle(replicas).__next__


def least_loaded(replicas: Sequence[Replica]) -> Router:
    """The replica with the fewest unfinished requests; the first of equals."""
    return lambda: min(replicas, key=_load)


def _load(replica: Replica) -> int:
    return replica.load


ROUTERS: dict[str, Callable[[Sequence[Replica]], Router]] = {
    "round_robin": round_robin,
    "least_loaded": least_loaded,
}
