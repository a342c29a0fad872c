"""A candidate in the simulator, and whether it keeps its promises there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from twin.cluster.simulation import Fleet, Simulated, simulate
from twin.cost.step import StepModel
from twin.engine.config import EngineConfig
from twin.results.energy import Span, power
from twin.results.metrics import load_state, summarize
from twin.search.figures import (
    NOTHING_ELSE,
    Wants,
    figures_of,
    held,
    latency_sides,
    p99_s,
    quantile_s,
    quantiles_s,
    score_of,
)
from twin.search.space import Candidate
from twin.search.workload import BUSIEST_S, bound_text
from twin.spec.slo import LATENCIES, Bound, Slo
from twin.traffic.trace import Trace

__all__ = ["Deployment", "Measured", "Outcome", "evaluate", "measure", "quantile_s", "simulated"]


@dataclass(frozen=True, eq=False)
class Deployment:
    """What runs: a fleet, what it costs, and its closed-form utilisation at the busiest five minutes."""

    candidate: Candidate
    config: EngineConfig
    step: StepModel
    usd_per_hour: float
    utilisation: float
    routing: str = "least_loaded"

    @property
    def limit_w(self) -> float:
        """The power limit of all boards; NaN where none is known."""
        board = self.step.profile.facts.board_power_w
        return self.candidate.num_gpus * board.value if board else float("nan")

    @property
    def fleet(self) -> Fleet:
        ranks, together = self.candidate.data_parallel_size, self.candidate.enable_expert_parallel
        return Fleet(
            self.config,
            self.step,
            self.candidate.replicas,
            self.routing,
            data_parallel_size=ranks,
            lockstep=together and ranks > 1,
        )


@dataclass(frozen=True)
class Measured:
    """What one simulation says, in plain numbers: a journal, another process or another machine can carry it.

    ``values_s``: per bound, its quantile in seconds, the worse of whole trace and busiest minutes (``busiest_s``). ``p99_s``
    of ttft, tpot and e2el. ``summary``: every metric, where it was asked for, and with it ``power_share``, what is drawn of
    the boards' limit. ``figures``, ``windows`` and ``classes``: what :class:`twin.search.figures.Wants` asked for besides.
    """

    values_s: tuple[float, ...]
    busiest_s: tuple[float, ...]
    p99_s: Mapping[str, float]
    load: str
    summary: Mapping[str, object] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    windows: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    classes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    power_share: float | None = None

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def lost(cls, bounds: int) -> Measured:
        """Of a simulation whose workers died: no promise holds."""
        never = (float("inf"),) * bounds
        return cls(never, never, dict.fromkeys(LATENCIES, float("inf")), "lost")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measured:
        """The inverse of :meth:`as_json`, exact. Raises :class:`KeyError` where a field is missing."""
        values, busiest = tuple(map(float, data["values_s"])), tuple(map(float, data["busiest_s"]))
        more = {name: dict(data[name]) for name in ("summary", "figures", "windows", "classes")}
        return cls(values, busiest, dict(data["p99_s"]), str(data["load"]), **more, power_share=data.get("power_share"))


@dataclass(frozen=True, eq=False)
class Outcome:
    """A deployment and what one simulation of it says, held against its promises.

    ``misses`` in words, empty if every promise holds. ``worst`` is the largest value over its bound.
    """

    deployment: Deployment
    measured: Measured
    bounds: tuple[Bound, ...]
    headroom: float

    @property
    def candidate(self) -> Candidate:
        return self.deployment.candidate

    @property
    def usd_per_hour(self) -> float:
        return self.deployment.usd_per_hour

    @property
    def values_s(self) -> tuple[float, ...]:
        return self.measured.values_s

    @property
    def busiest_s(self) -> tuple[float, ...]:
        return self.measured.busiest_s

    @property
    def load(self) -> str:
        return self.measured.load

    @property
    def summary(self) -> Mapping[str, object]:
        return self.measured.summary

    @property
    def figures(self) -> Mapping[str, float]:
        return self.measured.figures

    @property
    def windows(self) -> Mapping[str, Mapping[str, float]]:
        return self.measured.windows

    @property
    def limit_w(self) -> float:
        """The power limit of all boards; NaN where none is known."""
        return self.deployment.limit_w

    @cached_property
    def worst(self) -> float:
        return max((v / b.seconds for v, b in zip(self.values_s, self.bounds, strict=True)), default=0.0)

    @property
    def slo_met(self) -> bool:
        """Every bound, over the whole trace and over its busiest five minutes."""
        return self.worst <= 1.0

    @cached_property
    def misses(self) -> tuple[str, ...]:
        said = [
            f"{bound_text(bound)}: {value * 1e3:.0f} ms"
            for bound, value in zip(self.bounds, self.values_s, strict=True)
            if value > bound.seconds
        ]
        if self.load == "overloaded":
            said.append("overloaded: the backlog grows over the last half of the trace")
        if self.load == "lost":
            said.append("lost: the processes that ran it died, so nothing is known of it")
        if self.deployment.utilisation > 1 - self.headroom:
            said.append(
                f"utilisation of {self.deployment.utilisation:.0%} at the busiest five minutes,"
                f" above {1 - self.headroom:.0%}"
            )
        return tuple(said)

    @property
    def holds(self) -> bool:
        return not self.misses

    @cached_property
    def latency(self) -> tuple[float, float]:
        """(first, next tokens): the worst ratio to the TTFT and E2EL bounds and to the TPOT bounds, or p99
        in seconds.
        """
        return latency_sides(self.values_s, self.bounds, self.measured.p99_s)

    @property
    def latency_score(self) -> float:
        """Lower is better: geometric mean of both sides of :attr:`latency`."""
        return score_of(self.latency)


def simulated(deployment: Deployment, trace: Trace) -> Simulated:
    """``trace`` through the deployment's fleet, request by request."""
    return simulate(trace, deployment.fleet)


def measure(
    deployment: Deployment,
    trace: Trace,
    bounds: Sequence[Bound],
    *,
    busiest_span_s: Span | None = None,
    full: bool = False,
    wants: Wants = NOTHING_ELSE,
) -> Measured:
    """Simulate ``trace``. With a ``busiest_span_s`` the bounds are also held against the requests arriving
    in it.

    ``full`` computes every metric, and what ``wants`` asks by class and window; without it ``summary`` stays empty, which is
    what a search needs. Raises :class:`twin.base.InputError` for a bound of a class where the trace has no classes.
    """
    happened = simulated(deployment, trace)
    table, labels = happened.table, trace.request_class
    whole = quantiles_s(table, labels, bounds)
    span = busiest_span_s if trace.duration_s > BUSIEST_S else None
    busiest = whole if span is None else quantiles_s(table, labels, bounds, span)
    values = tuple(map(max, whole, busiest))
    slo = Slo(bounds=tuple(bounds))
    summary = summarize(happened, slo.request_bounds_s()) if full else {}
    load = str(summary["load"]) if full else load_state(happened)
    good = held(table, labels, slo) if wants.needs_good(full) or any(bound.request_class for bound in bounds) else None
    if full and good is not None:
        summary["slo_attainment"] = float(good.mean())
        summary["request_goodput"] = float(good.sum()) / float(str(summary["duration"]))
    more = figures_of(happened, deployment.step, deployment.utilisation, trace, span, good, wants)
    windows, classes = {}, {}
    if full:
        windows = wants.windows_of(happened, deployment.step, labels, bounds)
        classes = {} if good is None else wants.classes_of(table, labels, bounds, values, busiest, good)
    drawn = power(happened, deployment.step).share if full else None
    return Measured(values, busiest, p99_s(table), load, summary, more, windows, classes, drawn)


def evaluate(
    deployment: Deployment,
    trace: Trace,
    bounds: Sequence[Bound],
    *,
    headroom: float,
    busiest_span_s: Span | None = None,
    full: bool = False,
    wants: Wants = NOTHING_ELSE,
) -> Outcome:
    """As :func:`measure`, with the deployment that it was."""
    measured = measure(deployment, trace, bounds, busiest_span_s=busiest_span_s, full=full, wants=wants)
    return Outcome(deployment, measured, tuple(bounds), headroom)
