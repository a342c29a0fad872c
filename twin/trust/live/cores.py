"""Cores of their own for an engine's workers on a CPU, with nothing but the standard library (Linux).

Behind vLLM's server the engine's core spins, and API and client want their share: left to the kernel, a step's time depends on
who was put beside whom just then.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

WORKER = b"VLLM::Worker"
PROC = Path("/proc")


def give_cores(group: int, count: int) -> list[int]:
    """The workers of process group ``group`` get the last ``count`` of our cores, all else of it the others.

    Returns these others, for whoever else works beside it; an empty list where nothing was changed, as there are no cores to
    spare or no workers.
    """
    if not hasattr(os, "sched_setaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    members = [pid for pid in _processes() if _group(pid) == group]
    workers = [pid for pid in members if _title(pid).startswith(WORKER)]
    if len(cores) <= count or not workers:
        return []
    for pid in members:
        _pin(pid, cores[-count:] if pid in workers else cores[:-count])
    return cores[:-count]


def _processes() -> Iterator[int]:
    return (int(path.name) for path in PROC.iterdir() if path.name.isdigit())


def _group(pid: int) -> int:
    with contextlib.suppress(OSError):
        return os.getpgid(pid)
    return -1


def _title(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes()
    return b""


def _pin(pid: int, cores: Iterable[int]) -> None:
    """Every thread of a process; one that has just ended needs no core."""
    with contextlib.suppress(OSError):
        for thread in (PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(thread.name), cores)
