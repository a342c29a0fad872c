"""All-reduce among the GPUs of this machine (NCCL) or among processes on its CPU (gloo), one worker process each.

Workers meet through a file, so that no port is opened; each times the same repeats, as one that stops alone would leave the
others waiting. Rank 0 prints a line of JSON per point.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from calibrate.measure.log import Point
from calibrate.measure.timing import CpuTimer, CudaTimer, Timer, summarise
from twin.base import TwinError

REPEATS = 20
SMALL_BYTES = 2**18  # below, latency decides, and it is noisy: many calls in one sample
CALLS_SMALL, CALLS_LARGE = 100, 10
END_S = 5.0
PATIENCE = timedelta(seconds=120)  # a worker whose partner died ends by itself


def measure_all_reduce(points: Sequence[Point], python: str = sys.executable) -> Iterator[Point]:
    """``points`` with their timings, group by group of equal ``num_gpus``; the workers are ended whatever happens.

    Raises :class:`TwinError` when a worker fails, with what it said last.
    """
    for num_gpus in sorted({point["num_gpus"] for point in points}):
        own = [point for point in points if point["num_gpus"] == num_gpus]
        with tempfile.TemporaryDirectory() as folder:
            yield from _run_workers(own, num_gpus, Path(folder), python)


def _run_workers(points: Sequence[Point], num_gpus: int, folder: Path, python: str) -> Iterator[Point]:
    (folder / "points.json").write_text(json.dumps(list(points)), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    workers: list[subprocess.Popen[str]] = []
    try:
        for rank in range(num_gpus):
            with (folder / f"{rank}.err").open("w", encoding="utf-8") as errors:
                command = [python, "-m", "calibrate.measure.collectives", str(rank), str(num_gpus), str(folder)]
                out = subprocess.PIPE if rank == 0 else subprocess.DEVNULL
                workers.append(subprocess.Popen(command, stdout=out, stderr=errors, text=True, env=environment))
        assert workers[0].stdout is not None
        for line in workers[0].stdout:
            if line.startswith("{"):
                yield json.loads(line)
        if workers[0].wait() != 0:
            said = (folder / "0.err").read_text(encoding="utf-8").strip().splitlines() or ["nothing"]
            raise TwinError(f"all-reduce among {num_gpus}: a worker failed, saying: {said[-1]}")
    finally:
        _end(workers)


def _end(workers: Sequence[subprocess.Popen[str]]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for worker in workers:
            with suppress(ProcessLookupError):
                if worker.poll() is None:
                    worker.send_signal(number)
        for worker in workers:
            with suppress(subprocess.TimeoutExpired):
                worker.wait(END_S)
    for worker in workers:
        if worker.stdout is not None:
            worker.stdout.close()


def calls_per_sample(message_bytes: int) -> int:
    """The same on every rank, as it depends on nothing measured."""
    return CALLS_SMALL if message_bytes <= SMALL_BYTES else CALLS_LARGE


def work(rank: int, num_gpus: int, folder: Path) -> None:
    """One worker's whole life."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    import torch.distributed as dist  # type: ignore[import-not-found,unused-ignore]

    points = json.loads((folder / "points.json").read_text(encoding="utf-8"))
    backend = points[0]["backend"]
    device = f"cuda:{rank}" if backend == "nccl" else "cpu"
    if backend == "nccl":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
    dist.init_process_group(
        backend, init_method=f"file://{folder / 'meet'}", rank=rank, world_size=num_gpus, timeout=PATIENCE
    )
    try:
        for point in points:
            row = _time(torch, dist, device, point)
            if rank == 0:
                print(json.dumps(row), flush=True)
    finally:
        dist.destroy_process_group()


def _time(torch: Any, dist: Any, device: str, point: Point) -> Point:
    message = torch.zeros(point["message_bytes"] // 2, dtype=torch.bfloat16, device=device)
    calls = [lambda: dist.all_reduce(message)] * calls_per_sample(point["message_bytes"])
    timer: Timer = CpuTimer(lockstep=True) if device == "cpu" else CudaTimer(torch, lockstep=True)
    sample = timer.sampler(calls)
    samples = []
    for _ in range(REPEATS):
        dist.barrier()
        samples.append(sample())
    found = summarise(samples)
    return {**point, "seconds": found.seconds, "spread": found.spread, "repeats": found.repeats}


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
