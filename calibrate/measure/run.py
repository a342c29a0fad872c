"""One run: plan the points, leave out those in the log, time the others one by one, and write each as it is done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibrate.measure import collectives
from calibrate.measure.kernels import Bench, precisions
from calibrate.measure.log import Point, Writer, key_of
from calibrate.measure.machine import (
    BUSY_CORES,
    DEVICES,
    Others,
    import_torch,
    machine_facts,
    refuse_if_busy,
    require_cuda,
)
from calibrate.measure.nvml import Nvml, find_nvml
from calibrate.measure.points import plan
from calibrate.measure.power import POINTS_PER_FAMILY, QUICK_POINTS_PER_FAMILY, mean_power_w, power_points
from calibrate.measure.timing import CpuTimer, CudaTimer, Effort, Timer, fastest, repeat
from twin.base import InputError, unknown_name

FULL_S = {"cpu": 0.35, "cuda": 0.06}
QUICK_S = {"cpu": 0.15, "cuda": 0.05}
"""Seconds of samples per point, set so that a full run takes about 12 minutes on two cores and 10 on an H200."""
TRIES = 5  # of one point while somebody else uses the CPU
PAUSE_S = 1.0

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to measure. ``families`` and ``dtypes``: all that the device has, where empty."""

    device: str
    out: Path
    quick: bool = False
    families: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    threads: int | None = None
    wait_s: float = 0.0


@dataclass
class Outcome:
    """Points of the plan: ``measured`` now, ``kept`` from before, ``refused`` by the device (no such kernel, no memory)."""

    planned: int
    kept: int = 0
    measured: int = 0
    refused: list[str] = field(default_factory=list)


def run(request: Request, tell: Tell, progress: Tell) -> Outcome:
    """Measure what ``request`` asks for into its log.

    ``tell`` gets lines for a person, ``progress`` the state after each point. Raises :class:`InputError` for a device that
    is busy or lacks what was asked for by name, and for a log of another machine; ``KeyboardInterrupt`` goes through after
    a line on how to go on, with every finished point in the log.
    """
    if request.device not in DEVICES:
        raise unknown_name("device", request.device, DEVICES)
    threads = _threads(request.threads)
    torch = import_torch()
    if request.device == "cuda":
        require_cuda(torch)
    refuse_if_busy(request.device, wait_s=request.wait_s, tell=tell)
    machine = machine_facts(torch, request.device, threads)
    points = plan(
        request.device,
        request.quick,
        precisions=precisions(torch, request.device),
        num_gpus=torch.cuda.device_count(),
        families=request.families,
        dtypes=request.dtypes,
        tell=tell,
    )
    torch.set_num_threads(threads)
    writer = Writer(request.out, machine)
    try:
        with torch.inference_mode():
            return Session(torch, request, machine, writer, tell, progress).measure(points)
    except KeyboardInterrupt:
        tell(f"interrupted: {len(writer.done)} points are kept in {request.out}; the same command goes on from there")
        raise
    finally:
        writer.close()


def _threads(asked: int | None) -> int:
    have = len(os.sched_getaffinity(0))
    if asked is not None and not 1 <= asked <= have:
        raise InputError(f"--threads {asked}: this process may use {have} cores")
    return asked or have


class Session:
    """The loop over points, with everything that lasts as long as it."""

    def __init__(
        self, torch: Any, request: Request, machine: dict[str, Any], writer: Writer, tell: Tell, progress: Tell
    ) -> None:
        self.request, self.writer, self.tell, self.progress = request, writer, tell, progress
        self.bench = Bench(torch, request.device, machine["l2_bytes"])
        self.timer: Timer = CpuTimer() if request.device == "cpu" else CudaTimer(torch)
        self.effort = Effort((QUICK_S if request.quick else FULL_S)[request.device])
        self.others = Others() if request.device == "cpu" else None
        self.nvml: Nvml | None = find_nvml() if request.device == "cuda" else None
        if request.device == "cuda" and self.nvml is None:
            tell("power is left out: NVML is not there (pip install nvidia-ml-py)")

    def measure(self, points: Sequence[Point]) -> Outcome:
        """Kernels one by one, then collectives in processes of their own."""
        todo = [point for point in points if key_of(point) not in self.writer.done]
        outcome = Outcome(len(points), kept=len(points) - len(todo))
        if outcome.kept:
            self.tell(f"{outcome.kept} of {outcome.planned} points are in {self.request.out} already")
        alone = [point for point in todo if point["family"] != "all_reduce"]
        per_family = QUICK_POINTS_PER_FAMILY if self.request.quick else POINTS_PER_FAMILY
        with_power = power_points(alone, per_family) if self.nvml else set()
        clock = Remaining(len(todo), self.progress)
        for position, point in enumerate(alone):
            self._one(point, position in with_power, outcome)
            clock.done(point["family"])
        together = [point for point in todo if point["family"] == "all_reduce"]
        self._refuse_busy_boards(together)
        for row in collectives.measure_all_reduce(together):
            self.writer.add([row])
            outcome.measured += 1
            clock.done("all_reduce")
        return outcome

    def _refuse_busy_boards(self, together: Sequence[Point]) -> None:
        """The first board was looked at before anything ran on it."""
        if self.request.device == "cuda" and self.nvml:
            for board in range(1, max((point["num_gpus"] for point in together), default=1)):
                refuse_if_busy(f"cuda:{board}", wait_s=self.request.wait_s, tell=self.tell)

    def _one(self, point: Point, with_power: bool, outcome: Outcome) -> None:
        try:
            program, sample = fastest(self.timer, self.bench.programs(point))
            row = self._undisturbed(point, program, sample)
        except RuntimeError as error:  # torch's word for "out of memory" and "no kernel for these sizes"
            outcome.refused.append(f"{point['family']}: {str(error).strip().splitlines()[0][:120]}")
            self.bench.let_go()
            return
        if with_power and self.nvml is not None:
            power_w = mean_power_w(self.nvml, sample)
            row |= {} if power_w is None else {"power_w": power_w}
        self.writer.add([row])
        outcome.measured += 1

    def _undisturbed(self, point: Point, program: str, sample: Callable[[], float]) -> Point:
        """Timed again while others use the CPU: two threads that wait for a third party's time slice tell nothing."""
        end = time.monotonic() + self.request.wait_s
        tries = 0
        while True:
            if self.others:
                self.others.cores()
            found = repeat(sample, self.effort)
            if self.others is None or self.others.cores() <= BUSY_CORES:
                timing = {"seconds": found.seconds, "spread": found.spread, "repeats": found.repeats}
                return {**point, **timing, "program": program}
            tries += 1
            if tries >= TRIES and time.monotonic() >= end:
                refuse_if_busy("cpu")
                raise InputError(
                    f"others used the CPU during each of {tries} tries of one point; what was measured before is kept "
                    f"in {self.request.out}, and the same command goes on from there"
                )
            time.sleep(PAUSE_S)


class Remaining:
    """Tells how far a run is and how long the rest takes, from the mean of what is done."""

    def __init__(self, count: int, progress: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        self._count, self._done, self._progress, self._clock, self._start = count, 0, progress, clock, clock()

    def done(self, family: str) -> None:
        self._done += 1
        rest = (self._clock() - self._start) / self._done * (self._count - self._done)
        self._progress(f"{self._done}/{self._count} {family}, about {rest / 60:.0f} min {rest % 60:.0f} s left")


def summary_of(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain values; refusals counted by what the device said."""
    refused: dict[str, int] = {}
    for said in outcome.refused:
        refused[said] = refused.get(said, 0) + 1
    return {"planned": outcome.planned, "measured": outcome.measured, "kept": outcome.kept, "refused": refused}
