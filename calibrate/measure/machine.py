"""The machine that is measured: its facts, and whether anything else is using it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from calibrate.measure.log import SCHEMA_VERSION
from calibrate.measure.nvml import Nvml, find_nvml
from twin.base import InputError
from twin.trust.live.runtime import host_cpu

PROC = Path("/proc")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNKNOWN_CACHE_BYTES = 64 * 2**20  # assumed where the system does not tell: larger than most, so buffers still spill
BUSY_CORES = 0.2  # of one core
BUSY_GPU = 0.05
WATCH_S = 1.0
IDLE_GPU_BYTES = 2 * 2**30  # above what a driver and an empty context hold; asked only where NVML cannot be
DEVICES = ("cpu", "cuda")


def import_torch() -> Any:
    """The module; raises :class:`InputError` saying how to get it."""
    if importlib.util.find_spec("torch") is None:
        raise InputError("timing kernels needs torch: pip install 'twin[calibrate]', or name a Python that has it")
    return importlib.import_module("torch")


def machine_facts(torch: Any, device: str, threads: int) -> dict[str, Any]:
    """What a log says of its machine before its points; bytes and watts. ``num_sms``: multiprocessors, or cores used.

    ``l2_bytes`` is the last cache. Raises :class:`InputError` for a CUDA device that is not there.
    """
    facts: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "device": device,
        "name": host_cpu(),
        "memory_bytes": memory_bytes(),
        "num_sms": threads,
        "l2_bytes": last_cache_bytes(),
        "board_power_w": None,
        "driver": None,
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "threads": threads,
        "host_cpu": host_cpu(),
        "kernel": platform.release(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    return facts if device == "cpu" else facts | _cuda_facts(torch)


def _cuda_facts(torch: Any) -> dict[str, Any]:
    require_cuda(torch)
    board, nvml = torch.cuda.get_device_properties(0), find_nvml()
    return {
        "name": str(board.name),
        "memory_bytes": int(board.total_memory),
        "num_sms": int(board.multi_processor_count),
        "l2_bytes": int(getattr(board, "L2_cache_size", UNKNOWN_CACHE_BYTES)),
        "board_power_w": nvml.power_limit_w() if nvml else None,
        "driver": nvml.driver() if nvml else None,
    }


def require_cuda(torch: Any) -> None:
    """Raises :class:`InputError` when torch sees no CUDA device."""
    if not torch.cuda.is_available():
        why = "this torch was built without CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        raise InputError(f"cannot measure on cuda: {why}", allowed=["cpu"])


def memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def last_cache_bytes() -> int:
    """Of the CPU: the cache of the highest level."""
    sizes = {}
    for folder in CACHES.glob("index*"):
        level, size = _read(folder / "level").strip(), re.fullmatch(r"(\d+)K", _read(folder / "size").strip())
        if level and size:
            sizes[int(level)] = int(size[1]) * 1024
    return sizes[max(sizes)] if sizes else UNKNOWN_CACHE_BYTES


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def refuse_if_busy(
    device: str,
    *,
    wait_s: float = 0.0,
    tell: Callable[[str], None] = lambda _: None,
    reason: Callable[[str], str | None] | None = None,
) -> None:
    """Returns once the device is quiet; raises :class:`InputError` with the reason if it is not within ``wait_s``.

    Looks at the CPU for a second, at a GPU through NVML. Call it before this process touches the device. ``reason`` is what
    looks (default: :func:`busy`).
    """
    look = reason or busy
    end = time.monotonic() + wait_s
    told = False
    while (found := look(device)) is not None:
        if time.monotonic() >= end:
            raise InputError(f"{found}: timings would be of both; end it, or give --wait SECONDS")
        if not told:
            tell(f"{found}: waiting until it is quiet")
            told = True
        time.sleep(WATCH_S)


def busy(device: str) -> str | None:
    """Who else uses the device (``cpu``, ``cuda`` or ``cuda:1``) now, in words; ``None`` when it is quiet."""
    return busy_cpu() if device == "cpu" else busy_gpu(find_nvml(int(device.partition(":")[2] or 0)))


def busy_gpu(nvml: Nvml | None) -> str | None:
    """Other processes on the board, or load that no listed process owns (containers hide them)."""
    if nvml is None:
        return _memory_in_use()
    others = nvml.others()
    if others:
        return f"the GPU is in use by process{'es' * (len(others) > 1)} {', '.join(map(str, others))}"
    load = nvml.load()
    return f"the GPU is {load:.0%} busy with work of another user" if load > BUSY_GPU else None


def _memory_in_use() -> str | None:
    """Without NVML, memory that somebody holds is the only sign."""
    torch = import_torch()
    require_cuda(torch)
    free, total = torch.cuda.mem_get_info()
    used = total - free - torch.cuda.memory_reserved()
    return f"{used / 2**30:.1f} GiB of the GPU's memory is in use by another process" if used > IDLE_GPU_BYTES else None


def busy_cpu(watch_s: float = WATCH_S) -> str | None:
    """The process that took most of a core over ``watch_s`` if together the others took more than 20 % of one."""
    before = _cpu_seconds()
    time.sleep(watch_s)
    after = _cpu_seconds()
    own = _own_processes(after)
    used = {
        pid: (seconds - before[pid][1]) / watch_s
        for pid, (_, seconds, _) in after.items()
        if pid in before and pid not in own
    }
    total = sum(used.values())
    if total <= BUSY_CORES:
        return None
    largest = max(used, key=lambda pid: used[pid])
    name = after[largest][2]
    return f"the CPU is busy: process {largest} ({name}) uses {used[largest]:.1f} of a core, all others together {total:.1f}"


def _cpu_seconds() -> dict[int, tuple[int, float, str]]:
    """By process id: its parent, CPU seconds so far, and name (``/proc/<pid>/stat``)."""
    tick = os.sysconf("SC_CLK_TCK")
    found = {}
    for folder in PROC.iterdir():
        text = _read(folder / "stat") if folder.name.isdigit() else ""
        name, fields = text[text.find("(") + 1 : text.rfind(")")], text[text.rfind(")") + 1 :].split()
        if len(fields) > 12:
            found[int(folder.name)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / tick, name)
    return found


def _own_processes(table: dict[int, tuple[int, float, str]]) -> set[int]:
    """This process, what started it, and what they started: none of those is another user of the machine."""
    own = {os.getpid()}
    while True:
        children = {pid for pid, (parent, _, _) in table.items() if parent in own and pid not in own}
        if not children:
            break
        own |= children
    parent = table.get(os.getpid(), (0, 0.0, ""))[0]
    while parent in table:
        own.add(parent)
        parent = table[parent][0]
    return own


class Others:
    """How many cores others (and a hypervisor's other guests) used since the last look, from ``/proc/stat``."""

    def __init__(self) -> None:
        self._seen = self._now()

    def _now(self) -> tuple[float, float, float]:
        fields = _read(PROC / "stat").partition("\n")[0].split()[1:9]
        ticks = [int(field) for field in fields]
        busy_s = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK") if len(ticks) == 8 else 0.0
        return time.monotonic(), busy_s, time.process_time()

    def cores(self) -> float:
        """Cores in use by others, on average since the last call; each core's clock may be a tick of 10 ms ahead."""
        before, self._seen = self._seen, self._now()
        wall, total, own = (now - then for now, then in zip(self._seen, before, strict=True))
        tick_s = (os.cpu_count() or 1) / os.sysconf("SC_CLK_TCK")
        return max(0.0, total - own - tick_s) / wall if wall > 0 else 0.0
