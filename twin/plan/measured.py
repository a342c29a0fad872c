"""What of a deployment's kernels was measured on its GPU: where its operating point lies, and how far off they have been."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from twin.cost import operators as ops
from twin.cost.attention import attention_measured
from twin.cost.collectives import all_reduce_in_range
from twin.cost.latent import latent_in_range
from twin.cost.layout import Layout
from twin.cost.moe import expert_kernel, moe_in_range
from twin.cost.tables import Floats
from twin.spec.hardware import HardwareProfile
from twin.spec.kernels import Kernel, Precision
from twin.spec.layers import Attention, Experts, LatentAttention, Layer, Mlp
from twin.spec.model import ModelSpec
from twin.spec.precision import WeightFormat

Said = Iterator[tuple[str, bool]]


def outside(
    model: ModelSpec, profile: HardwareProfile, layout: Layout, *, running: float, context: float, prompt: float
) -> list[str]:
    """Families of kernels that were not measured where they are used; empty inside the calibrated range.

    ``running`` requests at a mean of ``context`` tokens, and a prompt of ``prompt`` tokens.
    """
    weights = layout.shard(model, profile).weights
    tokens = np.array([running, prompt])
    found = {"matrix multiplications": True, "decode attention": True, "prefill attention": True}
    for layer in model.layers:
        of = (model, profile, layout, weights, layer)
        mixed = _mixer(profile, layout, weights, layer, running, context, prompt)
        for name, inside in [*_products(*of, tokens), *_experts(*of, tokens), *mixed]:
            found[name] = found.get(name, True) and inside
    ranks = layout.tensor_parallel_size
    found["all-reduce"] = bool(all_reduce_in_range(profile, ranks, 2.0 * tokens * model.hidden_size).all())
    found["host time (none fitted: counted as 0)"] = profile.host is not None
    found |= dict.fromkeys(_never_compared(model, layout), False)
    return [name for name, inside in found.items() if not inside]


def _never_compared(model: ModelSpec, layout: Layout) -> Iterator[str]:
    """What is priced from kernels alone: no measured run of an engine had it."""
    names = {"latent": "latent attention", "linear": "linear attention", "mamba": "state spaces"}
    kinds = dict.fromkeys(layer.mixer.kind for layer in model.layers if layer.mixer is not None)
    yield from (f"{names[kind]} (no run of it was compared)" for kind in kinds if kind in names)
    if layout.pipeline_parallel_size > 1:
        yield "pipeline stages (no run of them was compared)"
    if layout.data_parallel_size > 1 and model.num_experts:
        yield "ranks that share experts (no run of them was compared)"


def _products(
    model: ModelSpec, profile: HardwareProfile, layout: Layout, weights: WeightFormat, layer: Layer, tokens: Floats
) -> Said:
    tp, hidden = layout.tensor_parallel_size, model.hidden_size
    shapes: list[tuple[Precision, float, float]] = []
    if isinstance(mixer := layer.mixer, Attention):
        q, kv = mixer.q_size(tp), mixer.kv_size(tp)
        into = q * (2 if mixer.gated else 1) + 2 * kv
        dtype = weights.dtype("attention")
        shapes += [(dtype, into, hidden), (dtype, hidden, q)]
    if isinstance(mlp := layer.mlp, Mlp):
        inter, dtype = mlp.intermediate_size / tp, weights.dtype("mlp")
        shapes += [(dtype, (mlp.matrices - 1) * inter, hidden), (dtype, hidden, inter)]
    for dtype, n, k in shapes:
        yield "matrix multiplications", bool(ops.gemm_in_range(profile, dtype, tokens, n, k).all())


def _mixer(
    profile: HardwareProfile,
    layout: Layout,
    weights: WeightFormat,
    layer: Layer,
    running: float,
    context: float,
    prompt: float,
) -> Said:
    tp, kv = layout.tensor_parallel_size, layout.kv
    match layer.mixer:
        case None:
            return
        case Attention() as mixer:
            shape = (max(1, mixer.num_heads // tp), mixer.kv_heads(tp), mixer.head_dim)
            decoded = ops.decode_in_range(profile, kv, running, context, *shape)
            filled = ops.prefill_in_range(profile, kv, prompt, prompt * prompt / 2, *shape)
            if mixer.window is not None:
                decoded = decoded & attention_measured(profile, "decode", kv, mixer.head_dim, mixer.window)
                filled = filled & attention_measured(profile, "prefill", kv, mixer.head_dim, mixer.window)
            yield "decode attention", bool(decoded.all())
            yield "prefill attention", bool(filled.all())
        case LatentAttention() as mixer:
            gemm, heads = weights.dtype("attention"), mixer.num_heads // tp
            yield "latent attention", bool(latent_in_range(profile, kv, gemm, running, context, heads).all())
        case _:
            parts = profile.kernels.recurrent
            yield "linear attention", bool(parts) and all(part.kernel.provenance.origin != "assumed" for part in parts)


def _experts(
    model: ModelSpec, profile: HardwareProfile, layout: Layout, weights: WeightFormat, layer: Layer, tokens: Floats
) -> Said:
    if isinstance(mlp := layer.mlp, Experts):
        inside = moe_in_range(
            profile,
            weights.dtype("experts"),
            tokens * layout.data_parallel_size,
            mlp,
            model.hidden_size,
            tp=layout.tensor_parallel_size,
            ep=layout.expert_parallel_size,
            vllm_version=layout.vllm_version,
        )
        yield "experts", bool(inside.all())


def kernel_mapes(model: ModelSpec, profile: HardwareProfile, layout: Layout) -> dict[str, float]:
    """Mean absolute relative error on held-out serving shapes of each family that the deployment uses."""
    weights, kv, kernels = layout.shard(model, profile).weights, layout.kv, profile.kernels
    found: dict[str, Kernel] = {"gemm": kernels.gemm[weights.dtype("mlp")]}
    if any(isinstance(layer.mixer, Attention) for layer in model.layers):
        found["decode_attention"] = next(a.kernel for a in kernels.decode_attention if a.kv == kv)
        found["prefill_attention"] = next(a.kernel for a in kernels.prefill_attention if a.kv == kv)
    if any(isinstance(layer.mixer, LatentAttention) for layer in model.layers):
        found |= {f"latent_{item.phase}": item.kernel for item in kernels.latent if item.kv == kv}
    if model.num_experts:
        ep, version = layout.expert_parallel_size, layout.vllm_version
        found["experts"] = expert_kernel(profile, weights.dtype("experts"), ep=ep, vllm_version=version).kernel
    return {name: kernel.held_out.serving.mape for name, kernel in found.items()}
