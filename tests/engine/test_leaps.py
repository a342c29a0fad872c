"""Leaps are a short cut, not another simulation: they give what steps one by one give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.cluster.simulation import Fleet, Simulated, simulate
from twin.cost.layout import HostCosts, Layout
from twin.cost.step import StepModel
from twin.engine.config import EngineConfig
from twin.engine.core import LOG_COLUMNS
from twin.results.metrics import gap_weights
from twin.spec.hardware import load_profile
from twin.spec.model import load_model
from twin.traffic.trace import Trace

TIMES = ("scheduled_s", "first_token_s", "finished_s")


class LinearCost:
    """A step price in plain sight, with a kink in the context sum so that leaps cross segments."""

    host = HostCosts()
    kink = 700

    def decode_segment(self, num_decodes: int, context: int) -> tuple[float, float, float]:
        if context < self.kink:
            return 0.010 + 1e-5 * context, 1e-5, float(self.kink)
        return 0.010 + 1e-5 * self.kink + 3e-5 * (context - self.kink), 3e-5, 1e18

    def step_s(self, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: int) -> float:
        decode = self.decode_segment(num_decodes, context)[0] if num_decodes else 0.005
        return decode + sum(1e-4 * tokens + 1e-8 * tokens * (before + tokens) for _, tokens, before in chunks)


class UnitCost(LinearCost):
    """Every step takes 10 ms."""

    def decode_segment(self, num_decodes: int, context: int) -> tuple[float, float, float]:
        return 0.01, 0.0, 1e18

    def step_s(self, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: int) -> float:
        return 0.01


@st.composite
def workloads(draw: st.DrawFn) -> tuple[Trace, EngineConfig]:
    block = draw(st.sampled_from([1, 4, 16]))
    count = draw(st.integers(1, 25))
    inputs = draw(st.lists(st.integers(1, 90), min_size=count, max_size=count))
    outputs = draw(st.lists(st.integers(1, 60), min_size=count, max_size=count))
    gaps = draw(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.1, 2.0]), min_size=count, max_size=count))
    longest = max(i + o for i, o in zip(inputs, outputs, strict=True))
    hashes = None
    if draw(st.booleans()):  # 16-token hash blocks; a shared stem of some length, then the request's own
        stems = draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
        hashes = [
            [*range(min(stem, n // 16)), *(1000 * (row + 1) + k for k in range(n // 16 - min(stem, n // 16)))]
            for row, (n, stem) in enumerate(zip(inputs, stems, strict=True))
        ]
    trace = Trace(np.cumsum(gaps), np.array(inputs), np.array(outputs), prefix_hashes=hashes, hash_block_tokens=16)
    seqs = draw(st.integers(1, 12))
    config = EngineConfig(
        num_gpu_blocks=-(-longest // block) + 1 + draw(st.integers(0, 40)),
        max_num_seqs=seqs,
        max_num_batched_tokens=max(seqs, draw(st.integers(1, 100))),
        max_model_len=200,
        block_size=block,
        enable_prefix_caching=draw(st.booleans()),
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 7, 30])),
        watermark=draw(st.sampled_from([0.0, 0.0, 0.1])),
        scheduler_reserve_full_isl=draw(st.booleans()),
        scheduling_policy=draw(st.sampled_from(["fcfs", "fcfs", "priority"])),
        async_scheduling=draw(st.booleans()),
    )
    return trace, config


def history(sim: Simulated) -> np.ndarray:
    return np.array([sim.table[name] for name in TIMES])


def time_mean(sim: Simulated, *columns: str) -> float:
    """Over the time with a step in flight; the mean of several columns."""
    log = dict(zip(LOG_COLUMNS, sim.logs[0].T, strict=True))
    return float(np.average(sum(log[name] for name in columns) / len(columns), weights=log["end_s"] - log["start_s"]))


@settings(max_examples=300, deadline=None)
@given(workloads())
def test_leaps_and_steps_agree(case: tuple[Trace, EngineConfig]) -> None:
    trace, config = case
    leap, step = (simulate(trace, Fleet(config, LinearCost(), leaps=leaps)) for leaps in (True, False))
    for count in ("preemptions", "cached_tokens"):
        assert (leap.table[count] == step.table[count]).all()
    assert leap.evictions == step.evictions
    np.testing.assert_allclose(history(leap), history(step), rtol=1e-9, atol=1e-12)
    assert leap.logs[0][:, 2].sum() == step.logs[0][:, 2].sum(), "the same number of engine steps"
    for column in ("num_running", "num_waiting", "blocked"):
        assert time_mean(leap, column) == pytest.approx(time_mean(step, column), rel=1e-9), column
    free = [time_mean(sim, "free_blocks", "first_free_blocks") for sim in (leap, step)]
    # Between the ends of a leap blocks go in bursts of at most one per request, and later steps last longer.
    assert abs(free[0] - free[1]) <= config.max_num_seqs + 0.1 * leap.usable_blocks
    least = [sim.logs[0][:, LOG_COLUMNS.index("free_blocks")].min() for sim in (leap, step)]
    assert least[0] == least[1]


@settings(max_examples=200, deadline=None)
@given(workloads())
def test_requests_tokens_and_blocks_are_conserved(case: tuple[Trace, EngineConfig]) -> None:
    trace, config = case
    sim = simulate(trace, Fleet(config, LinearCost()))
    assert (sim.table["input_tokens"] == trace.input_tokens).all()
    assert (sim.table["output_tokens"] == trace.output_tokens).all()
    arrival, scheduled, first, finished = (sim.table[name] for name in ("arrival_s", *TIMES))
    assert (arrival <= scheduled).all()
    assert (scheduled < first).all()
    assert (first <= finished).all()
    assert (trace.arrival_s == arrival).all()
    assert sim.logs[0][:, LOG_COLUMNS.index("free_blocks")].min() >= 0
    _, weights = gap_weights(sim.logs, sim.gaps)
    assert weights.sum() == pytest.approx((trace.output_tokens - 1).sum())
    assert len(sim.gaps) <= sim.num_preemptions == sim.table["preemptions"].sum()


@settings(max_examples=100, deadline=None)
@given(workloads(), st.floats(0.0, 1.0))
def test_nothing_is_known_before_it_happens(case: tuple[Trace, EngineConfig], share: float) -> None:
    trace, config = case
    cut = share * trace.duration_s
    early = int((trace.arrival_s <= cut).sum())
    part = Trace(
        trace.arrival_s[:early],
        trace.input_tokens[:early],
        trace.output_tokens[:early],
        prefix_hashes=trace.prefix_hashes[:early] if trace.prefix_hashes is not None else None,
        hash_block_tokens=16,
    )
    whole, first = (simulate(t, Fleet(config, LinearCost())) for t in (trace, part))
    until = trace.arrival_s[early] if early < len(trace) else np.inf
    for name in TIMES:
        a, b = whole.table[name][:early], first.table[name]
        past = np.minimum(a, b) <= until
        np.testing.assert_allclose(a[past], b[past], rtol=1e-9)


def test_an_arrival_waits_for_the_step_in_flight_and_under_async_for_one_more() -> None:
    """One request decodes alone in steps of 10 ms, another arrives 5 ms into one of them."""
    trace = Trace(np.array([0.0, 0.105]), np.array([10, 10]), np.array([50, 3]))
    config = EngineConfig(num_gpu_blocks=40, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=200)
    for overlapped, later in ((False, 0), (True, 1)):
        sim = simulate(trace, Fleet(replace(config, async_scheduling=overlapped), UnitCost()))
        assert sim.table["scheduled_s"][1] == pytest.approx(0.11)
        assert sim.table["first_token_s"][1] == pytest.approx(0.12 + 0.01 * later)
        assert sim.table["finished_s"] == pytest.approx([0.50, 0.14 + 0.01 * later])


def test_under_async_a_seat_is_free_one_step_later() -> None:
    trace = Trace(np.zeros(2), np.array([10, 10]), np.array([5, 3]))
    config = EngineConfig(num_gpu_blocks=40, max_num_seqs=1, max_num_batched_tokens=64, max_model_len=200)
    for overlapped, later in ((False, 0), (True, 1)):
        sim = simulate(trace, Fleet(replace(config, async_scheduling=overlapped), UnitCost()))
        assert sim.table["finished_s"][0] == pytest.approx(0.05)
        assert sim.table["scheduled_s"][1] == pytest.approx(0.05)
        assert sim.table["first_token_s"][1] == pytest.approx(0.06)
        assert len(sim.logs[0]) > later


def test_the_same_trace_gives_the_same_bytes() -> None:
    trace = Trace(np.arange(50) * 0.05, np.arange(50) * 3 + 1, np.arange(50) % 17 + 1)
    config = EngineConfig(num_gpu_blocks=40, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=200)
    logs = [simulate(trace, Fleet(config, LinearCost())).logs[0].tobytes() for _ in range(2)]
    assert logs[0] == logs[1]


def test_the_fitted_price_is_one_function() -> None:
    """A decode-only step costs the same whether leaps or steps ask for it, and more context never costs less."""
    cost = StepModel(load_model("Qwen/Qwen3-8B"), load_profile("a100_sxm"), Layout(), max_tokens=2048)
    for n in (1, 3, 17, 256):
        prices = []
        for context in (n, 7 * n, 1000 * n, 1001 * n, 40000 * n):
            first, slope, end = cost.decode_segment(n, context)
            assert first == pytest.approx(cost.step_s([], n, context), rel=1e-12)
            assert slope >= 0
            if context + 1 <= end:
                assert first + slope == pytest.approx(cost.step_s([], n, context + 1), rel=1e-12)
            prices.append(first)
        assert prices == sorted(prices)
