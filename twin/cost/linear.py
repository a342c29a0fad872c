"""Seconds of linear attention and state spaces in one layer: the short convolution, and what reads and writes the state.

The gated delta net (Qwen3-Next, Qwen3.5) was timed: in decode a recurrent kernel that moves every state once in and once out
(fp32), in prefill chunks of 64 tokens, one after the other for each sequence and head (FlashInfer; Triton on older devices).
How busy a device is depends on ``lanes``, the states in flight. Mamba 2 was not timed: its update moves state bytes as the
delta net's does, its chunked scan does its FLOPs as efficiently; both are assumed, and the scan is rather too slow, as Mamba's
chunks run side by side. Projections are matrix products like others and not in here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from twin.base import InputError
from twin.cost.operators import OUT_BYTES, kernel_s
from twin.cost.tables import Floats
from twin.spec.hardware import HardwareProfile
from twin.spec.kernels import Kernel, Phase
from twin.spec.layers import LinearAttention, Mamba

CHUNK = 64
"""Tokens that the chunked kernels take at once (``FLA_CHUNK_SIZE`` in vLLM)."""
STATE = 128 * 128
"""Numbers in the states that were timed: a lane is one of these."""


def recurrent_kernel(profile: HardwareProfile, phase: Phase, part: str) -> Kernel:
    """Raises :class:`InputError` when the profile has none."""
    for fit in profile.kernels.recurrent:
        if (fit.phase, fit.part) == (phase, part):
            return fit.kernel
    raise InputError(f"{profile.name} has no measured linear attention (the {part} kernel in {phase})")


def conv_work(phase: Phase, tokens: ArrayLike, channels: ArrayLike, taps: int = 4) -> tuple[Floats, Floats]:
    """FLOPs and bytes of the short convolution: channels in and out, in decode its tail too."""
    values = np.asarray(tokens, dtype=np.float64) * np.asarray(channels, dtype=np.float64)
    tail = 2 * (taps - 1) if phase == "decode" else 0
    return 2.0 * taps * values, OUT_BYTES * values * (2 + tail)


def delta_decode_work(
    batch: ArrayLike, k_heads: ArrayLike, v_heads: ArrayLike, k_dim: int = 128, v_dim: int = 128, state_bytes: int = 4
) -> tuple[Floats, Floats]:
    """FLOPs and bytes of the recurrent step: each state decays, is corrected by an outer product, and read."""
    batch, v_heads = np.asarray(batch, dtype=np.float64), np.asarray(v_heads, dtype=np.float64)
    numbers = batch * v_heads * k_dim * v_dim
    vectors = batch * (2.0 * np.asarray(k_heads, dtype=np.float64) * k_dim + 2.0 * v_heads * v_dim)
    return 7.0 * numbers, 2.0 * state_bytes * numbers + OUT_BYTES * vectors


def delta_prefill_work(
    tokens: ArrayLike,
    sequences: ArrayLike,
    k_heads: ArrayLike,
    v_heads: ArrayLike,
    k_dim: int = 128,
    v_dim: int = 128,
    state_bytes: int = 4,
) -> tuple[Floats, Floats]:
    """FLOPs and bytes of the chunked rule.

    Per token and head three products with the state, and within its chunk three of the keys' width and two of the values'.
    """
    tokens, v_heads = np.asarray(tokens, dtype=np.float64), np.asarray(v_heads, dtype=np.float64)
    flops = 2.0 * tokens * v_heads * (3 * k_dim * v_dim + CHUNK * (3 * k_dim + 2 * v_dim))
    vectors = tokens * (2.0 * np.asarray(k_heads, dtype=np.float64) * k_dim + 2.0 * v_heads * v_dim)
    states = np.asarray(sequences, dtype=np.float64) * v_heads * k_dim * v_dim
    return flops, OUT_BYTES * vectors + 2.0 * state_bytes * states


def scan_prefill_work(tokens: ArrayLike, sequences: ArrayLike, mixer: Mamba, tp: int) -> tuple[Floats, Floats]:
    """FLOPs and bytes of Mamba 2's chunked scan (arXiv 2405.21060, section 6): the state is built and read, and within a chunk
    each group's scores are made once and used by its heads.
    """
    tokens, inner = np.asarray(tokens, dtype=np.float64), mixer.inner(tp)
    groups = mixer.groups(tp) * mixer.state_size
    flops = 2.0 * tokens * (2 * inner * mixer.state_size + CHUNK * (groups + inner))
    states = np.asarray(sequences, dtype=np.float64) * inner * mixer.state_size
    return flops, OUT_BYTES * tokens * 2.0 * (inner + groups) + 2.0 * mixer.state_dtype_bytes * states


def _conv_s(profile: HardwareProfile, phase: Phase, tokens: ArrayLike, channels: int, taps: int) -> Floats:
    flops, moved = conv_work(phase, tokens, channels, taps)
    values = np.asarray(tokens, dtype=np.float64) * channels
    return kernel_s(recurrent_kernel(profile, phase, "conv"), flops, moved, values=values)


def gdn_decode_s(profile: HardwareProfile, batch: ArrayLike, mixer: LinearAttention, tp: int = 1) -> Floats:
    """Seconds of one gated-delta-net layer for ``batch`` decoding sequences on one of ``tp`` GPUs, without its projections.

    Raises :class:`InputError` when the profile has no such kernel.
    """
    heads = mixer.num_k_heads / tp, mixer.num_v_heads / tp
    numbers = heads[1] * mixer.head_k_dim * mixer.head_v_dim
    work = delta_decode_work(batch, *heads, mixer.head_k_dim, mixer.head_v_dim, mixer.state_dtype_bytes)
    rule = _rule_s(profile, "decode", work, np.asarray(batch, dtype=np.float64) * numbers / STATE, 1.0)
    return rule + _conv_s(profile, "decode", batch, mixer.conv_channels(tp), mixer.conv_kernel)


def gdn_prefill_s(
    profile: HardwareProfile, tokens: ArrayLike, mixer: LinearAttention, tp: int = 1, sequences: ArrayLike = 1
) -> Floats:
    """Seconds of one gated-delta-net layer for chunks of ``tokens`` in all, of ``sequences`` prompts alike.

    Raises :class:`InputError` when the profile has no such kernel.
    """
    heads = mixer.num_k_heads / tp, mixer.num_v_heads / tp
    numbers = heads[1] * mixer.head_k_dim * mixer.head_v_dim
    sizes = (mixer.head_k_dim, mixer.head_v_dim, mixer.state_dtype_bytes)
    work = delta_prefill_work(tokens, sequences, *heads, *sizes)
    prompts = np.asarray(sequences, dtype=np.float64)
    rule = _rule_s(profile, "prefill", work, prompts * numbers / STATE, np.asarray(tokens) / prompts)
    return rule + _conv_s(profile, "prefill", tokens, mixer.conv_channels(tp), mixer.conv_kernel)


def mamba_decode_s(profile: HardwareProfile, batch: ArrayLike, mixer: Mamba, tp: int = 1) -> Floats:
    """As :func:`gdn_decode_s` for Mamba 2: assumed from the delta rule's bandwidth at as many bytes of state."""
    numbers = np.asarray(batch, dtype=np.float64) * mixer.inner(tp) * mixer.state_size
    vectors = np.asarray(batch, dtype=np.float64) * 2.0 * (mixer.inner(tp) + mixer.groups(tp) * mixer.state_size)
    work = 5.0 * numbers, 2.0 * mixer.state_dtype_bytes * numbers + OUT_BYTES * vectors
    rule = _rule_s(profile, "decode", work, numbers / STATE, 1.0)
    return rule + _conv_s(profile, "decode", batch, mixer.conv_channels(tp), mixer.conv_kernel)


def mamba_prefill_s(
    profile: HardwareProfile, tokens: ArrayLike, mixer: Mamba, tp: int = 1, sequences: ArrayLike = 1
) -> Floats:
    """As :func:`gdn_prefill_s` for Mamba 2: assumed from the delta rule's FLOP/s at as many numbers of state."""
    prompts = np.asarray(sequences, dtype=np.float64)
    lanes = prompts * mixer.inner(tp) * mixer.state_size / STATE
    work = scan_prefill_work(tokens, sequences, mixer, tp)
    rule = _rule_s(profile, "prefill", work, lanes, np.asarray(tokens) / prompts)
    return rule + _conv_s(profile, "prefill", tokens, mixer.conv_channels(tp), mixer.conv_kernel)


def _rule_s(
    profile: HardwareProfile, phase: Phase, work: tuple[Floats, Floats], lanes: ArrayLike, chunk: ArrayLike
) -> Floats:
    return kernel_s(recurrent_kernel(profile, phase, "rule"), *work, lanes=lanes, chunk=chunk)
