"""What a step costs beyond its kernels: power, skew of the ranks, and which kernels an engine runs."""

from dataclasses import replace

import numpy as np
import pytest

from twin.cost.collectives import all_reduce_s, fused_reduce_s
from twin.cost.layout import HostCosts, Layout
from twin.cost.operators import elementwise_s, gemm_s
from twin.cost.step import RESTING_POWER, StepModel
from twin.spec.hardware import load_profile
from twin.spec.model import load_model

MODEL = load_model("meta-llama/Llama-3.1-70B")
HOST = HostCosts(compute_stretch=1.4)
COLD = replace(HOST, compute_stretch=1.0)


def step(host: HostCosts, ranks: int = 1, gpu: str = "h200_sxm", **layout: object) -> StepModel:
    return StepModel(MODEL, load_profile(gpu), Layout(ranks, "fp8", "fp8", **layout), max_tokens=8192, host=host)  # type: ignore[arg-type]


def test_power_slows_a_step_that_computes_all_the_time_by_nearly_the_stretch() -> None:
    chunk = [(None, 8192, 0)]
    slow, fast = step(HOST).step_s(chunk, 0, 0), step(COLD).step_s(chunk, 0, 0)
    assert 1.15 < slow / fast < 1.4


def test_waiting_for_links_and_memory_gives_power_back() -> None:
    chunk = [(None, 2048, 0)]
    by_ranks = [step(HOST, n).step_s(chunk, 0, 0) / step(COLD, n).step_s(chunk, 0, 0) for n in (1, 2, 4, 8)]
    assert by_ranks == sorted(by_ranks, reverse=True)
    alone = step(HOST).throttle_s(2048, 0.01, 0.2)
    beside_decodes = step(HOST).throttle_s(2048, 0.01, 0.22)
    assert beside_decodes == pytest.approx(max(alone - (1 - RESTING_POWER) * 0.02, 0.0))


def test_decodes_alone_and_a_device_below_its_limit_are_not_slowed() -> None:
    assert step(HOST).step_s([], 64, 64 * 1000) == step(COLD).step_s([], 64, 64 * 1000)
    assert step(COLD).throttle_s(8192, 0.1, 1.0) == 0.0


def test_every_doubling_of_the_ranks_adds_its_skew_to_both_reductions_of_a_layer() -> None:
    skewed = replace(COLD, reduce_skew_s=2e-6)
    for ranks, doublings in ((1, 0), (2, 1), (8, 3)):
        more = step(skewed, ranks).linear_s[16] - step(COLD, ranks).linear_s[16]
        assert more == pytest.approx(MODEL.num_hidden_layers * 2 * doublings * 2e-6)


def test_a_fused_all_reduce_takes_the_place_of_the_all_reduce_and_the_norm() -> None:
    profile, tokens = load_profile("b200_sxm"), 32
    message = np.array(2.0 * tokens * MODEL.hidden_size)
    apart = all_reduce_s(profile, 8, message) + elementwise_s(profile, message * 4)
    saved = 2 * MODEL.num_hidden_layers * float(apart - fused_reduce_s(profile, 8, message))
    unfused = step(COLD, 8, "b200_sxm", fuse_allreduce_rms=False)
    assert unfused.linear_s[tokens] - step(COLD, 8, "b200_sxm").linear_s[tokens] == pytest.approx(saved)
    large = 4096
    assert unfused.linear_s[large] == step(COLD, 8, "b200_sxm").linear_s[large]


def test_in_an_engine_a_last_tile_that_is_not_full_costs_nothing_beyond_256_rows() -> None:
    profile = load_profile("h200_sxm")
    alone, engine = (gemm_s(profile, "fp8", 922, 8192, 8192, in_engine=on) for on in (False, True))
    assert engine < 0.9 * alone
    assert gemm_s(profile, "fp8", 200, 8192, 8192, in_engine=True) == gemm_s(profile, "fp8", 200, 8192, 8192)
