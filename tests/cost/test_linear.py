"""Linear attention: bytes of state decide decoding, chunks one after the other prefilling; Mamba 2 follows from it."""

import numpy as np
import pytest

from twin.base import InputError
from twin.cost.linear import (
    delta_decode_work,
    delta_prefill_work,
    gdn_decode_s,
    gdn_prefill_s,
    mamba_decode_s,
    mamba_prefill_s,
)
from twin.spec.hardware import HardwareProfile, load_profile
from twin.spec.layers import LinearAttention, Mamba

QWEN = LinearAttention(num_k_heads=16, num_v_heads=32, head_k_dim=128, head_v_dim=128)
NEMOTRON = Mamba(num_heads=64, head_dim=64, num_groups=8, state_size=128)  # as many numbers of state


@pytest.fixture(scope="module")
def h200() -> HardwareProfile:
    return load_profile("h200_sxm")


def test_states_move_in_and_out() -> None:
    _, moved = delta_decode_work(10, 16, 32)
    assert moved == 2 * 4 * 10 * 32 * 128 * 128 + 2 * 10 * (2 * 16 + 2 * 32) * 128
    one, two = (delta_prefill_work(1000, sequences, 16, 32) for sequences in (1, 2))
    assert one[0] == two[0]
    assert two[1] - one[1] == 2 * 4 * 32 * 128 * 128


def test_many_sequences_decode_at_the_bandwidth_of_memory(h200: HardwareProfile) -> None:
    seconds = float(gdn_decode_s(h200, 512, QWEN))
    moved = 512 * 2 * QWEN.state_bytes(1)
    assert 0.7 < moved / seconds / h200.facts.mem_bw_bytes_per_s.value < 1.0
    assert float(gdn_decode_s(h200, 512, QWEN, 4)) == pytest.approx(seconds / 4, rel=0.1)
    assert float(gdn_decode_s(h200, 1, QWEN)) < 10e-6


def test_a_long_prompt_is_one_chunk_after_the_other(h200: HardwareProfile) -> None:
    tokens = np.array([4096.0, 8192.0])
    alone = gdn_prefill_s(h200, tokens, QWEN)
    assert alone[1] / alone[0] == pytest.approx(2, rel=0.1)
    assert gdn_prefill_s(h200, 8192.0, QWEN, 1, 8) < 0.8 * alone[1]  # prompts run side by side


def test_mamba_follows_from_the_delta_rule(h200: HardwareProfile) -> None:
    ours, theirs = float(mamba_decode_s(h200, 256, NEMOTRON)), float(gdn_decode_s(h200, 256, QWEN))
    assert ours == pytest.approx(theirs, rel=0.1)
    assert float(mamba_prefill_s(h200, 8192.0, NEMOTRON)) < float(gdn_prefill_s(h200, 8192.0, QWEN))


def test_a_gpu_without_it_is_named() -> None:
    with pytest.raises(InputError, match="a100_sxm has no measured linear attention"):
        gdn_decode_s(load_profile("a100_sxm"), 1, QWEN)


@pytest.mark.parametrize("name", ["h200_sxm", "b200_sxm", "h100_sxm"])
def test_held_out_errors(name: str) -> None:
    fits = load_profile(name).kernels.recurrent
    assert len(fits) == 4
    assert all(fit.kernel.held_out.serving.mape < 0.07 for fit in fits)
