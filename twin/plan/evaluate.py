"""A candidate in the simulator, and whether it keeps its promises there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from twin.cluster.requests import RequestTable
from twin.cluster.simulation import Fleet, simulate
from twin.cost.step import StepModel
from twin.engine.config import EngineConfig
from twin.plan.space import Candidate
from twin.plan.workload import BUSIEST_S, bound_text
from twin.results.metrics import load_state, summarize
from twin.spec.slo import Bound, Slo
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


@dataclass(frozen=True, eq=False)
class Outcome:
    """One simulation. ``values_s``: per bound, its quantile in seconds, the worse of whole trace and
    busiest minutes.

    ``misses`` in words, empty if every promise holds. ``worst`` is the largest value over its bound.
    """

    deployment: Deployment
    table: RequestTable
    values_s: tuple[float, ...]
    busiest_s: tuple[float, ...]
    bounds: tuple[Bound, ...]
    load: str
    summary: dict[str, object]
    headroom: float

    @property
    def candidate(self) -> Candidate:
        return self.deployment.candidate

    @property
    def usd_per_hour(self) -> float:
        return self.deployment.usd_per_hour

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
        return max(found) if found else quantile_s(self.table, metrics[0], 0.99)

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


def evaluate(
    deployment: Deployment,
    trace: Trace,
    bounds: Sequence[Bound],
    *,
    headroom: float,
    busiest_span_s: tuple[float, float] | None = None,
    full: bool = False,
) -> Outcome:
    """Simulate ``trace``. With a ``busiest_span_s`` the bounds are also held against the requests arriving
    in it.

    ``full`` computes every metric; without it ``summary`` stays empty, which is what a search needs.
    """
    simulated = simulate(trace, deployment.fleet)
    table = simulated.table
    whole = tuple(quantile_s(table, bound.metric, bound.quantile) for bound in bounds)
    busiest = whole
    if busiest_span_s is not None and trace.duration_s > BUSIEST_S:
        part = table.arriving(*busiest_span_s)
        busiest = tuple(quantile_s(part, bound.metric, bound.quantile) for bound in bounds)
    limits = Slo(bounds=tuple(bounds)).request_bounds_s()
    summary = summarize(simulated, limits) if full else {}
    load = str(summary["load"]) if full else load_state(simulated)
    worse = tuple(map(max, whole, busiest))
    return Outcome(deployment, table, worse, busiest, tuple(bounds), load, summary, headroom)
