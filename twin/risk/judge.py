"""Every fleet of a plan simulated in every world, at the planned rate and near where it breaks.

The worst ratio of a promised quantile to its bound is taken as a power of the rate between the two and a little beyond.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.base import HOURS_PER_MONTH, Estimate
from twin.risk.trials import Found, Highest, Item, Shared, Subject, Trial
from twin.risk.worlds import World
from twin.search.evaluate import Outcome
from twin.spec.layout import replica_gpus
from twin.spec.ownership import Figure

Floats = NDArray[np.float64]

APART = 0.14
"""The second rate is at least so far from the first, in the logarithm, that noise does not decide the slope between them."""
LEAST_SLOPE = 0.05

Run = Callable[[Sequence[Item]], Sequence[Any]]
"""Evaluates items with :func:`twin.risk.trials.evaluate_item`, in their order, on whatever there is."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What the simulations of one fleet gave, by world (lost ones are left out; ``worlds`` are those that are there).

    ``breaks_at``: factor on the planned rate up to which each holds; ``highest``: the same of the nominal world, by number of
    replicas.
    """

    subject: Subject
    outcome: Outcome
    price: Estimate
    worlds: tuple[World, ...]
    at_plan: tuple[Found, ...]
    breaks_at: Floats
    highest: dict[int, float]

    @property
    def ratios(self) -> Floats:
        return np.array([found.ratio for found in self.at_plan])

    @property
    def headroom(self) -> float:
        return self.highest[self.subject.replicas]

    def usd_per_month(self, worlds: Sequence[World], replicas: Floats | float | None = None) -> Floats:
        """By world, at its prices; of another number of replicas where given."""
        size = 1.0 if replicas is None else np.asarray(replicas) / self.subject.replicas
        drawn = prices_at(self.price, np.array([world.price for world in worlds])) / self.price.value
        return np.asarray(self.outcome.usd_per_hour * HOURS_PER_MONTH * drawn * size, dtype=np.float64)


def prices_at(price: Estimate, z: Floats) -> Floats:
    """USD per GPU hour where standard normal numbers lie in the spread of a price; without one, the price."""
    from scipy.stats import norm

    if not isinstance(price, Figure):
        return np.full(len(z), price.value)
    return np.array([price.at(share) for share in norm.cdf(z).tolist()])


def judge(
    shared: Shared, parts: dict[int, tuple[Outcome, Estimate]], worlds: Sequence[World], run: Run
) -> list[Judged]:
    """Simulate every fleet in every world, twice."""
    every = range(len(shared.subjects))
    sizes = [sorted({subject.replicas, *replicas_left(subject).values()} - {0}) for subject in shared.subjects]
    asked = [Highest(at, size) for at in every for size in sizes[at]]
    reached = dict(zip(asked, (_number(found) for found in run(asked)), strict=True))
    second = [_second_rate(reached[Highest(at, shared.subjects[at].replicas)]) for at in every]
    trials = [Trial(at, world, (1.0, second[at])) for at in every for world in worlds]
    found = iter(run(trials))
    judged = []
    for at in every:
        pairs = [(world, next(found)) for world in worlds]
        known = [(world, *pair) for world, pair in pairs if isinstance(pair, list)]
        breaks = np.array([_breaks_at(one, two, second[at]) for _, one, two in known])
        highest = {size: reached[Highest(at, size)] for size in sizes[at]}
        there, first = tuple(world for world, _, _ in known), tuple(one for _, one, _ in known)
        judged.append(Judged(shared.subjects[at], *parts[at], there, first, breaks, highest))
    return judged


def _number(found: object) -> float:
    """0, no traffic at all, where the search was lost with its worker."""
    return found if isinstance(found, float) else 0.0


def replicas_left(subject: Subject) -> dict[str, int]:
    """Replicas that are left with one replica, or one node, down; a node holds as many replicas as fit into it."""
    on_a_node = max(subject.profile.facts.num_gpus_per_node // replica_gpus(subject.deployment.candidate), 1)
    return {"replica": subject.replicas - 1, "node": max(subject.replicas - on_a_node, 0)}


def _second_rate(highest: float) -> float:
    """Where the nominal world breaks; further off where that is too near the planned rate."""
    if highest <= 0 or abs(log(highest)) < APART:
        return float(np.exp(APART))
    return float(np.clip(highest, 0.25, 4.0))


def _breaks_at(one: Found, two: Found, second: float) -> float:
    """Factor on the planned rate at which the worst ratio is 1: a power of the rate through both, as far as the closed form
    sustains it.
    """
    slope = max((log(max(two.ratio, 1e-9)) - log(max(one.ratio, 1e-9))) / log(second), LEAST_SLOPE)
    reached = float(np.exp(np.clip(-log(max(one.ratio, 1e-9)) / slope, -5.0, 5.0)))
    simulated = max([factor for factor, found in ((1.0, one), (second, two)) if found.ratio <= 1.0], default=0.0)
    return min(reached, max(simulated, one.most))
