"""Measured and predicted side by side: the same requests on the engine and in the simulation, and whether they agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from twin.cluster.simulation import Fleet, replay, simulate
from twin.results.metrics import quantiles_ms, summarize
from twin.spec.scenario import VerifyBounds
from twin.traffic.trace import Trace
from twin.trust.errors import relative
from twin.trust.live.drive import Bench, sentinel

METRICS = (
    *(f"{statistic}_{name}_ms" for name in ("ttft", "tpot", "itl", "e2el") for statistic in ("mean", "p50", "p99")),
    "request_throughput",
    "output_throughput",
    "mean_num_running",
    "mean_num_waiting",
    "peak_kv_cache_usage",
    "num_preemptions",
)
BOUND = {
    "mean_tpot_ms": "tpot",
    "mean_ttft_ms": "ttft",
    "p99_itl_ms": "p99_itl",
    "request_throughput": "throughput",
    "output_throughput": "throughput",
}
"""The threshold that each metric is held to; the others are shown."""
TTFT_BELOW = 0.8
"""Load from which TTFT is a queue's length, which no model of step times can hold to a few per cent."""


def finished(bench: Bench) -> list[int]:
    """Positions of the requests that were answered, in the order in which they were sent."""
    return [i for i, error in enumerate(bench["errors"]) if not error]


def measured(bench: Bench) -> dict[str, float | None]:
    """What the client and the gauges saw, under the names of :func:`twin.results.metrics.summarize`. Client clock."""
    good = finished(bench)
    ttft, e2el, tokens = (np.array([bench[key][i] for i in good]) for key in ("ttfts", "latencies", "output_lens"))
    many = tokens > 1
    found: dict[str, float | None] = {
        **quantiles_ms("ttft", ttft),
        **quantiles_ms("tpot", (e2el - ttft)[many] / (tokens[many] - 1)),
        **quantiles_ms("itl", np.array([gap for i in good for gap in bench["itls"][i]])),
        **quantiles_ms("e2el", e2el),
        **{name: float(bench[name]) for name in ("request_throughput", "output_throughput")},
    }
    start = min(bench["start_times"], default=0.0)
    column = {name: i for i, name in enumerate(bench["poll_columns"])}
    polls = np.array(bench["polls"], dtype=np.float64).reshape(-1, len(column))
    inside = polls[(polls[:, 0] >= start) & (polls[:, 0] <= start + float(bench["duration"]))]
    if len(inside):
        found["mean_num_running"] = float(inside[:, column["running"]].mean())
        found["mean_num_waiting"] = float(inside[:, column["waiting"]].mean())
        found["peak_kv_cache_usage"] = float(inside[:, column["kv_cache_usage"]].max())
        found["num_preemptions"] = float(np.ptp(polls[:, column["preemptions"]]))
    return found


def sent(bench: Bench, trace: Trace) -> Trace:
    """The very requests that were answered, as they were sent: recorded start times and lengths, the trace's prefixes."""
    good = finished(bench)
    numbers = [bench["numbers"][i] for i in good]
    hashes = trace.prefix_hashes
    return Trace(
        np.array([bench["start_times"][i] for i in good]),
        np.array([bench["input_lens"][i] for i in good]),
        np.array([bench["output_lens"][i] for i in good]),
        prefix_hashes=None if hashes is None else tuple(hashes[n] for n in numbers),
        hash_block_tokens=trace.hash_block_tokens,
        name=trace.name,
    )


def sentinel_prediction_s(fleet: Fleet) -> float:
    """Seconds from a sentinel's first request to its last token, as the profile has it."""
    return float(simulate(sentinel(), fleet).table["finished_s"].max())


def rows(
    seen: Mapping[str, float | None], predicted: Mapping[str, Any], bounds: VerifyBounds, load: float
) -> list[dict[str, object]]:
    """A row per metric: predicted, measured, relative error, threshold, held.

    A metric without a threshold, or one that this load does not judge, has no verdict.
    """
    found = []
    for name in METRICS:
        said, was = (_number(source.get(name)) for source in (predicted, seen))
        error = relative(was, said)
        bound = getattr(bounds, BOUND[name]) if name in BOUND else None
        if name == "mean_ttft_ms" and load >= TTFT_BELOW:
            bound = None
        found.append(
            {
                "metric": name,
                "predicted": said,
                "measured": was,
                "error": error,
                "threshold": bound,
                "holds": None if bound is None or error is None else abs(error) <= bound,
            }
        )
    return found


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def predictions(requests: Trace, fleet: Fleet, concurrency: int | None) -> dict[str, object]:
    """The simulation's summary of the same requests."""
    return summarize(replay(requests, fleet, concurrency))
