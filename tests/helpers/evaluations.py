"""What the tests of executors evaluate. Of a module of its own, so that other processes can import it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from twin.base import InputError
from twin.search.evaluate import Deployment, Measured, measure
from twin.traffic.trace import Trace

Shared = tuple[Path, np.ndarray]
"""A folder to leave traces in, and an array that all evaluations read."""


def shared(folder: Path) -> Shared:
    return folder, np.arange(1000.0)


def product(given: Shared, item: int) -> tuple[int, float]:
    """Takes longer the earlier it is asked for, so results arrive in another order."""
    time.sleep(0.02 * (item % 3))
    return item, float(given[1] @ (given[1] + item))


def who(given: Shared, item: int) -> tuple[int, int, int]:
    """The process, its copy of ``given``, and how many threads its linear algebra may use."""
    time.sleep(0.05)
    return os.getpid(), id(given[1]), int(os.environ.get("OMP_NUM_THREADS", "0"))


def refuses(given: Shared, item: int) -> int:
    """Items 3 and 5 are nonsense; 3 is found out later."""
    if item in (3, 5):
        time.sleep(0.3 * (item == 3))
        raise InputError(f"{item} is nonsense", where="here", allowed=["1"])
    return item


def dies_once(given: Shared, item: int) -> int:
    """Item 4 kills its process the first time."""
    return _count_and_die(given, item, lambda times: item == 4 and times == 1)


def dies_always(given: Shared, item: int) -> int:
    """Item 4 kills its process every time."""
    return _count_and_die(given, item, lambda times: item == 4)


def pid_then_wait(given: Shared, item: int) -> int:
    """Says which process it is in, so that a test can kill it, and takes a while the first time."""
    times = _count(given, item)
    (given[0] / f"pid-{item}").write_text(str(os.getpid()))
    time.sleep(20.0 if item == 0 and times == 1 else 0.1)
    return item * item


def waits(given: Shared, item: int) -> int:
    (given[0] / f"pid-{item}").write_text(str(os.getpid()))
    time.sleep(60.0)
    return item


def tries(folder: Path, item: int) -> int:
    """How often an evaluation began."""
    return len((folder / f"tries-{item}").read_text())


def wait_for(path: Path, seconds: float = 30.0) -> str:
    """What another process writes."""
    until = time.monotonic() + seconds
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < until, f"{path.name} was never written"
        time.sleep(0.02)
    return path.read_text()


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if (
            Path(f"/proc/{pid}/stat").exists()
            and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        ):
            return True
        time.sleep(0.05)
    return False


def _count(given: Shared, item: int) -> int:
    with (given[0] / f"tries-{item}").open("a") as file:
        file.write("x")
    return tries(given[0], item)


def _count_and_die(given: Shared, item: int, dies: Callable[[int], bool]) -> int:
    times = _count(given, item)
    time.sleep(0.1)
    if dies(times):
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def simulated(given: tuple[Deployment, Trace], item: int) -> Measured:
    """A real evaluation; the number only tells them apart."""
    return measure(given[0], given[1], (), full=True)
