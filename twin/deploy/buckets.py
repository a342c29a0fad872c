"""Edges of vLLM's latency histograms, so that an alert's threshold is one of them.

A quantile of a histogram is interpolated within a bucket: with edges at 1 s and 2.5 s nobody knows whether a promise of 2 s is
kept. Where the threshold is an edge, the quantile lies above it exactly when too few requests lie below it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

FAMILIES = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "e2el": "request_latency"}
"""vLLM's families of buckets, by metric."""

EDGES_S: dict[str, tuple[float, ...]] = {
    "ttft": (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
             160.0, 640.0, 2560.0),
    "tpot": (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    "e2el": (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
             1920.0, 7680.0),
}  # fmt: skip
"""vLLM's defaults, seconds (``v1/metrics/buckets.py`` of 0.32, ``loggers.py`` of 0.19)."""

TAKES_EDGES = frozenset({"0.32"})
"""Releases with ``--custom-histogram-buckets``."""


def edge_words(thresholds_s: Mapping[str, list[float]], vllm_version: str) -> list[str]:
    """The flag that adds thresholds (seconds, by metric) to vLLM's edges; nothing where the release has none."""
    families = {
        FAMILIES[metric]: sorted({*EDGES_S[metric], *values})
        for metric, values in thresholds_s.items()
        if set(values) - set(EDGES_S[metric])
    }
    if not families or vllm_version not in TAKES_EDGES:
        return []
    return ["--custom-histogram-buckets", json.dumps(families)]


def edge_above(metric: str, seconds: float) -> float | None:
    """vLLM's own edge at or above a threshold; ``None`` above all of them."""
    return next((edge for edge in EDGES_S[metric] if edge >= seconds), None)
