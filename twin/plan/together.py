"""Simulations of pools that do not interact, as the one simulation of them all that they amount to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from twin.cluster.requests import COLUMNS, RequestTable
from twin.cluster.simulation import Simulated
from twin.engine.core import LOG_COLUMNS

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

TIMES = tuple(name for name in COLUMNS if name.endswith("_s"))
LOG_TIMES = ("start_s", "end_s")
BLOCKS = ("free_blocks", "first_free_blocks")


def together(sims: Sequence[Simulated], rows: Sequence[Mask], offsets_s: Sequence[float]) -> Simulated:
    """One simulation of all requests in the order of the trace. ``rows``: which of them each simulation served; ``offsets_s``:
    when its clock starts on theirs.

    KV blocks become shares of their replica's, so ``usable_blocks`` is 1. Gaps between tokens of pools with pipeline stages are
    in ``gaps``, those of the others follow from ``logs``; of a mixture they are the others' alone.
    """
    values = np.empty((len(rows[0]), len(COLUMNS)))
    logs: list[Floats] = []
    replicas = 0
    for sim, mask, offset in zip(sims, rows, offsets_s, strict=True):
        part = sim.table.values.copy()
        part[:, [COLUMNS.index(name) for name in TIMES]] += offset
        part[:, COLUMNS.index("replica")] += replicas
        values[mask] = part
        replicas += len(sim.logs)
        for log in sim.logs:
            moved = log.copy()
            moved[:, [LOG_COLUMNS.index(name) for name in LOG_TIMES]] += offset
            moved[:, [LOG_COLUMNS.index(name) for name in BLOCKS]] /= sim.usable_blocks
            logs.append(moved)
    return Simulated(
        table=RequestTable(values),
        logs=tuple(logs),
        gaps=np.concatenate([sim.gaps for sim in sims if sim.pipelined == sims[0].pipelined]),
        usable_blocks=1,
        num_preemptions=sum(sim.num_preemptions for sim in sims),
        evictions=sum(sim.evictions for sim in sims),
        hit_tokens=sum(sim.hit_tokens for sim in sims),
        queried_tokens=sum(sim.queried_tokens for sim in sims),
        recomputed_tokens=sum(sim.recomputed_tokens for sim in sims),
        pipelined=all(sim.pipelined for sim in sims),
    )
