"""What an option's cost and tail hang on most: Morris' elementary effects of its uncertain inputs.

Morris moves one input at a time from points spread over all of them, so that an effect is one of the real, interacting model:
the mean size of its effects ranks an input, and their scatter over the points is its error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.base import Estimate
from twin.cost.draws import family_spread, slower, stretched
from twin.cost.parts import Family
from twin.cost.spread import spread_step_model
from twin.risk.growth import Growth
from twin.risk.judge import prices_at
from twin.risk.trials import Subject, capacity, found_in
from twin.risk.worlds import Demand, World
from twin.search.workload import Workload
from twin.spec.hardware import HardwareProfile
from twin.spec.model import ModelSpec
from twin.traffic.trace import Trace

Floats = NDArray[np.float64]

TRAJECTORIES = 6
LEVELS = 4
FAMILIES: Mapping[str, Family] = {
    "rate of matrix products": "gemm",
    "bandwidth of decode attention": "decode_attention",
    "all-reduce": "all_reduce",
}
HOST = {"host time per step": "step_s", "host time per request": "request_s"}
OUTPUT_SPREAD = 0.1
"""Standard deviation of the log of the mean output length (assumed: a tenth, as answers change with models and prompts)."""
HITS_LOST = 0.5
"""Share of requests that lose their prefix hits at the worst (assumed: half, as after a router or a prompt changes)."""
GROWN_MONTHS = 12
RESPONSES = ("cost", "tail")


@dataclass(frozen=True, eq=False)
class Question:
    """A fleet and what is asked of it; sent to a worker once. ``price``: USD per GPU hour."""

    model: ModelSpec
    subject: Subject
    price: Estimate
    growth: Growth | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What is uncertain, in the order of a point's numbers."""
        ranks = self.subject.deployment.candidate.tensor_parallel_size
        found = [name for name, family in FAMILIES.items() if family != "all_reduce" or ranks > 1]
        found += [*HOST, "engine beyond its kernels: steps", "engine beyond its kernels: first token"]
        found += ["day of traffic", "output length", "price"]
        found += ["prefix hits lost"] if self.subject.demand.slice.prefix_hashes is not None else []
        return (*found, *(["growth over a year"] if self.growth is not None else []))


def respond(question: Question, z: Sequence[float]) -> tuple[float, float]:
    """USD of the GPUs that sustain a request a second (after a year of growth), and the worst promised quantile over its bound.

    ``z``: a standard normal number for each of the question's names. A plain function, for any executor.
    """
    model, subject = question.model, question.subject
    of = dict(zip(question.names, z, strict=True))
    grown = 1.0
    if question.growth is not None:
        ahead = replace(question.growth, planned_months=0.0, months=GROWN_MONTHS).factors(
            np.array([0.0, of["growth over a year"]])
        )
        grown = float(ahead[1, -1] / ahead[0, -1])
    profile = slower(_moved(subject.profile, of), exp(subject.off.step * of["engine beyond its kernels: steps"]))
    candidate = subject.deployment.candidate
    step = spread_step_model(model, profile, candidate.layout, max_tokens=candidate.max_num_batched_tokens)
    deployment = replace(subject.deployment, step=step)
    trace = _traffic(subject.demand, of)
    demand = replace(subject.demand, load=Workload(trace, subject.demand.load.max_model_len))
    sustained = capacity(model, profile, demand, deployment) * candidate.replicas
    price = float(prices_at(question.price, np.array([of["price"]]))[0])
    first = exp(subject.off.first * of["engine beyond its kernels: first token"])
    found = found_in(model, subject, deployment, trace, grown, first)
    return grown * price * candidate.num_gpus / sustained, found.ratio


def _moved(profile: HardwareProfile, of: Mapping[str, float]) -> HardwareProfile:
    """The profile with its families and host times where ``of`` says."""
    spread = family_spread(profile)
    families = {family: exp(spread[family] * of[name]) for name, family in FAMILIES.items() if name in of}
    host = {}
    for name, field in HOST.items():
        figure = getattr(profile.host, field, None)
        if figure is not None and figure.value > 0:
            host[field] = max(1.0 + (figure.stderr or 0.0) / figure.value * of[name], 0.0)
    return stretched(profile, families, host)


def _traffic(demand: Demand, of: Mapping[str, float]) -> Trace:
    """The day, its answers longer or shorter, and some requests without their prefix hits."""
    from scipy.stats import norm

    day = of["day of traffic"]
    trace = demand.in_world(World(int(1e6 + round(1e3 * day)), day, 0.0, 0.0, 0.0))
    room = np.maximum(demand.load.max_model_len - trace.input_tokens, 1)
    longer = np.maximum(np.rint(trace.output_tokens * exp(OUTPUT_SPREAD * of["output length"])), 1)
    trace = replace(trace, output_tokens=np.minimum(longer, room).astype(np.int64))
    if trace.prefix_hashes is None or "prefix hits lost" not in of:
        return trace
    lost = np.random.default_rng(0).random(len(trace)) < HITS_LOST * norm.cdf(of["prefix hits lost"])
    kept = zip(trace.prefix_hashes, lost.tolist(), strict=True)
    return replace(trace, prefix_hashes=tuple(() if gone else ids for ids, gone in kept))


def sensitivity(
    question: Question, run: Callable[[Sequence[tuple[float, ...]]], Sequence[Any]], *, seed: int = 0
) -> dict[str, object]:
    """Inputs ranked by their effect on cost and on the tail (JSON-able): by how much each changes it, as a share, when the
    input moves from its 5 % to its 95 % point; ``error`` is of that figure (95 %, over trajectories).

    ``run`` evaluates ``respond(question, z)`` for each ``z``.
    """
    from SALib.analyze import morris as analysis
    from SALib.sample import morris as sampling
    from scipy.stats import norm

    names = question.names
    problem = {"num_vars": len(names), "names": list(names), "bounds": [[0.0, 1.0]] * len(names)}
    places: Floats = sampling.sample(problem, TRAJECTORIES, num_levels=LEVELS, seed=seed)
    points = [tuple(row) for row in norm.ppf(0.05 + 0.9 * places).tolist()]
    found = [one if isinstance(one, tuple) else (np.nan, np.nan) for one in run(points)]
    answers = np.log(np.maximum(np.array(found, dtype=np.float64), 1e-9))
    if np.isnan(answers).any():
        return {"text": "a simulation of the sensitivity was lost with its worker; nothing is ranked"}
    ranked = {}
    for name, column in zip(RESPONSES, answers.T, strict=True):
        effects = analysis.analyze(problem, places, column, num_levels=LEVELS, seed=seed, print_to_console=False)
        rows = zip(names, effects["mu_star"], effects["mu_star_conf"], effects["mu"], strict=True)
        ranked[name] = [
            {"input": what, "effect": _share(size), "error": _share(error), "direction": _direction(float(mean))}
            for what, size, error, mean in sorted(rows, key=lambda row: (-float(row[1]), row[0]))
        ]
    return {
        **ranked,
        "simulations": len(points),
        "method": f"Morris' elementary effects (SALib), {TRAJECTORIES} trajectories, {LEVELS} levels between the 5 % and"
        " 95 % points of each input; cost: USD of the GPUs that sustain the traffic in closed form; tail: the worst promised"
        " quantile over its bound, simulated on the busiest minutes",
        "assumed": f"output length ± {OUTPUT_SPREAD:.0%}; up to {HITS_LOST:.0%} of requests lose their prefix hits",
    }


def _share(log_change: float) -> float:
    return float(np.expm1(log_change))


def _direction(mean: float) -> str:
    return "raises" if mean > 1e-9 else "lowers" if mean < -1e-9 else "none"
