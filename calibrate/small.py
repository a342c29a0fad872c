"""Fits of the two small families: element-wise kernels (a line) and all-reduce (measured points)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from calibrate.fit import FOLDS, errors, round_to, rounded
from twin.base import Estimate, Provenance
from twin.cost.collectives import CUSTOM_MAX_BYTES
from twin.cost.tables import Floats, p_norm
from twin.spec.hardware import Collective, Copy, HeldOut

# One activation of a 7B model's token up to 8192 tokens of a 405B model's, in bf16.
SERVING_MESSAGE_BYTES = (3584 * 2, 8192 * 16384 * 2)


def _copy_seconds(log_params: Floats, bytes_moved: Floats) -> Floats:
    bandwidth, launch, p = np.exp(log_params)
    return p_norm(launch, bytes_moved / bandwidth, p)


def _fit_copy(bytes_moved: Floats, seconds: Floats, peak_bw: float) -> tuple[Floats, Floats]:
    def residual(log_params: Floats) -> Floats:
        return np.asarray(np.log(_copy_seconds(log_params, bytes_moved) / seconds), dtype=np.float64)

    bounds = (np.log([0.05 * peak_bw, 2e-7, 1.0]), np.log([4.0 * peak_bw, 1e-4, 16.0]))
    start = np.log([0.7 * peak_bw, 3e-6, 2.0])
    found = least_squares(residual, start, bounds=bounds, loss="soft_l1", f_scale=0.1)
    spread = 2.0 * found.cost / max(len(seconds) - 3, 1)
    return found.x, np.sqrt(np.diag(np.linalg.pinv(found.jac.T @ found.jac)) * spread)


def fit_copy(table: pd.DataFrame, peak_bw: float, provenance: Provenance) -> Copy:
    """launch and bandwidth joined by a p-norm; held out by row length ``k``."""
    bytes_moved, seconds = table["bytes_moved"].to_numpy(float), table["seconds"].to_numpy(float)
    k = table["k"].to_numpy()
    fold_of = {value: i % FOLDS for i, value in enumerate(np.random.default_rng(1).permutation(np.unique(k)))}
    folds = np.array([fold_of[value] for value in k])
    predicted = np.zeros(len(seconds))
    for fold in range(FOLDS):
        out = folds == fold
        predicted[out] = _copy_seconds(_fit_copy(bytes_moved[~out], seconds[~out], peak_bw)[0], bytes_moved[out])
    serving = np.isin(k, (3584, 4096, 5120, 8192, 16384)) & (table["m"].to_numpy() <= 8192)
    held_out = HeldOut(
        overall=errors(predicted, seconds), serving=errors(predicted[serving], seconds[serving])
    )
    log_params, log_stderr = _fit_copy(bytes_moved, seconds, peak_bw)
    bandwidth, launch, p = (
        Estimate(
            value=round_to(value),
            stderr=round_to(value * stderr, 2),
            n=len(seconds),
            origin="fitted",
            source=provenance.source,
            date=provenance.date,
        )
        for value, stderr in zip(np.exp(log_params), log_stderr, strict=True)
    )
    return Copy(bytes_per_s=bandwidth, launch_s=launch, p=p, held_out=rounded(held_out))


def assumed_copy(others: Sequence[tuple[Copy, float]], peak_bw: float, source: str, date: str) -> Copy:
    """For a GPU without measurements: the mean launch, p and share of peak bandwidth of ``others`` (fit, their peak)."""

    def mean(values: Sequence[float], scale: float = 1.0) -> Estimate:
        return Estimate(
            value=round_to(scale * float(np.mean(values))),
            stderr=round_to(scale * float(np.std(values, ddof=1)), 2),
            n=len(values),
            origin="assumed",
            source=source,
            date=date,
        )

    return Copy(
        bytes_per_s=mean([fit.bytes_per_s.value / peak for fit, peak in others], peak_bw),
        launch_s=mean([fit.launch_s.value for fit, _ in others]),
        p=mean([fit.p.value for fit, _ in others]),
    )


def fit_all_reduce(table: pd.DataFrame, custom: Provenance) -> list[Collective]:
    """Per number of GPUs: what vLLM runs in a CUDA graph, below 8 MiB (its own kernel where links allow) and above.

    From 8 MiB on, vLLM hands over to NCCL and the graph rows agree with NCCL's own within noise; the graph rows are
    kept throughout, as they reach 1 GiB. Held out: every size between its two neighbours.
    """
    graph = table[table["backend"] == "custom"].sort_values("message_bytes")
    fits = []
    for num_gpus, rows in graph.groupby("num_gpus"):
        sizes, seconds = rows["message_bytes"].to_numpy(float), rows["seconds"].to_numpy(float)
        small = sizes < CUSTOM_MAX_BYTES
        fits.append(_collective(int(num_gpus), "custom", sizes[small], seconds[small], custom))
        fits.append(_collective(int(num_gpus), "nccl", sizes[~small], seconds[~small], custom))
    return fits


def _collective(num_gpus: int, backend: str, sizes: Floats, seconds: Floats, source: Provenance) -> Collective:
    inner = np.arange(1, len(sizes) - 1)
    predicted = np.array(
        [np.exp(np.interp(np.log(sizes[i]), *_points(np.delete(sizes, i), np.delete(seconds, i)))) for i in inner]
    )
    low, high = SERVING_MESSAGE_BYTES
    serving = (sizes[inner] >= low) & (sizes[inner] <= high)
    held_out = HeldOut(
        overall=errors(predicted, seconds[inner]),
        serving=errors(predicted[serving], seconds[inner][serving]),
    )
    return Collective(
        num_gpus=num_gpus,
        backend="custom" if backend == "custom" else "nccl",
        message_bytes=tuple(float(size) for size in sizes),
        us=tuple(round_to(value * 1e6) for value in rising(seconds)),
        held_out=rounded(held_out),
        provenance=source,
    )


def _points(sizes: Floats, seconds: Floats) -> tuple[Floats, Floats]:
    return np.log(sizes), np.log(rising(seconds))


def rising(seconds: Floats) -> Floats:
    """More bytes never take less time: a point above a later one is a stray timing and comes down to it."""
    return np.asarray(np.minimum.accumulate(seconds[::-1])[::-1], dtype=np.float64)
