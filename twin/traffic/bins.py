"""A trace in few numbers, however long: its rates over time, and how its lengths are spread."""

from __future__ import annotations

from typing import Any

import numpy as np

from twin.traffic.by_hour import LEAST_COVER
from twin.traffic.columns import Ints
from twin.traffic.trace import Trace

MOST_BINS = 240
WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)
PER_OCTAVE = 3
"""Bins of lengths for each doubling."""


def rates(trace: Trace, most: int = MOST_BINS) -> dict[str, Any]:
    """Columns over time, at most ``most`` long: ``start_s``, ``requests``, and per second of each bin of ``bin_s`` seconds
    ``requests_per_s``, ``input_tokens_per_s``, ``output_tokens_per_s``. Of the last bin the part that the trace covers counts;
    where that is less than a tenth, there is no rate (``None``).
    """
    bin_s = next((width for width in WIDTHS_S if trace.duration_s < width * most), None) or trace.duration_s / (
        most - 1
    )
    which = (trace.arrival_s // bin_s).astype(np.int64)
    count = int(which[-1]) + 1
    start_s = np.arange(count) * float(bin_s)
    covered = np.minimum(trace.duration_s - start_s, bin_s)
    known = covered >= LEAST_COVER * bin_s
    requests = np.bincount(which, minlength=count)
    found: dict[str, Any] = {"bin_s": float(bin_s), "start_s": start_s.tolist(), "requests": requests.tolist()}
    for name, weight in (
        ("requests", None),
        ("input_tokens", trace.input_tokens),
        ("output_tokens", trace.output_tokens),
    ):
        sums = np.bincount(which, weights=weight, minlength=count)
        rate = (sums / np.where(known, covered, 1.0)).tolist()
        found[f"{name}_per_s"] = [value if there else None for value, there in zip(rate, known, strict=True)]
    return found


def lengths(tokens: Ints) -> dict[str, list[int]]:
    """How many requests have ``from`` … ``to`` tokens (both included): bins that grow by a third of a doubling."""
    low, high = int(tokens.min()), int(tokens.max())
    powers = np.arange(np.floor(np.log2(low) * PER_OCTAVE), np.ceil(np.log2(high + 1) * PER_OCTAVE) + 1)
    edges = np.unique(np.ceil(2.0 ** (powers / PER_OCTAVE)).astype(np.int64))
    edges = np.append(edges, high + 1) if edges[-1] <= high else edges
    counts = np.histogram(tokens, bins=edges)[0]
    return {"from": edges[:-1].tolist(), "to": (edges[1:] - 1).tolist(), "requests": counts.tolist()}
