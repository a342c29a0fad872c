"""One way to time any kernel: warm it up, let its inputs rotate, repeat until the median is steady.

A CUDA kernel is captured many times into a graph and the graph is replayed between two events, so that the gaps of launching
vanish as they do in an engine that decodes from graphs; what cannot be captured is timed call by call. A CPU kernel is timed
by the clock, a few calls at a time where one is short, the dispatch of torch included.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Call = Callable[[], object]
Sample = Callable[[], float]
"""One sample: seconds of one call."""

CPU_SAMPLE_S = 2e-4  # a thousand times what reading the clock costs
CUDA_SAMPLE_S = 2e-3  # a thousand times the resolution of events, and far above the launch of a graph
MOST_IN_GRAPH = 512
WARM_UPS = 3
IQR_PER_SIGMA = 1.349
MEDIAN_PER_MEAN = 1.2533  # standard error of a median, in that of a mean (normal samples)


@dataclass(frozen=True)
class Effort:
    """When to stop: the median's standard error is below ``tolerance``, or ``budget_s`` is spent."""

    budget_s: float
    tolerance: float = 0.003
    least: int = 7
    most: int = 300


@dataclass(frozen=True)
class Timing:
    """Median seconds of one call, (p75 - p25) / median over samples, and their number."""

    seconds: float
    spread: float
    repeats: int


class Timer(Protocol):
    """Turns calls of one kernel, each on its own inputs, into samples of one call's seconds."""

    def sampler(self, calls: Sequence[Call]) -> Sample: ...


def summarise(samples: Sequence[float]) -> Timing:
    """Median and relative interquartile range; needs two samples or more."""
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(middle, (high - low) / middle if middle > 0 else math.nan, len(samples))


def repeat(sample: Sample, effort: Effort, clock: Callable[[], float] = time.perf_counter) -> Timing:
    """Samples until steady; at least ``effort.least`` of them, however long they take."""
    samples: list[float] = []
    end = clock() + effort.budget_s
    while True:
        samples.append(sample())
        if len(samples) < effort.least:
            continue
        found = summarise(samples)
        error = MEDIAN_PER_MEAN * found.spread / IQR_PER_SIGMA / math.sqrt(len(samples))
        if error <= effort.tolerance or len(samples) >= effort.most or clock() >= end:
            return found


def fastest(timer: Timer, candidates: dict[str, list[Call]]) -> tuple[str, Sample]:
    """The quickest of several programs for the same work, by three samples each; one that the device refuses is left out.

    Raises the last refusal (``RuntimeError``) when none runs.
    """
    best: tuple[float, str, Sample] | None = None
    refusal: RuntimeError | None = None
    for name, calls in candidates.items():
        try:
            sample = timer.sampler(calls)
            seconds = 0.0 if len(candidates) == 1 else min(sample() for _ in range(3))
        except RuntimeError as error:  # torch's word for a kernel that is absent for these sizes
            refusal = error
            continue
        if best is None or seconds < best[0]:
            best = (seconds, name, sample)
    if best is None:
        raise refusal or RuntimeError("no program for this kernel")
    return best[1], best[2]


class CpuTimer:
    """Wall time of calls on the CPU. ``lockstep``: a sample is once through the calls, as ranks that meet in them need."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter, *, lockstep: bool = False) -> None:
        self._clock, self._lockstep = clock, lockstep

    def sampler(self, calls: Sequence[Call]) -> Sample:
        """Warms up on the first inputs; goes through ``calls`` in turn, for ever."""
        turn = itertools.cycle(calls)
        for _ in range(WARM_UPS):
            next(turn)()
        start = self._clock()
        next(turn)()
        inner = max(1, math.ceil(CPU_SAMPLE_S / max(self._clock() - start, 1e-7)))
        if self._lockstep:
            inner = len(calls)

        def sample() -> float:
            batch = list(itertools.islice(turn, inner))
            start = self._clock()
            for call in batch:
                call()
            return (self._clock() - start) / inner

        return sample


class CudaTimer:
    """Events around a replayed graph of calls on the current CUDA device; ``torch`` is the module. ``lockstep`` as above."""

    def __init__(self, torch: Any, *, lockstep: bool = False) -> None:
        self._torch, self._lockstep = torch, lockstep

    def sampler(self, calls: Sequence[Call]) -> Sample:
        """Captures the calls in turn into one graph; where capture is refused, launches them between the events."""
        self._warm_up(calls)
        work, rounds = self._rounds_of(calls, 1), 1
        while not self._lockstep:  # again with as many as a sample takes, now that one round's time is known
            wanted = math.ceil(rounds * CUDA_SAMPLE_S / max(self._between_events(work), 1e-7))
            wanted = min(wanted, max(1, MOST_IN_GRAPH // len(calls)))
            if wanted < 2 * rounds:
                break
            work, rounds = self._rounds_of(calls, wanted), wanted
        self._between_events(work)
        inner = rounds * len(calls)
        return lambda: self._between_events(work) / inner

    def _rounds_of(self, calls: Sequence[Call], rounds: int) -> Call:
        """So many times through the calls, as one graph if the device can."""
        return self._capture(calls, rounds) or (lambda: [call() for _ in range(rounds) for call in calls])

    def _warm_up(self, calls: Sequence[Call]) -> None:
        """On a side stream, as capture asks for: libraries choose their programs and workspaces now."""
        cuda = self._torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for call in itertools.islice(itertools.cycle(calls), max(WARM_UPS, len(calls))):
                call()
        cuda.current_stream().wait_stream(side)
        cuda.synchronize()

    def _capture(self, calls: Sequence[Call], rounds: int) -> Call | None:
        graph = self._torch.cuda.CUDAGraph()
        try:
            with self._torch.cuda.graph(graph):
                for _ in range(rounds):
                    for call in calls:
                        call()
        except RuntimeError:
            self._torch.cuda.synchronize()
            return None
        replay: Call = graph.replay
        return replay

    def _between_events(self, work: Call) -> float:
        start, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3
