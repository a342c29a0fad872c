"""One option in one world: the busiest minutes simulated, and its promises held against them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.cluster.requests import COLUMNS, RequestTable
from twin.results.metrics import load_state
from twin.risk.worlds import NOMINAL, Beyond, Demand, World, beyond, step_in
from twin.search.evaluate import Deployment, Outcome, simulated
from twin.search.figures import quantiles_s
from twin.search.screen import capacity_per_s, curve, most_decodes
from twin.search.space import ReplicaKind
from twin.search.workload import bisected
from twin.spec.engine_errors import EngineErrors, engine_errors
from twin.spec.hardware import HardwareProfile
from twin.spec.model import ModelSpec
from twin.spec.slo import Bound
from twin.traffic.trace import Trace

Floats = NDArray[np.float64]

OVERLOADED_RATIO = 2.0
"""A growing backlog counts as a promise missed by so much, whatever the requests that came through say."""

BISECTIONS = 6
LEAST_FACTOR = 1 / 16
MOST_FACTOR = 16.0


@dataclass(frozen=True, eq=False)
class Subject:
    """A fleet to judge, an option or one of its pools, with its own traffic and promises.

    ``off``: how far its engine may be; ``whole_over_slice``: per bound, what the whole trace makes of the slice's quantile, so
    that the nominal world says what the plan said; ``capacity_per_s``: of a replica, in closed form.
    """

    deployment: Deployment
    profile: HardwareProfile
    demand: Demand
    bounds: tuple[Bound, ...]
    errors: EngineErrors
    off: Beyond
    whole_over_slice: tuple[float, ...]
    capacity_per_s: float

    @property
    def replicas(self) -> int:
        return self.deployment.candidate.replicas


@dataclass(frozen=True, eq=False)
class Shared:
    """What all evaluations have in common; sent to a worker once."""

    model: ModelSpec
    subjects: tuple[Subject, ...]


@dataclass(frozen=True)
class Trial:
    """A fleet in a world, with some of its replicas, simulated at each of some factors on the planned rate."""

    subject: int
    world: World = NOMINAL
    factors: tuple[float, ...] = (1.0,)
    replicas: int | None = None


@dataclass(frozen=True)
class Highest:
    """The search for the highest rate at which a fleet holds with so many replicas."""

    subject: int
    replicas: int


@dataclass(frozen=True)
class Found:
    """``values_s``: the promised quantiles. ``ratio``: the worst over its bound. ``most``: rate that the closed form sustains,
    over the planned.
    """

    values_s: tuple[float, ...]
    ratio: float
    most: float


Item = Trial | Highest
Run = Callable[[Sequence[Item]], Sequence[Any]]
"""Evaluates items, on whatever there is; in their order."""


def evaluate_item(shared: Shared, item: Item) -> list[Found] | float:
    """A plain function of its arguments, for any executor."""
    return in_world(shared, item) if isinstance(item, Trial) else highest_factor(shared, item)


def in_world(shared: Shared, trial: Trial) -> list[Found]:
    """The busiest minutes simulated, once for each factor."""
    subject, world = shared.subjects[trial.subject], trial.world
    nominal = subject.deployment
    candidate, step = nominal.candidate, nominal.step
    if world != NOMINAL:
        tokens = candidate.max_num_batched_tokens
        step = step_in(world, shared.model, subject.profile, candidate.layout, subject.off, max_tokens=tokens)
    fleet = replace(candidate, replicas=trial.replicas or candidate.replicas)
    trace = subject.demand.in_world(world)
    first = exp(subject.off.first * world.first)
    deployment = replace(nominal, candidate=fleet, step=step)
    return [found_in(shared.model, subject, deployment, trace, factor, first) for factor in trial.factors]


def found_in(
    model: ModelSpec, subject: Subject, deployment: Deployment, trace: Trace, factor: float = 1.0, first: float = 1.0
) -> Found:
    """``trace`` at ``factor`` times its rate through a deployment whose first tokens take ``first`` times as long."""
    happened = simulated(deployment, trace if factor == 1.0 else trace.scaled(factor))
    reached = quantiles_s(later(happened.table, first), trace.request_class, subject.bounds)
    values = tuple(value * share for value, share in zip(reached, subject.whole_over_slice, strict=True))
    most = _most(model, subject, deployment) * deployment.candidate.replicas / subject.replicas
    ratio = max((value / bound.seconds for value, bound in zip(values, subject.bounds, strict=True)), default=0.0)
    if load_state(happened) == "overloaded":
        ratio = max(ratio, OVERLOADED_RATIO)
    return Found(values, ratio if subject.bounds else max(ratio, factor / most), most)


def later(table: RequestTable, factor: float) -> RequestTable:
    """The table of a server whose first tokens take ``factor`` times as long; what follows them moves along."""
    if factor == 1.0:
        return table
    values = table.values.copy()
    waited = table.ttft_s * (factor - 1.0)
    for column in ("first_token_s", "finished_s"):
        values[:, COLUMNS.index(column)] += waited
    return RequestTable(values)


def _most(model: ModelSpec, subject: Subject, deployment: Deployment) -> float:
    """The rate that the closed form sustains with this step, over the planned; from the plan's own utilisation."""
    nominal = subject.deployment
    if deployment.step is nominal.step:
        return 1.0 / nominal.utilisation
    now = capacity(model, subject.profile, subject.demand, deployment)
    return now / subject.capacity_per_s / nominal.utilisation


def capacity(model: ModelSpec, profile: HardwareProfile, demand: Demand, deployment: Deployment) -> float:
    """Requests per second of a replica in closed form, with the deployment's own step."""
    candidate, config, load = deployment.candidate, deployment.config, demand.load
    blocks = np.array([[config.num_gpu_blocks]])
    kind = ReplicaKind(model, profile, candidate.layout, blocks, config.block_size)
    kind.__dict__["step"] = deployment.step  # priced already: fills the cached property
    most = most_decodes(kind, load, np.array([config.max_num_seqs]), blocks[0])
    return float(capacity_per_s(kind, curve(kind, load, config.max_num_batched_tokens), most)[0])


def highest_factor(shared: Shared, item: Highest) -> float:
    """The highest factor on the planned rate at which every promise holds in the nominal world, to about a percent.

    0 where none that was tried holds.
    """
    subject = shared.subjects[item.subject]
    share = item.replicas / subject.replicas
    ceiling = float(np.clip(1.25 * share / subject.deployment.utilisation, LEAST_FACTOR, MOST_FACTOR))

    def holds(factor: float) -> bool:
        return in_world(shared, Trial(item.subject, NOMINAL, (factor,), item.replicas))[0].ratio <= 1.0

    low, high = (1.0, ceiling) if ceiling > 1.0 and holds(1.0) else (LEAST_FACTOR, min(1.0, ceiling))
    if low < 1.0 and not holds(low):
        return 0.0
    if holds(high):
        return high
    return bisected(holds, low, high, BISECTIONS)


def subject_of(
    outcome: Outcome, model: ModelSpec, profile: HardwareProfile, demand: Demand, errors: EngineErrors | None = None
) -> Subject:
    """An option as the plan left it (``outcome`` on the whole trace), with how far its GPU's engines have been off."""
    deployment, load = outcome.deployment, demand.load
    errors = engine_errors(profile) if errors is None else errors
    per_replica = load.peak_rate_per_s / deployment.candidate.replicas
    seats = deployment.config.max_num_seqs
    latency = float(str(outcome.summary.get("mean_e2el_ms", 0.0) or 0.0)) / 1e3
    running = int(np.clip(round(per_replica * latency), 1, seats))
    prompt = int(np.clip(round(load.prefill_tokens.mean()), 1, deployment.candidate.max_num_batched_tokens))
    context = max(round(load.mean_context), 1)
    off = beyond(model, profile, deployment.candidate.layout, errors, running=running, context=context, prompt=prompt)
    sustained = capacity(model, profile, demand, deployment)
    bounds = outcome.bounds
    subject = Subject(deployment, profile, demand, bounds, errors, off, (1.0,) * len(bounds), sustained)
    sliced = found_in(model, subject, deployment, demand.slice).values_s
    ratio = tuple(w / s if s > 0 and w > 0 else 1.0 for w, s in zip(outcome.values_s, sliced, strict=True))
    return replace(subject, whole_over_slice=ratio)
