"""What a trace looks like, in figures: rates, burstiness, lengths, and how much prefix caching could save."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.traffic.trace import Trace

QUANTILES = (50, 90, 99)
BUSY_WINDOW_S = 300.0
ROUNDING = 1e-9


def describe(trace: Trace) -> dict[str, Any]:
    """JSON-ready figures; a value that is not defined (the rate of a burst without duration, …) is ``None``.

    ``mean_rate_per_s`` is n over (last − first arrival). ``peak_1min_rate_per_s`` is the fullest of the
    consecutive minutes counted from the first arrival, per second. ``busiest_5min`` slides.
    ``interarrival_cv`` is the standard deviation of the gaps over their mean: 1 for Poisson arrivals, above
    for bursts.
    """
    n, duration_s = len(trace), trace.duration_s
    gaps = np.diff(trace.arrival_s)
    start_s, end_s = trace.busiest_span(BUSY_WINDOW_S)
    busy = int(np.searchsorted(trace.arrival_s, end_s) - np.searchsorted(trace.arrival_s, start_s))
    busy_s = min(BUSY_WINDOW_S, duration_s)
    minutes = np.unique(trace.arrival_s // 60.0, return_counts=True)[1]
    return {
        "name": trace.name,
        "requests": n,
        "duration_s": duration_s,
        "mean_rate_per_s": n / duration_s if duration_s else None,
        "peak_1min_rate_per_s": float(minutes.max() / 60.0),
        "busiest_5min": {
            "start_s": start_s,
            "requests": busy,
            "rate_per_s": busy / busy_s if busy_s else None,
        },
        "interarrival_cv": _variation(gaps) if duration_s else None,
        "input_tokens": _lengths(trace.input_tokens),
        "output_tokens": _lengths(trace.output_tokens),
        "prefix": prefix_hits(trace),
        "sessions": _sessions(trace),
        "classes": _classes(trace),
        "notes": list(trace.notes),
    }


def _variation(gaps: NDArray[np.float64]) -> float:
    """Standard deviation over mean; 0 where it is but the rounding of arrival times that are evenly spaced."""
    ratio = float(gaps.std() / gaps.mean())
    return ratio if ratio > ROUNDING else 0.0


def figure_rows(value: Mapping[str, Any], prefix: str = "") -> list[dict[str, object]]:
    """Nested figures as rows ``{figure, value}``: ``input_tokens.p99``."""
    rows: list[dict[str, object]] = []
    for key, item in value.items():
        if isinstance(item, dict):
            rows += figure_rows(item, f"{prefix}{key}.")
        elif item is not None and item != [] and f"{prefix}{key}" not in ("name", "notes"):
            rows.append({"figure": f"{prefix}{key}", "value": item})
    return rows


def _lengths(tokens: NDArray[np.int64]) -> dict[str, float | int]:
    quantiles = np.percentile(tokens, QUANTILES)
    return {
        "mean": float(tokens.mean()),
        **{f"p{q}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
        "max": int(tokens.max()),
        "total": int(tokens.sum()),
    }


def prefix_hits(trace: Trace) -> dict[str, float | int] | None:
    """What a cache that starts cold and never evicts could hit: the share of all hash blocks and of all
    input tokens.

    A block hits when an earlier request (in arrival order) had its id, up to as many tokens as that request
    had of it.
    Ids are chained, so the hits of a request are always its first blocks. ``None`` without prefix hashes.
    """
    if trace.prefix_hashes is None:
        return None
    size = trace.hash_block_tokens
    reach: dict[int, int] = {}  # id -> tokens of that block seen so far
    hit_blocks = hit_tokens = blocks = 0
    for ids, tokens in zip(trace.prefix_hashes, trace.input_tokens.tolist(), strict=True):
        blocks += len(ids)
        left = tokens
        for block in ids:
            held = min(size, left)
            left -= held
            seen = reach.get(block, 0)
            if seen:
                hit_blocks += 1
                hit_tokens += min(seen, held)
            if held > seen:
                reach[block] = held
    return {
        "hash_block_tokens": size,
        "blocks": blocks,
        "hit_share_of_blocks": hit_blocks / blocks if blocks else 0.0,
        "hit_share_of_input_tokens": hit_tokens / int(trace.input_tokens.sum()),
    }


def _sessions(trace: Trace) -> dict[str, float | int] | None:
    if trace.session is None:
        return None
    counts: dict[str, int] = {}
    for session in trace.session.tolist():
        if session is not None:
            counts[str(session)] = counts.get(str(session), 0) + 1
    total = sum(counts.values())
    return {
        "sessions": len(counts),
        "requests_in_sessions": total,
        "mean_requests": total / len(counts) if counts else 0.0,
        "max_requests": max(counts.values(), default=0),
    }


def _classes(trace: Trace) -> dict[str, int] | None:
    if trace.request_class is None:
        return None
    names, counts = np.unique([str(c) for c in trace.request_class.tolist()], return_counts=True)
    return {str(name): int(count) for name, count in zip(names, counts, strict=True)}
