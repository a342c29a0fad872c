"""What a fit refuses, each in one sentence: other columns, bad numbers, too few points, another unit."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from twin.base import InputError

COLUMNS: dict[str, tuple[str, ...]] = {
    "gemm": ("dtype", "m", "n", "k"),
    "decode": ("kv", "head_dim", "num_heads", "num_kv_heads", "batch", "context"),
    "prefill": ("kv", "head_dim", "num_heads", "num_kv_heads", "batch", "chunk"),
    "elementwise": ("m", "k", "bytes_moved"),
    "all_reduce": ("num_gpus", "message_bytes"),
}
"""What a table of each family needs besides ``seconds``; prefill may have ``context``, all-reduce ``backend``."""

POINTS_PER_COEFFICIENT = 5
LEAST_SHAPES = 3  # one is left out, and two shapes are the least that tell size from shape
TOO_FAST, TOO_SLOW = 1 / 3, 1000.0


def usable(family: str, table: pd.DataFrame) -> None:
    """Refuses absent columns, numbers that are not finite, and sizes or times that are not positive."""
    where = table.attrs.get("source")
    missing = [name for name in (*COLUMNS[family], "seconds") if name not in table.columns]
    if missing:
        raise InputError(f"{family}: column {missing[0]!r} is missing", where=where, allowed=map(str, table.columns))
    texts = {"dtype", "kv"}
    for name in (*COLUMNS[family], "seconds"):
        if name in texts:
            continue
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=float)
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            raise InputError(
                f"{family}: {int(bad.sum())} rows have a {name} that is not a positive number; "
                f"the first is row {int(np.flatnonzero(bad)[0])}",
                where=where,
            )


def enough(name: str, points: int, shapes: int, coefficients: int, where: str) -> None:
    """Refuses fewer than five points per coefficient, or fewer than three shapes, saying how many more are needed."""
    lacking = POINTS_PER_COEFFICIENT * coefficients - points
    if lacking > 0:
        raise InputError(
            f"{name}: {points} points are too few for {coefficients} coefficients: {lacking} more are needed",
            where=where,
        )
    if shapes < LEAST_SHAPES:
        raise InputError(
            f"{name}: all points are of {shapes} shape{'s' * (shapes != 1)}: "
            f"{LEAST_SHAPES - shapes} more are needed to tell the error on a shape left out",
            where=where,
        )


def plausible(
    name: str, seconds: NDArray[np.float64], possible_s: NDArray[np.float64], where: str, headroom: float = 1.0
) -> None:
    """Refuses times in another unit: a median below a third or above a thousand times what is physically possible.

    ``possible_s``: the work at the device's peak rates. Only the heavier half of the points counts, as launch times hide
    the work of the others. ``headroom``: how much faster than its memory a device's caches are.
    """
    heavy = possible_s >= np.median(possible_s)
    ratio = float(np.median(seconds[heavy] / possible_s[heavy]))
    if ratio < TOO_FAST / headroom:
        what = f"{1 / ratio:.0f} times faster than the device's peak rates allow"
    elif ratio > TOO_SLOW:
        what = f"{ratio:.0f} times slower than the device's peak rates"
    else:
        return
    raise InputError(f"{name}: the larger measurements are {what}: their unit or the datasheet is wrong", where=where)
