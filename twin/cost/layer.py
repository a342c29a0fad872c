"""The kernels of one decoder layer on one GPU: what it takes per token, to decode, and to prefill.

A mixer and an MLP or experts (:mod:`twin.spec.layers`), each priced by its own family of kernels. Latent attention was timed
as a whole with its projections, so it has nothing per token of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from twin.cost import operators as ops
from twin.cost.attention import window_context, windowed_decode_s, windowed_prefill_s
from twin.cost.latent import LatentSizes, latent_decode_s, latent_prefill_s
from twin.cost.linear import gdn_decode_s, gdn_prefill_s, mamba_decode_s, mamba_prefill_s
from twin.cost.moe import moe_s
from twin.cost.tables import Floats
from twin.spec.hardware import HardwareProfile
from twin.spec.kernels import Precision
from twin.spec.layers import Attention, Experts, LatentAttention, Layer, LinearAttention, Mamba, Mlp, Role
from twin.spec.precision import WeightFormat
from twin.spec.versions import VersionName

QUANTISED = ("fp8", "fp8_block", "int8", "nvfp4")
"""Precisions whose activations are quantised before a product."""


@dataclass(frozen=True)
class Shard:
    """How layers are cut over GPUs and in which formats they compute, as :class:`twin.cost.layout.Layout` says.

    ``tp``: GPUs that share attention and MLP; ``ep``: GPUs that the experts are spread over whole (1: cut like the rest).
    """

    tp: int
    ep: int
    weights: WeightFormat
    kv: Precision
    vllm_version: VersionName


@dataclass
class PerToken:
    """Seconds over numbers of tokens, all arrays alike: matrix products, their share that computing bounds, light kernels
    (element-wise); and how many kernels there are.
    """

    products: Floats
    compute: Floats
    light: Floats
    kernels: int = 0

    @classmethod
    def none(cls, m: Floats) -> PerToken:
        return cls(np.zeros_like(m), np.zeros_like(m), np.zeros_like(m))


@dataclass(frozen=True)
class LayerCost:
    """One layer of ``hidden`` width on one GPU."""

    layer: Layer
    hidden: int
    profile: HardwareProfile
    shard: Shard

    @property
    def window(self) -> tuple[int | None, bool]:
        """What its attention sees: how many tokens, and whether of a chunk."""
        mixer = self.layer.mixer
        return (mixer.window, mixer.chunked) if isinstance(mixer, Attention) else (None, False)

    def per_token(self, m: Floats) -> PerToken:
        """Of everything but attention itself, all-reduces, norms and experts; ``m`` ≥ 1 tokens."""
        found = PerToken.none(m)
        match self.layer.mixer:
            case Attention() as mixer:
                self._attention(found, m, mixer)
            case LinearAttention() | Mamba() as mixer:
                self._recurrent(found, m, mixer)
        match self.layer.mlp:
            case Mlp() as mlp:
                self._mlp(found, m, mlp.intermediate_size / self.shard.tp, mlp.matrices)
            case Experts() as mlp:
                self._router(found, m, mlp)
                if mlp.shared_intermediate_size:
                    self._mlp(found, m, mlp.shared_intermediate_size / self.shard.tp, mlp.matrices)
        return found

    def _products(self, found: PerToken, m: Floats, dtype: Precision, shapes: Iterable[tuple[float, float]]) -> None:
        kernel = ops.gemm_kernel(self.profile, dtype)
        for n, k in shapes:
            flops, moved = ops.gemm_work(dtype, m, n, k)
            compute_s, memory_s = flops / kernel.flops_per_s.value, moved / kernel.bytes_per_s.value
            seconds = ops.gemm_s(self.profile, dtype, m, n, k, in_engine=True)
            found.products = found.products + seconds
            found.compute = found.compute + seconds * compute_s / (compute_s + memory_s)
            found.kernels += 1

    def _linears(self, found: PerToken, m: Floats, role: Role, shapes: Sequence[tuple[float, float]]) -> None:
        """Linear layers of a part. Quantisation with one scale is fused into the norm or activation before, with a scale per
        block of activations it is a kernel of its own.
        """
        dtype = self.shard.weights.dtype(role)
        self._products(found, m, dtype, shapes)
        if dtype == "fp8_block":
            for _, k in shapes:
                self._quantised(found, m, k)

    def _quantised(self, found: PerToken, m: Floats, width: float) -> None:
        found.light = found.light + ops.fp8_quant_s(self.profile, m, width)
        found.kernels += 1

    def _router(self, found: PerToken, m: Floats, mlp: Experts) -> None:
        if mlp.router_fp32:
            self._touched(found, m, [6.0 * self.hidden])  # hidden states cast to fp32
        known = mlp.router_fp32 and "fp32" in self.profile.kernels.gemm
        self._products(found, m, "fp32" if known else "bf16", [(mlp.num_experts, self.hidden)])

    def _touched(self, found: PerToken, m: Floats, sizes: Iterable[float]) -> None:
        """Element-wise kernels that move so many bytes per token."""
        for size in sizes:
            found.light = found.light + ops.elementwise_s(self.profile, m * size)
            found.kernels += 1

    def _attention(self, found: PerToken, m: Floats, mixer: Attention) -> None:
        q, kv = mixer.q_size(self.shard.tp), mixer.kv_size(self.shard.tp)
        into = q * (2 if mixer.gated else 1) + 2 * kv
        self._linears(found, m, "attention", [(into, self.hidden), (self.hidden, q)])
        # Rotary rewrites q and k; the cache write is part of the attention timings.
        sizes = [4.0 * (q + kv)]
        if mixer.qk_norm:
            sizes.append(4.0 * (q + kv))
        if mixer.gated:
            sizes.append(6.0 * q)
        self._touched(found, m, sizes)
        dtype = self.shard.weights.dtype("attention")
        if dtype in QUANTISED and dtype != "fp8_block":
            self._quantised(found, m, q)  # there is no norm before the output projection to fuse it into
        found.kernels += 1  # attention itself

    def _recurrent(self, found: PerToken, m: Floats, mixer: LinearAttention | Mamba) -> None:
        tp = self.shard.tp
        if isinstance(mixer, Mamba):
            inner = mixer.inner(tp)
            into = inner + mixer.conv_channels(tp) + mixer.num_heads // tp
        else:
            inner = mixer.num_v_heads * mixer.head_v_dim // tp
            into = inner + mixer.conv_channels(tp) + 2 * mixer.num_v_heads // tp
        self._linears(found, m, "attention", [(into, self.hidden), (self.hidden, inner)])
        self._touched(found, m, [6.0 * inner])  # the gated norm of the output
        found.kernels += 1

    def _mlp(self, found: PerToken, m: Floats, inter: float, matrices: int) -> None:
        self._linears(found, m, "mlp", [((matrices - 1) * inter, self.hidden), (self.hidden, inter)])
        self._touched(found, m, [2.0 * matrices * inter])  # reads gate and up, writes their product

    @property
    def has_experts(self) -> bool:
        return isinstance(self.layer.mlp, Experts)

    def experts_s(self, m: Floats) -> tuple[Floats, Floats]:
        """Seconds of the routed experts for ``m`` tokens of all data-parallel ranks, and what of them computing bounds."""
        mlp, shard = self.layer.mlp, self.shard
        assert isinstance(mlp, Experts)
        dtype = shard.weights.dtype("experts")
        return moe_s(
            self.profile, dtype, m, mlp, self.hidden, tp=shard.tp, ep=shard.ep, vllm_version=shard.vllm_version
        )

    def decode_s(self, n: int, contexts: Floats) -> Floats:
        """Seconds of attention (or what takes its place) for ``n`` sequences at each of these mean contexts."""
        profile, tp, kv = self.profile, self.shard.tp, self.shard.kv
        match self.layer.mixer:
            case Attention() as mixer:
                if mixer.chunked:  # full attention over what the chunk holds so far
                    seen = window_context(contexts, mixer.window, chunked=True)
                    return windowed_decode_s(profile, kv, n, seen, *self._heads(mixer))
                return windowed_decode_s(profile, kv, n, contexts, *self._heads(mixer), mixer.window)
            case LatentAttention() as mixer:
                gemm = self.shard.weights.dtype("attention")
                return latent_decode_s(profile, kv, gemm, n, contexts, mixer.num_heads // tp, self._sizes(mixer))
            case LinearAttention() as mixer:
                return np.full_like(contexts, gdn_decode_s(profile, n, mixer, tp))
            case Mamba() as mixer:
                return np.full_like(contexts, mamba_decode_s(profile, n, mixer, tp))
        return np.zeros_like(contexts)

    def prefill_s(self, tokens: Floats, span: Floats) -> Floats:
        """Seconds of attention for chunks of so many tokens in all that see as many pairs as one prompt of ``span`` tokens does
        per token, inside the window.
        """
        profile, tp, kv = self.profile, self.shard.tp, self.shard.kv
        pairs = tokens * span / 2
        match self.layer.mixer:
            case Attention() as mixer:
                heads = self._heads(mixer)
                return windowed_prefill_s(profile, kv, tokens, pairs, (tokens + span) / 2, *heads, mixer.window)
            case LatentAttention() as mixer:
                gemm = self.shard.weights.dtype("attention")
                own, seen = mixer.num_heads // tp, (tokens + span) / 2
                return latent_prefill_s(profile, kv, gemm, tokens, pairs, own, seen, self._sizes(mixer))
            case LinearAttention() as mixer:
                return gdn_prefill_s(profile, tokens, mixer, tp)
            case Mamba() as mixer:
                return mamba_prefill_s(profile, tokens, mixer, tp)
        return np.zeros_like(tokens)

    def _heads(self, mixer: Attention) -> tuple[int, int, int]:
        return max(1, mixer.num_heads // self.shard.tp), mixer.kv_heads(self.shard.tp), mixer.head_dim

    def _sizes(self, mixer: LatentAttention) -> LatentSizes:
        ranks = (mixer.q_lora_rank or 0, mixer.kv_lora_rank)
        return LatentSizes(self.hidden, *ranks, mixer.qk_nope_head_dim, mixer.qk_rope_head_dim, mixer.v_head_dim)
