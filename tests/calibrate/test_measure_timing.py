"""Timers and the rule for when a median is steady, on clocks and devices that are made up."""

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from calibrate.measure.log import Point
from calibrate.measure.power import mean_power_w, power_points
from calibrate.measure.timing import MOST_IN_GRAPH, CpuTimer, CudaTimer, Effort, fastest, repeat, summarise


class Clock:
    """Time that only work moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.now += seconds

        return call


def test_median_and_spread() -> None:
    found = summarise([4.0, 1.0, 2.0, 3.0, 100.0])
    assert (found.seconds, found.repeats) == (3.0, 5)
    assert found.spread == pytest.approx((4.0 - 2.0) / 3.0)


def test_steady_samples_stop_early_and_noisy_ones_go_on() -> None:
    clock, noise = Clock(), random.Random(0)
    assert repeat(lambda: 1.0, Effort(1e9), clock).repeats == Effort(1).least
    noisy = repeat(lambda: noise.gauss(1.0, 0.02), Effort(1e9), clock)
    assert Effort(1).least < noisy.repeats < Effort(1).most
    assert noisy.seconds == pytest.approx(1.0, abs=4 * Effort(1).tolerance)
    assert repeat(lambda: noise.gauss(1.0, 0.3), Effort(1e9), clock).repeats == Effort(1).most


def test_the_budget_ends_a_noisy_point_but_not_before_the_least_samples() -> None:
    clock, noise = Clock(), random.Random(0)

    def sample() -> float:
        clock.now += 1.0
        return noise.uniform(1.0, 2.0)

    assert repeat(sample, Effort(3.0), clock).repeats == Effort(1).least
    assert repeat(sample, Effort(20.0), clock).repeats == 20


def test_cpu_calls_are_timed_in_batches_when_short_and_their_inputs_rotate() -> None:
    clock, seen = Clock(), list[int]()

    def call(number: int) -> Callable[[], None]:
        def work() -> None:
            seen.append(number)
            clock.now += 10e-6

        return work

    sample = CpuTimer(clock).sampler([call(i) for i in range(3)])
    assert sample() == pytest.approx(10e-6)
    assert len(seen) > 20
    assert all(b == (a + 1) % 3 for a, b in itertools.pairwise(seen))


def test_a_long_cpu_call_is_a_sample_of_its_own_and_lockstep_goes_once_through() -> None:
    clock, count = Clock(), [0]

    def call() -> None:
        count[0] += 1
        clock.now += 0.1

    sample = CpuTimer(clock).sampler([call])
    count[0] = 0
    assert sample() == pytest.approx(0.1)
    assert count[0] == 1
    lockstep = CpuTimer(clock, lockstep=True).sampler([call] * 5)
    count[0] = 0
    assert lockstep() == pytest.approx(0.1)
    assert count[0] == 5


def test_the_fastest_program_is_taken_and_a_refused_one_left_out() -> None:
    clock = Clock()

    def refuse() -> None:
        raise RuntimeError("No available kernel")

    programs = {"absent": [refuse], "slow": [clock.work(2.0)], "quick": [clock.work(1.0)]}
    name, sample = fastest(CpuTimer(clock), programs)
    assert (name, sample()) == ("quick", 1.0)
    with pytest.raises(RuntimeError, match="No available kernel"):
        fastest(CpuTimer(clock), {"absent": [refuse]})


class FakeCuda:
    """A device with a clock of its own: launches cost the host, kernels the device; a captured kernel runs at replay."""

    LAUNCH_S = 20e-6

    def __init__(self, kernel_s: float, *, can_capture: bool = True) -> None:
        self.kernel_s, self.can_capture = kernel_s, can_capture
        self.time_s, self.launched, self.captured, self.capturing = 0.0, 0, 0, False
        self.replays = 0
        device = self

        class Event:
            def __init__(self, *, enable_timing: bool) -> None:
                assert enable_timing
                self.at_s = -1.0

            def record(self) -> None:
                self.at_s = device.time_s

            def synchronize(self) -> None:
                assert self.at_s >= 0

            def elapsed_time(self, end: Any) -> float:
                return float(end.at_s - self.at_s) * 1e3

        class CUDAGraph:
            def replay(self) -> None:
                device.replays += 1
                device.time_s += device.LAUNCH_S + device.captured * device.kernel_s

        @contextmanager
        def graph(_graph: object) -> Iterator[None]:
            device.capturing, device.captured = True, 0
            try:
                yield
            finally:
                device.capturing = False

        stream = SimpleNamespace(wait_stream=lambda _: None)
        self.cuda = SimpleNamespace(
            Event=Event,
            CUDAGraph=CUDAGraph,
            graph=graph,
            Stream=lambda: stream,
            current_stream=lambda: stream,
            stream=lambda _: contextmanager(lambda: iter([None]))(),
            synchronize=lambda: None,
        )

    def launch(self) -> None:
        if not self.capturing:
            self.launched += 1
            self.time_s += self.LAUNCH_S + self.kernel_s
        elif self.can_capture:
            self.captured += 1
        else:
            raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize("kernel_s", [3e-6, 50e-6, 20e-3])
def test_a_graph_hides_the_gaps_of_launching(kernel_s: float) -> None:
    device = FakeCuda(kernel_s)
    sample = CudaTimer(device).sampler([device.launch] * 4)
    before = device.launched
    assert sample() == pytest.approx(kernel_s, rel=0.02)
    assert device.launched == before, "nothing is launched outside the graph once it is captured"
    assert device.captured <= MOST_IN_GRAPH
    assert device.captured % 4 == 0


def test_many_buffers_are_all_used_in_each_graph() -> None:
    device, used = FakeCuda(1e-3), list[int]()

    def call(number: int) -> Callable[[], None]:
        def work() -> None:
            device.launch()
            if device.capturing:
                used.append(number)

        return work

    CudaTimer(device).sampler([call(i) for i in range(200)])
    assert used == list(range(200))


def test_what_cannot_be_captured_is_timed_launch_by_launch() -> None:
    device = FakeCuda(5e-6, can_capture=False)
    sample = CudaTimer(device).sampler([device.launch] * 2)
    assert sample() == pytest.approx(25e-6)
    assert device.replays == 0


def test_ranks_in_lockstep_capture_the_calls_once() -> None:
    device = FakeCuda(5e-6)
    CudaTimer(device, lockstep=True).sampler([device.launch] * 20)
    assert device.captured == 20


def test_power_is_energy_over_time() -> None:
    clock = Clock()

    class Board:
        def energy_j(self) -> float | None:
            return 1e6 + 650.0 * clock.now

    assert mean_power_w(Board(), lambda: clock.work(0.01)() or 0.01, clock) == pytest.approx(650.0)  # type: ignore[arg-type]

    class Silent:
        def energy_j(self) -> None:
            return None

    assert mean_power_w(Silent(), lambda: clock.work(0.3)() or 0.3, clock) is None  # type: ignore[arg-type]


def test_power_points_are_few_and_of_every_family() -> None:
    points: list[Point] = [{"family": "gemm"}] * 995 + [{"family": "decode"}] * 7
    chosen = power_points(points)
    assert sum(i < 995 for i in chosen) == 10
    assert sum(i >= 995 for i in chosen) == 7
