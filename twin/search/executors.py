"""Evaluations on all cores of this machine, or on a Ray cluster, with the results of a single process.

An executor maps a module-level function over items. What all evaluations have in common (``shared``: the
screen, the traces) goes to each worker once; an item is small.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any, Generic, Literal, Protocol, TypeVar, get_args

from twin.base import InputError, unknown_name

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")

Function = Callable[[Shared, Item], Result]
ExecutorName = Literal["local", "ray"]
EXECUTORS: tuple[ExecutorName, ...] = get_args(ExecutorName)

MOST_TRIES = 3
ONE_THREAD = {
    name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
}
"""A worker is a core: the threads of its linear algebra would only take turns."""


@dataclass(frozen=True)
class Lost(Generic[Item]):
    """An evaluation whose process died each time that it was tried, and why."""

    item: Item
    reason: str


def died(how: str = "") -> str:
    """The reason of what is lost."""
    why = f" ({how})" if how else ""
    return f"the process that ran it died, {MOST_TRIES} times{why}; a machine ends what wants more memory than it has"


def ignore(at: int, result: object) -> None:
    """The ``done`` of who waits for all."""


class Executor(Protocol[Item, Result]):
    """Evaluates items."""

    def map(self, items: Sequence[Item], done: Callable[[int, Result], None] = ignore) -> list[Result | Lost[Item]]:
        """Results in the order of ``items``; ``done(position, result)`` in this process as each arrives, in any order.

        An evaluation whose process dies is tried again, in all three times, then it is :class:`Lost` (``done`` does not
        hear of it).
        What an evaluation raises is raised here as itself; of several, the first in the order of ``items``. Ctrl-C
        ends the evaluations under way; the executor can be used again.
        """
        ...


@contextmanager
def open_executor(
    name: ExecutorName,
    function: Function[Shared, Item, Result],
    shared: Shared,
    *,
    jobs: int,
    address: str | None = None,
) -> Iterator[Executor[Item, Result]]:
    """An executor of ``function(shared, item)``; leaving ends every process that it started.

    ``function`` is a module-level function, ``shared``, items and results can be pickled. ``local``: this process for
    one job, else ``jobs`` processes, started when first needed. ``ray``: the cluster at ``address`` (``host:port`` of
    its head for who runs on a node of it, ``ray://host:port`` for a client), which uses every CPU it has; without an
    address one of ``jobs`` workers on this machine.

    Raises :class:`InputError` for an unknown name, fewer than one job, an address without Ray, Ray not installed, and
    an address that does not answer.
    """
    if name not in EXECUTORS:
        raise unknown_name("executor", name, EXECUTORS)
    if jobs < 1:
        raise InputError(f"{jobs} jobs cannot evaluate anything; at least 1 is needed")
    if name == "ray":
        from twin.search.ray_executor import on_ray

        with on_ray(function, shared, jobs=jobs, address=address) as remote:
            yield remote
        return
    if address is not None:
        raise InputError(f"the Ray address {address} needs the executor 'ray', not {name!r}")
    if jobs == 1:
        yield Inline(function, shared)
        return
    pool = Pool(function, shared, jobs)
    try:
        yield pool
    finally:
        pool.close()


@dataclass(frozen=True, eq=False)
class Inline(Generic[Shared, Item, Result]):
    """In this process, one after the other."""

    function: Function[Shared, Item, Result]
    shared: Shared

    def map(self, items: Sequence[Item], done: Callable[[int, Result], None] = ignore) -> list[Result | Lost[Item]]:
        """As :meth:`Executor.map`; nothing is ever lost."""
        results: list[Result | Lost[Item]] = []
        for at, item in enumerate(items):
            result = self.function(self.shared, item)
            done(at, result)
            results.append(result)
        return results


class Pool(Generic[Shared, Item, Result]):
    """Processes on this machine, with joblib's loky executor underneath: spawned, and a dead worker is noticed.

    ``joblib.Parallel`` itself gives up the whole batch when a worker dies. A dead worker breaks a loky executor too, but
    it says which evaluations are still owed. Only as many are under way as there are workers, so those are the suspects,
    and each is tried again alone in a new pool: whatever kills its workers cannot take another with it.
    """

    def __init__(self, function: Function[Shared, Item, Result], shared: Shared, jobs: int) -> None:
        self._function, self._shared, self._jobs = function, shared, jobs
        self._processes: Any = None

    def map(self, items: Sequence[Item], done: Callable[[int, Result], None] = ignore) -> list[Result | Lost[Item]]:
        """As :meth:`Executor.map`."""
        results: dict[int, Result | Lost[Item]] = {}
        errors: dict[int, BaseException] = {}
        tries: Counter[int] = Counter()
        waiting, running = deque(range(len(items))), dict[Future[Result], int]()
        try:
            while running or (waiting and not errors):
                while not errors and self._may_start(waiting, running, tries):
                    at = waiting.popleft()
                    tries[at] += 1
                    running[self._submit(items[at])] = at
                broken = []
                for future in sorted(wait(running, return_when=FIRST_COMPLETED).done, key=lambda one: running[one]):
                    at, error = running.pop(future), future.exception()
                    if error is None:
                        results[at] = future.result()
                        done(at, future.result())
                    elif not isinstance(error, BrokenProcessPool):
                        errors[at] = error
                    elif tries[at] < MOST_TRIES:
                        broken.append(at)
                    else:
                        results[at] = Lost(items[at], died())
                if broken:
                    self.close()
                waiting.extendleft(reversed(broken))
        finally:
            if running:  # interrupted: they end here and now
                self.close()
        if errors:
            raise errors[min(errors)]
        return [results[at] for at in range(len(items))]

    def _may_start(self, waiting: deque[int], running: dict[Future[Result], int], tries: Counter[int]) -> bool:
        """Whether the next may start now: on a free worker, and a suspect alone."""
        if not waiting or not running:
            return bool(waiting)
        alone = tries[waiting[0]] > 0 or any(tries[at] > 1 for at in running.values())
        return not alone and len(running) < self._jobs

    def _submit(self, item: Item) -> Future[Result]:
        from joblib.externals.loky.backend.resource_tracker import ensure_running

        # Spawned processes inherit the mask: Ctrl-C reaches this process alone, which ends them. Starting a tracker of
        # resources would lift it again.
        ensure_running()
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            if self._processes is None:
                self._open()
            try:
                future: Future[Result] = self._processes.submit(_evaluate, item)
            except BrokenProcessPool:  # a worker died with nothing to do, or its evaluation is lost
                self.close()
                self._open()
                future = self._processes.submit(_evaluate, item)
            return future
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _open(self) -> None:
        from joblib.externals.loky import ProcessPoolExecutor

        started = (self._function, self._shared, os.getpid())
        self._processes = ProcessPoolExecutor(self._jobs, initializer=_start_worker, initargs=started, env=ONE_THREAD)

    def close(self) -> None:
        """End every process, whatever it is doing; the next :meth:`map` starts new ones."""
        if self._processes is None:
            return
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a second Ctrl-C would leave some of them
        try:
            self._processes.shutdown(kill_workers=True)  # by psutil; without it loky asks pgrep, which Ctrl-C ends too
            self._processes = None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


_worker: list[tuple[Callable[[Any, Any], Any], Any]] = []
"""Of a worker process: what it evaluates, and with what."""


def _start_worker(function: Callable[[Any, Any], Any], shared: Any, parent: int) -> None:
    _worker[:] = [(function, shared)]
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: int) -> None:
    """End this process once its parent is gone: one that was killed could not end it."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _evaluate(item: Any) -> Any:
    function, shared = _worker[0]
    return function(shared, item)
