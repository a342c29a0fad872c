"""Models with several KV groups: leaps change nothing, blocks are conserved, and a window bounds what a request holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_leaps import LinearCost, history, time_mean, workloads

from twin.base import InputError
from twin.cluster.simulation import Fleet, simulate
from twin.engine.config import EngineConfig
from twin.engine.core import LOG_COLUMNS, EngineCore
from twin.engine.kv_groups import GroupedKVCacheManager
from twin.engine.request import Request
from twin.spec.kv_groups import KvGroup
from twin.traffic.trace import Trace


@st.composite
def grouped_workloads(draw: st.DrawFn) -> tuple[Trace, EngineConfig]:
    trace, config = draw(workloads())
    size = config.block_size
    windows = st.builds(lambda window: KvGroup("sliding_window", window), st.integers(2, 60))
    chunks = st.builds(lambda blocks: KvGroup("chunked_local", blocks * size), st.integers(1, 6))
    other = draw(st.one_of(windows, chunks, st.just(KvGroup("mamba"))))
    groups = (replace(other, count=draw(st.integers(1, 3))), KvGroup(count=draw(st.integers(1, 2))))
    most = sum(group.count for group in groups) * (-(-150 // size) + 3)
    return trace, replace(config, kv_groups=groups, num_gpu_blocks=most + draw(st.integers(0, 40)))


@settings(max_examples=200, deadline=None)
@given(grouped_workloads())
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
    free = LOG_COLUMNS.index("free_blocks")
    assert leap.logs[0][:, free].min() >= 0
    assert leap.logs[0][-1, free] == step.logs[0][-1, free]


@pytest.mark.parametrize("overlapped", [False, True])
def test_a_window_bounds_what_a_long_sequence_holds(overlapped: bool) -> None:
    """Window 64 in blocks of 16: at most 5 blocks while it decodes, one more while a step in flight may read it."""
    config = EngineConfig(
        num_gpu_blocks=200,
        max_num_batched_tokens=32,
        max_model_len=2000,
        async_scheduling=overlapped,
        kv_groups=(KvGroup("sliding_window", 64),),
    )
    sim = simulate(Trace(np.zeros(1), np.array([500]), np.array([1000])), Fleet(config, LinearCost(), leaps=False))
    held = 199 - sim.logs[0][:, LOG_COLUMNS.index("free_blocks")]
    decoding = sim.logs[0][:, LOG_COLUMNS.index("num_decodes")] > 0
    assert 4 <= held[decoding][3:].min() <= held[decoding][3:].max() <= 5
    assert held.max() <= 64 // 16 + 1 + 32 // 16 * (1 + overlapped)


def test_a_state_is_one_block_without_prefix_caching() -> None:
    config = EngineConfig(num_gpu_blocks=100, enable_prefix_caching=False, kv_groups=(KvGroup("mamba", count=3),))
    sim = simulate(Trace(np.zeros(2), np.array([500, 30]), np.array([100, 100])), Fleet(config, LinearCost()))
    assert sim.logs[0][:, LOG_COLUMNS.index("free_blocks")].min() == 99 - 2 * 3


def test_admission_reckons_with_the_window_and_what_is_in_flight() -> None:
    config = EngineConfig(
        num_gpu_blocks=1000,
        max_num_batched_tokens=256,
        max_model_len=10_000,
        kv_groups=(KvGroup("sliding_window", 128), KvGroup(count=2)),
    )
    window = -(-(128 - 1 + 256) // 16) + 1
    assert GroupedKVCacheManager(config).blocks_for(4000) == window + 2 * 250


def test_what_cannot_be_followed_is_refused() -> None:
    with pytest.raises(InputError, match="chunked local attention"):
        EngineCore(EngineConfig(num_gpu_blocks=10, kv_groups=(KvGroup("chunked_local", 16),)), LinearCost())
    with pytest.raises(InputError, match=r"vLLM 0\.19"):
        EngineCore(EngineConfig(num_gpu_blocks=10, kv_groups=(KvGroup("mamba"),), vllm_version="0.19"), LinearCost())
    with pytest.raises(InputError, match="needs a window"):
        KvGroup("sliding_window")
    core = EngineCore(EngineConfig(num_gpu_blocks=10, kv_groups=(KvGroup(count=2),)), LinearCost())
    with pytest.raises(InputError, match="10 KV blocks"):
        core.scheduler.add_request(Request(0, 0.0, 70, 10))
