"""Simulations spent where they matter: NSGA-II over what the screen leaves, then the best of it on the whole trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.plan.evaluate import Outcome
from twin.plan.screen import Screen
from twin.plan.simulator import Simulator
from twin.spec.precision import kv_format, weight_format
from twin.spec.slo import Bound

Ints = NDArray[np.int64]

ENUMERATED = 60
"""So few survivors are all simulated."""

POPULATION = 24
MOST_GENERATIONS = 40


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
    budget, replicas; and pipeline stages, ranks and expert parallelism where they differ.
    """
    kinds = screen.kinds
    price = {k.profile.name: 0.0 for k in kinds}
    for row in rows.tolist():
        candidate = screen.candidate(row)
        price[candidate.gpu] = float(screen.usd_per_hour[row]) / candidate.num_gpus
    order = {name: at for at, name in enumerate(sorted(price, key=lambda name: (price[name], name)))}
    weights = sorted({k.layout.quantization for k in kinds}, key=lambda name: (-weight_format(name).bits, name or ""))
    caches = sorted({k.layout.kv_cache_dtype for k in kinds}, key=lambda name: (-kv_format(name).bits, name))
    of_kind = np.array(
        [
            (
                order[k.profile.name],
                np.log2(k.layout.tensor_parallel_size),
                weights.index(k.layout.quantization),
                caches.index(k.layout.kv_cache_dtype),
            )
            for k in kinds
        ],
        dtype=np.float64,
    )
    own = (screen.seqs[rows], screen.tokens[rows], screen.replicas[rows])
    base = np.column_stack([of_kind[screen.kind[rows]], *own]).astype(np.float64)
    spread = np.log2([(k.layout.pipeline_parallel_size, k.layout.data_parallel_size) for k in kinds])
    more = np.column_stack([spread, [k.layout.enable_expert_parallel for k in kinds]])[screen.kind[rows]]
    return np.column_stack([base, more[:, np.ptp(more, axis=0) > 0]])


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
    weight = [8.0, 4.0, 2.0, 2.0, 1.0, 1.0, 4.0]
    scale = np.maximum(high - low, 1.0) / np.array(weight + [4.0] * (len(low) - len(weight)))
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
            if current is not None and not simulator.many([current])[0].holds:
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
    simulator.many(order[: simulator.max_whole], "whole")
    for row in holding:
        if (
            any(outcome.holds for outcome in simulator.whole.values())
            or len(simulator.whole) >= 2 * simulator.max_whole
        ):
            return
        simulator.many([row], "whole")
