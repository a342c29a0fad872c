"""Ranks that share experts step together: a step lasts as long as its slowest rank, and leaps change nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.cluster.data_parallel import SYNC_STEPS
from twin.cluster.simulation import Fleet, Simulated, simulate
from twin.cost.layout import HostCosts
from twin.engine.config import EngineConfig
from twin.traffic.trace import Trace


class Ranks:
    """A rank's own part grows with its tokens and, past a kink, faster with its context; the experts' with all tokens."""

    host = HostCosts()
    ranks = 3
    kink = 300

    def __init__(self, shared_token_s: float = 1e-4, context_s: float = 1e-5) -> None:
        self.shared_token_s, self.context_s = shared_token_s, context_s

    def shared_s(self, tokens: int) -> float:
        return 2e-3 + self.shared_token_s * tokens

    def decode_segment(self, num_decodes: int, context: int) -> tuple[float, float, float]:
        slope, limit = (self.context_s, float(self.kink)) if context < self.kink else (3 * self.context_s, 1e18)
        past = max(context - self.kink, 0)
        own = 5e-3 + 1e-4 * num_decodes + self.context_s * (context + 2 * past)
        return own + self.shared_s(self.ranks * num_decodes), slope, limit

    def step_s(self, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: int) -> float:
        tokens = num_decodes + sum(chunk[1] for chunk in chunks)
        own = self.decode_segment(num_decodes, context)[0] - self.shared_s(self.ranks * num_decodes)
        return own + 2e-4 * sum(chunk[1] for chunk in chunks) + self.shared_s(self.ranks * tokens)


CONFIG = EngineConfig(num_gpu_blocks=400, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=400)


def run(trace: Trace, cost: Ranks | None = None, config: EngineConfig = CONFIG, **fleet: object) -> Simulated:
    shape = {"data_parallel_size": 3, "lockstep": True} | fleet
    return simulate(trace, Fleet(config, cost or Ranks(), **shape))  # type: ignore[arg-type]


def test_all_ranks_step_as_slowly_as_the_slowest() -> None:
    """Three requests, one per rank; one of them has a long context. Its decodes hold up the others."""
    trace = Trace(np.zeros(3), np.array([10, 10, 300]), np.array([20, 20, 20]))
    together = run(trace, leaps=False, config=EngineConfig(400, max_num_batched_tokens=512, max_model_len=400))
    apart = run(trace, lockstep=False, config=EngineConfig(400, max_num_batched_tokens=512, max_model_len=400))
    assert sorted(together.table["replica"]) == [0, 1, 2]
    finished = together.table["finished_s"]
    assert finished[0] == finished[1] == finished[2], "equal outputs end with the same step"
    assert apart.table["finished_s"][0] < 0.9 * finished[0]
    cost = Ranks()
    first, second = together.logs[0][:2]
    prompt = cost.step_s([(None, 300, 0)], 0, 0) - cost.shared_s(900) + cost.shared_s(320)
    assert first[1] == pytest.approx(prompt), "the long prompt alone, experts at the tokens of all ranks"
    decode = cost.decode_segment(1, 301)[0] - cost.shared_s(3) + cost.shared_s(3)
    assert second[1] - second[0] == pytest.approx(decode)


def test_a_rank_without_work_still_sends_a_token_through_the_experts() -> None:
    cost = Ranks(shared_token_s=1e-2)
    sim = run(Trace(np.zeros(1), np.array([10]), np.array([2])), cost)
    assert sim.table["finished_s"][0] - sim.table["first_token_s"][0] == pytest.approx(cost.step_s((), 1, 11))
    assert [len(log) > 0 for log in sim.logs] == [True, False, False]


@pytest.mark.parametrize("steps", [4, SYNC_STEPS, 1])
def test_after_the_last_request_ranks_step_on_until_they_agree(steps: int) -> None:
    """An arrival in that time waits for the dummy step in flight; they agree after step 1 and every 16."""
    cost = Ranks(context_s=0.0)
    dummy = cost.step_s((), 1, 1)
    alone = run(Trace(np.zeros(1), np.array([10]), np.array([steps])), cost).table["finished_s"][0]
    arrival = alone + 2.4 * dummy
    sim = run(Trace(np.array([0.0, arrival]), np.array([10, 10]), np.array([steps, 5])), cost)
    expected = alone + 3 * dummy if steps % SYNC_STEPS > 1 else arrival
    assert sim.table["scheduled_s"][1] == pytest.approx(expected)
    late = alone + 40 * dummy
    sim = run(Trace(np.array([0.0, late]), np.array([10, 10]), np.array([steps, 5])), cost)
    assert sim.table["scheduled_s"][1] == pytest.approx(late)


def test_dense_ranks_are_replicas_behind_vllms_balancing() -> None:
    rng = np.random.default_rng(4)
    trace = Trace(np.cumsum(rng.exponential(0.01, 200)), rng.integers(1, 60, 200), rng.integers(1, 60, 200))
    ranks = run(trace, lockstep=False)
    replicas = run(trace, data_parallel_size=1, replicas=3, routing="internal_lb", lockstep=False)
    assert ranks.table.values.tolist() == replicas.table.values.tolist()


def test_replicas_of_ranks_share_requests_first_among_them_then_among_ranks() -> None:
    trace = Trace(np.zeros(12), np.full(12, 10), np.full(12, 5))
    sim = run(trace, replicas=2)
    assert np.bincount(sim.table["replica"].astype(int)).tolist() == [2] * 6
    assert (sim.table["replica"][::2] < 3).all(), "in turn, three ranks each"


@st.composite
def workloads(draw: st.DrawFn) -> tuple[Trace, EngineConfig]:
    count = draw(st.integers(1, 30))
    inputs = draw(st.lists(st.integers(1, 90), min_size=count, max_size=count))
    outputs = draw(st.lists(st.integers(1, 80), min_size=count, max_size=count))
    # Odd, so that none arrives at the very end of a step, where the last bit of its time decides.
    gaps = draw(
        st.lists(st.sampled_from([0.0, 0.00101303, 0.0102931, 0.103317, 2.01773]), min_size=count, max_size=count)
    )
    longest = max(i + o for i, o in zip(inputs, outputs, strict=True))
    config = EngineConfig(
        num_gpu_blocks=-(-longest // 16) + 1 + draw(st.integers(0, 20)),
        max_num_seqs=draw(st.integers(1, 8)),
        max_num_batched_tokens=draw(st.integers(8, 100)),
        max_model_len=200,
        async_scheduling=draw(st.booleans()),
    )
    return Trace(np.cumsum(gaps), np.array(inputs), np.array(outputs)), config


@settings(max_examples=300, deadline=None)
@given(workloads(), st.sampled_from([1, 2]))
def test_leaps_and_steps_agree(case: tuple[Trace, EngineConfig], replicas: int) -> None:
    trace, config = case
    leap, step = (run(trace, config=config, replicas=replicas, leaps=leaps) for leaps in (True, False))
    assert leap.table["replica"].tolist() == step.table["replica"].tolist()
    for name in ("scheduled_s", "first_token_s", "finished_s"):
        np.testing.assert_allclose(leap.table[name], step.table[name], rtol=1e-9, atol=1e-12)
    assert (leap.table["preemptions"] == step.table["preemptions"]).all()
    assert (leap.table["output_tokens"] == trace.output_tokens).all()
    for fast, slow in zip(leap.logs, step.logs, strict=True):
        assert fast[:, 2].sum() == slow[:, 2].sum(), "the same number of engine steps"
