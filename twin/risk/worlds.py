"""Possible worlds: what a profile's uncertainty, the engine's own error, another day's traffic and demand may turn out to be.

A world is a few numbers. What it makes of a GPU or of the traffic is computed where it is simulated, so that a world can be
sent anywhere; all options meet the same worlds (common random numbers), so that what differs between them is the options.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import exp, sqrt
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from twin.base import InputError
from twin.cost.draws import draw, slower
from twin.cost.layout import Layout
from twin.cost.spread import spread_step_model
from twin.cost.step import StepModel
from twin.risk.resample import Resampler
from twin.search.simulator import SLICE_REQUESTS, busiest_slice
from twin.search.workload import Workload, make_workload
from twin.spec.engine_errors import EngineErrors
from twin.spec.hardware import HardwareProfile
from twin.spec.model import ModelSpec
from twin.traffic.synthetic import SyntheticTraffic, synthesize
from twin.traffic.trace import Trace

Floats = NDArray[np.float64]

PROFILE, TRAFFIC = 1, 2
"""Streams of random numbers of a world, so that a draw of one leaves the other as it was."""

PROBES = 32
"""Draws that tell how much the kernels alone spread a step; the standard deviation is then known to an eighth."""


@dataclass(frozen=True)
class World:
    """``step``, ``first``, ``growth``, ``price``: standard normal numbers, of how far whole engines are off in their steps and
    beyond them before the first token, of demand's growth and of prices. ``seed``: of everything else.
    """

    seed: int
    step: float
    first: float
    growth: float
    price: float

    @property
    def traffic_rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, TRAFFIC])

    def profile_rng(self, gpu: str) -> np.random.Generator:
        """Of a GPU's kernels and host times: the same for every option that runs on it."""
        return np.random.default_rng([self.seed, PROFILE, crc32(gpu.encode())])


NOMINAL = World(0, 0.0, 0.0, 0.0, 0.0)
"""What the plan itself assumes: every figure at its central value, the traffic as it is."""


def draw_worlds(count: int, seed: int) -> tuple[World, ...]:
    """``count`` worlds, their normal numbers on a Latin hypercube: each spreads evenly over its distribution, which few
    independent draws would not.
    """
    from scipy.stats import norm, qmc

    if count < 2:
        raise InputError(f"risk needs at least 2 worlds, not {count}")
    places = qmc.LatinHypercube(4, rng=np.random.default_rng([seed, 0])).random(count)
    return tuple(World(_seed(seed, at), *row) for at, row in enumerate(norm.ppf(places).tolist()))


def independent_worlds(count: int, seed: int) -> tuple[World, ...]:
    """``count`` worlds drawn one by one: what promises are checked against."""
    rng = np.random.default_rng([seed, 0])
    return tuple(World(_seed(seed, at), *rng.standard_normal(4).tolist()) for at in range(count))


def _seed(seed: int, at: int) -> int:
    return int(np.random.SeedSequence([seed, at]).generate_state(1)[0])


@dataclass(frozen=True)
class Beyond:
    """Standard deviations of log factors on top of a profile's draws: of a whole step, and of TTFT beyond its steps."""

    step: float
    first: float


def beyond(
    model: ModelSpec,
    profile: HardwareProfile,
    layout: Layout,
    errors: EngineErrors,
    *,
    running: int,
    context: int,
    prompt: int,
) -> Beyond:
    """What whole engines were off, less what the draws of kernels and host times already make of it at this operating point
    (``running`` requests at a mean ``context``, prompts of ``prompt`` tokens): the measured errors have both in them.

    A TTFT below saturation is made of steps and moves with them one to one, so their part is taken off it too.
    """
    steps, firsts = [], []
    for at in range(PROBES):
        drawn = draw(profile, np.random.default_rng([at, PROBES]))
        priced = spread_step_model(model, drawn, layout, max_tokens=max(running, prompt))
        host = priced.host
        steps.append(priced.step_s([], running, running * context))
        firsts.append(priced.step_s([(None, prompt, 0)], 0, 0) + host.request_s + host.input_token_s * prompt)
    step, first = (float(np.std(np.log(found))) for found in (steps, firsts))
    own = sqrt(max(errors.tpot**2 - step**2, 0.0))
    return Beyond(own, sqrt(max(errors.ttft**2 - first**2 - own**2, 0.0)))


def profile_in(world: World, profile: HardwareProfile, off: Beyond) -> HardwareProfile:
    """The GPU and its engine as they are in a world; as they are known in :data:`NOMINAL`."""
    if world == NOMINAL:
        return profile
    drawn = draw(profile, world.profile_rng(profile.name))
    return slower(drawn, exp(off.step * world.step))


def step_in(
    world: World, model: ModelSpec, profile: HardwareProfile, layout: Layout, off: Beyond, *, max_tokens: int
) -> StepModel:
    return spread_step_model(model, profile_in(world, profile, off), layout, max_tokens=max_tokens)


@dataclass(frozen=True)
class Demand:
    """Where traffic comes from: the plan's ``load``, its busiest ``slice`` and, if it was made up, its ``recipe``.

    ``rate``: by how much the recipe's traffic was sped up for ``load``; ``requests``: the most in a slice.
    """

    load: Workload
    model: ModelSpec
    recipe: SyntheticTraffic | None = None
    rate: float = 1.0
    requests: int = SLICE_REQUESTS

    @cached_property
    def slice(self) -> Trace:
        return busiest_slice(self.load, self.requests)

    @cached_property
    def _resampler(self) -> Resampler:
        return Resampler(self.slice)

    @property
    def resampled(self) -> bool:
        """A recipe knows no classes of requests; with them what it made is taken as a record."""
        return self.recipe is None or self.load.trace.request_class is not None

    def in_world(self, world: World) -> Trace:
        """The busiest minutes of another day: made up again from the recipe, or the recorded day resampled."""
        if world == NOMINAL:
            return self.slice
        if self.resampled:
            return self._resampler.draw(world.traffic_rng)
        assert self.recipe is not None
        trace = synthesize(self.recipe, int(world.traffic_rng.integers(2**31)))
        trace = trace if self.rate == 1.0 else trace.scaled(self.rate)
        again = make_workload(trace, self.model, max_model_len=self.load.max_model_len, too_long="truncate")
        return busiest_slice(again, self.requests)

    @property
    def how(self) -> str:
        if self.resampled:
            return "the busiest minutes that were recorded, resampled in blocks (prefixes kept)"
        return "the recipe made up again with other seeds"
