"""What ``twin model show`` says of a model: sizes, what of it fits where, and when computing takes over from reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from twin.cost.layout import Layout
from twin.cost.memory import memory_budget
from twin.cost.step import unpriced
from twin.spec.hardware import HardwareProfile, load_profile, profile_names
from twin.spec.kv_groups import kv_pool
from twin.spec.layers import Attention, Experts, LatentAttention, Layer, LinearAttention, Mamba, Role
from twin.spec.model import ModelSpec, layer_kv_bytes
from twin.spec.precision import precision_obstacle, precision_table, resolved_format, weight_format

TENSOR_PARALLEL_SIZES = (1, 2, 4, 8)
CONTEXT = 8192
"""Tokens of the sequences whose number is told."""

PEAKS = {
    "bf16": "bf16",
    "w4a16": "bf16",
    "mxfp4": "bf16",
    "w8a16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "int8": "int8",
    "nvfp4": "nvfp4",
}
"""Whose datasheet peak bounds a product of this precision; other precisions' peaks are not among a profile's facts."""


def described(model: ModelSpec, quantization: str | None = None, kv_cache_dtype: str = "auto") -> dict[str, Any]:
    """Everything, as plain data. ``quantization``: a format for the figures of GPUs instead of the published one.

    Raises :class:`InputError` for a format that is not in the table.
    """
    used = quantization or model.quantization or "bf16"
    pool = kv_pool(model, kv_cache_dtype=kv_cache_dtype)
    return {
        "name": model.name,
        "architecture": model.architecture,
        "parameters": model.num_parameters,
        "active_parameters": model.active_parameters,
        "max_model_len": model.max_position_embeddings,
        "published_format": model.quantization or "bf16",
        "left_out": list(model.left_out),
        "layers": [_layer(layer) for layer in model.layers],
        "weight_bytes": {name: model.weight_bytes(name) for name in precision_table().formats},
        "kv_bytes_per_token": {name: model.kv_bytes_per_token(name) for name in precision_table().kv_cache},
        "request_bytes": {name: _request_bytes(model, name) for name in precision_table().kv_cache},
        "state_bytes_per_request": model.state_bytes(),
        "kv_groups": [{"kind": g.kind, "window": g.window, "count": g.count} for g in pool.groups],
        "kv_block_size": pool.block_size,
        "flops_per_token": flops_per_token(model),
        "format": weight_format(used).name or used,
        "kv_cache_dtype": kv_cache_dtype,
        "gpus": [_on(model, profile, quantization, kv_cache_dtype) for profile in _gpus()],
    }


def _gpus() -> Iterator[HardwareProfile]:
    profiles = (load_profile(name) for name in profile_names())
    return (profile for profile in profiles if profile.device == "gpu")


def _request_bytes(model: ModelSpec, kv_cache_dtype: str) -> int:
    """What a request of :data:`CONTEXT` tokens holds: each layer its window's share of them, or a state."""
    return model.state_bytes() + sum(
        layer.count * layer_kv_bytes(layer.mixer, kv_cache_dtype, 1) * min(CONTEXT, layer.mixer.window or CONTEXT)
        for layer in model.layers
        if layer.mixer is not None
    )


def _layer(layer: Layer) -> dict[str, Any]:
    mixer = None if layer.mixer is None else layer.mixer.model_dump()
    mlp = None if layer.mlp is None else layer.mlp.model_dump()
    return {"count": layer.count, "mixer": mixer, "mlp": mlp, "says": " + ".join(_words(layer))}


def _words(layer: Layer) -> Iterator[str]:
    match layer.mixer:
        case Attention() as a:
            sees = "" if a.window is None else f", {'chunks' if a.chunked else 'window'} of {a.window}"
            yield f"attention {a.num_heads}/{a.num_kv_heads} heads of {a.head_dim}{sees}"
        case LatentAttention() as a:
            yield f"latent attention {a.num_heads} heads, cache {a.kv_lora_rank}+{a.qk_rope_head_dim}"
        case LinearAttention() as a:
            yield f"gated delta net {a.num_k_heads}/{a.num_v_heads} heads, {a.head_k_dim}×{a.head_v_dim}"
        case Mamba() as a:
            yield f"Mamba 2 {a.num_heads} heads of {a.head_dim}, state {a.state_size}"
    match layer.mlp:
        case Experts() as e:
            shared = f" + shared {e.shared_intermediate_size}" if e.shared_intermediate_size else ""
            yield f"{e.experts_per_token} of {e.num_experts} experts of {e.intermediate_size}{shared}"
        case None:
            pass
        case mlp:
            yield f"MLP {mlp.intermediate_size}"


def flops_per_token(model: ModelSpec) -> int:
    """Of one token, without attention over its context: two for each parameter it meets but the input embedding's."""
    table = 0 if model.tie_word_embeddings else model.hidden_size * model.vocab_size
    return 2 * (model.active_parameters - table)


def decode_bytes(model: ModelSpec, quantization: str | None, batch: float) -> float:
    """Weights that a step of ``batch`` tokens reads: of the experts as many as are expected to be chosen by chance."""
    stored = weight_format(quantization or model.quantization)
    total = 0.0
    for layer in model.layers:
        weights = layer.weights(model.hidden_size, 1)
        for role, count in weights.items():
            share = 1.0
            if role == "experts" and isinstance(layer.mlp, Experts):
                share = 1.0 - (1.0 - layer.mlp.experts_per_token / layer.mlp.num_experts) ** batch
            total += layer.count * count * stored.bytes_each(role) * share
    return total + stored.bytes_each("embedding") * model.hidden_size * model.padded_vocab_size


def compute_bound_batch(model: ModelSpec, profile: HardwareProfile, quantization: str | None) -> int | None:
    """Tokens of a step from which its products take longer to compute than their weights to read, at datasheet rates on one
    GPU (any number of them, sharded evenly); ``None`` where the peak of the precision is not among the profile's facts.
    """
    resolved = resolved_format(profile, quantization or model.quantization)
    role: Role = "experts" if model.num_experts else "mlp"
    name = PEAKS.get(resolved.dtype(role))
    peak = None if name is None else getattr(profile.facts.flops, name)
    if peak is None:
        return None
    seconds_each, bandwidth = flops_per_token(model) / peak.value, profile.facts.mem_bw_bytes_per_s.value
    low, high = 1.0, 2.0**20
    while high - low > 0.5:  # computing grows faster with the batch than reading, whatever the experts
        middle = (low + high) / 2
        if middle * seconds_each < decode_bytes(model, quantization, middle) / bandwidth:
            low = middle
        else:
            high = middle
    return round(high)


def _on(model: ModelSpec, profile: HardwareProfile, quantization: str | None, kv_cache_dtype: str) -> dict[str, Any]:
    why = precision_obstacle(profile, quantization=quantization or model.quantization, kv_cache_dtype=kv_cache_dtype)
    why = why or unpriced(model, profile, Layout(1, quantization, kv_cache_dtype))
    found: dict[str, Any] = {"gpu": profile.name, "not_modelled": why, "compute_bound_batch": None, "fits": []}
    if why is None:
        found["compute_bound_batch"] = compute_bound_batch(model, profile, quantization)
    sizes = [tp for tp in TENSOR_PARALLEL_SIZES if tp <= profile.facts.num_gpus_per_node]
    found["fits"] = [_at(model, profile, tp, quantization, kv_cache_dtype) for tp in sizes]
    return found


def _at(
    model: ModelSpec, profile: HardwareProfile, tp: int, quantization: str | None, kv_cache_dtype: str
) -> dict[str, Any]:
    """Memory alone: also of a precision whose speed is not modelled there."""
    obstacle = model.tensor_parallel_obstacle(tp)
    found: dict[str, Any] = {
        "tensor_parallel_size": tp,
        "kv_tokens": None,
        "max_concurrency_8k": None,
        "why_not": obstacle,
    }
    if obstacle is None:
        budget = memory_budget(model, profile, Layout(tp, quantization, kv_cache_dtype))
        found["why_not"] = budget.shortage()
        if found["why_not"] is None:
            found |= {"kv_tokens": budget.kv_tokens, "max_concurrency_8k": round(budget.max_concurrency(CONTEXT), 1)}
    return found


def rows(payload: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """One for each GPU and TP."""
    for gpu in payload["gpus"]:
        for fit in gpu["fits"]:
            yield {
                "model": payload["name"],
                "format": payload["format"],
                "gpu": gpu["gpu"],
                **fit,
                "compute_bound_batch": gpu["compute_bound_batch"],
                "not_modelled": gpu["not_modelled"],
            }
