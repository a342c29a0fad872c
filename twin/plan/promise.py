"""What a fleet sustains at a promise, in the closed form of :mod:`twin.search.screen` and with the tails of a simulation.

A promised quantile is taken as that of requests alone on the replica, and on top of it a multiple of what the closed-form
mean exceeds the mean of an idle replica by. The simulated option tells the multiple; that it is the same at other rates, and
of the fleets beside it, is assumed. Of 33 fleets around six options under conversation traffic, the highest rates found by
simulating were 9 % off these in the mean, 23 % at most (quantiles in proportion to means: 24 % in the mean, 61 % at most);
``tests/plan/test_promise.py`` does some of them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from twin.results.money import usd_per_month
from twin.search.evaluate import Outcome
from twin.search.screen import (
    Curve,
    capacity_per_s,
    curve,
    estimates,
    most_decodes,
    quantile_alone_s,
    requests_held,
    unloaded_s,
)
from twin.search.space import Candidate, ReplicaKind
from twin.search.workload import Floats, Workload, bound_text
from twin.spec.slo import Bound

RATES = 1000
"""Rates between none and the most with head-room at which promises are looked up."""

IDLE = 1e-6
"""Utilisation of a replica that is as good as idle."""

HEADROOM = "head-room"


@dataclass(frozen=True, eq=False)
class Fleet:
    """Replicas of one kind with one engine setting, under a load."""

    kind: ReplicaKind
    max_num_seqs: int
    max_num_batched_tokens: int
    num_gpu_blocks: int
    replicas: int
    usd_per_gpu_hour: float
    load: Workload

    @cached_property
    def curve(self) -> Curve:
        return curve(self.kind, self.load, self.max_num_batched_tokens)

    @property
    def requests_held(self) -> float:
        """Mean requests that the KV cache of one rank holds."""
        return float(requests_held(self.kind, self.load, np.array([self.num_gpu_blocks]))[0])

    @cached_property
    def capacity_per_s(self) -> float:
        """Requests per second that one replica sustains, whatever the latency."""
        most = most_decodes(self.kind, self.load, np.array([self.max_num_seqs]), np.array([self.num_gpu_blocks]))
        return float(capacity_per_s(self.kind, self.curve, most)[0])

    @property
    def num_gpus(self) -> int:
        return self.kind.num_gpus * self.replicas

    @property
    def usd_per_month(self) -> float:
        return usd_per_month(self.num_gpus * self.usd_per_gpu_hour)

    @property
    def candidate(self) -> Candidate:
        layout = self.kind.layout
        return Candidate(
            self.kind.profile.name,
            layout.tensor_parallel_size,
            self.replicas,
            layout.quantization,
            layout.kv_cache_dtype,
            self.max_num_seqs,
            self.max_num_batched_tokens,
            layout.pipeline_parallel_size,
            layout.data_parallel_size,
            layout.enable_expert_parallel,
        )

    @cached_property
    def alone_s(self) -> dict[str, Floats]:
        """Per request of the trace, the least TTFT, TPOT and E2EL that a replica of this kind can have."""
        return unloaded_s(self.kind, self.load)

    def means_s(self, rate_per_s: Floats) -> dict[str, Floats]:
        """Estimated mean TTFT, TPOT and E2EL at so many requests per second on one replica."""
        only = np.zeros(len(rate_per_s), dtype=np.int64)
        use = rate_per_s / self.capacity_per_s
        ttft, tpot = estimates(self.kind, self.load, only, rate_per_s / self.kind.batches, use, {0: self.curve})
        return {"ttft": ttft, "tpot": tpot, "e2el": ttft + self.load.mean_decodes * tpot}


@dataclass(frozen=True)
class Promise:
    """Bounds, per bound how many times the mean's excess its quantile's is, and the head-room.

    ``known``: whether the simulation tells those; where requests queued without end it does not, and each counts as 1.
    """

    bounds: tuple[Bound, ...]
    stretches: tuple[float, ...]
    headroom: float
    known: bool = True

    @classmethod
    def of(cls, outcome: Outcome, fleet: Fleet) -> Promise:
        """As ``outcome``, which simulated this ``fleet`` at its peak, tells."""
        rates = np.array([fleet.load.peak_rate_per_s / fleet.replicas, IDLE * fleet.capacity_per_s])
        stretches, means = [], fleet.means_s(rates)
        for bound, value in zip(outcome.bounds, outcome.values_s, strict=True):
            mean, idle = means[bound.metric].tolist()
            over = max(value - quantile_alone_s(fleet.alone_s, fleet.load, bound), 0.0)
            stretches.append(over / (mean - idle) if mean > idle else 0.0)
        known = outcome.load != "overloaded" and fleet.capacity_per_s > rates[0] and bool(np.isfinite(stretches).all())
        return cls(outcome.bounds, tuple(stretches) if known else (1.0,) * len(stretches), outcome.headroom, known)

    def most(self, fleet: Fleet) -> tuple[float, str]:
        """Requests per second that the whole fleet sustains at the promise, and what limits them; 0 where even the least
        rate breaks it.
        """
        rates = np.linspace(0.0, 1.0, RATES + 1) * fleet.capacity_per_s * (1.0 - self.headroom)
        rates[0] = IDLE * fleet.capacity_per_s
        means = fleet.means_s(rates)
        most, limit = float(rates[-1]), HEADROOM
        for bound, stretch in zip(self.bounds, self.stretches, strict=True):
            over = stretch * (means[bound.metric] - means[bound.metric][0])
            reached = _crossing(rates, (quantile_alone_s(fleet.alone_s, fleet.load, bound) + over) / bound.seconds)
            if reached < most:
                most, limit = reached, bound_text(bound)
        return most * fleet.replicas, limit


def _crossing(rates: Floats, ratio: Floats) -> float:
    """Where ``ratio``, which rises with the rate, first exceeds 1: linear between rates, 0 where it does from the start."""
    over = ratio > 1.0
    if not over.any():
        return float(np.inf)
    at = int(over.argmax())
    if at == 0:
        return 0.0
    return float(np.interp(1.0, ratio[at - 1 : at + 1], rates[at - 1 : at + 1]))
