"""Seconds of multi-head latent attention (MLA; DeepSeek-V2, arXiv 2405.04434) in one layer, with its projections.

What was timed is vLLM's whole module with the sizes of DeepSeek-V3: from the hidden states to the output projection (which a
layer's all-reduce follows), the norms of the latents, rotary embedding and the cache write included. It ran in a CUDA graph,
to judge by its time: on B200 one sequence takes about what its kernels timed alone add up to (98 µs with 128 heads, of which
72 are products and light kernels); on H200 it takes some 30 µs more than that, which are kept as measured.
``num_heads`` are those of one GPU; the projections into the latents are not sharded, so they cost every GPU the same.
Other sizes (Kimi-K2 differs in the number of heads alone) scale the work, not the table.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twin.base import InputError
from twin.cost.operators import BYTES, OUT_BYTES, WEIGHT_BYTES, kernel_s
from twin.cost.tables import Floats
from twin.spec.hardware import HardwareProfile
from twin.spec.kernels import Kernel, Phase, Precision

GEMM_RATE: dict[Precision, float] = {"bf16": 1.0, "fp8_block": 2.0, "nvfp4": 4.0}
"""Peak of matrix products over bf16's (datasheets), by which their FLOPs count less."""


class LatentSizes(NamedTuple):
    """Widths in elements, as ``config.json`` names them; ``q_lora_rank`` 0: queries come straight from the hidden states."""

    hidden_size: int = 7168
    q_lora_rank: int = 1536
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128

    @property
    def latent(self) -> int:
        """Numbers in the cache per token."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    def projections(self, heads: Floats) -> Floats:
        """Weights of the linear layers but the expansion of the latent, on one GPU."""
        queries = heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        into = self.q_lora_rank * (self.hidden_size + queries) if self.q_lora_rank else self.hidden_size * queries
        return into + self.hidden_size * self.latent + heads * self.v_head_dim * self.hidden_size

    def expansion(self, heads: Floats) -> Floats:
        """Weights that make keys and values of the latent (``kv_b_proj``)."""
        return self.kv_lora_rank * heads * (self.qk_nope_head_dim + self.v_head_dim)


DEEPSEEK_V3 = LatentSizes()


def latent_kernel(profile: HardwareProfile, phase: Phase, kv: Precision, gemm: Precision) -> Kernel:
    """Raises :class:`InputError` when the profile has none of these precisions."""
    found = {(fit.kv, fit.gemm): fit.kernel for fit in profile.kernels.latent if fit.phase == phase}
    if (kv, gemm) not in found:
        raise InputError(
            f"{profile.name} has no measured latent attention with {gemm} weights over a {kv} KV cache",
            allowed=[f"{weights} weights over {cache}" for cache, weights in found],
        )
    return found[kv, gemm]


def latent_decode_work(
    kv: Precision,
    gemm: Precision,
    batch: ArrayLike,
    mean_context: ArrayLike,
    num_heads: ArrayLike,
    sizes: LatentSizes = DEEPSEEK_V3,
) -> tuple[Floats, Floats]:
    """FLOPs (as of bf16) and bytes: queries absorb the expansion, so each cached latent is read once for all heads.

    A head multiplies each latent twice: 2 · (2 · kv_lora_rank + rope). The expansion stays in bf16.
    """
    batch, heads = np.asarray(batch, dtype=np.float64), np.asarray(num_heads, dtype=np.float64)
    cached = batch * np.asarray(mean_context, dtype=np.float64)
    linear, expand = sizes.projections(heads), sizes.expansion(heads)
    flops = 2.0 * batch * (linear / GEMM_RATE[gemm] + expand)
    flops = flops + 2.0 * cached * heads * (sizes.kv_lora_rank + sizes.latent)
    moved = linear * WEIGHT_BYTES[gemm] + expand * OUT_BYTES + cached * sizes.latent * BYTES[kv]
    return flops, moved + _activations(batch, heads, sizes)


def latent_prefill_work(
    kv: Precision,
    gemm: Precision,
    tokens: ArrayLike,
    pairs: ArrayLike,
    kv_tokens: ArrayLike,
    num_heads: ArrayLike,
    sizes: LatentSizes = DEEPSEEK_V3,
) -> tuple[Floats, Floats]:
    """FLOPs (as of bf16) and bytes: keys and values of ``kv_tokens`` tokens are expanded, then every head attends by itself."""
    tokens, heads = np.asarray(tokens, dtype=np.float64), np.asarray(num_heads, dtype=np.float64)
    kv_tokens = np.asarray(kv_tokens, dtype=np.float64)
    linear, expand = sizes.projections(heads), sizes.expansion(heads)
    flops = 2.0 * (tokens * linear + kv_tokens * expand) / GEMM_RATE[gemm]
    each = sizes.qk_nope_head_dim + sizes.qk_rope_head_dim + sizes.v_head_dim
    flops = flops + 2.0 * np.asarray(pairs, dtype=np.float64) * heads * each
    expanded = 2.0 * OUT_BYTES * kv_tokens * heads * each
    moved = (linear + expand) * WEIGHT_BYTES[gemm] + expanded + kv_tokens * sizes.latent * BYTES[kv]
    return flops, moved + _activations(tokens, heads, sizes)


def _activations(tokens: Floats, heads: Floats, sizes: LatentSizes) -> Floats:
    """Bytes: hidden states in and out; latents, queries and outputs written and read."""
    each = sizes.qk_nope_head_dim + sizes.qk_rope_head_dim + sizes.v_head_dim
    return 2.0 * OUT_BYTES * tokens * (sizes.hidden_size + sizes.q_lora_rank + sizes.latent + heads * each)


def latent_decode_s(
    profile: HardwareProfile,
    kv: Precision,
    gemm: Precision,
    batch: ArrayLike,
    mean_context: ArrayLike,
    num_heads: int,
    sizes: LatentSizes = DEEPSEEK_V3,
) -> Floats:
    """Seconds of one layer's MLA for ``batch`` decoding sequences of ``mean_context`` cached tokens, the new one too.

    ``num_heads`` per GPU. Raises :class:`InputError` for precisions that were not measured.
    """
    kernel = latent_kernel(profile, "decode", kv, gemm)
    flops, moved = latent_decode_work(kv, gemm, batch, mean_context, num_heads, sizes)
    return kernel_s(kernel, flops, moved, batch=batch, context=mean_context, heads=num_heads)


def latent_prefill_s(
    profile: HardwareProfile,
    kv: Precision,
    gemm: Precision,
    tokens: ArrayLike,
    pairs: ArrayLike,
    num_heads: int,
    kv_tokens: ArrayLike | None = None,
    sizes: LatentSizes = DEEPSEEK_V3,
) -> Floats:
    """Seconds of one layer's MLA for chunks of Σ ``tokens`` with Σ ``pairs`` query-key pairs.

    ``kv_tokens`` = Σ (context + chunk), without it no context: cached latents are expanded again for every chunk (vLLM does
    so piece by piece and merges; what merging takes was not timed and is left out).
    Raises :class:`InputError` for precisions that were not measured.
    """
    kernel = latent_kernel(profile, "prefill", kv, gemm)
    cached = np.maximum(tokens, tokens if kv_tokens is None else kv_tokens)
    flops, moved = latent_prefill_work(kv, gemm, tokens, pairs, cached, num_heads, sizes)
    return kernel_s(kernel, flops, moved, **latent_coords(tokens, pairs), heads=num_heads)


def latent_coords(tokens: ArrayLike, pairs: ArrayLike) -> dict[str, Floats]:
    """``tokens`` and ``span``: the prompt length whose rows see as many keys."""
    tokens = np.asarray(tokens, dtype=np.float64)
    return {"tokens": tokens, "span": 2.0 * np.asarray(pairs, dtype=np.float64) / tokens}


def latent_in_range(
    profile: HardwareProfile, kv: Precision, gemm: Precision, batch: ArrayLike, mean_context: ArrayLike, num_heads: int
) -> NDArray[np.bool_]:
    """Where decode was measured."""
    kernel = latent_kernel(profile, "decode", kv, gemm)
    return kernel.covers(batch=batch, context=mean_context, heads=num_heads)
