"""Power of a board under one kernel: the driver's energy counter before and after a second of nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from calibrate.measure.log import Point
from calibrate.measure.nvml import ENERGY_UPDATES_S, Nvml
from calibrate.measure.timing import Sample

POINTS_PER_FAMILY = 10
QUICK_POINTS_PER_FAMILY = 3
"""A second each is too long for every point; these are spread over the family."""


def power_points(points: Sequence[Point], per_family: int = POINTS_PER_FAMILY) -> set[int]:
    """Which positions of ``points`` are also measured in watts: evenly spread within each family."""
    chosen: set[int] = set()
    for family in {point["family"] for point in points}:
        own = [i for i, point in enumerate(points) if point["family"] == family]
        chosen.update(own[:: max(1, -(-len(own) // per_family))])
    return chosen


def mean_power_w(nvml: Nvml, sample: Sample, clock: Callable[[], float] = time.perf_counter) -> float | None:
    """Mean watts while ``sample`` repeats; ``None`` where the board does not count energy."""
    start, before = clock(), nvml.energy_j()
    while clock() - start < ENERGY_UPDATES_S:
        sample()
    after, seconds = nvml.energy_j(), clock() - start
    if before is None or after is None or after <= before:
        return None
    return (after - before) / seconds
