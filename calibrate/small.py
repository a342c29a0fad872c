"""Fits of the two small families: element-wise kernels (a line) and all-reduce (measured points)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from calibrate.families import HIDDEN_SIZES, SERVING_MAX_TOKENS
from calibrate.fit import (
    FOLDS,
    Axes,
    Observations,
    TableFit,
    as_table,
    errors,
    estimates,
    fit_table,
    hat_matrix,
    judge,
    round_to,
    rounded,
    unit_stderr,
    within,
)
from twin.base import Estimate, Provenance
from twin.cost.collectives import line_s
from twin.cost.tables import Floats, p_norm
from twin.spec.hardware import Collective, Copy, HeldOut, Segment

# One activation of a 7B model's token up to 8192 tokens of a 405B model's, in bf16.
SERVING_MESSAGE_BYTES = (3584 * 2, 8192 * 16384 * 2)


COPY_AXES: Axes = {"bytes": tuple(2.0**i for i in range(7, 34))}

# Where vLLM's own all-reduce changes from every GPU reading all others to reduce-scatter and all-gather, and
# where it leaves the message to NCCL (csrc/custom_all_reduce.cuh, custom_all_reduce.py).
TWO_STAGE_FROM_BYTES = {4: 512 * 1024, 8: 256 * 1024}
NCCL_FROM_BYTES = 8 * 2**20


def _copy_base(log_params: Floats, bytes_moved: Floats) -> Floats:
    bandwidth, launch, p = np.exp(log_params)
    return p_norm(launch, bytes_moved / bandwidth, p)


def _fit_copy_base(obs: Observations, peak_bw: float) -> tuple[Floats, Floats]:
    """log of (bandwidth, launch, p) and their standard errors."""

    def residual(log_params: Floats) -> Floats:
        log_ratio = np.log(_copy_base(log_params, obs.bytes_moved) / obs.seconds)
        return np.asarray(log_ratio * np.sqrt(obs.weight), dtype=np.float64)

    bounds = (np.log([0.05 * peak_bw, 2e-7, 1.0]), np.log([1.2 * peak_bw, 1e-4, 16.0]))
    start = np.log([0.7 * peak_bw, 3e-6, 2.0])
    found = least_squares(residual, start, bounds=bounds, loss="soft_l1", f_scale=0.1)
    spread = 2.0 * found.cost / max(len(obs.seconds) - 3, 1)
    return np.asarray(found.x), float(np.sqrt(spread)) * unit_stderr(found.jac)


def _fit_copy_table(obs: Observations, log_params: Floats) -> TableFit:
    log_ratio = np.log(obs.seconds / _copy_base(log_params, obs.bytes_moved))
    return fit_table(obs, log_ratio, within(COPY_AXES, obs), smoothing=0.1)


def _copy_held_out(obs: Observations, peak_bw: float) -> HeldOut:
    folds, predicted = obs.shape % FOLDS, np.zeros(len(obs.seconds))
    for fold in range(FOLDS):
        seen, unseen = obs.part(folds != fold), obs.part(folds == fold)
        log_params, _ = _fit_copy_base(seen, peak_bw)
        table = _fit_copy_table(seen, log_params)
        ratio = np.exp(hat_matrix(within(COPY_AXES, seen), unseen.coords) @ table.values)
        predicted[folds == fold] = _copy_base(log_params, unseen.bytes_moved) * ratio
    return rounded(judge(obs, predicted))


def fit_copy(rows: pd.DataFrame, peak_bw: float, provenance: Provenance) -> Copy:
    """launch and bandwidth joined by a p-norm, and a table over bytes; held out by row length ``k``."""
    bytes_moved, k = rows["bytes_moved"].to_numpy(float), rows["k"]
    obs = Observations(
        coords={"bytes": bytes_moved},
        flops=np.zeros(len(rows)),
        bytes_moved=bytes_moved,
        seconds=rows["seconds"].to_numpy(float),
        shape=k.factorize(sort=True)[0].astype(np.intp),
        serving=(k.isin(HIDDEN_SIZES) & (rows["m"] <= SERVING_MAX_TOKENS)).to_numpy(),
        provenance=provenance,
    )
    log_params, log_stderr = _fit_copy_base(obs, peak_bw)
    table = _fit_copy_table(obs, log_params)
    bandwidth, launch, p = estimates(np.exp(log_params), log_stderr, obs)
    return Copy(
        bytes_per_s=bandwidth,
        launch_s=launch,
        p=p,
        table=as_table(table, within(COPY_AXES, obs), len(rows)),
        held_out=_copy_held_out(obs, peak_bw),
    )


def assumed_copy(others: Sequence[tuple[Copy, float]], peak_bw: float, source: str, date: str) -> Copy:
    """For a GPU without measurements.

    Mean launch, p and share of peak bandwidth of ``others`` (fit, its peak).
    """

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


def fit_all_reduce(graph: pd.DataFrame, provenance: Provenance) -> list[Collective]:
    """Per number of GPUs: what vLLM runs in a CUDA graph, split where it changes the algorithm.

    Held out: every inner point of a segment, predicted from the others.
    """
    fits = []
    for num_gpus in sorted(set(graph["num_gpus"])):
        rows = graph[graph["num_gpus"] == num_gpus].sort_values("message_bytes")
        sizes, seconds = rows["message_bytes"].to_numpy(float), rows["seconds"].to_numpy(float)
        fits.append(_collective(int(num_gpus), sizes, seconds, provenance))
    return fits


def _collective(num_gpus: int, sizes: Floats, seconds: Floats, provenance: Provenance) -> Collective:
    starts = [0, TWO_STAGE_FROM_BYTES.get(num_gpus, NCCL_FROM_BYTES), NCCL_FROM_BYTES, np.inf]
    segments, predicted, inner = [], [], np.zeros(len(sizes), dtype=bool)
    for algorithm, low, high in zip(("one_stage", "two_stage", "nccl"), starts, starts[1:], strict=False):
        own = np.flatnonzero((sizes >= low) & (sizes < high))
        if len(own) < 2:
            continue
        clean = without_strays(seconds[own])
        for i in range(1, len(own) - 1):
            others = np.delete(sizes[own], i), without_strays(np.delete(seconds[own], i))
            predicted.append(float(line_s(*others, sizes[own][i])))
        inner[own[1:-1]] = True
        segments.append(
            Segment(
                algorithm=algorithm,
                message_bytes=tuple(float(size) for size in sizes[own]),
                us=tuple(round_to(value * 1e6) for value in clean),
            )
        )
    guess, measured, at = np.array(predicted), seconds[inner], sizes[inner]
    serving = (at >= SERVING_MESSAGE_BYTES[0]) & (at <= SERVING_MESSAGE_BYTES[1])
    held_out = HeldOut(overall=errors(guess, measured), serving=errors(guess[serving], measured[serving]))
    return Collective(num_gpus=num_gpus, segments=tuple(segments), held_out=rounded(held_out), provenance=provenance)


def without_strays(seconds: Floats) -> Floats:
    """A single point half as slow again as both its neighbours is a stray timing and becomes their mean."""
    clean = seconds.copy()
    for i in range(1, len(seconds) - 1):
        if seconds[i] > 1.5 * max(seconds[i - 1], seconds[i + 1]):
            clean[i] = (seconds[i - 1] + seconds[i + 1]) / 2
    return clean
