"""Pipeline stages in time: what a textbook pipeline does, and that no token is lost on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.cluster.simulation import Fleet, Simulated, simulate
from twin.cost.layout import HostCosts
from twin.engine.config import EngineConfig
from twin.results.metrics import summarize
from twin.traffic.trace import Trace

CONFIG = EngineConfig(
    num_gpu_blocks=4000, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=400, enable_prefix_caching=False
)


class Stages:
    """Every step takes these seconds in each stage."""

    host = HostCosts()

    def __init__(self, *seconds: float) -> None:
        self.seconds = seconds

    def decode_segment(self, num_decodes: int, context: int) -> tuple[float, float, float]:
        return sum(self.seconds), 0.0, 1e18

    def step_s(self, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: int) -> float:
        return sum(self.seconds)

    def stages_s(self, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: int) -> Sequence[float]:
        return self.seconds


class WorkStages(Stages):
    """What a stage takes grows with what it computes; the stages differ."""

    def stages_s(self, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: int) -> Sequence[float]:
        work = 1e-3 + 1e-4 * (num_decodes + sum(tokens for _, tokens, _ in chunks)) + 1e-6 * context
        return [second * work for second in self.seconds]


def run(trace: Trace, cost: Stages, **changes: object) -> Simulated:
    stages = {"pipeline_parallel_size": len(cost.seconds)} | changes
    return simulate(trace, Fleet(replace(CONFIG, **stages), cost))  # type: ignore[arg-type]


def at_once(count: int, output: int = 40) -> Trace:
    return Trace(np.zeros(count), np.full(count, 8), np.full(count, output))


@pytest.mark.parametrize("overlapped", [False, True])
@pytest.mark.parametrize("stages", [(0.01, 0.01), (0.01, 0.03), (0.01, 0.01, 0.02, 0.01)])
def test_one_request_waits_for_every_stage_at_every_token(stages: tuple[float, ...], overlapped: bool) -> None:
    """Nothing fills the bubbles: each token takes the sum of the stages."""
    sim = run(at_once(1), Stages(*stages), async_scheduling=overlapped)
    assert sim.table["first_token_s"][0] == pytest.approx(sum(stages))
    assert sim.table["finished_s"][0] == pytest.approx(40 * sum(stages))
    assert sim.gaps == pytest.approx(np.full(39, sum(stages)))


@pytest.mark.parametrize("overlapped", [False, True])
def test_two_full_stages_double_the_throughput_at_the_same_latency(overlapped: bool) -> None:
    """A step takes 20 ms on one engine, 10 + 10 ms on two stages: with twice the seats two batches run at a time.

    A step's token budget admits eight prompts, so sixteen requests make two batches of eight.
    """
    one = run(at_once(8, 200), Stages(0.02), pipeline_parallel_size=1, async_scheduling=overlapped)
    two = run(at_once(16, 200), Stages(0.01, 0.01), max_num_seqs=16, async_scheduling=overlapped)
    rates = [float(str(summarize(sim)["output_throughput"])) for sim in (one, two)]
    assert rates[1] / rates[0] == pytest.approx(2.0, rel=0.02)
    assert two.table.tpot_s.mean() == pytest.approx(one.table.tpot_s.mean(), rel=0.02)
    assert summarize(two)["p99_itl_ms"] == pytest.approx(20.0, rel=0.02)


def test_the_slowest_stage_sets_the_pace() -> None:
    sim = run(at_once(16, 200), Stages(0.01, 0.03), max_num_seqs=16, async_scheduling=True)
    assert sim.table.tpot_s.mean() == pytest.approx(2 * 0.03, rel=0.02)  # of two batches, each sees every other output


def test_an_arrival_waits_for_the_output_of_the_oldest_step_on_its_way() -> None:
    """The queue is full while a step is awaited: what arrives is scheduled when that output is there."""
    trace = Trace(np.array([0.0, 0.105]), np.array([8, 8]), np.array([50, 3]))
    sim = run(trace, Stages(0.01, 0.01))
    assert sim.table["scheduled_s"][1] == pytest.approx(0.12)
    assert sim.table["first_token_s"][1] == pytest.approx(0.14), "in one step with the decode"


@st.composite
def workloads(draw: st.DrawFn) -> tuple[Trace, dict[str, object]]:
    count = draw(st.integers(1, 20))
    inputs = draw(st.lists(st.integers(1, 90), min_size=count, max_size=count))
    outputs = draw(st.lists(st.integers(1, 40), min_size=count, max_size=count))
    gaps = draw(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.5]), min_size=count, max_size=count))
    longest = max(i + o for i, o in zip(inputs, outputs, strict=True))
    config = {
        "num_gpu_blocks": -(-longest // 16) + 1 + draw(st.integers(0, 20)),
        "max_num_seqs": draw(st.integers(1, 12)),
        "async_scheduling": draw(st.booleans()),
    }
    return Trace(np.cumsum(gaps), np.array(inputs), np.array(outputs)), config


@settings(max_examples=150, deadline=None)
@given(workloads(), st.sampled_from([(1.0, 1.0), (0.3, 1.0), (1.0, 0.4, 0.7, 1.2)]))
def test_tokens_and_time_are_conserved(case: tuple[Trace, dict[str, object]], stages: tuple[float, ...]) -> None:
    trace, config = case
    cost = WorkStages(*stages)
    sim = run(trace, cost, **config)
    table = sim.table
    assert (table["output_tokens"] == trace.output_tokens).all()
    assert len(sim.gaps) == (trace.output_tokens - 1).sum()
    assert sim.gaps.sum() == pytest.approx((table["finished_s"] - table["first_token_s"]).sum())
    least = sum(cost.stages_s([], 1, 0))
    assert (table["first_token_s"] - table["scheduled_s"] >= least - 1e-12).all()
    assert (sim.gaps >= least - 1e-12).all(), "no token is there before the one before it has passed all stages"
    log = sim.logs[0]
    assert (log[1:, 0] >= log[:-1, 1] - 1e-12).all(), "outputs come in order"
