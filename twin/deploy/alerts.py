"""Prometheus alert rules of a pool, each with its threshold from the plan and a word on which figure that is.

Names are those of vLLM's ``v1/metrics/loggers.py``; the counters' ``_total`` is the client library's. Promises hold over the
busiest five minutes, so everything is watched over five minutes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twin.deploy.buckets import TAKES_EDGES, edge_above, edge_words
from twin.deploy.fleet import Pool, classes_of

HISTOGRAMS = {
    "ttft": "vllm:time_to_first_token_seconds_bucket",
    "tpot": "vllm:request_time_per_output_token_seconds_bucket",
    "e2el": "vllm:e2e_request_latency_seconds_bucket",
}
WINDOW = "5m"
WINDOW_S = 300.0
ONE_SIDED_95 = 1.645
FULL_CACHE = 0.95
"""From here on a replica is about to preempt, whatever the plan said."""


@dataclass(frozen=True)
class Alert:
    """One rule. ``figure`` names what of the plan the threshold is."""

    name: str
    expr: str
    wait: str
    severity: str
    summary: str
    figure: str

    def rule(self, pool: str, option: str) -> dict[str, Any]:
        """As a rule of a Prometheus rule file."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.wait,
            "labels": {"severity": self.severity, "pool": pool},
            "annotations": {"summary": self.summary, "plan_figure": self.figure, "plan_option": option},
        }


def rule_groups(pool: Pool, replicas: int, namespace: str | None = None) -> dict[str, Any]:
    """``{"groups": […]}`` of a pool of which at least ``replicas`` should be up."""
    option = str(pool.option.get("id", pool.name))
    rules = [alert.rule(pool.name, option) for alert in alerts(pool, replicas, namespace)]
    return {"groups": [{"name": f"twin-{pool.name}", "rules": rules}]}


def alerts(pool: Pool, replicas: int, namespace: str | None = None) -> list[Alert]:
    """Every alert of a pool: its promises, where reality leaves the plan, and what is about to break."""
    series = f'{{job="{pool.name}"' + (f',namespace="{namespace}"' if namespace else "") + "}"
    found: list[Alert] = []
    for bound in watched(pool):
        found += _latency(pool, bound, series)
    return [*found, *_load(pool, series), *_engine(pool, series), _down(series, replicas)]


def watched(pool: Pool) -> list[Mapping[str, Any]]:
    """The bounds that a pool's metrics can tell: vLLM does not tell classes of requests apart, so that of a class only where
    the pool serves no other.
    """
    serves = classes_of(pool)
    told = {None, *serves} if len(serves) == 1 else {None}
    return [bound for bound in pool.option["bounds"] if bound.get("request_class") in told]


def unwatched_lines(pool: Pool) -> list[str]:
    """Which promises no alert watches, in words."""
    seen = watched(pool)
    return [
        f"{pool.name}: no alert on p{bound['quantile'] * 100:g} {bound['metric'].upper()} of class {bound['request_class']}:"
        " vLLM does not tell the classes of a pool apart"
        for bound in pool.option["bounds"]
        if bound not in seen
    ]


def thresholds_s(pool: Pool) -> dict[str, list[float]]:
    """Seconds at which latencies alert, by metric: what is promised, and what is predicted at most where that is less."""
    found: dict[str, list[float]] = {}
    for bound in watched(pool):
        upper, _ = predicted_upper_s(pool, bound)
        values = [float(bound["seconds"]), *([] if upper is None else [upper])]
        found.setdefault(str(bound["metric"]), []).extend(values)
    return found


def metric_words(pool: Pool) -> list[str]:
    """The flags by which vLLM's histograms have an edge at every threshold."""
    return edge_words(thresholds_s(pool), pool.vllm_version)


def _latency(pool: Pool, bound: Mapping[str, Any], series: str) -> list[Alert]:
    metric, quantile = str(bound["metric"]), float(bound["quantile"])
    short = f"{quantile * 100:g}"
    name, camel = f"p{short} {metric.upper()}", f"{metric.capitalize()}P{short.replace('.', '')}"
    value = f"histogram_quantile({quantile:g}, sum by (le) (rate({HISTOGRAMS[metric]}{series}[{WINDOW}])))"
    promised, predicted, where = float(bound["seconds"]), float(bound["worst_s"]), f"bounds[{metric} p{short}]"
    found = [
        Alert(
            f"TwinPromise{camel}",
            f"{value} > {promised:.6g}",
            "1m",
            "critical",
            f"{pool.name}: {name} over five minutes is above the promised {_seconds(promised)}",
            f"{where}.seconds = {_seconds(promised)} promised; predicted worst_s = {_seconds(predicted)}",
        )
    ]
    upper, why = predicted_upper_s(pool, bound)
    if upper is None:
        return found
    drift = Alert(
        f"TwinBeyondPrediction{camel}",
        f"{value} > {upper:.6g}",
        "15m",
        "warning",
        f"{pool.name}: {name} is above what the plan predicted; the promise of {_seconds(promised)} may still hold",
        f"{where}.worst_s = {_seconds(predicted)} predicted; {why}: {_seconds(upper)}",
    )
    return [*found, drift]


def predicted_upper_s(pool: Pool, bound: Mapping[str, Any]) -> tuple[float | None, str]:
    """The one-sided 95 % end of a prediction, seconds to three digits, and where it comes from: the plan's risk where it was
    weighed, else the root mean square log error of whole runs that the profile keeps (of E2EL the larger of the two).
    ``None``: unknown, or not below the promise. Rounded up to vLLM's own edges where the release takes no others.
    """
    upper, why = _upper_s(pool, bound)
    if upper is None:
        return None, ""
    upper = float(f"{upper:.3g}")
    if pool.vllm_version not in TAKES_EDGES:
        edge = edge_above(str(bound["metric"]), upper)
        upper, why = (math.inf if edge is None else edge), f"{why}, up to the next edge of vLLM's buckets"
    return (upper, why) if upper < float(bound["seconds"]) else (None, "")


def _upper_s(pool: Pool, bound: Mapping[str, Any]) -> tuple[float | None, str]:
    asked = ("metric", "quantile", "request_class")
    for item in (pool.option.get("risk") or {}).get("bounds", []):
        if all(item.get(key) == bound.get(key) for key in asked) and item.get("p95_s") is not None:
            return float(item["p95_s"]), "the 95th percentile of the worlds in risk.bounds.p95_s"
    errors = pool.option.get("accuracy") or {}
    wanted = ("tpot_error", "ttft_error") if bound["metric"] == "e2el" else (f"{bound['metric']}_error",)
    known = [float(errors[name]) for name in wanted if errors.get(name) is not None]
    if not known:
        return None, ""
    why = f"times exp({ONE_SIDED_95} × {max(known):.3g}), the one-sided 95 % of the profile's error of whole runs"
    return float(bound["worst_s"]) * math.exp(ONE_SIDED_95 * max(known)), why


def _load(pool: Pool, series: str) -> list[Alert]:
    """Traffic beyond the plan's, and head-room that is used up."""
    value = f"sum(rate(vllm:request_success_total{series}[{WINDOW}]))"
    busiest, used = pool.busiest_rate_per_s, float(pool.option["peak_utilisation"])
    upper = busiest + ONE_SIDED_95 * math.sqrt(busiest / WINDOW_S)
    limit = busiest * max((1.0 - pool.headroom) / used, 1.0)
    traffic = Alert(
        "TwinTrafficBeyondPlan",
        f"{value} > {upper:.6g}",
        "10m",
        "warning",
        f"{pool.name}: more requests a second than the plan was made for",
        f"traffic.busiest_5min_rate_per_s = {busiest:.4g}/s on this pool, and {ONE_SIDED_95} standard errors of a count",
    )
    room = Alert(
        "TwinHeadroomUsed",
        f"{value} > {max(limit, upper):.6g}",
        "5m",
        "critical",
        f"{pool.name}: the head-room of {pool.headroom:.0%} is used up: add replicas",
        f"peak_utilisation = {used:.1%} at {busiest:.4g}/s, so that {limit:.4g}/s leaves less than {pool.headroom:.0%} free",
    )
    return [traffic, room]


def _engine(pool: Pool, series: str) -> list[Alert]:
    """Queue, KV cache and preemptions of single replicas."""
    metrics = pool.option["metrics"]
    queue = max(float(metrics["max_num_waiting"]), 1.0)
    predicted = float(metrics["peak_kv_cache_usage"])
    cache = min(max(predicted, 1.0 - pool.headroom), FULL_CACHE)
    lost, seconds = float(metrics["num_preemptions"]), float(metrics["duration"])
    rate = (lost + ONE_SIDED_95 * math.sqrt(lost)) / seconds
    return [
        Alert(
            "TwinQueue",
            f"max(avg_over_time(vllm:num_requests_waiting{series}[{WINDOW}])) > {queue:.6g}",
            "5m",
            "warning",
            f"{pool.name}: for five minutes a replica has had more requests waiting than at the plan's worst step",
            f"metrics.max_num_waiting = {float(metrics['max_num_waiting']):.6g} requests, one replica (at least 1 here)",
        ),
        Alert(
            "TwinKvCache",
            f"max(max_over_time(vllm:kv_cache_usage_perc{series}[{WINDOW}])) > {cache:.6g}",
            "5m",
            "warning",
            f"{pool.name}: the KV cache of a replica fills up: requests are longer or more at once than planned",
            f"metrics.peak_kv_cache_usage = {predicted:.1%} predicted; the threshold is that, but at least the head-room's"
            f" {1.0 - pool.headroom:.0%} and at most {FULL_CACHE:.0%}",
        ),
        Alert(
            "TwinPreemptions",
            f"sum(rate(vllm:num_preemptions_total{series}[{WINDOW}])) > {rate:.6g}",
            "5m",
            "warning",
            f"{pool.name}: more requests lose their KV blocks than the plan predicted",
            f"metrics.num_preemptions = {lost:.6g} in {seconds:.6g} s, and {ONE_SIDED_95} standard errors of a count",
        ),
    ]


def _down(series: str, replicas: int) -> Alert:
    return Alert(
        "TwinReplicaDown",
        f"(sum(up{series}) or vector(0)) < {replicas}",
        "5m",
        "critical",
        "fewer replicas answer than the plan needs",
        f"replicas = {replicas} at least",
    )


def _seconds(value: float) -> str:
    return f"{value:.4g} s" if value >= 1 else f"{value * 1e3:.4g} ms"
