"""Robust fits of kernel timings: a roofline, then a table of corrections, judged on shapes left out of both.

The roofline's four coefficients (FLOP rate, bandwidth, launch time, p of the p-norm) come from a soft-L1
fit of log times. The table is a regularised least-squares fit of the remaining log ratio on hat functions
(multilinear interpolation): second differences along each axis are penalised, so that empty corners follow
their neighbours, and residuals are reweighted towards the median, so that stray timings do not bend it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import least_squares
from scipy.sparse.linalg import splu

from twin.base import Estimate, InputError, Provenance
from twin.cost.tables import Floats, corners, p_norm
from twin.spec.hardware import Errors, HeldOut, Kernel, Table

FOLDS = 5
ROOFLINE_SAMPLE = 8000  # enough for four coefficients; the table sees every row
STRAY = 0.02  # log ratio beyond which a residual counts by its absolute value, no more by its square
PASSES = 6
RIDGE = 1e-2
OFF_SERVING_WEIGHT = 0.3  # shapes that no dense model serves with still shape the table, less


@dataclass(frozen=True)
class Observations:
    """Timings of one kernel. Arrays of one length; ``shape`` numbers what is held out together."""

    coords: dict[str, Floats]
    flops: Floats
    bytes_moved: Floats
    seconds: Floats
    shape: NDArray[np.intp]
    serving: NDArray[np.bool_]
    provenance: Provenance

    def part(self, keep: NDArray[np.bool_]) -> Observations:
        return replace(
            self,
            coords={name: x[keep] for name, x in self.coords.items()},
            flops=self.flops[keep],
            bytes_moved=self.bytes_moved[keep],
            seconds=self.seconds[keep],
            shape=self.shape[keep],
            serving=self.serving[keep],
        )

    @property
    def weight(self) -> Floats:
        return np.where(self.serving, 1.0, OFF_SERVING_WEIGHT)


@dataclass(frozen=True)
class Roofline:
    """log of (FLOP/s, bytes/s, launch s, p) with standard errors."""

    log_params: Floats
    stderr: Floats

    def seconds(self, obs: Observations) -> Floats:
        rate, bandwidth, launch, p = np.exp(self.log_params)
        return np.asarray(launch + p_norm(obs.flops / rate, obs.bytes_moved / bandwidth, p), dtype=np.float64)


def fit_roofline(obs: Observations, peak_flops: float, peak_bw: float) -> Roofline:
    """Four coefficients, none above 1.3 times its datasheet peak (caches can beat the memory's)."""
    count = len(obs.seconds)
    keep = np.zeros(count, dtype=bool)
    keep[np.random.default_rng(0).permutation(count)[:ROOFLINE_SAMPLE]] = True
    some = obs.part(keep)
    log_seconds, root_weight = np.log(some.seconds), np.sqrt(some.weight)

    def residual(log_params: Floats) -> Floats:
        model = Roofline(log_params, log_params).seconds(some)
        return np.asarray((np.log(model) - log_seconds) * root_weight, dtype=np.float64)

    start = np.log([0.6 * peak_flops, 0.7 * peak_bw, 5e-6, 4.0])
    low = np.log([0.01 * peak_flops, 0.05 * peak_bw, 2e-7, 1.0])
    high = np.log([1.3 * peak_flops, 1.3 * peak_bw, 2e-4, 16.0])
    found = least_squares(residual, start, bounds=(low, high), loss="soft_l1", f_scale=0.1)
    spread = float(np.sqrt(2.0 * found.cost / max(len(some.seconds) - 4, 1)))
    return Roofline(np.asarray(found.x), spread * unit_stderr(found.jac))


def unit_stderr(jacobian: object) -> Floats:
    """Standard errors of least-squares parameters for residuals of unit spread."""
    j = np.asarray(jacobian, dtype=np.float64)
    return np.asarray(np.sqrt(np.diag(np.linalg.pinv(j.T @ j))), dtype=np.float64)


Axes = dict[str, Sequence[float]]
Candidate = tuple[Axes, float]
"""Axes of a table and how much its bends are penalised."""


def log_axes(axes: Axes) -> list[Floats]:
    return [np.log(np.asarray(nodes, dtype=np.float64)) for nodes in axes.values()]


def within(axes: Axes, obs: Observations) -> Axes:
    """``axes`` cut to what was measured, so that the profile's range is the range of its data."""
    cut: Axes = {}
    for name, nodes in axes.items():
        low, high = float(obs.coords[name].min()), float(obs.coords[name].max())
        inner = [float(node) for node in nodes if low < node < high]
        cut[name] = tuple(nodes) if name == "fill" else (low, *inner, high)
    return cut


def hat_matrix(axes: Axes, coords: dict[str, Floats]) -> sparse.csr_matrix:
    """(rows, nodes): the weight of each table entry in each row's prediction."""
    index, weight = corners(log_axes(axes), [np.log(coords[name]) for name in axes])
    rows = np.broadcast_to(np.arange(index.shape[1]), index.shape)
    size = (index.shape[1], int(np.prod([len(nodes) for nodes in axes.values()])))
    return sparse.csr_matrix((weight.ravel(), (rows.ravel(), index.ravel())), shape=size)


def _bend(nodes: Floats) -> sparse.csr_matrix:
    """Second differences along an axis; across a jump (two nodes a few per cent apart) none."""
    gaps, count = np.diff(nodes), len(nodes)
    rows = []
    for j in range(count - 2):
        if min(gaps[j], gaps[j + 1]) > 0.1:
            row = np.zeros(count)
            row[j : j + 3] = 1 / gaps[j], -1 / gaps[j] - 1 / gaps[j + 1], 1 / gaps[j + 1]
            rows.append(row)
    return sparse.csr_matrix(np.array(rows) if rows else np.zeros((0, count)))


def bend_matrix(axes: Axes, smoothing: float) -> sparse.csr_matrix:
    """What the fit penalises: bends along every axis, and a little of everything."""
    nodes = log_axes(axes)
    sizes = [len(axis) for axis in nodes]
    parts: list[sparse.csr_matrix] = []
    for position, axis in enumerate(nodes):
        before = sparse.identity(int(np.prod(sizes[:position])))
        after = sparse.identity(int(np.prod(sizes[position + 1 :])))
        bends = sparse.kron(sparse.kron(before, _bend(axis)), after)
        parts.append(sparse.csr_matrix(smoothing * bends))
    parts.append(sparse.csr_matrix(RIDGE * sparse.identity(int(np.prod(sizes)))))
    return sparse.csr_matrix(sparse.vstack(parts))


@dataclass(frozen=True)
class TableFit:
    values: Floats
    stderr: float


def fit_table(obs: Observations, log_ratio: Floats, axes: Axes, smoothing: float) -> TableFit:
    """Table entries for ``log_ratio``, row-major in the order of ``axes``."""
    hats, bend = hat_matrix(axes, obs.coords), bend_matrix(axes, smoothing)
    penalty = bend.T @ bend
    weight = obs.weight
    values = np.zeros(hats.shape[1])
    for _ in range(PASSES):
        normal = sparse.csc_matrix(hats.T @ sparse.diags(weight) @ hats + penalty)
        values = splu(normal).solve(hats.T @ (weight * log_ratio))
        left = np.abs(log_ratio - hats @ values)
        weight = obs.weight * STRAY / np.maximum(left, STRAY)
    spread = float(np.median(left)) * 1.4826
    seen = np.asarray(hats.sum(axis=0)).ravel()
    return TableFit(values, spread / float(np.sqrt(max(np.median(seen[seen > 0]), 1.0))))


def predict(roofline: Roofline, axes: Axes, table: TableFit, obs: Observations) -> Floats:
    return np.asarray(roofline.seconds(obs) * np.exp(hat_matrix(axes, obs.coords) @ table.values), dtype=np.float64)


def errors(predicted: Floats, measured: Floats) -> Errors:
    """Mean absolute and mean relative error; :class:`InputError` when there is nothing to compare."""
    if len(measured) == 0:
        raise InputError("no measurement left to hold out")
    relative = predicted / measured - 1.0
    return Errors(mape=float(np.mean(np.abs(relative))), bias=float(np.mean(relative)), n=len(measured))


def held_out_seconds(obs: Observations, peaks: tuple[float, float], axes: Axes, smoothing: float) -> Floats:
    """Every row predicted by a fit (roofline and table) that saw no row of its shape.

    Folds of whole shapes.
    """
    shapes = np.unique(obs.shape)
    fold_of = dict(zip(shapes, np.random.default_rng(1).permutation(len(shapes)) % FOLDS, strict=True))
    folds = np.array([fold_of[shape] for shape in obs.shape])
    predicted = np.zeros(len(obs.seconds))
    for fold in range(FOLDS):
        out = folds == fold
        if not out.any():
            continue
        seen, unseen = obs.part(~out), obs.part(out)
        roofline = fit_roofline(seen, *peaks)
        table = fit_table(seen, np.log(seen.seconds / roofline.seconds(seen)), axes, smoothing)
        predicted[out] = predict(roofline, axes, table, unseen)
    return predicted


def judge(obs: Observations, predicted: Floats) -> HeldOut:
    return HeldOut(
        overall=errors(predicted, obs.seconds),
        serving=errors(predicted[obs.serving], obs.seconds[obs.serving]),
    )


def fit_kernel(obs: Observations, peaks: tuple[float, float], candidates: Sequence[Candidate]) -> Kernel:
    """Fit on all rows the candidate with the least held-out error on serving shapes.

    Later ones must win by 4 %.
    """
    choices = [(within(axes, obs), smoothing) for axes, smoothing in candidates]
    judged = [judge(obs, held_out_seconds(obs, peaks, *choice)) for choice in choices]
    best = 0
    for position in range(1, len(choices)):
        if judged[position].serving.mape < 0.96 * judged[best].serving.mape:
            best = position
    return _kernel(obs, peaks, choices[best], judged[best])


def _kernel(obs: Observations, peaks: tuple[float, float], choice: Candidate, held_out: HeldOut) -> Kernel:
    axes, smoothing = choice
    roofline = fit_roofline(obs, *peaks)
    table = fit_table(obs, np.log(obs.seconds / roofline.seconds(obs)), axes, smoothing)
    rate, bandwidth, launch, p = estimates(np.exp(roofline.log_params), roofline.stderr, obs)
    return Kernel(
        flops_per_s=rate,
        bytes_per_s=bandwidth,
        launch_s=launch,
        p=p,
        table=as_table(table, axes, len(obs.seconds)),
        held_out=rounded(held_out),
        provenance=obs.provenance,
    )


def estimates(values: Floats, log_stderr: Floats, obs: Observations) -> list[Estimate]:
    """Coefficients as a profile shows them; ``log_stderr`` are relative standard errors."""
    return [
        Estimate(
            value=round_to(value),
            stderr=round_to(value * stderr, 2),
            n=len(obs.seconds),
            origin="fitted",
            source=obs.provenance.source,
            date=obs.provenance.date,
        )
        for value, stderr in zip(values, log_stderr, strict=True)
    ]


def as_table(table: TableFit, axes: Axes, count: int) -> Table:
    return Table(
        axes={name: tuple(nodes) for name, nodes in axes.items()},
        stderr=round_to(table.stderr, 2),
        n=count,
        milli_log=text_rows(table.values, len(next(iter(axes.values()))) if len(axes) > 1 else 1),
    )


def text_rows(values: Floats, rows: int) -> tuple[str, ...]:
    """Thousandths as text, one row per node of the first axis (one in all for one axis)."""
    return tuple(" ".join(f"{round(1000 * value)}" for value in row) for row in values.reshape(rows, -1))


def rounded(held_out: HeldOut) -> HeldOut:
    def short(errors: Errors) -> Errors:
        return Errors(mape=round_to(errors.mape, 3), bias=round_to(errors.bias, 2), n=errors.n)

    return HeldOut(overall=short(held_out.overall), serving=short(held_out.serving))


def round_to(value: float, digits: int = 4) -> float:
    """``value`` to so many significant digits: what a profile shows."""
    return float(f"{value:.{digits}g}")
