"""What a simulation says, under the names that ``vllm bench serve`` writes.

``METRICS`` is the one table of metrics: name, unit, formula. :func:`summarize` computes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twin.cluster.requests import RequestTable
from twin.cluster.simulation import Simulated
from twin.engine.core import LOG_COLUMNS

Floats = NDArray[np.float64]
QUANTILES = (50, 90, 95, 99)


class Metric(NamedTuple):
    """A row of the metric table."""

    name: str
    unit: str
    formula: str


METRICS = (
    Metric("ttft", "ms", "first token - arrival at the API (server clock)"),
    Metric("tpot", "ms", "(E2EL - TTFT) / (output tokens - 1), requests with two or more output tokens"),
    Metric("itl", "ms", "every gap between two tokens of a request"),
    Metric("e2el", "ms", "last token - arrival at the API"),
    Metric("queue", "ms", "first scheduled - queued at the engine"),
    Metric("request_throughput", "requests/s", "requests / duration"),
    Metric("output_throughput", "tokens/s", "output tokens / duration"),
    Metric("total_token_throughput", "tokens/s", "(input + output tokens) / duration"),
    Metric("request_goodput", "requests/s", "requests that meet every bound / duration"),
    Metric("slo_attainment", "share", "requests that meet every bound / requests"),
    Metric("mean_num_running", "requests", "time mean of running requests, all replicas"),
    Metric("mean_num_waiting", "requests", "time mean of waiting requests, all replicas"),
    Metric("max_num_waiting", "requests", "most requests that a step left waiting, one replica"),
    Metric("mean_kv_cache_usage", "share", "time mean of used / usable KV blocks"),
    Metric("peak_kv_cache_usage", "share", "most used / usable KV blocks during a step"),
    Metric("busy", "share", "time with a step in flight / duration, mean over replicas"),
    Metric(
        "useful_slots", "share", "tokens that requests needed / token slots computed, padding and recomputing included"
    ),
    Metric("num_preemptions", "count", "requests that lost their KV blocks and were recomputed"),
    Metric("prefix_cache_hit_rate", "share", "prompt tokens found in the prefix cache / prompt tokens asked for"),
)


def quantiles_ms(name: str, seconds: Floats) -> dict[str, float | None]:
    """``mean_…_ms``, ``median_…_ms``, ``p50_…`` to ``p99_…`` and ``max_…`` of times in seconds; None of nothing."""
    keys = [f"mean_{name}_ms", f"median_{name}_ms", *(f"p{q}_{name}_ms" for q in QUANTILES), f"max_{name}_ms"]
    values = seconds[~np.isnan(seconds)] * 1e3
    if not values.size:
        return dict.fromkeys(keys)
    levels = np.percentile(values, [50, *QUANTILES, 100])
    return dict(zip(keys, [float(values.mean()), *map(float, levels)], strict=True))


def gap_weights(logs: Sequence[Floats], gaps: Floats, parts: int = 16) -> tuple[Floats, Floats]:
    """All inter-token gaps as (seconds, how many of them).

    A leap's steps grow evenly; where they grow by more than 1 % the leap counts as ``parts`` groups. A decode that a
    full token budget left out of a step counts with that step's gap only.
    """
    values, weights = [gaps], [np.ones_like(gaps)]
    for log in logs:
        steps, decodes = log[:, LOG_COLUMNS.index("steps")], log[:, LOG_COLUMNS.index("num_decodes")]
        mean = (log[:, 1] - log[:, 0]) / steps
        rise = np.where(steps > 1, mean - log[:, LOG_COLUMNS.index("first_step_s")], 0.0)
        even = (np.abs(rise) <= 0.005 * mean) | (decodes == 0)
        values.append(mean[even])
        weights.append((steps * decodes)[even])
        if not even.all():
            spread = np.linspace(-1 + 1 / parts, 1 - 1 / parts, parts)
            values.append((mean[~even, None] + rise[~even, None] * spread).ravel())
            weights.append(np.repeat((steps * decodes)[~even] / parts, parts))
    value, weight = np.concatenate(values), np.concatenate(weights)
    return value[weight > 0], weight[weight > 0]


def itl_ms(logs: Sequence[Floats], gaps: Floats) -> dict[str, float | None]:
    """Quantiles of every gap between tokens, from the step log."""
    value, weight = gap_weights(logs, gaps)
    keys = ["mean_itl_ms", "median_itl_ms", *(f"p{q}_itl_ms" for q in QUANTILES), "max_itl_ms"]
    if not value.size:
        return dict.fromkeys(keys)
    order = np.argsort(value, kind="stable")
    value, weight = value[order] * 1e3, weight[order]
    reach = np.cumsum(weight)
    at = np.searchsorted(reach, np.array([50, *QUANTILES, 100]) / 100 * reach[-1] * (1 - 1e-12))
    mean = float((value * weight).sum() / reach[-1])
    return dict(zip(keys, [mean, *map(float, value[np.minimum(at, len(value) - 1)])], strict=True))


def meets(table: RequestTable, bounds_s: Mapping[str, float]) -> NDArray[np.bool_]:
    """Which requests meet every bound; ``bounds_s`` maps ttft, tpot, e2el to seconds. An undefined TPOT is met."""
    good = np.ones(len(table), dtype=bool)
    for name, bound in bounds_s.items():
        if name in ("ttft", "tpot", "e2el"):
            values: Floats = getattr(table, f"{name}_s")
            good &= ~(values > bound)
    return good


def summarize(sim: Simulated, bounds_s: Mapping[str, float] | None = None) -> dict[str, object]:
    """All metrics of a simulation; ``request_goodput`` against ``bounds_s`` (seconds per request, see :func:`meets`)."""
    table = sim.table
    duration = float(table["finished_s"].max() - table["arrival_s"].min())
    tokens_in, tokens_out = float(table["input_tokens"].sum()), float(table["output_tokens"].sum())
    good = int(meets(table, bounds_s or {}).sum())
    summary: dict[str, object] = {
        "completed": len(table),
        "duration": duration,
        "total_input_tokens": int(tokens_in),
        "total_output_tokens": int(tokens_out),
        "request_throughput": len(table) / duration,
        "request_goodput": good / duration,
        "slo_attainment": good / len(table),
        "output_throughput": tokens_out / duration,
        "total_token_throughput": (tokens_in + tokens_out) / duration,
    }
    for name in ("ttft", "tpot", "e2el", "queue"):
        summary |= quantiles_ms(name, getattr(table, f"{name}_s"))
    summary |= itl_ms(sim.gap_logs, sim.gaps)
    summary |= _occupancy(sim, duration)
    summary["useful_slots"] = useful_slots(sim)
    summary["num_preemptions"] = sim.num_preemptions
    summary["prefix_cache_hit_rate"] = sim.hit_tokens / sim.queried_tokens if sim.queried_tokens else 0.0
    summary["load"] = load_state(sim)
    return summary


def _occupancy(sim: Simulated, duration: float) -> dict[str, float]:
    running = waiting = busy = used = peak_used = most_waiting = 0.0
    for log in sim.logs:
        if not len(log):
            continue
        column = dict(zip(LOG_COLUMNS, log.T, strict=True))
        seconds = column["end_s"] - column["start_s"]
        most_used = 1.0 - column["free_blocks"] / sim.usable_blocks
        # Blocks grow over a leap: its mean lies between those of its first step and of its last.
        mean_used = 1.0 - (column["free_blocks"] + column["first_free_blocks"]) / 2 / sim.usable_blocks
        running += float((column["num_running"] * seconds).sum())
        waiting += float((column["num_waiting"] * seconds).sum())
        used += float((mean_used * seconds).sum())
        busy += float(seconds.sum())
        peak_used = max(peak_used, float(most_used.max()))
        most_waiting = max(most_waiting, float(column["num_waiting"].max()))
    replicas = len(sim.logs)
    return {
        "mean_num_running": running / duration,
        "mean_num_waiting": waiting / duration,
        "max_num_waiting": most_waiting,
        "mean_kv_cache_usage": used / duration / replicas,
        "peak_kv_cache_usage": peak_used,
        "busy": busy / duration / replicas,
    }


def useful_slots(sim: Simulated) -> float:
    """Share of the token slots that engines computed which some request needed: each of its prompt's tokens that was not in
    the prefix cache, and each of its output tokens but the last, once. The rest is padding, or was computed again.
    """
    computed = sim.recomputed_tokens
    for log in sim.logs:
        column = dict(zip(LOG_COLUMNS, log.T, strict=True))
        computed += float((column["prefill_tokens"] + column["steps"] * column["num_decodes"]).sum())
    needed = sim.table["input_tokens"] - sim.table["cached_tokens"] + sim.table["output_tokens"] - 1
    return float(needed.sum()) / computed if computed else 1.0


def load_state(sim: Simulated) -> str:
    """``overloaded``: the backlog grows over the last half of the arrivals; ``backlogged``: a queue of ten or more built
    up and drained; ``stable``: neither. Decided on the time means of waiting requests per quarter of the arrivals; where
    all arrive within a twentieth of the time they take, there is no trend and the queue is a backlog.
    """
    last = float(sim.table["queued_s"].max())
    at_once = last < 0.05 * float(sim.table["finished_s"].max())
    worst = "stable"
    for log in sim.logs:
        if not len(log):
            continue
        waiting = log[:, LOG_COLUMNS.index("num_waiting")]
        end, seconds = log[:, 1], log[:, 1] - log[:, 0]
        third, fourth = (
            float(np.average(waiting[at], weights=seconds[at]))
            if (at := _between(end, a * last, b * last)).any()
            else 0.0
            for a, b in ((0.5, 0.75), (0.75, 1.0))
        )
        if fourth > max(10.0, 1.2 * third) and not at_once:
            return "overloaded"
        if waiting.max() >= 10:
            worst = "backlogged"
    return worst


def _between(values: Floats, low: float, high: float) -> NDArray[np.bool_]:
    return (values >= low) & (values < high)


def is_saturated(sim: Simulated, concurrency: int) -> bool:
    """Whether, once ``concurrency`` requests were admitted, 5 % of the steps left one waiting for blocks or a seat, or
    anything was preempted."""
    if sim.num_preemptions:
        return True
    steps = blocked = 0.0
    admitted = np.sort(sim.table["scheduled_s"])
    since = float(admitted[min(concurrency, len(admitted)) - 1])
    for log in sim.logs:
        after = log[:, 0] > since
        count = log[after, LOG_COLUMNS.index("steps")]
        steps += float(count.sum())
        blocked += float((count * log[after, LOG_COLUMNS.index("blocked")]).sum())
    return steps > 0 and blocked >= 0.05 * steps
