"""What a fleet did over time: queue, batch, KV cache and tokens, in equal bins of simulated time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twin.cluster.simulation import Simulated
from twin.engine.core import LOG_COLUMNS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 240


def timeline(sim: Simulated, bins: int = BINS) -> dict[str, object]:
    """JSON: ``bin_s``, and per bin its ``start_s`` and, of all replicas together,

    ``num_waiting`` and ``num_running`` (time means of requests), ``num_waiting_max`` (most that a step left waiting, on one
    replica), ``kv_cache_usage`` (time mean of used / usable blocks; a replica without work uses none), and
    ``output_tokens_per_s`` and ``prefill_tokens_per_s``. Tokens count when the step that computes them ends; a leap's steps
    grow evenly from its first to its last. So bins add up to the simulation's metrics: tokens, and means over time.

    Output tokens of a batch with padded slots, or that resumed after preemption, are the log's in proportion to the table's.
    """
    end = max([float(sim.table["finished_s"].max()), *(float(log[-1, 1]) for log in sim.logs if len(log))])
    # Ends of steps are sums of floats: what ends at the very end belongs to the last bin.
    width = end * (1 + 1e-12) / bins if end > 0 else 1.0
    edges = width * np.arange(bins + 1, dtype=np.float64)
    waiting, running, used, most, decoded, prefilled = np.zeros((6, bins))
    for log in sim.logs:
        pieces = _cut(log, edges)
        if pieces is None:
            continue
        column, seconds = pieces.column, pieces.seconds
        waiting += pieces.sum(column("num_waiting") * seconds)
        running += pieces.sum(column("num_running") * seconds)
        used += pieces.sum(seconds * (1.0 - pieces.free_blocks() / sim.usable_blocks))
        decoded += pieces.sum(pieces.steps * column("num_decodes"))
        prefilled += pieces.sum(pieces.steps / column("steps") * column("prefill_tokens"))
        np.maximum.at(most, pieces.bin, column("num_waiting"))
    first = np.bincount(_bin(sim.table["first_token_s"], width, bins), minlength=bins)
    following = float(sim.table["output_tokens"].sum()) - len(sim.table)
    total = float(decoded.sum())
    if total and following != total:
        decoded *= following / total
    return {
        "bin_s": width,
        "start_s": edges[:-1].tolist(),
        "num_waiting": (waiting / width).tolist(),
        "num_waiting_max": most.tolist(),
        "num_running": (running / width).tolist(),
        "kv_cache_usage": (used / width / len(sim.logs)).tolist(),
        "output_tokens_per_s": ((decoded + first) / width).tolist(),
        "prefill_tokens_per_s": (prefilled / width).tolist(),
    }


@dataclass(frozen=True, eq=False)
class _Pieces:
    """The rows of a log, cut where bins end: one entry per piece. ``row`` and ``bin``: where it belongs; ``since`` and
    ``seconds``: when it starts after its row's start, and how long it lasts; ``steps`` that end in it.
    """

    log: Floats
    row: Ints
    bin: Ints
    since: Floats
    seconds: Floats
    steps: Floats
    bins: int

    def column(self, name: str) -> Floats:
        return np.asarray(self.log[self.row, LOG_COLUMNS.index(name)])

    def sum(self, values: Floats) -> Floats:
        return np.asarray(np.bincount(self.bin, weights=values, minlength=self.bins), dtype=np.float64)

    def free_blocks(self) -> Floats:
        """At the middle of each piece: blocks are taken evenly over a leap."""
        lasts = self.column("end_s") - self.column("start_s")
        share = (self.since + self.seconds / 2) / np.maximum(lasts, 1e-300)
        first, last = self.column("first_free_blocks"), self.column("free_blocks")
        return first + (last - first) * share


def _cut(log: Floats, edges: Floats) -> _Pieces | None:
    if not len(log):
        return None
    width, bins = float(edges[1]), len(edges) - 1
    start, end = log[:, 0], log[:, 1]
    first, last = _bin(start, width, bins), _bin(end, width, bins)
    count = last - first + 1
    row = np.repeat(np.arange(len(log)), count)
    within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    at = first[row] + within
    left = np.maximum(np.where(within == 0, start[row], edges[at]) - start[row], 0.0)
    right = np.where(at == last[row], end[row], edges[at + 1]) - start[row]
    ended = _steps_by(log)
    done = np.where(at == last[row], log[row, LOG_COLUMNS.index("steps")], ended(row, right))
    before = np.where(within == 0, 0.0, ended(row, left))
    return _Pieces(log, row, at, left, right - left, done - before, bins)


def _bin(times: Floats, width: float, bins: int) -> Ints:
    return np.minimum((times / width).astype(np.int64), bins - 1)


def _steps_by(log: Floats) -> Callable[[Ints, Floats], Floats]:
    """How many steps of a row have ended so many seconds after its start: k steps take k · first + rise · k(k-1)/2."""
    steps, first = log[:, LOG_COLUMNS.index("steps")], log[:, LOG_COLUMNS.index("first_step_s")]
    lasts = log[:, 1] - log[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        rise = np.where(steps > 1, 2.0 * (lasts - steps * first) / (steps * (steps - 1.0)), 0.0)

    def ended(row: Ints, after: Floats) -> Floats:
        slope, one = rise[row], first[row]
        half = one - slope / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            root = np.sqrt(np.maximum(half * half + 2.0 * slope * after, 0.0))
            found = 2.0 * after / (half + root)  # of slope k²/2 + half k = after, without cancellation
        return np.clip(np.floor(np.nan_to_num(found) * (1 + 1e-12)), 0.0, steps[row])

    return ended
