"""Latent attention: work counted by hand, heads per GPU, and the errors that the issue asks for."""

import numpy as np
import pytest

from twin.base import InputError
from twin.cost.latent import (
    DEEPSEEK_V3,
    LatentSizes,
    latent_decode_s,
    latent_decode_work,
    latent_in_range,
    latent_prefill_s,
    latent_prefill_work,
)
from twin.spec.hardware import HardwareProfile, load_profile


@pytest.fixture(scope="module")
def h200() -> HardwareProfile:
    return load_profile("h200_sxm")


def test_weights_are_those_of_the_published_block() -> None:
    heads = np.array(128.0)
    parts = 7168 * 1536 + 1536 * 128 * 192 + 7168 * 576 + 128 * 128 * 7168
    assert DEEPSEEK_V3.projections(heads) == parts
    assert DEEPSEEK_V3.expansion(heads) == 512 * 128 * 256
    lite = LatentSizes(2048, 0, 512, 128, 64, 128)
    assert lite.projections(np.array(16.0)) == 2048 * 16 * 192 + 2048 * 576 + 16 * 128 * 2048


def test_decode_reads_a_latent_once_for_all_heads_and_multiplies_it_twice_for_each() -> None:
    few, many = (latent_decode_work("bf16", "bf16", 1, context, 16) for context in (1000, 2000))
    assert many[1] - few[1] == 1000 * 576 * 2
    assert many[0] - few[0] == pytest.approx(1000 * 16 * 2 * (576 + 512))
    halved = latent_decode_work("fp8", "bf16", 1, 2000, 16)
    assert many[1] - halved[1] == 2000 * 576


def test_prefill_expands_what_is_cached_and_attends_head_by_head() -> None:
    alone = latent_prefill_work("bf16", "bf16", 1000, 0, 1000, 16)
    after = latent_prefill_work("bf16", "bf16", 1000, 0, 3000, 16)
    assert after[0] - alone[0] == pytest.approx(2 * 2000 * 512 * 16 * 256)
    pairs = latent_prefill_work("bf16", "bf16", 1000, 500_000, 1000, 16)
    assert pairs[0] - alone[0] == pytest.approx(2 * 500_000 * 16 * (192 + 128))


def test_precision_of_weights_and_cache_counts_where_it_should(h200: HardwareProfile) -> None:
    wide = latent_prefill_s(h200, "bf16", "bf16", 8192.0, 8192.0**2 / 2, 128)
    narrow = latent_prefill_s(h200, "bf16", "fp8_block", 8192.0, 8192.0**2 / 2, 128)
    assert 0.5 < narrow / wide < 1.0
    b200 = load_profile("b200_sxm")
    long = [float(latent_decode_s(b200, kv, "nvfp4", 128, 16384.0, 16)) for kv in ("bf16", "fp8")]
    assert 0.4 < long[1] / long[0] < 0.8


def test_heads_per_gpu_decide_so_kimi_k2_needs_nothing_of_its_own(h200: HardwareProfile) -> None:
    sharded = [float(latent_decode_s(h200, "fp8", "fp8_block", 64, 4096.0, heads)) for heads in (16, 64, 128)]
    assert sharded == sorted(sharded)
    assert latent_in_range(h200, "fp8", "fp8_block", 64, 4096.0, 64)
    assert not latent_in_range(h200, "fp8", "fp8_block", 64, 4096.0, 256)


def test_a_cached_context_is_never_less_than_the_chunk(h200: HardwareProfile) -> None:
    args = (h200, "bf16", "bf16", 4096.0, 4096.0 * 256)
    assert latent_prefill_s(*args, 16) == latent_prefill_s(*args, 16, 2000.0)
    assert latent_prefill_s(*args, 16, 50_000.0) > 1.2 * latent_prefill_s(*args, 16)


def test_absent_precisions_and_gpus_are_said(h200: HardwareProfile) -> None:
    with pytest.raises(InputError, match="no measured latent attention with nvfp4 weights over a bf16 KV cache"):
        latent_decode_s(h200, "bf16", "nvfp4", 1, 100.0, 16)
    with pytest.raises(InputError, match="a100_sxm has no measured latent attention"):
        latent_decode_s(load_profile("a100_sxm"), "bf16", "bf16", 1, 100.0, 16)


@pytest.mark.parametrize("name", ["h200_sxm", "b200_sxm", "h100_sxm"])
def test_held_out_errors_of_the_modules(name: str) -> None:
    fits = load_profile(name).kernels.latent
    assert {fit.phase for fit in fits} == {"decode", "prefill"}
    for fit in fits:
        assert fit.kernel.held_out.serving.mape <= 0.08, fit.label
