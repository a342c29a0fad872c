"""Seconds of each GPU kernel, from a profile's fits. Pure, vectorised; sizes are per GPU, after sharding.

Every kernel is ``(launch + p-norm(FLOPs / rate, bytes / bandwidth)) · exp(table)``. The table is
multilinear in the logarithms of the sizes and constant beyond its edges, so outside the measured range the
roofline alone extrapolates; the ``*_in_range`` functions say where that happens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twin.base import InputError
from twin.cost.tables import Floats, interpolate, p_norm
from twin.spec.hardware import HardwareProfile
from twin.spec.kernels import Attention, Copy, Kernel, Precision

BYTES: dict[Precision, int] = {"bf16": 2, "fp8": 1, "int8": 1}
"""Of one number in the KV cache."""

WEIGHT_BYTES: dict[Precision, float] = {
    "bf16": 2.0,
    "fp32": 4.0,
    "fp8": 1.0,
    "fp8_block": 1.0 + 4 / 128**2,
    "int8": 1.0,
    "w8a16": 1.0,
    "w4a16": (4 + 20 / 128) / 8,
    "mxfp4": (4 + 8 / 32) / 8,
    "nvfp4": (4 + 8 / 16) / 8,
    "bf16_2of4": (16 / 2 + 2 / 2) / 8,
    "fp8_2of4": (8 / 2 + 2 / 2) / 8,
}
"""Of one weight with its share of scales: fp32 per 128 × 128; fp16 and a 4-bit zero point per 128; 8 bits per 32 or 16; of
2:4 sparsity half the weights and 2 bits for the place of each."""

ACTIVATION_BYTES: dict[Precision, float] = {
    **dict.fromkeys(WEIGHT_BYTES, 2.0),
    **{"fp32": 4.0, "fp8": 1.0, "fp8_block": 1.0, "int8": 1.0, "fp8_2of4": 1.0, "nvfp4": 0.5625},
}
"""Of one input of a product, as the product reads it."""
TILE_M = 256
"""Rows of a pair of 128-row tiles, as the fp8 kernels for m > 128 launch them (clusters of two)."""

OUT_BYTES = 2  # activations are bf16 whatever the precision of weights and cache


def _array(x: ArrayLike) -> Floats:
    return np.asarray(x, dtype=np.float64)


def roofline_s(kernel: Kernel, flops: ArrayLike, bytes_moved: ArrayLike) -> Floats:
    """The physics without the table: launch + smooth max of compute time and memory time."""
    compute_s = _array(flops) / kernel.flops_per_s.value
    memory_s = _array(bytes_moved) / kernel.bytes_per_s.value
    return kernel.launch_s.value + p_norm(compute_s, memory_s, kernel.p.value)


def kernel_s(kernel: Kernel, flops: ArrayLike, bytes_moved: ArrayLike, **coords: ArrayLike) -> Floats:
    """Roofline times the correction at ``coords``, which are named as the table's axes."""
    table, seconds = kernel.table, roofline_s(kernel, flops, bytes_moved)
    if table is None:
        return seconds
    log_ratio = interpolate(table.log_axes, table.values, [coords[name] for name in table.axes])
    return np.asarray(seconds * np.exp(log_ratio), dtype=np.float64)


def gemm_kernel(profile: HardwareProfile, dtype: Precision) -> Kernel:
    """Raises :class:`InputError` when the profile has no measured GEMM of that precision."""
    kernel = profile.kernels.gemm.get(dtype)
    if kernel is None:
        raise InputError(f"{profile.name} has no measured {dtype} matrix multiplication", allowed=profile.kernels.gemm)
    return kernel


def gemm_work(dtype: Precision, m: ArrayLike, n: ArrayLike, k: ArrayLike) -> tuple[Floats, Floats]:
    """FLOPs and bytes of an (m, k) × (k, n) product with bf16 output: each operand is moved once."""
    m, n, k = _array(m), _array(n), _array(k)
    read = WEIGHT_BYTES[dtype] * n * k + ACTIVATION_BYTES[dtype] * m * k
    return 2.0 * m * n * k, read + OUT_BYTES * m * n


def gemm_fill(m: ArrayLike) -> Floats:
    """Share of the last 256-row tile pair's rows that are real, for m > 128.

    Partly filled tiles run slower (fp8).
    """
    m = _array(m)
    return np.where(m <= TILE_M // 2, 1.0, m / (np.ceil(m / TILE_M) * TILE_M))


def gemm_s(
    profile: HardwareProfile, dtype: Precision, m: ArrayLike, n: float, k: float, *, in_engine: bool = False
) -> Floats:
    """Seconds of an (m, k) × (k, n) product.

    ``m`` (tokens) may be an array. fp8 activations come already quantised. Beyond 256 rows only full tiles and those with a
    single row in the last were timed, the latter up to twice as slow; ``in_engine`` takes what lies between as full, as
    nothing of it shows in an engine's runs (a share of it, fitted to them, comes out as 0).
    """
    flops, moved = gemm_work(dtype, m, n, k)
    fill = np.where(in_engine & (_array(m) > TILE_M), 1.0, gemm_fill(m))
    return kernel_s(gemm_kernel(profile, dtype), flops, moved, m=m, n=n, k=k, fill=fill, area=_array(m) * n)


def gemm_in_range(profile: HardwareProfile, dtype: Precision, m: ArrayLike, n: float, k: float) -> NDArray[np.bool_]:
    return gemm_kernel(profile, dtype).covers(m=m, n=n, k=k, fill=1.0, area=_array(m) * n)


def _pick(fits: tuple[Attention, ...], profile: HardwareProfile, what: str, kv: Precision, head_dim: int) -> Kernel:
    """The kernel measured at this KV precision and the nearest head size; work scales with the true one."""
    same = [fit for fit in fits if fit.kv == kv]
    if not same:
        raise InputError(
            f"{profile.name} has no measured {what} attention over a {kv} KV cache",
            allowed={fit.kv for fit in fits},
        )
    return min(same, key=lambda fit: abs(fit.head_dim - head_dim)).kernel


def _heads(num_heads: int, num_kv_heads: int) -> dict[str, float]:
    return {"heads": num_heads, "kv_heads": num_kv_heads, "group": num_heads / num_kv_heads}


def decode_work(
    kv_dtype: Precision,
    batch: ArrayLike,
    mean_context: ArrayLike,
    num_heads: ArrayLike,
    num_kv_heads: ArrayLike,
    head_dim: int,
) -> tuple[Floats, Floats]:
    """FLOPs and bytes of one decode step: the cache is read once, one query row per sequence and head."""
    batch, tokens = _array(batch), _array(batch) * _array(mean_context)
    num_heads, num_kv_heads = _array(num_heads), _array(num_kv_heads)
    flops = 4.0 * tokens * num_heads * head_dim
    cache = 2.0 * tokens * num_kv_heads * head_dim * BYTES[kv_dtype]
    return flops, cache + 2.0 * OUT_BYTES * batch * num_heads * head_dim


def decode_attention_s(
    profile: HardwareProfile,
    kv_dtype: Precision,
    batch: ArrayLike,
    mean_context: ArrayLike,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> Floats:
    """Seconds of decode attention in one layer: ``batch`` sequences of ``mean_context`` cached tokens.

    The new token counts as part of the context. A mixed batch is priced at its mean: the kernel splits long
    caches, so bytes decide.
    """
    kernel = _pick(profile.kernels.decode_attention, profile, "decode", kv_dtype, head_dim)
    return decode_kernel_s(kernel, kv_dtype, batch, mean_context, num_heads, num_kv_heads, head_dim)


def decode_kernel_s(
    kernel: Kernel,
    kv_dtype: Precision,
    batch: ArrayLike,
    mean_context: ArrayLike,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> Floats:
    """:func:`decode_attention_s` by a given kernel."""
    flops, moved = decode_work(kv_dtype, batch, mean_context, num_heads, num_kv_heads, head_dim)
    lanes = _array(batch) * num_kv_heads
    return kernel_s(kernel, flops, moved, lanes=lanes, context=mean_context, **_heads(num_heads, num_kv_heads))


def decode_in_range(
    profile: HardwareProfile,
    kv_dtype: Precision,
    batch: ArrayLike,
    mean_context: ArrayLike,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> NDArray[np.bool_]:
    kernel = _pick(profile.kernels.decode_attention, profile, "decode", kv_dtype, head_dim)
    measured = any(f.head_dim == head_dim and f.kv == kv_dtype for f in profile.kernels.decode_attention)
    lanes = _array(batch) * num_kv_heads
    return measured & kernel.covers(lanes=lanes, context=mean_context, **_heads(num_heads, num_kv_heads))


def prefill_pairs(chunk: ArrayLike, context: ArrayLike) -> Floats:
    """Query–key pairs that a causal chunk attends to, with ``context`` tokens already in the cache."""
    chunk = _array(chunk)
    return chunk * _array(context) + chunk * chunk / 2.0


def prefill_work(
    kv_dtype: Precision,
    tokens: ArrayLike,
    pairs: ArrayLike,
    kv_tokens: ArrayLike,
    num_heads: ArrayLike,
    num_kv_heads: ArrayLike,
    head_dim: int,
) -> tuple[Floats, Floats]:
    """FLOPs and bytes.

    Every pair costs 4·head_dim per head; queries and outputs move once, the cache once.
    """
    num_heads, num_kv_heads = _array(num_heads), _array(num_kv_heads)
    queries = 2.0 * OUT_BYTES * _array(tokens) * num_heads * head_dim
    cache = 2.0 * _array(kv_tokens) * num_kv_heads * head_dim * BYTES[kv_dtype]
    return 4.0 * _array(pairs) * num_heads * head_dim, queries + cache


def prefill_batch_s(
    profile: HardwareProfile,
    kv_dtype: Precision,
    tokens: ArrayLike,
    pairs: ArrayLike,
    kv_tokens: ArrayLike,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> Floats:
    """Seconds of one layer's prefill attention when several chunks share a step: one launch, summed work.

    ``tokens`` = Σ chunk, ``pairs`` = Σ :func:`prefill_pairs`, ``kv_tokens`` = Σ (context + chunk). How busy
    the GPU is depends on the query rows in flight, how long each runs on the keys per row: those are the
    table's axes.
    """
    kernel = _pick(profile.kernels.prefill_attention, profile, "prefill", kv_dtype, head_dim)
    return prefill_kernel_s(kernel, kv_dtype, tokens, pairs, kv_tokens, num_heads, num_kv_heads, head_dim)


def prefill_kernel_s(
    kernel: Kernel,
    kv_dtype: Precision,
    tokens: ArrayLike,
    pairs: ArrayLike,
    kv_tokens: ArrayLike,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> Floats:
    """:func:`prefill_batch_s` by a given kernel."""
    flops, moved = prefill_work(kv_dtype, tokens, pairs, kv_tokens, num_heads, num_kv_heads, head_dim)
    coords = prefill_coords(tokens, pairs, num_heads)
    return kernel_s(kernel, flops, moved, **coords, **_heads(num_heads, num_kv_heads))


def prefill_coords(tokens: ArrayLike, pairs: ArrayLike, num_heads: ArrayLike) -> dict[str, Floats]:
    """``rows`` (query rows, Σ chunk · heads), ``keys`` and ``span``: the prompt length whose causal rows see as many keys.

    Without context that is the chunk itself, and only rows ≥ span can be measured (a batch has at least one head), so
    ``span`` is capped there. Where chunks after a context were measured, a table may use ``keys``, which is not.
    """
    tokens = _array(tokens)
    rows, keys = tokens * _array(num_heads), 2.0 * _array(pairs) / tokens
    return {"rows": rows, "keys": keys, "span": np.minimum(keys, rows)}


def prefill_attention_s(
    profile: HardwareProfile,
    kv_dtype: Precision,
    chunk: ArrayLike,
    context: ArrayLike,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    *,
    batch: ArrayLike = 1,
) -> Floats:
    """Seconds of one layer's attention over ``batch`` equal chunks, each after ``context`` cached tokens.

    Only context 0 is measured; with context the FLOPs (chunk·context + chunk²/2) and bytes grow as physics
    says.
    """
    batch, chunk, context = _array(batch), _array(chunk), _array(context)
    pairs, kv_tokens = prefill_pairs(chunk, context), chunk + context
    return prefill_batch_s(
        profile, kv_dtype, batch * chunk, batch * pairs, batch * kv_tokens, num_heads, num_kv_heads, head_dim
    )


def prefill_in_range(
    profile: HardwareProfile,
    kv_dtype: Precision,
    tokens: ArrayLike,
    pairs: ArrayLike,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> NDArray[np.bool_]:
    """Inside the measured rows, spans and heads; a chunk after a context counts as the prompt of its span."""
    kernel = _pick(profile.kernels.prefill_attention, profile, "prefill", kv_dtype, head_dim)
    measured = any(f.head_dim == head_dim and f.kv == kv_dtype for f in profile.kernels.prefill_attention)
    coords = prefill_coords(tokens, pairs, num_heads)
    uncapped = kernel.covers(**coords | {"span": coords["keys"]}, **_heads(num_heads, num_kv_heads))
    return measured & uncapped & ((coords["keys"] <= coords["rows"]) | _has_axis(kernel, "keys"))


def _has_axis(kernel: Kernel, name: str) -> bool:
    return kernel.table is not None and name in kernel.table.axes


def copy_s(copy: Copy, bytes_moved: ArrayLike) -> Floats:
    """Seconds of a kernel that only moves bytes; at least one byte."""
    moved = np.maximum(_array(bytes_moved), 1.0)
    seconds = p_norm(copy.launch_s.value, moved / copy.bytes_per_s.value, copy.p.value)
    if copy.table is None:
        return seconds
    return np.asarray(seconds * np.exp(interpolate(copy.table.log_axes, copy.table.values, [moved])), dtype=np.float64)


def elementwise_s(profile: HardwareProfile, bytes_moved: ArrayLike) -> Floats:
    """Seconds of one element-wise kernel (norm, activation) that reads and writes ``bytes_moved`` in all."""
    return copy_s(profile.kernels.elementwise, bytes_moved)


def fp8_quant_s(profile: HardwareProfile, m: ArrayLike, k: float) -> Floats:
    """Seconds to quantise (m, k) bf16 activations to fp8 with a static scale.

    2 bytes read, 1 written per element.
    """
    return copy_s(profile.kernels.elementwise, 3.0 * _array(m) * k)
