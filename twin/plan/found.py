"""A search and what it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from twin.base import TwinError
from twin.plan.request import PlanRequest
from twin.search.evaluate import Outcome
from twin.search.journal import Journal
from twin.search.objectives import Choice
from twin.search.screen import Screen
from twin.search.search import Ints, Watch, front, rerun, search, unwatched
from twin.search.simulator import Progress, Simulator, silent

LEAST_SEARCH = 24
"""Evaluations that a search has at least, however small its share of the budget."""


@dataclass
class Running:
    """How a plan is being made: who watches, and where its simulations are kept.

    ``interrupted`` once the user has asked to stop: what was found so far then has to do.
    """

    progress: Progress = silent
    journal: Journal = field(default_factory=lambda: Journal({}))
    watch: Watch = unwatched
    interrupted: bool = False


@dataclass
class Found:
    """What a search leaves: outcomes on the whole trace and of the busiest minutes, the front, and the configurations
    simulated at all."""

    whole: list[Outcome] = field(default_factory=list)
    front: list[Outcome] = field(default_factory=list)
    simulated: set[str] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)

    @property
    def holding(self) -> list[Outcome]:
        return sorted((o for o in self.whole if o.holds), key=by_cost)

    def add(self, other: Found) -> None:
        """Count the simulations of another search too; its front is of another question."""
        self.simulated |= other.simulated
        self.whole += other.whole
        self.lost += other.lost


def by_cost(outcome: Choice) -> tuple[float, float, str]:
    return round(outcome.usd_per_hour, 9), outcome.latency_score, outcome.candidate.id


def simulator_of(request: PlanRequest, judged: Screen, running: Running) -> Simulator:
    bounds, version = request.slo.bounds, request.vllm_version
    return Simulator(
        judged, request.load, bounds, request.headroom, running.progress, version, running.journal, wants=request.wants
    )


def searched(request: PlanRequest, judged: Screen, rows: Ints, running: Running, share: float = 1.0) -> Found:
    """Simulate what matters of ``rows``, with a ``share`` of the usual budget. Interrupted, it leaves what it had."""
    if not rows.size or running.interrupted:
        return Found()
    simulator = simulator_of(request, judged, running)
    try:
        with simulator.workers(request.jobs, request.executor, request.ray_address):
            budget = max(LEAST_SEARCH, round(share * simulator.max_evaluations))
            search(
                simulator,
                rows,
                request.seed,
                request.algorithm,
                minimise=request.minimise,
                watch=running.watch,
                budget=budget,
            )
            rerun(simulator, request.minimise)
    except KeyboardInterrupt:
        running.interrupted = True
    if simulator.lost and len(simulator.lost) == sum(map(len, simulator.done.values())):
        raise TwinError(
            f"every simulation was lost with its worker, {len(simulator.lost)} in all: {simulator.lost[0]} …"
        )
    return found_by(simulator, request.minimise)


def found_by(simulator: Simulator, minimise: Sequence[str]) -> Found:
    """Of the highest fidelity that anything was simulated at, the front; ids in no order."""
    done = simulator.done
    best = next((done[name] for name in ("whole", "peak_hour", "slice") if done[name]), {})
    whole = [outcome for _, outcome in sorted(simulator.whole.items()) if outcome.load != "lost"]
    simulated = {outcome.candidate.id for outcomes in done.values() for outcome in outcomes.values()}
    return Found(whole, [best[row] for row in front(best, minimise)], simulated, list(simulator.lost))
