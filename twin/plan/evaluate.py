"""A candidate in the simulator, and whether it keeps its promises there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from twin.cluster.requests import RequestTable
from twin.cluster.simulation import Fleet, Simulated, simulate
from twin.cost.step import StepModel
from twin.engine.config import EngineConfig
from twin.plan.space import Candidate
from twin.plan.workload import BUSIEST_S, bound_text
from twin.results.metrics import load_state, summarize
from twin.spec.slo import LATENCIES, Bound, Slo
from twin.traffic.trace import Trace


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
    of ttft, tpot and e2el. ``summary``: every metric, where it was asked for.
    """

    values_s: tuple[float, ...]
    busiest_s: tuple[float, ...]
    p99_s: Mapping[str, float]
    load: str
    summary: Mapping[str, object] = field(default_factory=dict)

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
        return cls(values, busiest, dict(data["p99_s"]), str(data["load"]), dict(data["summary"]))


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
            said.append("lost: its worker died twice, so nothing is known of it")
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
        return self._ratio("ttft", "e2el"), self._ratio("tpot")

    def _ratio(self, *metrics: str) -> float:
        found = [v / b.seconds for v, b in zip(self.values_s, self.bounds, strict=True) if b.metric in metrics]
        return max(found) if found else self.measured.p99_s[metrics[0]]

    @property
    def latency_score(self) -> float:
        """Lower is better: geometric mean of both sides of :attr:`latency`."""
        first, following = self.latency
        return float(np.sqrt(max(first, 1e-12) * max(following, 1e-12)))


def quantile_s(table: RequestTable, metric: str, quantile: float) -> float:
    """A quantile in seconds of ``ttft``, ``tpot`` or ``e2el``; 0 where no request defines it."""
    values = getattr(table, f"{metric}_s")
    values = values[~np.isnan(values)]
    return float(np.quantile(values, quantile)) if values.size else 0.0


def simulated(deployment: Deployment, trace: Trace) -> Simulated:
    """``trace`` through the deployment's fleet, request by request."""
    return simulate(trace, deployment.fleet)


def measure(
    deployment: Deployment,
    trace: Trace,
    bounds: Sequence[Bound],
    *,
    busiest_span_s: tuple[float, float] | None = None,
    full: bool = False,
) -> Measured:
    """Simulate ``trace``. With a ``busiest_span_s`` the bounds are also held against the requests arriving
    in it.

    ``full`` computes every metric; without it ``summary`` stays empty, which is what a search needs.
    """
    happened = simulated(deployment, trace)
    table = happened.table
    whole = tuple(quantile_s(table, bound.metric, bound.quantile) for bound in bounds)
    busiest = whole
    if busiest_span_s is not None and trace.duration_s > BUSIEST_S:
        part = table.arriving(*busiest_span_s)
        busiest = tuple(quantile_s(part, bound.metric, bound.quantile) for bound in bounds)
    limits = Slo(bounds=tuple(bounds)).request_bounds_s()
    summary = summarize(happened, limits) if full else {}
    load = str(summary["load"]) if full else load_state(happened)
    p99 = {metric: quantile_s(table, metric, 0.99) for metric in LATENCIES}
    return Measured(tuple(map(max, whole, busiest)), busiest, p99, load, summary)


def evaluate(
    deployment: Deployment,
    trace: Trace,
    bounds: Sequence[Bound],
    *,
    headroom: float,
    busiest_span_s: tuple[float, float] | None = None,
    full: bool = False,
) -> Outcome:
    """As :func:`measure`, with the deployment that it was."""
    measured = measure(deployment, trace, bounds, busiest_span_s=busiest_span_s, full=full)
    return Outcome(deployment, measured, tuple(bounds), headroom)
