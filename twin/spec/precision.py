"""Number formats of weights and KV cache, under vLLM's names, and which GPU is modelled with which."""

from __future__ import annotations

from typing import Literal

from twin.base import InputError, unknown_name
from twin.spec.hardware import HardwareProfile

Quantization = Literal["fp8"] | None
KvCacheDtype = Literal["auto", "fp8"]

WEIGHT_BYTES: dict[str | None, int] = {None: 2, "fp8": 1}
"""Bytes of one weight of a decoder's linear layers; everything else stays bf16."""

KV_BYTES = {"auto": 2, "fp8": 1}
"""Bytes of one number in the KV cache (``auto`` is the model's own bf16)."""


def weight_bytes_each(quantization: str | None) -> int:
    """Raises :class:`InputError` for a quantization that is not modelled."""
    if quantization not in WEIGHT_BYTES:
        raise unknown_name("quantization", str(quantization), ["none (bf16)", "fp8"])
    return WEIGHT_BYTES[quantization]


def kv_bytes_each(kv_cache_dtype: str) -> int:
    """Raises :class:`InputError` for a KV cache dtype that is not modelled."""
    if kv_cache_dtype not in KV_BYTES:
        raise unknown_name("kv_cache_dtype", kv_cache_dtype, KV_BYTES)
    return KV_BYTES[kv_cache_dtype]


def precision_obstacle(profile: HardwareProfile, *, quantization: str | None, kv_cache_dtype: str) -> str | None:
    """Why this GPU cannot be modelled at these precisions, in one clause; ``None`` if it can.

    Raises :class:`InputError` for a name that is no precision at all.
    """
    if weight_bytes_each(quantization) == 1:
        if profile.facts.flops.fp8 is None:
            return f"{profile.name} has no fp8 tensor cores: fp8 weights wait until their emulation is modelled"
        if "fp8" not in profile.kernels.gemm:
            return f"{profile.name} has no measured fp8 matrix multiplication"
    if kv_bytes_each(kv_cache_dtype) == 1:
        for kernels in (profile.kernels.prefill_attention, profile.kernels.decode_attention):
            if not any(kernel.kv == "fp8" for kernel in kernels):
                return f"{profile.name} has no measured attention over an fp8 KV cache"
    return None


def check_precision(profile: HardwareProfile, *, quantization: str | None, kv_cache_dtype: str) -> None:
    """Raises :class:`InputError` when this GPU cannot be modelled at these precisions."""
    obstacle = precision_obstacle(profile, quantization=quantization, kv_cache_dtype=kv_cache_dtype)
    if obstacle:
        raise InputError(obstacle)
