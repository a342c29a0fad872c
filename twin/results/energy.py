"""What the boards of a fleet draw, from the share of time that they are busy.

A board's limit is the datasheet's (``Facts.board_power_w``). Busy, it draws ``RESTING_POWER`` of it in kernels that wait
for memory or links and all of it in kernels that compute (:mod:`twin.cost.step`); without a step in flight it draws
``IDLE_POWER``. Boards only: hosts, network and cooling are the bill's (power usage effectiveness).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twin.base import HOURS_PER_MONTH, Estimate
from twin.cluster.simulation import Simulated
from twin.cost.step import RESTING_POWER, StepModel
from twin.engine.core import LOG_COLUMNS

Floats = NDArray[np.float64]
Span = tuple[float, float]

IDLE_POWER = Estimate(
    value=0.15,
    origin="assumed",
    source="share of its limit that a board draws with a model loaded and nothing to do: 0.15 of every board listed at"
    " nemulai.com/blog/gpu-electricity-cost-per-training-run (2026-06); a loaded H200 was published at 80 W of 700"
    " (api.serialalice.pt, 2026-06); a CUDA context alone adds 26 to 66 W (arXiv:2605.23918)",
    date="2026-11-21",
)


@dataclass(frozen=True)
class Power:
    """Means over time and boards. ``busy``: share of time with a step in flight; ``computing``: share of that time in kernels
    that computing bounds (prefill attention not counted); ``share``: of the boards' limit that is drawn.
    """

    busy: float
    computing: float

    @property
    def share(self) -> float:
        working = RESTING_POWER + (1.0 - RESTING_POWER) * self.computing
        return IDLE_POWER.value + (working - IDLE_POWER.value) * self.busy


def power(sim: Simulated, step: StepModel, spans_s: Sequence[Span] | None = None) -> Power:
    """Over the whole simulation, from the first arrival to the last token, or over ``spans_s`` (seconds of its clock)."""
    if spans_s is None:
        spans_s = [(float(sim.table["arrival_s"].min()), float(sim.table["finished_s"].max()))]
    whole = sum(end - start for start, end in spans_s) * len(sim.logs)
    busy = computing = 0.0
    for log in sim.logs:
        start, end, steps, decodes, prefill = (
            log[:, LOG_COLUMNS.index(name)] for name in ("start_s", "end_s", "steps", "num_decodes", "prefill_tokens")
        )
        seconds = np.maximum(end - start, 1e-12)
        compute = np.minimum(step.computing_s((decodes + prefill).astype(np.int64)) * steps / seconds, 1.0)
        inside = np.zeros_like(seconds)
        for left, right in spans_s:
            inside += np.maximum(np.minimum(end, right) - np.maximum(start, left), 0.0)
        busy += float(inside.sum())
        computing += float((inside * compute).sum())
    return Power(min(busy / whole, 1.0) if whole else 0.0, computing / busy if busy else 0.0)


def kwh_per_month(boards: int, board_power_w: float, share: float) -> float:
    """
    >>> kwh_per_month(8, 500.0, 0.5)
    1460.0
    """
    return boards * board_power_w * share / 1e3 * HOURS_PER_MONTH


def wh_per_1k_tokens(boards: int, board_power_w: float, share: float, output_tokens_per_s: float) -> float:
    """Watt hours per thousand output tokens, idle time of the boards included.

    >>> wh_per_1k_tokens(8, 500.0, 0.5, 1000.0)
    0.5555555555555556
    """
    return boards * board_power_w * share / 3600.0 / output_tokens_per_s * 1e3
