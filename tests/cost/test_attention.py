"""Attention of any head size and window: exact pairs, nothing new for dense layers, and what a window saves."""

from itertools import product

import numpy as np
import pytest

from twin.base import InputError
from twin.cost import operators as ops
from twin.cost.attention import (
    attention_measured,
    window_context,
    window_pairs,
    windowed_decode_s,
    windowed_prefill_s,
)
from twin.spec.hardware import HardwareProfile, load_profile

CONTEXTS = np.array([1.0, 64.0, 128.0, 129.0, 1000.0, 8192.0, 100_000.0])


@pytest.fixture(scope="module")
def h200() -> HardwareProfile:
    return load_profile("h200_sxm")


@pytest.mark.parametrize(("chunk", "context", "window"), list(product([1, 7, 64], [0, 3, 15, 16, 40], [1, 16, 100])))
def test_pairs_are_those_counted_one_by_one(chunk: int, context: int, window: int) -> None:
    ends = context + np.arange(1, chunk + 1)
    seen = np.minimum(ends, window).sum() - 0.5 * (ends <= window).sum()  # the diagonal counts half
    assert window_pairs(chunk, context, window) == seen
    in_chunk = ((ends - 1) % window + 0.5).sum()
    assert window_pairs(chunk, context, window, chunked=True) == in_chunk
    assert window_pairs(chunk, context, context + chunk) == window_pairs(chunk, context, None)


def test_a_chunk_of_a_prompt_adds_up() -> None:
    whole = window_pairs(1000, 0, 128)
    assert whole == window_pairs(300, 0, 128) + window_pairs(700, 300, 128)


def test_decoding_reads_the_window() -> None:
    assert window_context([10, 128, 500], 128).tolist() == [10, 128, 128]
    assert window_context([10, 128, 500], 128, chunked=True).tolist() == [10, 128, 64]
    assert window_context(500, None) == 500


@pytest.mark.parametrize(("kv", "head_dim"), list(product(["bf16", "fp8"], [64, 96, 128])))
def test_dense_layers_cost_what_they_did(h200: HardwareProfile, kv: str, head_dim: int) -> None:
    heads = (32, 8, head_dim)
    same = ops.decode_attention_s(h200, kv, 16, CONTEXTS, *heads)
    assert (windowed_decode_s(h200, kv, 16, CONTEXTS, *heads) == same).all()
    work = (CONTEXTS, CONTEXTS**2 / 2, CONTEXTS)
    same = ops.prefill_batch_s(h200, kv, *work, *heads)
    assert (windowed_prefill_s(h200, kv, *work, *heads) == same).all()


@pytest.mark.parametrize("name", ["h200_sxm", "h100_sxm", "b200_sxm"])
def test_a_window_is_free_inside_and_flat_beyond(name: str) -> None:
    profile, heads = load_profile(name), (32, 4, 64)  # gpt-oss-120b on two GPUs
    full = windowed_decode_s(profile, "bf16", 64, CONTEXTS, *heads)
    windowed = windowed_decode_s(profile, "bf16", 64, CONTEXTS, *heads, 128)
    inside = CONTEXTS <= 128
    assert (windowed[inside] == full[inside]).all()
    assert np.ptp(windowed[~inside]) == 0
    assert 0.9 < windowed[-1] / full[2] < 1.7  # whole tiles for part of one, against full attention over 128 tokens
    assert windowed[-1] < full[-1] / 10


def test_a_window_that_was_not_measured_lies_between_those_that_were(h200: HardwareProfile) -> None:
    windows = [128, 512, 1024, 4096, 8192]
    long = [float(windowed_decode_s(h200, "bf16", 64, 1e5, 32, 8, 128, window)) for window in windows]
    assert long == sorted(long)
    clipped = [float(windowed_decode_s(h200, "bf16", 64, window, 32, 8, 128)) for window in windows]
    ratio = np.array(long) / np.array(clipped)
    assert min(ratio[0], ratio[-1]) <= ratio[2] <= max(ratio[0], ratio[-1])


@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_prefill_beyond_a_window_grows_with_the_prompt_not_its_square(h200: HardwareProfile, head_dim: int) -> None:
    def priced(length: float, window: int | None) -> float:
        pairs = window_pairs(length, 0, window)
        return float(windowed_prefill_s(h200, "bf16", length, pairs, length, 16, 8, head_dim, window))

    assert priced(16384, 1024) / priced(8192, 1024) == pytest.approx(2, rel=0.25)
    assert priced(16384, None) / priced(8192, None) > 3
    assert priced(512, 1024) == priced(512, None)
    assert priced(8192, 128) < priced(8192, 1024) < priced(8192, 4096) < 1.2 * priced(8192, None)


def test_large_heads_have_kernels_of_their_own(h200: HardwareProfile) -> None:
    assert attention_measured(h200, "decode", "bf16", 256)
    assert attention_measured(h200, "decode", "bf16", 256, 1024)
    assert not attention_measured(h200, "decode", "bf16", 96)
    assert not attention_measured(h200, "prefill", "bf16", 512, 1024)


def test_without_windowed_kernels_the_work_is_clipped() -> None:
    a100 = load_profile("a100_sxm")
    assert not attention_measured(a100, "decode", "bf16", 128, 1024)
    windowed = windowed_decode_s(a100, "bf16", 8, 9000.0, 32, 8, 128, 1024)
    assert windowed == ops.decode_attention_s(a100, "bf16", 8, 1024.0, 32, 8, 128)
    with pytest.raises(InputError, match="no measured decode attention over a fp8 KV cache"):
        windowed_decode_s(a100, "fp8", 8, 9000.0, 32, 8, 128, 1024)


@pytest.mark.parametrize("name", ["h200_sxm", "h100_sxm", "b200_sxm"])
def test_held_out_errors_of_windows_that_models_use(name: str) -> None:
    variants = {fit.label: fit.kernel.held_out.serving.mape for fit in load_profile(name).kernels.attention_variants}
    for label in ("windowed decode attention bf16 d64", "windowed decode attention bf16 d128"):
        assert variants[label] < 0.06
    for label in ("windowed prefill attention bf16 d64", "windowed prefill attention bf16 d128"):
        assert variants[label] < 0.09
