"""The waiting queue: first come, first served, or by priority."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from twin.engine.request import Request


class FCFSQueue(deque[Request]):
    """In the order of arrival; preempted requests come first."""

    add = deque.append
    pop_first = deque.popleft
    prepend = deque.appendleft

    def peek(self) -> Request:
        """The next to be admitted. The queue must not be empty."""
        return self[0]


class PriorityQueue:
    """The smallest ``(priority, arrival)`` first; a preempted request goes back to its place."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, float, int, Request]] = []

    def add(self, request: Request) -> None:
        """Queue a request."""
        heappush(self._heap, (request.priority, request.arrival_s, request.index, request))

    prepend = add

    def peek(self) -> Request:
        """The next to be admitted. The queue must not be empty."""
        return self._heap[0][3]

    def pop_first(self) -> Request:
        """Take the next to be admitted out."""
        return heappop(self._heap)[3]

    def remove(self, request: Request) -> None:
        """Take ``request`` out, wherever it stands."""
        self._heap = [entry for entry in self._heap if entry[3] is not request]
        heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Request]:
        return (entry[3] for entry in sorted(self._heap))


QUEUES = {"fcfs": FCFSQueue, "priority": PriorityQueue}
