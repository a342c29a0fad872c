"""Seconds of collectives: all-reduce of tensor parallelism, exchanges of experts, messages between pipeline stages.

Inside a node they are measured points; between nodes the network (:class:`twin.spec.layout.Fabric`) adds what each of a
node's GPUs must bring in over its own port. vLLM's default for experts is an all-gather before and a reduce-scatter behind
them (``VLLM_ALL2ALL_BACKEND=allgather_reducescatter``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twin.base import InputError
from twin.cost.tables import Floats
from twin.spec.hardware import HardwareProfile
from twin.spec.kernels import Collective, Exchange, Operation
from twin.spec.layout import Fabric

NETWORK = Fabric()
"""Between nodes unless said otherwise: its figures are assumed."""


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


def _exchange(profile: HardwareProfile, operation: Operation, num_gpus: int) -> Exchange | None:
    own = (fit for fit in profile.kernels.exchanges if fit.operation == operation)
    return next((fit for fit in own if fit.num_gpus == num_gpus), None)


def exchange_s(profile: HardwareProfile, operation: Operation, num_gpus: int, message_bytes: ArrayLike) -> Floats:
    """Seconds of an exchange among ``num_gpus`` of one node; 0 for one. Messages as :class:`twin.spec.kernels.Exchange` says.

    Where it was not measured, half of an all-reduce: its two halves are a scatter and a gather of the same message. Raises
    :class:`InputError` where DeepEP or an all-reduce among so many GPUs was not measured.
    """
    sizes = np.asarray(message_bytes, dtype=np.float64)
    if num_gpus == 1:
        return np.zeros_like(sizes)
    fit = _exchange(profile, operation, num_gpus)
    if fit is not None:
        return _segments_s(fit, sizes)
    if operation.startswith(("ht_", "ll_")):
        measured = [one.num_gpus for one in profile.kernels.exchanges if one.operation == operation]
        raise InputError(f"{profile.name} has no measured DeepEP among {num_gpus} GPUs", allowed=measured)
    return all_reduce_s(profile, num_gpus, sizes) / 2


def exchange_in_range(
    profile: HardwareProfile, operation: Operation, num_gpus: int, message_bytes: ArrayLike
) -> NDArray[np.bool_]:
    """Where the exchange was measured on this device."""
    sizes = np.asarray(message_bytes, dtype=np.float64)
    fit = _exchange(profile, operation, num_gpus)
    if fit is None or fit.provenance.origin == "assumed":
        return np.full(sizes.shape, num_gpus == 1)
    return (sizes >= fit.segments[0].message_bytes[0]) & (sizes <= fit.segments[-1].message_bytes[-1])


def _over_nodes(inside_s: Floats, brought_in: Floats, num_gpus: int, nodes: int, fabric: Fabric, passes: int) -> Floats:
    """A node takes in ``brought_in`` bytes over all its GPUs' ports while its links are busy, in rings of ``nodes`` steps."""
    if nodes == 1:
        return inside_s
    network_s = brought_in * passes / (num_gpus * fabric.bytes_per_s)
    return np.maximum(inside_s, network_s) + passes * (nodes - 1) * fabric.latency_s


def all_gather_s(
    profile: HardwareProfile, num_gpus: int, message_bytes: ArrayLike, nodes: int = 1, fabric: Fabric = NETWORK
) -> Floats:
    """Seconds until ``num_gpus`` of each of ``nodes`` have all of an array of ``message_bytes`` that lay spread over them."""
    sizes = np.asarray(message_bytes, dtype=np.float64)
    inside_s = exchange_s(profile, "all_gather", num_gpus, sizes)
    return _over_nodes(inside_s, sizes * (nodes - 1) / nodes, num_gpus, nodes, fabric, 1)


def reduce_scatter_s(
    profile: HardwareProfile, num_gpus: int, message_bytes: ArrayLike, nodes: int = 1, fabric: Fabric = NETWORK
) -> Floats:
    """Seconds until each GPU has its share of the sum of arrays of ``message_bytes``."""
    sizes = np.asarray(message_bytes, dtype=np.float64)
    inside_s = exchange_s(profile, "reduce_scatter", num_gpus, sizes)
    return _over_nodes(inside_s, sizes * (nodes - 1) / nodes, num_gpus, nodes, fabric, 1)


def spread_reduce_s(
    profile: HardwareProfile, num_gpus: int, message_bytes: ArrayLike, nodes: int, fabric: Fabric = NETWORK
) -> Floats:
    """Seconds of an all-reduce over several nodes: scattered and gathered inside, each shard reduced around the nodes."""
    sizes = np.asarray(message_bytes, dtype=np.float64)
    inside_s = all_reduce_s(profile, num_gpus, sizes)
    return _over_nodes(inside_s, sizes * (nodes - 1) / nodes, num_gpus, nodes, fabric, 2)


def send_s(profile: HardwareProfile, message_bytes: ArrayLike, fabric: Fabric | None = None) -> Floats:
    """Seconds to send a message to another GPU of the node, or with ``fabric`` of another node.

    In the node it is what two GPUs take to swap as much (an all-to-all of two sends half of its message).
    """
    sizes = np.asarray(message_bytes, dtype=np.float64)
    if fabric is not None:
        return np.asarray(fabric.latency_s + sizes / fabric.bytes_per_s, dtype=np.float64)
    return exchange_s(profile, "all_to_all", 2, 2 * sizes)
