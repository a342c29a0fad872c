"""A fleet of pools: each with its own GPUs and layout, serving the requests of its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from twin.cluster.simulation import Simulated
from twin.plan.request import PlanRequest
from twin.plan.together import together
from twin.results.metrics import summarize
from twin.search.evaluate import Measured, Outcome, simulated
from twin.search.figures import Wants, held, latency_sides, p99_s, score_of
from twin.spec.slo import Bound, Slo

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Share:
    """Part of the traffic that a pool may serve: its classes (``None``: requests of none), its requests among all (mask), the
    request that asks for its pool, and when its clock starts on that of all traffic."""

    classes: tuple[str | None, ...]
    rows: Mask
    request: PlanRequest
    offset_s: float

    @property
    def name(self) -> str:
        return ",".join(name or "other" for name in self.classes)


@dataclass(frozen=True, eq=False)
class Pool:
    """A fleet of one kind for one share of the traffic."""

    share: Share
    outcome: Outcome

    @property
    def id(self) -> str:
        return f"{self.share.name}@{self.outcome.candidate.id}"


@dataclass(frozen=True)
class PooledCandidate:
    """What names a fleet of pools. ``gpu``: its types, joined by ``+``."""

    id: str
    gpu: str
    num_gpus: int


@dataclass(frozen=True, eq=False)
class Pooled:
    """A fleet of pools, with what an :class:`Outcome` says of itself.

    ``values_s`` and ``busiest_s`` per bound of all traffic: of its class's pool, or the worst of all pools. ``figures``:
    ``goodput`` and ``throughput`` are sums, ``energy`` the mean share of the boards' limits, quantiles the worst of a pool
    (those of all requests lie below). ``windows``: the worst latency, the mean share of power.
    """

    pools: tuple[Pool, ...]
    bounds: tuple[Bound, ...]
    headroom: float

    @cached_property
    def candidate(self) -> PooledCandidate:
        kinds = [pool.outcome.candidate for pool in self.pools]
        gpus = "+".join(dict.fromkeys(kind.gpu for kind in kinds))
        return PooledCandidate("+".join(pool.id for pool in self.pools), gpus, sum(kind.num_gpus for kind in kinds))

    @property
    def usd_per_hour(self) -> float:
        return sum(pool.outcome.usd_per_hour for pool in self.pools)

    @property
    def limit_w(self) -> float:
        return sum(pool.outcome.limit_w for pool in self.pools)

    @property
    def utilisation(self) -> float:
        """Of the fullest pool."""
        return max(pool.outcome.deployment.utilisation for pool in self.pools)

    @cached_property
    def values_s(self) -> tuple[float, ...]:
        return self._per_bound("values_s")

    @cached_property
    def busiest_s(self) -> tuple[float, ...]:
        return self._per_bound("busiest_s")

    def _per_bound(self, name: str) -> tuple[float, ...]:
        found: dict[Bound, float] = {}
        for pool in self.pools:
            for bound, value in zip(pool.outcome.bounds, getattr(pool.outcome, name), strict=True):
                found[bound] = max(found.get(bound, 0.0), value)
        return tuple(found[bound] for bound in self.bounds)

    @cached_property
    def worst(self) -> float:
        return max(pool.outcome.worst for pool in self.pools)

    @property
    def slo_met(self) -> bool:
        return self.worst <= 1.0

    @property
    def load(self) -> str:
        """The worst of the pools'."""
        states = {pool.outcome.load for pool in self.pools}
        return next(state for state in ("lost", "overloaded", "backlogged", "stable") if state in states)

    @cached_property
    def misses(self) -> tuple[str, ...]:
        return tuple(f"{pool.share.name}: {miss}" for pool in self.pools for miss in pool.outcome.misses)

    @property
    def holds(self) -> bool:
        return not self.misses

    @cached_property
    def latency(self) -> tuple[float, float]:
        p99 = {
            metric: max(pool.outcome.measured.p99_s[metric] for pool in self.pools)
            for metric in self.pools[0].outcome.measured.p99_s
        }
        return latency_sides(self.values_s, self.bounds, p99)

    @property
    def latency_score(self) -> float:
        return score_of(self.latency)

    @cached_property
    def figures(self) -> Mapping[str, float]:
        outcomes = [pool.outcome for pool in self.pools]
        merged: dict[str, float] = {}
        for name in outcomes[0].figures:
            values = [outcome.figures[name] for outcome in outcomes]
            if name == "energy":
                merged[name] = self._of_power(values)
            else:
                merged[name] = sum(values) if name in ("goodput", "throughput") else max(values)
        return merged

    @cached_property
    def windows(self) -> Mapping[str, Mapping[str, float]]:
        merged = {}
        for name, first in self.pools[0].outcome.windows.items():
            each = [pool.outcome.windows[name] for pool in self.pools]
            worst = {side: max(window[side] for window in each) for side in ("first", "next")}
            merged[name] = {
                "seconds": first["seconds"],
                **worst,
                "power": self._of_power([window["power"] for window in each]),
            }
        return merged

    def _of_power(self, shares: Sequence[float]) -> float:
        drawn = sum(share * pool.outcome.limit_w for share, pool in zip(shares, self.pools, strict=True))
        return drawn / self.limit_w

    @cached_property
    def simulated(self) -> Simulated:
        """Every pool simulated once more, as the one simulation of the fleet that they amount to."""
        shares = [pool.share for pool in self.pools]
        return together(
            [simulated(pool.outcome.deployment, pool.share.request.load.trace) for pool in self.pools],
            [share.rows for share in shares],
            [share.offset_s for share in shares],
        )

    @cached_property
    def measured(self) -> Measured:
        """As the one simulation of the fleet says it. Bounds, figures and windows stay those of the pools."""
        shares, happened = [pool.share for pool in self.pools], self.simulated
        slo = Slo(bounds=self.bounds)
        labels = np.full(len(happened.table), None, dtype=object)
        for share in shares:
            labels[share.rows] = share.request.load.trace.request_class
        good = held(happened.table, labels, slo)
        summary = summarize(happened, slo.request_bounds_s())
        if len({pool.outcome.candidate.pipeline_parallel_size > 1 for pool in self.pools}) > 1:
            summary |= dict.fromkeys(name for name in summary if name.endswith("_itl_ms"))  # of two kinds, see together
        summary["slo_attainment"] = float(good.mean())
        summary["request_goodput"] = float(good.sum()) / float(str(summary["duration"]))
        names = tuple(name for share in shares for name in share.classes if name is not None)
        classes = Wants(classes=names).classes_of(
            happened.table, labels, self.bounds, self.values_s, self.busiest_s, good
        )
        table_p99 = p99_s(happened.table)
        return Measured(
            self.values_s, self.busiest_s, table_p99, self.load, summary, self.figures, self.windows, classes
        )

    @property
    def summary(self) -> Mapping[str, object]:
        return self.measured.summary


Option = Outcome | Pooled


def pools_of(option: Option, request: PlanRequest) -> list[tuple[Outcome, PlanRequest]]:
    """Each pool with the request that it answers; an option that is one fleet is its own only pool."""
    if isinstance(option, Pooled):
        return [(pool.outcome, pool.share.request) for pool in option.pools]
    return [(option, request)]
