"""Seconds of the collectives of tensor parallelism, from measured points."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twin.base import InputError
from twin.cost.tables import Floats
from twin.spec.hardware import Collective, HardwareProfile


def _fit(profile: HardwareProfile, num_gpus: int, vllm_version: str | None = None) -> Collective:
    """What ``vllm_version`` runs; of several, what was measured on that very release."""
    fits = {fit.num_gpus: fit for fit in profile.kernels.all_reduce if not fit.fused and fit.vllm_version is None}
    if num_gpus not in fits:
        raise InputError(f"{profile.name} has no measured all-reduce among {num_gpus} GPUs", allowed=[1, *fits])
    older = (fit for fit in profile.kernels.all_reduce if not fit.fused and fit.vllm_version == vllm_version)
    return next((fit for fit in older if fit.num_gpus == num_gpus), fits[num_gpus])


def line_s(segment_bytes: Floats, seconds: Floats, sizes: Floats) -> Floats:
    """Straight lines between points.

    The first time holds below them, the last slope (never falling) above.
    """
    slope = max((seconds[-1] - seconds[-2]) / (segment_bytes[-1] - segment_bytes[-2]), 0.0)
    above = np.maximum(sizes - segment_bytes[-1], 0.0)
    return np.asarray(np.interp(sizes, segment_bytes, seconds) + slope * above, dtype=np.float64)


def all_reduce_s(
    profile: HardwareProfile, num_gpus: int, message_bytes: ArrayLike, vllm_version: str | None = None
) -> Floats:
    """Seconds of an all-reduce of ``message_bytes`` per GPU among ``num_gpus`` of one node; 0 for one GPU.

    As vLLM runs it in a CUDA graph: its own kernel for small messages where links allow, NCCL from 8 MiB.
    Raises :class:`InputError` for a number of GPUs that was not measured.
    """
    sizes = np.asarray(message_bytes, dtype=np.float64)
    return np.zeros_like(sizes) if num_gpus == 1 else _segments_s(_fit(profile, num_gpus, vllm_version), sizes)


def _segments_s(fit: Collective, sizes: Floats) -> Floats:
    seconds = np.zeros_like(sizes)
    for position, segment in enumerate(fit.segments):
        points = np.asarray(segment.message_bytes)
        here = sizes >= (points[0] if position else 0.0)
        seconds = np.where(here, line_s(points, np.asarray(segment.us) * 1e-6, sizes), seconds)
    return np.asarray(seconds, dtype=np.float64)


def fused_reduce_s(profile: HardwareProfile, num_gpus: int, message_bytes: ArrayLike) -> Floats:
    """Seconds of an all-reduce and the norm behind it in one kernel; NaN where vLLM does not fuse them.

    FlashInfer's fusion is TensorRT-LLM's kernel, which was timed without the norm: that adds no traffic of its own.
    """
    sizes = np.asarray(message_bytes, dtype=np.float64)
    fused = next((fit for fit in profile.kernels.all_reduce if fit.fused and fit.num_gpus == num_gpus), None)
    if fused is None:
        return np.full_like(sizes, np.nan)
    return np.where(sizes <= fused.segments[-1].message_bytes[-1], _segments_s(fused, sizes), np.nan)


def all_reduce_in_range(profile: HardwareProfile, num_gpus: int, message_bytes: ArrayLike) -> NDArray[np.bool_]:
    """Where a message size lies between the smallest and the largest measured on this device."""
    sizes = np.asarray(message_bytes, dtype=np.float64)
    if num_gpus == 1:
        return np.ones(sizes.shape, dtype=bool)
    fit = _fit(profile, num_gpus)
    if fit.provenance.origin == "assumed":
        return np.zeros(sizes.shape, dtype=bool)
    segments = fit.segments
    return (sizes >= segments[0].message_bytes[0]) & (sizes <= segments[-1].message_bytes[-1])
