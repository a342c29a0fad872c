"""Routed experts: what a step puts on them, and what that costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.base import InputError
from twin.cost.moe import TILE_ROWS, expert_kernel, expert_loads, moe_in_range, moe_s, moe_work
from twin.cost.operators import ACTIVATION_BYTES, WEIGHT_BYTES
from twin.spec.hardware import load_profile
from twin.spec.layers import Experts
from twin.spec.precision import precision_table

MINIMAX = Experts(num_experts=256, experts_per_token=8, intermediate_size=1536)
GPT_OSS = Experts(num_experts=128, experts_per_token=4, intermediate_size=2880)
TOKENS = np.array([1.0, 8.0, 64.0, 512.0, 4096.0])


@given(
    tokens=st.integers(1, 20000),
    experts=st.sampled_from([8, 64, 128, 256]),
    per_token=st.sampled_from([1, 2, 8]),
    ep=st.sampled_from([1, 2, 8]),
    imbalance=st.floats(0.0, 2.0),
)
def test_loads_stay_within_what_is_there(tokens: int, experts: int, per_token: int, ep: int, imbalance: float) -> None:
    loads = expert_loads(tokens, experts, per_token, ep, imbalance)
    assert 1.0 <= loads.hits <= experts / ep + 1e-9
    assert loads.hits <= loads.rows + 1e-9 <= tokens * per_token + 2e-9
    assert loads.rows <= loads.tiled <= loads.rows + loads.hits * (TILE_ROWS - 1) + 1e-6
    assert loads.skew >= 1.0
    assert loads.total == tokens * per_token


def test_even_routing_hits_as_many_experts_as_draws_say() -> None:
    rng = np.random.default_rng(0)
    drawn = np.mean([len(np.unique(np.concatenate([rng.permutation(256)[:8] for _ in range(32)]))) for _ in range(50)])
    assert float(expert_loads(32, 256, 8, imbalance=0.0).hits) == pytest.approx(drawn, rel=0.02)


def test_the_busiest_gpu_has_what_draws_say() -> None:
    rng, ep, tokens = np.random.default_rng(0), 8, 64
    most = []
    for _ in range(200):
        chosen = np.concatenate([rng.permutation(256)[:8] for _ in range(tokens)])
        most.append(np.bincount(chosen // (256 // ep), minlength=ep).max())
    assert float(expert_loads(tokens, 256, 8, ep, imbalance=0.0).rows) == pytest.approx(np.mean(most), rel=0.03)


def test_an_unpopular_router_reads_fewer_weights_and_waits_for_a_busier_gpu() -> None:
    even, skewed = (expert_loads(64, 256, 8, 8, imbalance) for imbalance in (0.0, 1.0))
    assert expert_loads(64, 256, 8, 1, 1.0).hits < expert_loads(64, 256, 8, 1, 0.0).hits
    assert skewed.rows > even.rows
    assert skewed.skew > even.skew


def test_work_of_one_token_is_that_of_its_experts() -> None:
    loads = expert_loads(1, 128, 4, imbalance=0.0)
    flops, moved = moe_work("bf16", loads, 2880, 1440)
    assert float(moved) == pytest.approx(4 * 3 * 2880 * 1440 * 2, rel=0.01)  # the weights, read once
    assert float(flops) == pytest.approx(4 * TILE_ROWS * 2 * 3 * 2880 * 1440, rel=0.01)
    ungated = moe_work("bf16", loads, 2880, 1440, matrices=2)
    assert float(ungated[0] / flops) == pytest.approx(2 / 3)


def test_bytes_of_weights_are_those_of_the_precision_table() -> None:
    for name, stored in precision_table().precisions.items():
        assert WEIGHT_BYTES[name] == pytest.approx(stored.bytes_each), name
        block_scale = 1 / 16 if name == "nvfp4" else 0.0
        assert ACTIVATION_BYTES[name] == pytest.approx(stored.activation_bits / 8 + block_scale), name


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_gpt_oss_reads_its_experts_at_a_share_of_the_bandwidth(tp: int) -> None:
    """Physics bounds it: 64 tokens cannot take less than the weights of the experts they hit."""
    profile = load_profile("h100_sxm")
    seconds, compute = moe_s(profile, "mxfp4", TOKENS, GPT_OSS, 2880, tp=tp, vllm_version="0.19")
    loads = expert_loads(TOKENS, 128, 4)
    least = loads.hits * 3 * 2880 * 2880 / tp * WEIGHT_BYTES["mxfp4"] / profile.facts.mem_bw_bytes_per_s.value
    assert (seconds > least).all()
    assert seconds[2] < 4 * least[2] + 60e-6
    assert (np.diff(seconds) > 0).all()
    assert ((compute > 0) & (compute < seconds)).all()


def test_what_vllm_picks_goes_by_release_and_by_spread() -> None:
    h100 = load_profile("h100_sxm")
    assert expert_kernel(h100, "mxfp4", vllm_version="0.19").backend == "marlin"
    assert expert_kernel(h100, "mxfp4").backend == "oai_triton"
    assert expert_kernel(h100, "mxfp4", backend="marlin").backend == "marlin"
    assert expert_kernel(h100, "fp8_block").backend == "triton"
    assert expert_kernel(h100, "fp8_block", ep=8).backend == "flashinfer_cutlass"


def test_a_precision_without_a_kernel_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"h100_sxm has no measured kernel for nvfp4 experts.*mxfp4 \(oai_triton\)"):
        moe_s(load_profile("h100_sxm"), "nvfp4", 1, GPT_OSS, 2880, tp=1)


def test_the_range_is_that_of_the_measurements() -> None:
    profile = load_profile("h200_sxm")
    assert moe_in_range(profile, "fp8_block", TOKENS, MINIMAX, 3072, tp=4).all()
    tiny = Experts(num_experts=256, experts_per_token=8, intermediate_size=16)
    assert not moe_in_range(profile, "fp8_block", TOKENS, tiny, 3072, tp=4).any()


def test_held_out_model_shapes_are_within_a_tenth() -> None:
    """The figure that issue 6 asks for, of every kernel on H200 as on B200."""
    for name in ("h200_sxm", "b200_sxm"):
        for fit in load_profile(name).kernels.experts:
            limit = 0.10 if fit.vllm_version is None else 0.11  # vLLM 0.19's Triton kernels on B200
            assert fit.kernel.held_out.serving.mape <= limit, (name, fit.label)
