"""Simulations spent where they matter, at rising fidelity: an algorithm on the busiest minutes, what it leaves on the busiest
hour, the best of that on the whole trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from twin.search.algorithms import make_algorithm
from twin.search.evaluate import Outcome
from twin.search.front import front, gains, relative, scored
from twin.search.objectives import USUAL, objective_values
from twin.search.search_space import Ints, search_space
from twin.search.simulator import Simulator

__all__ = ["Ints", "Watch", "front", "longer_look", "rerun", "search"]

Watch = Callable[[list[Outcome]], None]

NEAR = 0.05
"""Rows so little (in relative terms) behind the front are worth a longer look: a longer trace may put them on it."""

RUNGS = 5
"""Fleets up from the cheapest that see the whole trace before anything else of the front."""

MOST_HOURS = 3
"""At most so many times as many rows see the busiest hour as see the whole trace."""


def unwatched(front: list[Outcome]) -> None:
    """The watch of who waits for the end."""


def search(
    simulator: Simulator,
    rows: Ints,
    seed: int,
    algorithm: str = "auto",
    *,
    minimise: Sequence[str] = USUAL,
    watch: Watch = unwatched,
    budget: int | None = None,
) -> None:
    """Fill ``simulator.sliced`` from the surviving ``rows``; ``watch`` sees the front so far, by cost, each time it may have
    moved.

    What is asked depends on rows, seed and figures alone: the same for any number of workers, and taken up again on its
    journal. ``budget``: most rows simulated; the simulator's unless given, and no limit to an enumeration.

    Raises :class:`InputError` for an unknown algorithm, and for one whose packages are missing.
    """
    most = budget or simulator.max_evaluations
    space = search_space(simulator.screen, rows, simulator.bounds, budget=most, seed=seed)
    chosen = make_algorithm(algorithm, space)
    if algorithm == "enumerate":
        most = len(rows)
    told: dict[int, Outcome] = {}
    while len(told) < most and (wanted := chosen.ask()):
        wanted = wanted[: most - len(told)]
        found = dict(zip(wanted, simulator.many(wanted), strict=True))
        chosen.tell({row: scored(outcome, minimise) for row, outcome in found.items()})
        told |= found
        watch([told[row] for row in front(told, minimise)])


def rerun(simulator: Simulator, minimise: Sequence[str] = USUAL) -> None:
    """Fill ``simulator.whole`` from what was searched, by way of the busiest hour where that is less than the trace."""
    best, trace = simulator.sliced, simulator.load.trace
    hour = simulator.traces["peak_hour"]
    if len(hour) < len(trace):
        affordable = simulator.max_whole * len(trace) // len(hour)
        most = min(affordable, MOST_HOURS * simulator.max_whole)
        simulator.many(longer_look(best, minimise)[:most], "peak_hour")
        best = simulator.done["peak_hour"]
    _whole(simulator, best, minimise)


def _whole(simulator: Simulator, best: Mapping[int, Outcome], minimise: Sequence[str]) -> None:
    """The best on the whole trace, and on up in cost until one holds."""
    simulator.many(longer_look(best, minimise)[: simulator.max_whole], "whole")
    for row in _holding(best):
        if any(outcome.holds for outcome in simulator.whole.values()):
            return
        if len(simulator.whole) >= 2 * simulator.max_whole:
            return
        simulator.many([row], "whole")


def longer_look(outcomes: Mapping[int, Outcome], minimise: Sequence[str] = USUAL) -> list[int]:
    """Rows in the order in which they deserve a longer trace: the cheapest, the fastest, the next fleets up in cost (what is
    sure enough is often one of them), one of each GPU, the front, what is near it, and of what fails the nearest to holding."""
    holding = _holding(outcomes)
    fastest = sorted(holding, key=lambda row: (outcomes[row].latency_score, row))
    failing = sorted((row for row in outcomes if not outcomes[row].holds), key=lambda row: (outcomes[row].worst, row))
    per_gpu: dict[str, int] = {}
    for row in [*holding, *failing]:
        per_gpu.setdefault(outcomes[row].candidate.gpu, row)
    best = front(outcomes, minimise)
    wanted = [
        *holding[:3],
        *fastest[:1],
        *_ladder(outcomes, best)[:RUNGS],
        *per_gpu.values(),
        *best,
        *_near(outcomes, holding, minimise),
        *failing,
    ]
    return list(dict.fromkeys(wanted))


def _ladder(outcomes: Mapping[int, Outcome], rows: Sequence[int]) -> list[int]:
    """Of the ``rows`` that hold, the fastest of each fleet, cheapest fleets first."""
    fastest: dict[tuple[float, str, int], int] = {}
    for row in sorted((row for row in rows if outcomes[row].holds), key=lambda row: outcomes[row].latency_score):
        candidate = outcomes[row].candidate
        fastest.setdefault((outcomes[row].usd_per_hour, candidate.gpu, candidate.num_gpus), row)
    return [fastest[fleet] for fleet in sorted(fastest)]


def _holding(outcomes: Mapping[int, Outcome]) -> list[int]:
    """By cost, the farther from its bounds first."""
    rows = [row for row, outcome in outcomes.items() if outcome.holds]
    return sorted(rows, key=lambda row: (outcomes[row].usd_per_hour, outcomes[row].worst, row))


def _near(outcomes: Mapping[int, Outcome], holding: list[int], minimise: Sequence[str]) -> list[int]:
    """Of what holds, what is little behind the front, nearest first."""
    if not holding:
        return []
    points = relative(np.array([objective_values(outcomes[row], minimise) for row in holding]))
    behind = -gains(points, points)
    return [holding[at] for at in np.argsort(behind, kind="stable").tolist() if behind[at] <= NEAR]
