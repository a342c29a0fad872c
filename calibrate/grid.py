"""Tables of corrections fitted to scattered points: hat functions (multilinear interpolation) with few bends.

Second differences along each axis are penalised, so that empty corners follow their neighbours, and residuals are
reweighted towards the median, so that stray timings do not bend the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from twin.cost.tables import Floats, corners
from twin.spec.kernels import Table

STRAY = 0.02  # log ratio beyond which a residual counts by its absolute value, no more by its square
PASSES = 6
RIDGE = 1e-2
FLAT = float("inf")
"""Smoothing that leaves a table of zeros: the roofline alone, over the range that was measured."""
ONE_VALUE = 1.001  # an axis along which only one value was measured ends this factor above it

Axes = dict[str, Sequence[float]]
Candidate = tuple[Axes, float]
"""Axes of a table and how much its bends are penalised."""
Coords = dict[str, Floats]


def log_axes(axes: Axes) -> list[Floats]:
    return [np.log(np.asarray(nodes, dtype=np.float64)) for nodes in axes.values()]


def within(axes: Axes, coords: Coords) -> Axes:
    """``axes`` cut to what was measured, so that the profile's range is the range of its data."""
    cut: Axes = {}
    for name, nodes in axes.items():
        low, high = float(coords[name].min()), float(coords[name].max())
        inner = [float(node) for node in nodes if low < node < high]
        cut[name] = tuple(nodes) if name == "fill" else (low, *inner, max(high, low * ONE_VALUE))
    return cut


def hat_matrix(axes: Axes, coords: Coords) -> sparse.csr_matrix:
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
    """Entries row-major in the order of the axes, and the typical standard error of one."""

    values: Floats
    stderr: float


def fit_table(coords: Coords, weight: Floats, log_ratio: Floats, axes: Axes, smoothing: float) -> TableFit:
    """Entries for ``log_ratio``; all arrays of one length."""
    hats = hat_matrix(axes, coords)
    values = np.zeros(hats.shape[1])
    if smoothing == FLAT:
        left = np.abs(log_ratio)
    else:
        bend = bend_matrix(axes, smoothing)
        penalty, reweighted = bend.T @ bend, weight
        for _ in range(PASSES):
            normal = sparse.csc_matrix(hats.T @ sparse.diags(reweighted) @ hats + penalty)
            values = splu(normal).solve(hats.T @ (reweighted * log_ratio))
            left = np.abs(log_ratio - hats @ values)
            reweighted = weight * STRAY / np.maximum(left, STRAY)
    spread = float(np.median(left)) * 1.4826
    seen = np.asarray(hats.sum(axis=0)).ravel()
    return TableFit(values, spread / float(np.sqrt(max(np.median(seen[seen > 0]), 1.0))))


def as_table(table: TableFit, axes: Axes, count: int) -> Table:
    """The table as a profile keeps it, in thousandths; ``count`` points are behind it."""
    return Table(
        axes={name: tuple(nodes) for name, nodes in axes.items()},
        stderr=float(f"{table.stderr:.2g}"),
        n=count,
        milli_log=text_rows(table.values, len(next(iter(axes.values()))) if len(axes) > 1 else 1),
    )


def text_rows(values: Floats, rows: int) -> tuple[str, ...]:
    """Thousandths as text, one row per node of the first axis (one in all for one axis)."""
    return tuple(" ".join(f"{round(1000 * value)}" for value in row) for row in values.reshape(rows, -1))
