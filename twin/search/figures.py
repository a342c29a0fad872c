"""What a simulation says beyond its promises, where somebody asked: figures for objectives, by window of the load, by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from twin.base import InputError
from twin.cluster.requests import RequestTable
from twin.cluster.simulation import Simulated
from twin.cost.step import StepModel
from twin.results.energy import Span, power
from twin.results.metrics import meets, quantiles_ms
from twin.spec.objectives import quantile_of
from twin.spec.slo import LATENCIES, Bound, Slo
from twin.traffic.trace import Trace

Mask = NDArray[np.bool_]
Labels = NDArray[np.object_] | None


@dataclass(frozen=True)
class Wants:
    """``figures``: names of objectives; ``windows``: spans in seconds of the trace by name; ``classes``: whose requests are
    reported apart.
    """

    figures: tuple[str, ...] = ()
    windows: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def needs_good(self, full: bool) -> bool:
        return "goodput" in self.figures or (full and bool(self.classes))

    def windows_of(
        self, happened: Simulated, step: StepModel, labels: Labels, bounds: Sequence[Bound]
    ) -> dict[str, dict[str, float]]:
        """Per window its seconds, the two sides of latency of the requests that arrive in it, and the share of the boards'
        power that is drawn in it."""
        return {
            name: {
                "seconds": sum(end - start for start, end in spans),
                **_latency_in(happened.table, labels, bounds, spans),
                "power": power(happened, step, spans).share,
            }
            for name, spans in self.windows.items()
        }

    def classes_of(
        self,
        table: RequestTable,
        labels: Labels,
        bounds: Sequence[Bound],
        values_s: Sequence[float],
        busiest_s: Sequence[float],
        good: Mask,
    ) -> dict[str, dict[str, object]]:
        """Per class its requests, their latencies, the share that meets every bound of its own, and those bounds."""
        duration = float(table["finished_s"].max() - table["arrival_s"].min())
        found: dict[str, dict[str, object]] = {}
        for name in self.classes:
            mask = _of_class(table, labels, name)
            own, met = table.where(mask), int(good[mask].sum())
            found[name] = {
                "requests": len(own),
                "slo_attainment": met / len(own) if len(own) else None,
                "request_goodput": met / duration,
                "metrics": {
                    key: value
                    for metric in LATENCIES
                    for key, value in quantiles_ms(metric, getattr(own, f"{metric}_s")).items()
                },
                "bounds": [
                    {
                        "metric": b.metric,
                        "quantile": b.quantile,
                        "seconds": b.seconds,
                        "worst_s": worst,
                        "busiest_s": busiest,
                    }
                    for b, worst, busiest in zip(bounds, values_s, busiest_s, strict=True)
                    if b.request_class == name
                ],
            }
        return found


NOTHING_ELSE = Wants()


def figures_of(
    happened: Simulated,
    step: StepModel,
    utilisation: float,
    trace: Trace,
    busiest_span_s: Span | None,
    good: Mask | None,
    wants: Wants,
) -> dict[str, float]:
    """Per objective asked for that needs the simulation: quantiles in seconds; ``goodput`` in requests per second;
    ``throughput``, the output tokens per second that the fleet can sustain (those of the busiest minutes over its closed-form
    utilisation there); ``energy``, the share of the boards' power that is drawn.
    """
    found: dict[str, float] = {}
    for name in wants.figures:
        if (asked := quantile_of(name)) is not None:
            found[name] = quantile_s(happened.table, *asked)
        elif name == "goodput" and good is not None:
            seconds = float(happened.table["finished_s"].max() - happened.table["arrival_s"].min())
            found[name] = float(good.sum()) / seconds
        elif name == "throughput":
            found[name] = _output_rate(trace, busiest_span_s) / max(utilisation, 1e-12)
        elif name == "energy":
            found[name] = power(happened, step).share
    return found


def quantile_s(table: RequestTable, metric: str, quantile: float) -> float:
    """A quantile in seconds of ``ttft``, ``tpot`` or ``e2el``; 0 where no request defines it."""
    values = getattr(table, f"{metric}_s")
    values = values[~np.isnan(values)]
    return float(np.quantile(values, quantile)) if values.size else 0.0


def quantiles_s(table: RequestTable, labels: Labels, bounds: Sequence[Bound], *spans_s: Span) -> tuple[float, ...]:
    """Per bound its quantile over the requests of its class, of those that arrive in ``spans_s`` where any are given.

    ``labels``: the class of each row of ``table``, which is in the order of the trace.
    """
    inside = _inside(table, spans_s)
    found = []
    for bound in bounds:
        masks = [inside, None if bound.request_class is None else _of_class(table, labels, bound.request_class)]
        given = [mask for mask in masks if mask is not None]
        own = table.where(np.logical_and.reduce(given)) if given else table
        found.append(quantile_s(own, bound.metric, bound.quantile))
    return tuple(found)


def held(table: RequestTable, labels: Labels, slo: Slo) -> Mask:
    """Which requests meet every bound of their own class, shape (n,)."""
    good = meets(table, slo.request_bounds_s())
    for name in dict.fromkeys(bound.request_class for bound in slo.bounds if bound.request_class is not None):
        mask = _of_class(table, labels, name)
        good[mask] = meets(table.where(mask), slo.request_bounds_s(name))
    return good


def p99_s(table: RequestTable) -> dict[str, float]:
    """Of each latency over all requests."""
    return {metric: quantile_s(table, metric, 0.99) for metric in LATENCIES}


def latency_sides(
    values_s: Sequence[float], bounds: Sequence[Bound], otherwise_s: Mapping[str, float]
) -> tuple[float, float]:
    """(first, next tokens): the worst ratio to the TTFT and E2EL bounds and to the TPOT bounds; without such bounds
    ``otherwise_s`` of ttft and tpot.
    """

    def side(*metrics: str) -> float:
        found = [value / b.seconds for value, b in zip(values_s, bounds, strict=True) if b.metric in metrics]
        return max(found) if found else otherwise_s[metrics[0]]

    return side("ttft", "e2el"), side("tpot")


def score_of(sides: tuple[float, float]) -> float:
    """Geometric mean of :func:`latency_sides`."""
    first, following = sides
    return float(np.sqrt(max(first, 1e-12) * max(following, 1e-12)))


def _latency_in(
    table: RequestTable, labels: Labels, bounds: Sequence[Bound], spans_s: Sequence[Span]
) -> dict[str, float]:
    inside = _inside(table, spans_s)
    part = table if inside is None else table.where(inside)
    first, following = latency_sides(quantiles_s(table, labels, bounds, *spans_s), bounds, p99_s(part))
    return {"first": first, "next": following}


def _inside(table: RequestTable, spans_s: Sequence[Span]) -> Mask | None:
    """Which requests arrive in one of the spans; ``None`` for no spans: all."""
    if not spans_s:
        return None
    arrival = table["arrival_s"]
    inside = [(arrival >= start) & (arrival < end) for start, end in spans_s]
    return np.asarray(np.logical_or.reduce(inside), dtype=bool)


def _of_class(table: RequestTable, labels: Labels, name: str) -> Mask:
    if labels is None:
        raise InputError(f"a promise for class {name}, but no class was given to the requests of the traffic")
    return np.asarray(labels == name, dtype=bool)


def _output_rate(trace: Trace, span_s: Span | None) -> float:
    """Output tokens per second of the requests that arrive in the span, or in the whole trace."""
    if span_s is None:
        return float(trace.output_tokens.sum()) / max(trace.duration_s, 1e-9)
    first, last = np.searchsorted(trace.arrival_s, span_s)
    return float(trace.output_tokens[first:last].sum()) / (span_s[1] - span_s[0])
