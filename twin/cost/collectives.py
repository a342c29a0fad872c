"""Seconds of the collectives of tensor parallelism, from measured points."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twin.base import InputError
from twin.cost.tables import Floats
from twin.spec.hardware import Collective, HardwareProfile


def _fit(profile: HardwareProfile, num_gpus: int) -> Collective:
    fits = {fit.num_gpus: fit for fit in profile.kernels.all_reduce}
    if num_gpus not in fits:
        raise InputError(f"{profile.name} has no measured all-reduce among {num_gpus} GPUs", allowed=[1, *fits])
    return fits[num_gpus]


def line_s(segment_bytes: Floats, seconds: Floats, sizes: Floats) -> Floats:
    """Straight lines between points.

    The first time holds below them, the last slope (never falling) above.
    """
    slope = max((seconds[-1] - seconds[-2]) / (segment_bytes[-1] - segment_bytes[-2]), 0.0)
    above = np.maximum(sizes - segment_bytes[-1], 0.0)
    return np.asarray(np.interp(sizes, segment_bytes, seconds) + slope * above, dtype=np.float64)


def all_reduce_s(profile: HardwareProfile, num_gpus: int, message_bytes: ArrayLike) -> Floats:
    """Seconds of an all-reduce of ``message_bytes`` per GPU among ``num_gpus`` of one node; 0 for one GPU.

    As vLLM runs it in a CUDA graph: its own kernel for small messages where links allow, NCCL from 8 MiB.
    Raises :class:`InputError` for a number of GPUs that was not measured.
    """
    sizes = np.asarray(message_bytes, dtype=np.float64)
    if num_gpus == 1:
        return np.zeros_like(sizes)
    seconds = np.zeros_like(sizes)
    for position, segment in enumerate(_fit(profile, num_gpus).segments):
        points = np.asarray(segment.message_bytes)
        here = sizes >= (points[0] if position else 0.0)
        seconds = np.where(here, line_s(points, np.asarray(segment.us) * 1e-6, sizes), seconds)
    return np.asarray(seconds, dtype=np.float64)


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
