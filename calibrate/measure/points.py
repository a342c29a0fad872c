"""From grids to the points of one run, in the order in which they are timed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Iterator

from calibrate.measure.grids import GRIDS, MOVED_PER_VALUE, Grid
from calibrate.measure.log import KEYS, WORDS, Point, key_of
from twin.base import InputError, unknown_name


def plan(
    device: str,
    quick: bool,
    *,
    precisions: Collection[str],
    num_gpus: int,
    families: Collection[str] = (),
    dtypes: Collection[str] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> list[Point]:
    """The points for a device that has ``precisions`` and ``num_gpus``; only those of ``families`` and ``dtypes`` if given.

    Each grid's combinations are shuffled with a fixed seed and the first are taken: ``quick`` is the beginning of the full
    run, drift of the machine does not fall on one end of an axis, and an interrupted run is a fair sample. What the device
    lacks is left out with one note. Raises :class:`InputError` when it was asked for by name, and for an unknown name.
    """
    for kind, asked, known in (("family", families, tuple(KEYS)), ("precision", dtypes, WORDS["dtype"])):
        for name in asked:
            if name not in known:
                raise unknown_name(kind, name, known)
    _refuse_absent(device, precisions, num_gpus, families, dtypes)
    grids = [grid for grid in GRIDS[device] if not families or grid.family in families]
    points: dict[tuple[object, ...], Point] = {}
    absent: set[str] = set()
    for grid in grids:
        for point in chosen(grid, grid.quick if quick else grid.full):
            lacking = _lacking(device, point, precisions, num_gpus)
            if lacking:
                absent.add(lacking)
            elif not dtypes or point.get("dtype") in (None, *dtypes):
                points.setdefault(key_of(point), point)
    if absent:
        tell(f"left out, as this device has no {', no '.join(sorted(absent))}")
    if not points:
        raise InputError("nothing to measure: this device has none of what was asked for")
    return list(points.values())


def chosen(grid: Grid, count: int) -> list[Point]:
    """The first ``count`` of the grid's combinations within its limits, in an order that is the same every time."""
    points = [point for point in combinations(grid) if all(size(point) <= most for size, most in grid.limits)]
    random.Random(0).shuffle(points)
    return points[:count]


def combinations(grid: Grid) -> Iterator[Point]:
    """Every combination of the grid's axes; element-wise points get the bytes that their kernel moves."""
    for values in itertools.product(*grid.axes.values()):
        point: Point = {"family": grid.family, **grid.fixed}
        for names, value in zip(grid.axes, values, strict=True):
            point.update(zip(names.split(","), value, strict=True) if "," in names else [(names, value)])
        if grid.family == "elementwise":
            point["bytes_moved"] = MOVED_PER_VALUE[point["op"]] * point["m"] * point["k"]
        yield point


def _lacking(device: str, point: Point, precisions: Collection[str], num_gpus: int) -> str | None:
    dtype = point.get("dtype", "fp8" if point.get("op") == "fp8_quant" else "bf16")
    if dtype not in precisions:
        return f"{dtype} tensor cores"
    if device == "cuda" and point.get("num_gpus", 1) > num_gpus:
        return f"{point['num_gpus']} GPUs to reduce among"
    return None


def _refuse_absent(
    device: str, precisions: Collection[str], num_gpus: int, families: Collection[str], dtypes: Collection[str]
) -> None:
    for dtype in dtypes:
        if dtype not in precisions:
            kind = "CPU" if device == "cpu" else "GPU"
            raise InputError(f"this {kind} has no {dtype} matrix multiplication", allowed=precisions)
    if device == "cuda" and "all_reduce" in families and num_gpus < 2:
        raise InputError("all-reduce needs two GPUs or more; one is visible")
