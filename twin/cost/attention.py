"""Seconds of softmax attention for any head size and any window: what :mod:`twin.cost.operators` prices, and its variants.

Inside its window a windowed layer runs the kernel of full attention in the same time (median ratio 1.000, 90 % within 3 %, on
every GPU of the database). Beyond it the kernel reads the window alone, but takes 1.0 to 1.5 times as long as full attention
over a context of that length, as it masks and loads whole tiles: those timings are a fit of their own, over the clipped
context or pairs (clipping alone errs by 9 to 31 % in decode and 3 to 12 % in prefill on H200, the fit by 1 to 4 %). A window
that was not measured takes the ratio of the two between those that were; learned sinks are one more number per head and cost
nothing that shows.

Source of the timings: aiconfigurator-core's attention tables for vLLM (windows 128, 1024, 8192; head sizes 64 to 512).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from twin.base import InputError
from twin.cost import operators as ops
from twin.cost.tables import Floats, locate
from twin.spec.hardware import HardwareProfile
from twin.spec.kernels import Attention, Kernel, Phase, Precision


def window_pairs(chunk: ArrayLike, context: ArrayLike, window: int | None, *, chunked: bool = False) -> Floats:
    """Query-key pairs of a chunk of tokens after ``context`` cached ones, each query seeing the last ``window`` tokens.

    The sum over positions x of min(x, window), or with ``chunked`` (Llama 4) of x modulo ``window``; the diagonal counts
    half, as in :func:`twin.cost.operators.prefill_pairs`, which this equals without a window or inside it.
    """
    chunk, context = np.asarray(chunk, dtype=np.float64), np.asarray(context, dtype=np.float64)
    if window is None:
        return ops.prefill_pairs(chunk, context)

    def before(x: Floats) -> Floats:
        """Pairs of a prompt of x tokens."""
        if chunked:
            return np.asarray(x // window * window**2 / 2 + (x % window) ** 2 / 2)
        return np.asarray(np.minimum(x, window) ** 2 / 2 + np.maximum(x - window, 0.0) * window)

    return before(context + chunk) - before(context)


def window_context(context: ArrayLike, window: int | None, *, chunked: bool = False) -> Floats:
    """Cached tokens that a decoding sequence reads of ``context``; of long chunked ones half a chunk, the mean."""
    context = np.asarray(context, dtype=np.float64)
    if window is None:
        return context
    return np.where(context <= window, context, window / 2) if chunked else np.minimum(context, window)


def _full(profile: HardwareProfile, phase: Phase, kv: Precision, head_dim: int) -> Attention:
    """Full attention at this KV precision and the nearest head size."""
    kernels = profile.kernels
    dense = kernels.decode_attention if phase == "decode" else kernels.prefill_attention
    more = [fit for fit in kernels.attention_variants if fit.phase == phase and not fit.windowed]
    same = [fit for fit in (*dense, *more) if fit.kv == kv]
    if not same:
        raise InputError(
            f"{profile.name} has no measured {phase} attention over a {kv} KV cache", allowed={fit.kv for fit in dense}
        )
    return min(same, key=lambda fit: abs(fit.head_dim - head_dim))


def _windowed(profile: HardwareProfile, phase: Phase, kv: Precision, head_dim: int) -> Attention | None:
    found = [fit for fit in profile.kernels.attention_variants if fit.phase == phase and fit.windowed and fit.kv == kv]
    return min(found, key=lambda fit: abs(fit.head_dim - head_dim), default=None)


def _slower(kernel: Kernel, axis: str, x: ArrayLike, ratio: Callable[[ArrayLike], Floats]) -> Floats:
    """``ratio`` of the windowed kernel to full attention at ``x``: measured at the nodes of ``axis``; between them
    its logarithm is linear in that of x, beyond them it is constant.
    """
    if kernel.table is None:
        return ratio(x)
    nodes = kernel.table.axes[axis]
    cell, place = locate(np.log(np.asarray(x, dtype=np.float64)), np.log(np.asarray(nodes)))
    at = [np.log(ratio(node)) for node in nodes]
    low, high = np.choose(cell, at), np.choose(cell + 1, at)
    return np.asarray(np.exp(low + place * (high - low)), dtype=np.float64)


def windowed_decode_s(
    profile: HardwareProfile,
    kv_dtype: Precision,
    batch: ArrayLike,
    mean_context: ArrayLike,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    window: int | None = None,
) -> Floats:
    """Seconds of one layer's decode attention: as ``decode_attention_s``, for any head size, over at most ``window`` tokens.

    Raises :class:`InputError` for a KV precision that the profile has no kernel for.
    """
    shape = (num_heads, num_kv_heads, head_dim)

    def on(fit: Attention, context: ArrayLike) -> Floats:
        return ops.decode_kernel_s(fit.kernel, kv_dtype, batch, context, *shape)

    full = _full(profile, "decode", kv_dtype, head_dim)
    inside = on(full, window_context(mean_context, window))
    beyond = None if window is None else _windowed(profile, "decode", kv_dtype, head_dim)
    if window is None or beyond is None:
        return inside
    slower = _slower(beyond.kernel, "context", window, lambda context: on(beyond, context) / on(full, context))
    return np.where(np.asarray(mean_context) > window, inside * slower, inside)


def windowed_prefill_s(
    profile: HardwareProfile,
    kv_dtype: Precision,
    tokens: ArrayLike,
    pairs: ArrayLike,
    kv_tokens: ArrayLike,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    window: int | None = None,
) -> Floats:
    """Seconds of one layer's prefill attention: as ``prefill_batch_s``, for any head size, with pairs inside ``window``.

    ``tokens`` = Σ chunk, ``pairs`` = Σ :func:`window_pairs`, ``kv_tokens`` = Σ (chunk + context read). Where a row sees more
    than half a window of keys on average, the prompt is longer than the window, and the windowed kernel runs.
    """
    shape = (num_heads, num_kv_heads, head_dim)
    tokens, pairs = np.asarray(tokens, dtype=np.float64), np.asarray(pairs, dtype=np.float64)

    def on(fit: Attention, pairs: ArrayLike) -> Floats:
        return ops.prefill_kernel_s(fit.kernel, kv_dtype, tokens, pairs, kv_tokens, *shape)

    full = _full(profile, "prefill", kv_dtype, head_dim)
    inside = on(full, pairs)
    beyond = None if window is None else _windowed(profile, "prefill", kv_dtype, head_dim)
    if window is None or beyond is None:
        return inside
    keys = ops.prefill_coords(tokens, pairs, num_heads)["keys"]
    slower = _slower(beyond.kernel, "keys", keys, lambda x: on(beyond, tokens * x / 2) / on(full, tokens * x / 2))
    return np.where(pairs > tokens * window / 2, inside * slower, inside)


def attention_measured(
    profile: HardwareProfile, phase: Phase, kv_dtype: Precision, head_dim: int, window: int | None = None
) -> bool:
    """Whether this head size, and with a window the windowed kernel of it, were measured on the device."""
    fits = [_full(profile, phase, kv_dtype, head_dim)]
    if window is not None and (beyond := _windowed(profile, phase, kv_dtype, head_dim)):
        fits.append(beyond)
    own = all(fit.head_dim == head_dim and fit.kernel.provenance.origin != "assumed" for fit in fits)
    return own and len(fits) == (1 if window is None else 2)
