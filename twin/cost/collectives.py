"""Seconds of the collectives of tensor parallelism, from measured points."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twin.base import InputError
from twin.cost.tables import Floats
from twin.spec.hardware import Collective, HardwareProfile

CUSTOM_MAX_BYTES = 8 * 2**20
"""vLLM's own all-reduce takes messages up to 8 MiB on 2 to 8 fully NVLink-connected GPUs; NCCL takes the rest."""


def _fits(profile: HardwareProfile, num_gpus: int) -> list[Collective]:
    fits = [fit for fit in profile.kernels.all_reduce if fit.num_gpus == num_gpus]
    if not fits:
        known = sorted({fit.num_gpus for fit in profile.kernels.all_reduce})
        raise InputError(
            f"{profile.name} has no measured all-reduce among {num_gpus} GPUs", allowed=[1, *known]
        )
    return fits


def _at(fit: Collective, message_bytes: Floats) -> Floats:
    """Log-log interpolation; below the points the least latency holds, beyond them the last bandwidth."""
    x, y = fit.log_points
    log_bytes = np.log(message_bytes)
    beyond = np.maximum(log_bytes - x[-1], 0.0)
    return np.asarray(np.exp(np.interp(log_bytes, x, y) + beyond), dtype=np.float64)


def all_reduce_s(profile: HardwareProfile, num_gpus: int, message_bytes: ArrayLike) -> Floats:
    """Seconds of an all-reduce of ``message_bytes`` per GPU among ``num_gpus`` of one node; 0 for one GPU.

    Raises :class:`InputError` for a number of GPUs that was not measured.
    """
    sizes = np.maximum(np.asarray(message_bytes, dtype=np.float64), 1.0)
    if num_gpus == 1:
        return np.zeros_like(sizes)
    by_backend = {fit.backend: fit for fit in _fits(profile, num_gpus)}
    if "custom" not in by_backend:
        return _at(by_backend["nccl"], sizes)
    return np.where(sizes <= CUSTOM_MAX_BYTES, _at(by_backend["custom"], sizes), _at(by_backend["nccl"], sizes))


def all_reduce_in_range(profile: HardwareProfile, num_gpus: int, message_bytes: ArrayLike) -> NDArray[np.bool_]:
    sizes = np.asarray(message_bytes, dtype=np.float64)
    if num_gpus == 1:
        return np.ones(sizes.shape, dtype=bool)
    fits = _fits(profile, num_gpus)
    low = min(fit.message_bytes[0] for fit in fits)
    high = max(fit.message_bytes[-1] for fit in fits)
    return (sizes >= low) & (sizes <= high)
