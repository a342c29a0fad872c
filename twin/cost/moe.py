"""Seconds of a layer's routed experts on one GPU: fused mixture-of-experts kernels.

What was timed (NVIDIA aiconfigurator, ``moe_perf``) is vLLM's fused-experts module in a CUDA graph on one GPU of ``tp`` that
cut every expert's inner size, or of ``ep`` that whole experts are spread over: choice of the top experts from given router
logits, quantisation of the activations, sorting, both grouped products, the activation between, and the weighted sum. The
router's own product, shared experts and what ranks exchange are not in it. ``tokens`` are those of all ranks, before the
spread: every rank sees them all and works on the rows of its own experts.

A weight is read once if any token chose its expert, so bytes go by the *distinct experts hit*, FLOPs by rows in tiles of
:data:`TILE_ROWS`. The tables are over the rows per hit expert, hit experts, inner size per GPU, the share of rows that stays
on this GPU and how unevenly the experts are loaded: nothing in them names a model.
"""

from __future__ import annotations

from math import exp
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twin.base import InputError
from twin.cost.operators import ACTIVATION_BYTES, OUT_BYTES, WEIGHT_BYTES, kernel_s
from twin.cost.tables import Floats
from twin.spec.hardware import HardwareProfile
from twin.spec.kernels import ExpertKernel, Precision
from twin.spec.layers import Experts
from twin.spec.versions import MODELLED_VLLM, VersionName

TILE_ROWS = 16
"""Rows of the smallest tile of a matrix instruction: an expert with one row computes sixteen."""

IMBALANCE = 0.5
"""Standard deviation of the logarithm of experts' popularity (assumed): the busiest of 128 then takes about three times the
mean. 0 would be a router that chooses evenly at random."""

POPULARITIES = 32
"""Quantiles of popularity that expected loads are summed over."""


class Loads(NamedTuple):
    """What a step puts on one GPU's experts, arrays over numbers of tokens.

    ``hits``: distinct experts with a row; ``rows``: (token, expert) pairs; ``tiled``: rows with those that fill the last tile
    of each expert; ``total``: pairs of all GPUs; ``skew``: rows that the average row shares its expert with, over the mean.
    """

    hits: Floats
    rows: Floats
    tiled: Floats
    total: Floats
    skew: Floats


def expert_loads(
    tokens: ArrayLike, num_experts: int, experts_per_token: int, ep: int = 1, imbalance: float = IMBALANCE
) -> Loads:
    """Expected loads of the busiest of ``ep`` GPUs, as all wait for it.

    Experts are chosen independently with lognormal popularity, so each has Binomial(tokens, popularity) rows. The busiest
    GPU has more than its share by the expected largest of ``ep`` normal deviates, whose variance is that of the popularity
    of its experts (placed at random) and of the choice itself.
    """
    tokens = np.asarray(tokens, dtype=np.float64)
    chance = _chances(num_experts, experts_per_token, imbalance)
    total = tokens * experts_per_token
    seen = tokens * _busiest(total, num_experts, ep, imbalance)
    here = num_experts / ep
    mean = seen[..., None] * chance
    hit = -np.expm1(seen[..., None] * np.log1p(-np.minimum(chance, 1 - 1e-9)))
    padding = (
        hit * (TILE_ROWS - 1) * (1 + np.exp(-mean / TILE_ROWS)) / 2
    )  # half a tile in the mean, all of it for one row
    hits = np.maximum(here * hit.mean(axis=-1), 1.0)  # the busiest GPU has a row
    rows = np.maximum(np.minimum(here * mean.mean(axis=-1), total), hits)
    squares = here * (mean * mean + mean * (1 - chance)).mean(axis=-1)
    skew = np.maximum(squares * hits / rows**2, 1.0)
    return Loads(hits, rows, rows + here * padding.mean(axis=-1), total, skew)


def _chances(num_experts: int, experts_per_token: int, imbalance: float) -> Floats:
    """Quantiles of an expert's chance to be chosen by a token, with the right mean and below 1."""
    middle = (np.arange(POPULARITIES) + 0.5) / POPULARITIES
    popularity = np.exp(imbalance * np.array([NormalDist().inv_cdf(x) for x in middle]))
    mean = experts_per_token / num_experts
    return np.asarray(np.minimum(mean * popularity / popularity.mean(), 1.0), dtype=np.float64)


def _busiest(total: Floats, num_experts: int, ep: int, imbalance: float) -> Floats:
    """How many times its share the busiest GPU works on; at most all."""
    if ep == 1:
        return np.ones_like(total)
    largest = NormalDist().inv_cdf((ep - 0.375) / (ep + 0.25))  # Blom's approximation of the expected largest of ep
    placed = (exp(imbalance**2) - 1) * (ep - 1) / num_experts
    chosen = (ep - 1) / np.maximum(total, 1.0)
    return np.asarray(np.minimum(1 + largest * np.sqrt(placed + chosen), ep), dtype=np.float64)


def moe_work(
    dtype: Precision, loads: Loads, hidden_size: ArrayLike, inner_size: ArrayLike, matrices: ArrayLike = 3
) -> tuple[Floats, Floats]:
    """FLOPs and bytes; ``inner_size`` on this GPU; ``matrices`` 3 with a gate, else 2.

    Bytes: weights of the hit experts, rows into and out of both products, and the weighted sum over all pairs.
    """
    hidden, inner = np.asarray(hidden_size, dtype=np.float64), np.asarray(inner_size, dtype=np.float64)
    matrices = np.asarray(matrices, dtype=np.float64)
    weights = loads.hits * matrices * hidden * inner * WEIGHT_BYTES[dtype]
    between = (matrices - 1) * inner * 2 * OUT_BYTES + inner * OUT_BYTES
    rows = loads.rows * (ACTIVATION_BYTES[dtype] * hidden + between + OUT_BYTES * hidden)
    return 2.0 * matrices * loads.tiled * hidden * inner, weights + rows + OUT_BYTES * loads.total * hidden


def moe_coords(loads: Loads, hidden_size: ArrayLike, inner_size: ArrayLike) -> dict[str, ArrayLike]:
    """Coordinates of the tables. ``share``: pairs of all GPUs per row here; ``slab``: numbers in an expert's matrix."""
    return {
        "skew": loads.skew,
        "share": loads.total / loads.rows,
        "hits": loads.hits,
        "inter": inner_size,
        "each": loads.rows / loads.hits,
        "slab": np.asarray(hidden_size) * np.asarray(inner_size),
    }


def expert_kernel(
    profile: HardwareProfile,
    dtype: Precision,
    *,
    ep: int = 1,
    vllm_version: VersionName = MODELLED_VLLM,
    backend: str | None = None,
) -> ExpertKernel:
    """What vLLM picks, or ``backend``. Raises :class:`InputError` when the profile has no such kernel."""
    of_dtype = [fit for fit in profile.kernels.experts if fit.dtype == dtype and fit.spread in (None, ep > 1)]
    named = [fit for fit in of_dtype if backend in (None, fit.backend)]
    own = [fit for fit in named if fit.vllm_version == vllm_version]
    general = [fit for fit in named if fit.vllm_version is None or backend is not None]
    if not own + general:
        what = f"{dtype} experts" + (f" with {backend}" if backend else "")
        raise InputError(
            f"{profile.name} has no measured kernel for {what}",
            allowed=[f"{fit.dtype} ({fit.backend})" for fit in profile.kernels.experts],
        )
    return (own + general)[0]


def moe_s(
    profile: HardwareProfile,
    dtype: Precision,
    tokens: ArrayLike,
    experts: Experts,
    hidden_size: int,
    *,
    tp: int,
    ep: int = 1,
    imbalance: float = IMBALANCE,
    vllm_version: VersionName = MODELLED_VLLM,
    backend: str | None = None,
) -> tuple[Floats, Floats]:
    """Seconds of one layer's routed experts for so many tokens of all ranks, and what of them computing bounds.

    ``ep`` > 1 spreads whole experts over so many GPUs; else ``tp`` cut each of them. Two arrays like ``tokens``. Raises
    :class:`InputError` when nothing was measured in this precision.
    """
    kernel = expert_kernel(profile, dtype, ep=ep, vllm_version=vllm_version, backend=backend).kernel
    loads, inner = _of(experts, tokens, tp, ep, imbalance)
    flops, moved = moe_work(dtype, loads, hidden_size, inner, experts.matrices)
    seconds = kernel_s(kernel, flops, moved, **moe_coords(loads, hidden_size, inner))
    compute_s, memory_s = flops / kernel.flops_per_s.value, moved / kernel.bytes_per_s.value
    return seconds, np.asarray(seconds * compute_s / (compute_s + memory_s), dtype=np.float64)


def moe_in_range(
    profile: HardwareProfile,
    dtype: Precision,
    tokens: ArrayLike,
    experts: Experts,
    hidden_size: int,
    *,
    tp: int,
    ep: int = 1,
    imbalance: float = IMBALANCE,
    vllm_version: VersionName = MODELLED_VLLM,
    backend: str | None = None,
) -> NDArray[np.bool_]:
    """Where the loads and sizes lie inside what was measured on this device."""
    kernel = expert_kernel(profile, dtype, ep=ep, vllm_version=vllm_version, backend=backend).kernel
    loads, inner = _of(experts, tokens, tp, ep, imbalance)
    return kernel.covers(**moe_coords(loads, hidden_size, inner))


def _of(experts: Experts, tokens: ArrayLike, tp: int, ep: int, imbalance: float) -> tuple[Loads, float]:
    loads = expert_loads(tokens, experts.num_experts, experts.experts_per_token, ep, imbalance)
    return loads, experts.intermediate_size / (1 if ep > 1 else tp)
