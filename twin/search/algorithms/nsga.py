"""NSGA-II and NSGA-III of pymoo on mixed variables, from the closed form's best.

Deb et al. 2002; Deb and Jain 2014. What they breed is moved to the nearest row not simulated yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from twin.search.algorithms.base import Stall
from twin.search.front import Scored
from twin.search.search_space import SearchSpace

POPULATION = 24
PARTITIONS = 5
"""Of NSGA-III's reference directions: 21 with three objectives."""


class Nsga:
    """The starts are the first generation. It stops when the front does, or when every row is simulated."""

    def __init__(self, space: SearchSpace, kind: Literal["nsga2", "nsga3"]) -> None:
        self._space, self._kind = space, kind
        self._told: dict[int, Scored] = {}
        self._asked: list[int] = []
        self._stall, self._stopped = Stall(), False
        self._genetic: Any = None
        self._bred: Any = None

    def ask(self) -> list[int]:
        if self._stopped or len(self._told) == len(self._space.rows):
            return []
        if not self._told:
            self._asked = list(self._space.starts)
        else:
            self._asked = self._offspring()
        return self._asked

    def tell(self, scored: Mapping[int, Scored]) -> None:
        self._told |= scored
        if self._genetic is None:
            self._genetic = self._started(len(next(iter(scored.values())).objectives))
        elif self._bred is not None and all(row in self._told for row in self._asked):
            self._genetic.tell(infills=self._evaluated(self._bred, self._asked))
            self._bred = None
        self._stopped = self._stall.watch(self._told)

    def _offspring(self) -> list[int]:
        self._bred = self._genetic.ask()
        names = [variable.name for variable in self._space.variables]
        points = np.array([[individual.X[name] for name in names] for individual in self._bred], dtype=np.int64)
        rows: list[int] = []
        for point in points:
            if len(self._told) + len(rows) == len(self._space.rows):
                break
            rows += self._space.nearest(point[None], [*self._told, *rows])
        self._bred = self._bred[: len(rows)]
        return rows

    def _evaluated(self, population: Any, rows: list[int]) -> Any:
        """Individuals that are these rows, with what was told of them."""
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        population.set("X", np.array([self._space.values(row) for row in rows], dtype=object))
        heard = [self._told[row] for row in rows]
        results = {"F": np.array([s.objectives for s in heard]), "G": np.array([[s.violation] for s in heard])}
        Evaluator().eval(StaticProblem(self._problem, **results), population)
        return population

    def _started(self, objectives: int) -> Any:
        from pymoo.core.mixed import MixedVariableDuplicateElimination, MixedVariableMating
        from pymoo.core.population import Population
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination
        from pymoo.core.variable import Choice, Integer

        variables: dict[str, Any] = {
            v.name: Choice(options=np.arange(v.high + 1)) if v.is_choice else Integer(bounds=(v.low, v.high))
            for v in self._space.variables
        }
        self._problem: Any = Problem(vars=variables, n_obj=objectives, n_ieq_constr=1)
        distinct = MixedVariableDuplicateElimination()
        rows = sorted(self._told)
        algorithm = self._algorithm(
            objectives,
            sampling=self._evaluated(Population.empty(len(rows)), rows),
            mating=MixedVariableMating(eliminate_duplicates=distinct),
            eliminate_duplicates=distinct,
        )
        algorithm.setup(self._problem, termination=NoTermination(), seed=self._space.seed, verbose=False)
        algorithm.tell(infills=algorithm.ask())
        return algorithm

    def _algorithm(self, objectives: int, **operators: Any) -> Any:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.algorithms.moo.nsga3 import NSGA3
        from pymoo.util.ref_dirs import get_reference_directions

        if self._kind == "nsga2":
            return NSGA2(pop_size=POPULATION, **operators)
        directions = get_reference_directions("das-dennis", objectives, n_partitions=PARTITIONS)
        return NSGA3(directions, pop_size=max(POPULATION, len(directions)), **operators)
