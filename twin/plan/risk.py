"""The risk of a plan: every option in possible worlds, and for the recommended one what matters and what would change it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from twin.base import Estimate
from twin.plan.fleet import Option, pools_of
from twin.plan.request import PlanRequest
from twin.risk.assess import WORLDS, assess
from twin.risk.growth import Growth
from twin.risk.sensitivity import Question, respond, sensitivity
from twin.risk.trials import Item, Shared, Subject, evaluate_item, subject_of
from twin.risk.what_if import Choose, what_would_change
from twin.risk.worlds import Demand
from twin.search.evaluate import Outcome
from twin.search.executors import open_executor
from twin.search.simulator import Progress, silent
from twin.traffic.synthetic import SyntheticTraffic


@dataclass(frozen=True, eq=False)
class RiskRequest:
    """What is asked of risk. ``recipe`` and ``rate``: of made-up traffic, and how much it was sped up for the plan."""

    growth: Growth | None = None
    recipe: SyntheticTraffic | None = None
    rate: float = 1.0
    worlds: int = WORLDS


Risks = dict[str, dict[str, object]]
Decide = Callable[[Risks], tuple[Option | None, Sequence[Outcome]]]
"""By what is known of their risk, by id: the recommended option, and the outcomes that it was chosen from."""


@dataclass(frozen=True, eq=False)
class PlanRisk:
    """``options``: the risk of each option by id; ``sensitivity`` and ``would_change`` of the recommended one."""

    options: Risks
    sensitivity: dict[str, object] | None
    would_change: list[dict[str, object]]


@dataclass(frozen=True, eq=False)
class _Stage:
    """What every evaluation of a plan's risk shares."""

    shared: Shared
    question: Question | None


def evaluate_stage(stage: _Stage, item: Item | tuple[float, ...]) -> Any:
    """A simulation of a world, or of a point of the sensitivity; a plain function, for any executor."""
    if isinstance(item, tuple):
        assert stage.question is not None
        return respond(stage.question, item)
    return evaluate_item(stage.shared, item)


def assess_plan(
    request: PlanRequest,
    asked: RiskRequest,
    options: Sequence[Option],
    decide: Decide,
    choose: Choose,
    progress: Progress = silent,
) -> PlanRisk:
    """The risk of ``options``, on the executor that the request names; the same for any number of jobs.

    ``choose``: the recommended of outcomes that hold, for what would change. Sensitivity and changes are of an option that is
    one fleet; of pools there is none.
    """
    profiles = {profile.name: profile for profile in request.profiles}
    subjects: list[Subject] = []
    fleets: list[list[tuple[int, Outcome, Estimate]]] = []
    for option in options:
        fleet = []
        for pool, own in pools_of(option, request):
            demand = Demand(own.load, request.model, asked.recipe if own is request else None, asked.rate)
            subjects.append(subject_of(pool, request.model, profiles[pool.candidate.gpu], demand))
            fleet.append((len(subjects) - 1, pool, request.prices[pool.candidate.gpu]))
        fleets.append(fleet)
    if not fleets:
        return PlanRisk({}, None, [])
    shared = Shared(request.model, tuple(subjects))
    with _running(_Stage(shared, None), request, "possible worlds", progress) as run:
        found, judged = assess(shared, fleets, run, growth=asked.growth, worlds=asked.worlds, seed=request.seed)
    risks = dict(zip((option.candidate.id for option in options), found, strict=True))
    recommended, whole = decide(risks)
    ours = next((f[0] for o, f in zip(options, fleets, strict=True) if o is recommended and len(f) == 1), None)
    if ours is None:
        return PlanRisk(risks, None, [])
    at, outcome, price = ours
    question = Question(request.model, subjects[at], price, asked.growth)
    with _running(_Stage(shared, question), request, "sensitivity", progress) as run:
        ranked = sensitivity(question, run, seed=request.seed)
    turns = what_would_change(whole, outcome, choose, request.model, subjects[at], judged[at].headroom)
    return PlanRisk(risks, ranked, turns)


@contextmanager
def _running(
    stage: _Stage, request: PlanRequest, name: str, progress: Progress
) -> Iterator[Callable[[Sequence[Any]], list[Any]]]:
    """What evaluates a batch. The progress is of what was asked so far: the next batch depends on this one."""
    done = asked = 0

    def arrived(at: int, result: object) -> None:
        nonlocal done
        done += 1
        progress(name, done, asked)

    opened: AbstractContextManager[Any] = open_executor(
        request.executor, evaluate_stage, stage, jobs=request.jobs, address=request.ray_address
    )
    with opened as executor:

        def run(items: Sequence[Any]) -> list[Any]:
            nonlocal asked
            asked += len(items)
            found: list[Any] = executor.map(list(items), arrived)
            return found

        yield run
