"""Multilinear interpolation on a grid whose axes are logarithmic: what corrects the physics of each kernel.

A table holds log(measured / roofline) at nodes. Outside its axes the nearest node holds, so far away only
the physics of the roofline extrapolates.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def locate(x: Floats, nodes: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Cell index and position in [0, 1] of each ``x`` among sorted ``nodes``; clamped to the ends."""
    cell = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, len(nodes) - 2)
    return cell, np.clip((x - nodes[cell]) / (nodes[cell + 1] - nodes[cell]), 0.0, 1.0)


def corners(axes: Sequence[Floats], coords: Sequence[Floats]) -> tuple[NDArray[np.intp], Floats]:
    """Flat node index and weight of the 2^d grid corners around each point: two arrays (2^d, *points).

    ``coords`` are on the same scale as ``axes`` and of one shape.
    """
    shape = tuple(len(axis) for axis in axes)
    found = [locate(x, axis) for x, axis in zip(coords, axes, strict=True)]
    index, weight = [], []
    for corner in product((0, 1), repeat=len(axes)):
        nodes = tuple(cell + bit for (cell, _), bit in zip(found, corner, strict=True))
        index.append(np.ravel_multi_index(nodes, shape))
        parts = [place if bit else 1.0 - place for (_, place), bit in zip(found, corner, strict=True)]
        weight.append(np.prod(np.stack(parts), axis=0))
    return np.stack(index), np.stack(weight)


def interpolate(log_axes: Sequence[Floats], values: Floats, coords: Sequence[ArrayLike]) -> Floats:
    """The table at the broadcast of ``coords`` (linear units, positive); scalars are collapsed first.

    With one array left over this is a single ``np.interp``, which is what makes a sweep over ``m`` cheap.
    """
    logs = [np.log(np.asarray(x, dtype=np.float64)) for x in coords]
    shape = np.broadcast_shapes(*(x.shape for x in logs))
    kept_axes: list[Floats] = []
    kept: list[Floats] = []
    for axis, x in zip(log_axes, logs, strict=True):
        position = len(kept_axes)
        if x.size == 1:
            cell, place = locate(x.reshape(()), axis)
            low, high = values.take(int(cell), axis=position), values.take(int(cell) + 1, axis=position)
            values = np.asarray(low + (high - low) * float(place), dtype=np.float64)
        else:
            kept_axes.append(axis)
            kept.append(x)
    return np.broadcast_to(_blend(kept_axes, values, kept), shape)


def _blend(axes: Sequence[Floats], values: Floats, logs: Sequence[Floats]) -> Floats:
    """The table at arrays of logarithms, one per axis.

    An axis of two nodes is a blend of two smaller tables.
    """
    if not axes:
        return values
    if len(axes) == 1:
        return np.interp(logs[0], axes[0], values)
    for position, axis in enumerate(axes):
        if len(axis) == 2:
            rest = [i for i in range(len(axes)) if i != position]
            low, high = (
                _blend(
                    [axes[i] for i in rest],
                    np.asarray(values.take(end, axis=position), dtype=np.float64),
                    [logs[i] for i in rest],
                )
                for end in (0, 1)
            )
            return low + (high - low) * locate(logs[position], axis)[1]
    index, weight = corners(axes, np.broadcast_arrays(*logs))
    return np.asarray((values.ravel()[index] * weight).sum(axis=0), dtype=np.float64)


def p_norm(a: ArrayLike, b: ArrayLike, p: float) -> Floats:
    """(a^p + b^p)^(1/p), computed from the larger so that no power overflows: a smooth max(a, b)."""
    large = np.maximum(a, b)
    return np.asarray(large * (1.0 + (np.minimum(a, b) / large) ** p) ** (1.0 / p), dtype=np.float64)
