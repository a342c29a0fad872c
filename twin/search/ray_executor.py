"""Evaluations as tasks of a Ray cluster: one that runs already, or workers on this machine started for it.

Every node needs the same version of this package. Ray is the extra ``ray``.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Generic

from twin.base import InputError
from twin.search.executors import MOST_TRIES, Function, Item, Lost, Result, Shared, died, ignore

CONNECT_S = 2.0
TRIAL_S = 10.0
WORKER_S = 60.0
RETRY_S = 0.5
OBJECT_STORE_BYTES = 256 * 2**20
"""Of workers that are started here: many times what evaluations share."""

TRIAL = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)"


@contextmanager
def on_ray(
    function: Function[Shared, Item, Result], shared: Shared, *, jobs: int, address: str | None
) -> Iterator[RayTasks[Item, Result]]:
    """As :func:`twin.search.executors.open_executor`. A cluster that runs already is only left; a Ray that this process
    is connected to already stays connected."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError("the executor 'ray' needs Ray: pip install 'twin[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        _connect(jobs, address)
    try:
        given = ray.put((function, shared))
        _check_worker(given, address)
        yield RayTasks(given)
    finally:
        if ours:
            ray.shutdown()


def _connect(jobs: int, address: str | None) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address is None:
        ray.init("local", num_cpus=jobs, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, **quiet)
    else:
        check_answers(address)
        ray.init(address=address, **quiet)


def check_answers(address: str) -> None:
    """Raise :class:`InputError` unless a Ray cluster answers at ``host:port`` or ``ray://host:port``, in ten seconds.

    Ray's own attempt takes minutes and ends the process, so another process makes it first.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"{address!r} is not the address of a Ray cluster", allowed=["host:port", "ray://host:port"])
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise InputError(f"no Ray cluster answers at {address}: {error.strerror or error}") from error
    trial = [sys.executable, "-c", TRIAL, address]
    try:
        done = subprocess.run(trial, capture_output=True, text=True, timeout=TRIAL_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"what answers at {address} is not a Ray cluster that this machine can join") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InputError(f"the Ray cluster at {address} cannot be joined: {said}")


def _check_worker(given: Any, address: str | None) -> None:
    """Raise :class:`InputError` unless a worker unpacks what is shared, and has this version of the package."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    where = f"the Ray cluster at {address}" if address else "Ray on this machine"
    try:
        theirs = ray.get(ray.remote(_version).options(max_retries=MOST_TRIES).remote([given]), timeout=WORKER_S)
    except GetTimeoutError as error:
        raise InputError(f"{where} has had no worker free for {WORKER_S:.0f} s") from error
    except RayError as error:
        said = str(error).strip().splitlines()[-1]
        raise InputError(f"{where} cannot evaluate; is twin installed on every node? {said}") from error
    if theirs != version("twin"):
        ours = version("twin")
        raise InputError(f"{where} has twin {theirs}, this is {ours}; the results would not be the same")


class RayTasks(Generic[Item, Result]):
    """Each evaluation is a task. ``given``, the function and what is shared, lies in the object store, and each worker
    unpacks it once."""

    def __init__(self, given: Any) -> None:
        import ray

        # Ray's own retries would repeat without end what runs out of memory, so they are counted here.
        self._task: Any = ray.remote(_evaluate).options(max_retries=0, num_cpus=1)  # and so one thread for OpenMP
        self._given = given

    def map(self, items: Sequence[Item], done: Callable[[int, Result], None] = ignore) -> list[Result | Lost[Item]]:
        """As :meth:`twin.search.executors.Executor.map`."""
        import ray
        from ray.exceptions import RayError

        results: dict[int, Result | Lost[Item]] = {}
        errors: dict[int, BaseException] = {}
        tries = Counter(range(len(items)))
        running = {self._submit(item): at for at, item in enumerate(items)}
        try:
            while any(at < min(errors, default=len(items)) for at in running.values()):
                (reference,), _ = ray.wait(list(running), num_returns=1)
                at = running.pop(reference)
                error, result = self._finished(reference)
                if error is None:
                    results[at] = result
                    done(at, result)
                elif not isinstance(error, RayError):
                    errors[at] = error
                elif tries[at] < MOST_TRIES:
                    # Ray may hold the lease of a worker for a moment longer than the worker lives.
                    time.sleep(RETRY_S * tries[at])
                    tries[at] += 1
                    running[self._submit(items[at])] = at
                else:
                    results[at] = Lost(items[at], died(type(error).__name__))
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
        if errors:
            raise errors[min(errors)]
        return [results[at] for at in range(len(items))]

    def _finished(self, reference: Any) -> tuple[BaseException | None, Any]:
        """What an evaluation raised, a ``RayError`` where its worker, node or result is gone; and what it returned."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            return None, ray.get(reference)
        except RayTaskError as error:
            return error.cause, None
        except RayError as error:
            return error, None

    def _submit(self, item: Item) -> Any:
        return self._task.remote([self._given], item)  # in a list, Ray leaves the unpacking to the task


def _version(given: list[Any]) -> str:
    _unpacked(given[0])
    return version("twin")


def _evaluate(given: list[Any], item: Any) -> Any:
    function, shared = _unpacked(given[0])
    return function(shared, item)


@lru_cache(maxsize=1)
def _unpacked(reference: Any) -> tuple[Callable[[Any, Any], Any], Any]:
    import ray

    unpacked: tuple[Callable[[Any, Any], Any], Any] = ray.get(reference)
    return unpacked
