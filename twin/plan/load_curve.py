"""Latency against load: a fleet's busiest minutes replayed slower and faster, with the band of the engine's measured error.

An engine whose every step takes f times as long does at a rate r what the modelled one does at f·r, f times as slowly:
arrivals, steps and queues all scale alike. So one ladder of rates, whose rungs are f apart, gives the curve and both its
edges; an edge costs no simulation of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, exp, floor, log

import numpy as np

from twin.cluster.requests import COLUMNS, RequestTable
from twin.cluster.simulation import Simulated, simulate
from twin.cost.parts import Z90
from twin.engine.core import LOG_COLUMNS
from twin.plan.fleet import Option, pools_of
from twin.plan.measured import outside
from twin.plan.request import PlanRequest
from twin.plan.served import Served
from twin.results.metrics import summarize
from twin.risk.trials import later
from twin.search.evaluate import Outcome
from twin.search.figures import quantile_s, quantiles_s
from twin.search.simulator import SLICE_REQUESTS
from twin.search.workload import bound_text
from twin.spec.engine_errors import EngineErrors, engine_errors
from twin.spec.slo import Bound
from twin.traffic.trace import Trace

BUSIEST_S = 600.0
REQUESTS = 1800
"""Of usual work in a simulation where somebody waits: some ten of them then take less than a second."""
CLOSER_REQUESTS = 24_000
"""The same where somebody looks on: ten minutes of most traffic."""
LEAST_REQUESTS = 300
"""A p99 of fewer says little: quiet traffic is taken from a longer window, dear one is not cut further."""

LEAST_FACTOR = 0.25
BELOW_CAPACITY, ABOVE_CAPACITY = 0.4, 1.1
"""The ladder stands between these shares of what the closed form sustains; the planned rate and a quarter of it are on it."""
OVERLOADED_SHOWN = 2

SHOWN = (
    *("request_throughput", "output_throughput", "mean_num_running", "max_num_waiting"),
    *("mean_kv_cache_usage", "peak_kv_cache_usage", "num_preemptions"),
)
INTERVAL = (
    "from an engine that is faster than modelled by the measured error of whole engines to one that is slower by it, in its"
    " steps and, beyond them, in first tokens (90% of engines, at light load); where a queue forms the same error moves latency"
    " further. Not in it: kernels' own errors apart from those, another day's traffic, the network"
)


Progress = Callable[[int, int], None]
"""Hears how many of how many simulations are done."""


def nobody(done: int, total: int) -> None:
    """The progress of a curve that nobody watches."""


def load_curves(option: Option, request: PlanRequest) -> dict[str, object]:
    """Of an option of a plan: ``load_curve``; of a fleet of pools ``load_curves``, one for each."""
    served = [Served.of_outcome(outcome, own) for outcome, own in pools_of(option, request)]
    found = [load_curve(one, requests=SLICE_REQUESTS) for one in served]
    return {"load_curve": found[0]} if isinstance(option, Outcome) else {"load_curves": found}


def load_curve(served: Served, *, requests: int = REQUESTS, progress: Progress = nobody) -> dict[str, object]:
    """JSON: p50 and p99 of TTFT and TPOT at some ten rates, from a quarter of the planned to beyond what the closed form
    sustains.

    The busiest ten minutes (or as many seconds as hold about ``requests``, fewer where one is more work; :func:`busiest`) are
    replayed from an empty fleet, their arrivals closer together or further apart. ``lo90`` and ``hi90``: see :data:`INTERVAL`;
    both errors are taken at their 5 % and 95 % point at once, so that at light load the band is that of whole engines'
    measured error. ``holds``: every promise over these requests, without a growing backlog; head-room is not in it.
    ``calibrated`` as of options, at the point's own batch. ``capacity_per_s`` is the closed form's.

    A replica is slower as a whole: only what the host does before a request is queued stays as it is.
    """
    ladder = _Ladder.of(served, requests)
    return {**ladder.about, "points": ladder.points(progress)}


def at_load(served: Served, factor: float, *, requests: int = REQUESTS) -> tuple[dict[str, object], Simulated]:
    """One point, at ``factor`` times the rate, with what a curve says of itself; and what happened there."""
    ladder = _Ladder.of(served, requests, factor)
    return {**ladder.about, **ladder.point(0)}, ladder.simulated(0)


def busiest(served: Served, requests: int = REQUESTS, seconds: float = BUSIEST_S) -> tuple[Trace, float, float]:
    """The requests of the busiest ``seconds``, and where that window starts and how long it is.

    Of busy traffic the window is shortened to about as many as cost what ``requests`` usual ones do: prefix hashes, KV groups
    and pipeline stages are more work. Of quiet traffic it is lengthened until it holds :data:`LEAST_REQUESTS`.
    """
    trace = served.load.trace
    most = max(requests / served.work, LEAST_REQUESTS)
    start, span, held = 0.0, trace.duration_s, len(trace)
    if span > seconds or held > most:
        span = min(seconds, span)
        for _ in range(3):
            start, end = trace.busiest_span(span)
            held = int(np.searchsorted(trace.arrival_s, end) - np.searchsorted(trace.arrival_s, start))
            if LEAST_REQUESTS <= held <= most:
                break
            span = min(span * (most if held > most else LEAST_REQUESTS) / held, trace.duration_s)
        start, end = trace.busiest_span(span)
        return trace.slice(start, end), start, span
    return trace, start, span


@dataclass(frozen=True, eq=False)
class _Ladder:
    """``base`` · ``step`` ** rung times the rate of ``trace``, each simulated once; the engine's error is one rung."""

    served: Served
    trace: Trace
    start_s: float
    span_s: float
    errors: EngineErrors
    base: float = 1.0
    _done: dict[int, Simulated] = field(default_factory=dict)

    @classmethod
    def of(cls, served: Served, requests: int, base: float = 1.0) -> _Ladder:
        return cls(served, *busiest(served, requests), engine_errors(served.profile), base)

    @property
    def about(self) -> dict[str, object]:
        errors, seconds = self.errors, self.span_s
        lasts = f"{seconds / 60:.3g} minutes" if seconds >= 60 else f"{seconds:.3g} s"
        said = {"tpot": errors.tpot, "ttft": errors.ttft, "evidence": errors.evidence, "source": errors.source}
        return {
            "id": self.served.id,
            "fidelity": f"busiest {lasts}, {len(self.trace):,} requests",
            "start_s": self.start_s,
            "span_s": seconds,
            "requests": len(self.trace),
            "capacity_per_s": self.served.capacity_per_s,
            "engine_errors": said,
            "interval": INTERVAL,
            "promises": [_promise(bound) for bound in self.served.bounds],
        }

    @cached_property
    def step(self) -> float:
        return exp(Z90 * self.errors.tpot)

    def factor(self, rung: int) -> float:
        return float(self.base * self.step**rung)

    def rate_per_s(self, rung: int) -> float:
        return self.factor(rung) * len(self.trace) / self.span_s

    @property
    def rungs(self) -> list[int]:
        """Those between the shares of the capacity, today's, and one at a quarter of its rate."""
        sustained, width = log(self.served.capacity_per_s / self.rate_per_s(0)), log(self.step)
        low = ceil((sustained + log(BELOW_CAPACITY)) / width)
        high = ceil((sustained + log(ABOVE_CAPACITY)) / width)
        return sorted({floor(log(LEAST_FACTOR) / width), 0, *range(low, high + 1)})

    def points(self, progress: Progress) -> list[dict[str, object]]:
        """Of every rung, up to the second overloaded one: what lies beyond is a longer queue."""
        found: list[dict[str, object]] = []
        rungs = self.rungs
        for at, rung in enumerate(rungs):
            progress(at, len(rungs))
            if rung > 0 and sum(point["load"] == "overloaded" for point in found) >= OVERLOADED_SHOWN:
                break
            found.append(self.point(rung))
        return found

    def simulated(self, rung: int) -> Simulated:
        if rung not in self._done:
            factor = self.factor(rung)
            self._done[rung] = simulate(self.trace if factor == 1.0 else self.trace.scaled(factor), self.served.fleet)
        return self._done[rung]

    def edge(self, rung: int, side: int) -> RequestTable:
        """At this rate, of an engine as much slower (``side`` 1) or faster (-1) than the modelled one as its error is."""
        table = stretched(self.simulated(rung + side).table, self.step**side)
        return later(table, exp(side * Z90 * max(self.errors.ttft - self.errors.tpot, 0.0)))

    def point(self, rung: int) -> dict[str, object]:
        served, happened = self.served, self.simulated(rung)
        summary, rate = summarize(happened), self.rate_per_s(rung)
        values = quantiles_s(happened.table, self.trace.request_class, served.bounds)
        misses = missed(served.bounds, values, str(summary["load"]))
        outside_because = extrapolations(served, summary)
        return {
            "factor": self.factor(rung),
            "request_rate_per_s": rate,
            "utilisation": rate / served.capacity_per_s,
            "load": summary["load"],
            "holds": not misses,
            "misses": misses,
            "calibrated": "outside" if outside_because else "inside",
            "outside_because": outside_because,
            **{f"p{q}_{metric}_ms": summary[f"p{q}_{metric}_ms"] for metric in ("ttft", "tpot") for q in (50, 99)},
            **{name: summary[name] for name in SHOWN},
            **self.interval(rung),
        }

    def interval(self, rung: int) -> dict[str, float]:
        """Between engines that are faster and slower, of both latencies, of throughput and of the KV cache's peak."""
        found: dict[str, float] = {}
        edges = {side: self.edge(rung, side) for side in (-1, 1)}
        for metric in ("ttft", "tpot"):
            found |= _between(f"p99_{metric}_ms", [1e3 * quantile_s(edge, metric, 0.99) for edge in edges.values()])
        found |= _between("output_throughput", [_output_per_s(edge) for edge in edges.values()])
        most = [peak_kv_cache_usage(self.simulated(rung + side)) for side in edges]
        return found | _between("peak_kv_cache_usage", most)


def _between(name: str, values: list[float]) -> dict[str, float]:
    return {f"{name}_lo90": min(values), f"{name}_hi90": max(values)}


def _output_per_s(table: RequestTable) -> float:
    return float(table["output_tokens"].sum()) / float(table["finished_s"].max() - table["arrival_s"].min())


def peak_kv_cache_usage(sim: Simulated) -> float:
    free = LOG_COLUMNS.index("free_blocks")
    return max((1.0 - float(log[:, free].min()) / sim.usable_blocks for log in sim.logs if len(log)), default=0.0)


def stretched(table: RequestTable, factor: float) -> RequestTable:
    """The table on a clock on which everything after a request's preparation by the host takes ``factor`` times as long."""
    values = table.values.copy()
    prepared = table["queued_s"] - table["arrival_s"]
    arrival = factor * table["arrival_s"]
    for column in ("queued_s", "scheduled_s", "first_token_s", "finished_s"):
        values[:, COLUMNS.index(column)] = arrival + prepared + factor * (table[column] - table["queued_s"])
    values[:, COLUMNS.index("arrival_s")] = arrival
    return RequestTable(values)


def missed(bounds: Sequence[Bound], values_s: Sequence[float], load: str) -> list[str]:
    """Which promises are not kept, in words as an option's misses."""
    said = [
        f"{bound_text(bound)}: {value * 1e3:.0f} ms"
        for bound, value in zip(bounds, values_s, strict=True)
        if value > bound.seconds
    ]
    return [*said, *(["overloaded: the backlog grows over the last half"] if load == "overloaded" else [])]


def extrapolations(served: Served, summary: Mapping[str, object]) -> list[str]:
    """As :func:`twin.plan.option.extrapolations`, with the batch that ``summary`` says."""
    load, config = served.load, served.fleet.config
    running = max(float(str(summary["mean_num_running"])) / served.fleet.replicas, 1.0)
    prompt = float(np.clip(load.prefill_tokens.mean(), 1, config.max_num_batched_tokens))
    return outside(
        served.model, served.profile, served.layout, running=running, context=load.mean_context, prompt=prompt
    )


def _promise(bound: Bound) -> dict[str, object]:
    whose = {} if bound.request_class is None else {"request_class": bound.request_class}
    return {**whose, "metric": bound.metric, "quantile": bound.quantile, "seconds": bound.seconds}
