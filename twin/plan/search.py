"""Simulations spent where they matter: NSGA-II over what the screen leaves, then the best of it on the
whole trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twin.engine.scheduler import EngineConfig
from twin.plan.evaluate import Deployment, Outcome, evaluate
from twin.plan.screen import Screen
from twin.plan.workload import BUSIEST_S, Workload
from twin.spec.slo import Bound
from twin.traffic.trace import Trace

if TYPE_CHECKING:
    from concurrent.futures import Executor

Ints = NDArray[np.int64]
Progress = Callable[[str, int, int], None]

ENUMERATED = 60
"""So few survivors are all simulated."""

SLICE_REQUESTS = 4000
SEARCH_REQUESTS = 420_000
"""Requests that the search may simulate in all: a bound in work, not in time, so that runs repeat."""

LEAST_EVALUATIONS, MOST_EVALUATIONS = 48, 170
WHOLE_REQUESTS = 320_000
HASHED = 3
"""A request with prefix hashes costs about so many times the work of one without."""

LEAST_WHOLE, MOST_WHOLE = 5, 16
POPULATION = 24
MOST_GENERATIONS = 40


def silent(stage: str, done: int, total: int) -> None:
    """The progress of nobody watching."""


@dataclass
class Simulator:
    """Turns rows of a screen into outcomes, each simulated once per fidelity."""

    screen: Screen
    load: Workload
    bounds: tuple[Bound, ...]
    headroom: float
    progress: Progress = silent
    sliced: dict[int, Outcome] = field(default_factory=dict)
    whole: dict[int, Outcome] = field(default_factory=dict)
    _pool: Executor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.slice = busiest_slice(self.load)
        weight = 1 if self.load.trace.prefix_hashes is None else HASHED
        evaluations = SEARCH_REQUESTS // (weight * len(self.slice))
        whole = WHOLE_REQUESTS // (weight * len(self.load.trace))
        self.max_evaluations = int(np.clip(evaluations, LEAST_EVALUATIONS, MOST_EVALUATIONS))
        self.max_whole = int(np.clip(whole, LEAST_WHOLE, MOST_WHOLE))

    def deployment(self, row: int) -> Deployment:
        screen = self.screen
        kind = screen.kinds[int(screen.kind[row])]
        candidate = screen.candidate(row)
        blocks = int(kind.num_gpu_blocks[screen.seqs[row], screen.tokens[row]])
        config = EngineConfig(
            num_gpu_blocks=blocks,
            max_num_seqs=candidate.max_num_seqs,
            max_num_batched_tokens=candidate.max_num_batched_tokens,
            max_model_len=self.load.max_model_len,
        )
        return Deployment(candidate, config, kind.step, float(screen.usd_per_hour[row]), float(screen.utilisation[row]))

    def on_slice(self, row: int) -> Outcome:
        """The busiest minutes alone, from an empty fleet."""
        return self.many([row])[0]

    def on_whole(self, row: int) -> Outcome:
        """The whole trace and, in it, its busiest five minutes."""
        return self.many([row], whole=True)[0]

    def many(self, rows: Sequence[int], *, whole: bool = False) -> list[Outcome]:
        """Outcomes of ``rows``, in their order; those not simulated yet on as many processes as there are."""
        cache, total = (self.whole, self.max_whole) if whole else (self.sliced, self.max_evaluations)
        missing = [row for row in dict.fromkeys(rows) if row not in cache]
        outcomes = (self.run(row, whole) for row in missing)
        if self._pool is not None and len(missing) > 1:
            parts = self._pool.map(_in_worker, missing, [whole] * len(missing))
            outcomes = (Outcome(self.deployment(row), *part) for row, part in zip(missing, parts, strict=True))
        for row, outcome in zip(missing, outcomes, strict=True):
            cache[row] = outcome
            self.progress("whole trace" if whole else "searching", len(cache), total)
        return [cache[row] for row in rows]

    def run(self, row: int, whole: bool) -> Outcome:
        """One simulation."""
        trace, span = (self.load.trace, self.load.busiest_span_s) if whole else (self.slice, None)
        deployment = self.deployment(row)
        return evaluate(deployment, trace, self.bounds, headroom=self.headroom, busiest_span_s=span, full=whole)

    @contextmanager
    def workers(self, jobs: int) -> Iterator[None]:
        """Simulate on ``jobs`` processes while inside. The results are the same for any number."""
        if jobs <= 1:
            yield
            return
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        alone = replace(self, progress=silent, sliced={}, whole={})
        context = get_context("spawn")  # a fork would copy the thread that draws the progress bar
        with ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(alone,)) as pool:
            self._pool = pool
            try:
                yield
            finally:
                self._pool = None
                pool.shutdown(cancel_futures=True)


_worker: list[Simulator] = []


def _start_worker(simulator: Simulator) -> None:
    _worker[:] = [simulator]


def _in_worker(row: int, whole: bool) -> tuple[Any, ...]:
    """The fields of an outcome but its deployment: the tables of a step model are dear to send and known anyway."""
    outcome = _worker[0].run(row, whole)
    return tuple(getattr(outcome, item.name) for item in fields(outcome) if item.name != "deployment")


def busiest_slice(load: Workload) -> Trace:
    """The busiest five minutes; of busy traffic as many seconds of them as hold ``SLICE_REQUESTS``."""
    if len(load.busiest) <= SLICE_REQUESTS:
        return load.busiest
    return load.busiest.busiest_window(min(BUSIEST_S, SLICE_REQUESTS / load.peak_rate_per_s))


def search(simulator: Simulator, rows: Ints, seed: int) -> None:
    """Fill ``simulator.sliced`` from the surviving ``rows``: all of them if few, else NSGA-II from the
    closed form's best.
    """
    if rows.size <= ENUMERATED:
        simulator.many(rows.tolist())
        return
    encoded = encode(simulator.screen, rows)
    starts = seeds(simulator.screen, rows, simulator.bounds, POPULATION)
    position = {row: at for at, row in enumerate(rows.tolist())}
    _evolve(simulator, rows, encoded, encoded[[position[row] for row in starts]], seed)
    _polish(simulator, rows)


def encode(screen: Screen, rows: Ints) -> NDArray[np.float64]:
    """Rows as integers that pymoo can cross and mutate: GPU (by price), TP, precisions, seats, token
    budget, replicas.
    """
    kinds = screen.kinds
    price = {k.profile.name: 0.0 for k in kinds}
    for row in rows.tolist():
        candidate = screen.candidate(row)
        price[candidate.gpu] = float(screen.usd_per_hour[row]) / candidate.num_gpus
    order = {name: at for at, name in enumerate(sorted(price, key=lambda name: (price[name], name)))}
    of_kind = np.array(
        [
            (
                order[k.profile.name],
                np.log2(k.layout.tensor_parallel_size),
                k.layout.weights == "fp8",
                k.layout.kv == "fp8",
            )
            for k in kinds
        ],
        dtype=np.float64,
    )
    own = (screen.seqs[rows], screen.tokens[rows], screen.replicas[rows])
    return np.column_stack([of_kind[screen.kind[rows]], *own]).astype(np.float64)


def seeds(screen: Screen, rows: Ints, bounds: Sequence[Bound], count: int) -> list[int]:
    """Where the search starts: per kind of replica the cheapest row whose estimated means keep the bounds,
    cheapest first.

    Of equal cost the least estimated TTFT + TPOT, so each kind starts from its best engine settings.
    """
    ratio = np.zeros(rows.size)
    for metric, values in (("ttft", screen.ttft_s[rows]), ("tpot", screen.tpot_s[rows])):
        tightest = min((bound.seconds for bound in bounds if bound.metric == metric), default=None)
        if tightest is not None:
            ratio = np.maximum(ratio, values / tightest)
    score = screen.ttft_s[rows] + screen.tpot_s[rows]
    order = np.lexsort((rows, score, screen.usd_per_hour[rows], ratio > 1))
    chosen: dict[int, int] = {}
    for at in order.tolist():
        chosen.setdefault(int(screen.kind[rows[at]]), int(rows[at]))
    found = list(chosen.values())
    fastest = rows[np.argsort(score, kind="stable")].tolist()
    return list(dict.fromkeys([*found[: count - 2], *fastest[:2], *found, *fastest]))[:count]


def objectives(outcome: Outcome) -> tuple[list[float], list[float]]:
    """What NSGA-II minimises (USD per hour and both sides of latency), and its constraint (at most 0)."""
    excess = outcome.worst - 1.0 if outcome.bounds else 0.0
    if outcome.load == "overloaded":
        excess = max(excess, 1.0)
    return [outcome.usd_per_hour, *outcome.latency], [excess]


def _evolve(
    simulator: Simulator, rows: Ints, encoded: NDArray[np.float64], start: NDArray[np.float64], seed: int
) -> None:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.evaluator import Evaluator
    from pymoo.core.problem import Problem
    from pymoo.core.termination import NoTermination
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.problems.static import StaticProblem

    low, high = encoded.min(axis=0), encoded.max(axis=0)
    problem: Any = Problem(
        n_var=encoded.shape[1], n_obj=3, n_ieq_constr=1, xl=low, xu=np.maximum(high, low + 1), vtype=int
    )
    repair = {"vtype": float, "repair": RoundingRepair()}
    algorithm: Any = NSGA2(
        pop_size=POPULATION,
        sampling=start,
        crossover=SBX(prob=0.9, eta=3.0, **repair),
        mutation=PM(eta=3.0, **repair),
        eliminate_duplicates=True,
    )
    algorithm.setup(problem, termination=NoTermination(), seed=seed, verbose=False)
    scale = np.maximum(high - low, 1.0) / np.array([8.0, 4.0, 2.0, 2.0, 1.0, 1.0, 4.0])
    searched = simulator.max_evaluations * 3 // 4  # the rest polishes what was found
    for _ in range(MOST_GENERATIONS):
        population = algorithm.ask()
        nearest = [int(np.abs((encoded - x) / scale).sum(axis=1).argmin()) for x in population.get("X")]
        population.set("X", encoded[nearest])
        scored = [objectives(outcome) for outcome in simulator.many([int(rows[at]) for at in nearest])]
        static = StaticProblem(problem, F=np.array([f for f, _ in scored]), G=np.array([g for _, g in scored]))
        Evaluator().eval(static, population)
        algorithm.tell(infills=population)
        if len(simulator.sliced) >= searched:
            return


def _polish(simulator: Simulator, rows: Ints) -> None:
    """Step down in cost from the cheapest that holds on each kind of replica: one replica less, the same
    settings.
    """
    screen = simulator.screen
    at = {_key(screen, row): row for row in rows.tolist()}
    best: dict[int, int] = {}
    for row in sorted(simulator.sliced, key=lambda row: (screen.usd_per_hour[row], row)):
        if simulator.sliced[row].holds:
            best.setdefault(int(screen.kind[row]), row)
    for row in best.values():
        current: int | None = row
        while current is not None and len(simulator.sliced) < simulator.max_evaluations:
            kind, seqs, tokens, replicas = _key(screen, current)
            current = at.get((kind, seqs, tokens, replicas - 1))
            if current is not None and not simulator.on_slice(current).holds:
                current = None


def _key(screen: Screen, row: int) -> tuple[int, int, int, int]:
    return int(screen.kind[row]), int(screen.seqs[row]), int(screen.tokens[row]), int(screen.replicas[row])


def front(outcomes: dict[int, Outcome]) -> list[int]:
    """Rows that no other row beats or equals in cost and both sides of latency, among those that hold; by
    cost.
    """
    rows = [row for row, outcome in sorted(outcomes.items()) if outcome.holds]
    points = np.array([objectives(outcomes[row])[0] for row in rows]).reshape(-1, 3)
    kept = [
        row
        for at, row in enumerate(rows)
        if not any(
            (points[other] <= points[at]).all() and ((points[other] < points[at]).any() or other < at)
            for other in range(len(rows))
            if other != at
        )
    ]
    return sorted(kept, key=lambda row: (outcomes[row].usd_per_hour, row))


def rerun(simulator: Simulator) -> None:
    """Fill ``simulator.whole``: the cheapest, the fastest and one of each GPU, then the rest of the front;
    and on up in cost until one holds."""
    sliced = simulator.sliced
    by_cost = sorted(sliced, key=lambda row: (not sliced[row].holds, sliced[row].usd_per_hour, sliced[row].worst, row))
    holding = [row for row in by_cost if sliced[row].holds]
    fastest = sorted(holding, key=lambda row: (sliced[row].latency_score, row))
    nearest = sorted(
        sliced, key=lambda row: (not sliced[row].holds, sliced[row].worst if not sliced[row].holds else 0.0)
    )
    per_gpu: dict[str, int] = {}
    for row in [*by_cost[: len(holding)], *nearest]:
        per_gpu.setdefault(sliced[row].candidate.gpu, row)
    wanted = [*holding[:3], *fastest[:1], *per_gpu.values(), *front(sliced), *nearest]
    order = list(dict.fromkeys(wanted))
    simulator.many(order[: simulator.max_whole], whole=True)
    for row in holding:
        if (
            any(outcome.holds for outcome in simulator.whole.values())
            or len(simulator.whole) >= 2 * simulator.max_whole
        ):
            return
        simulator.on_whole(row)
