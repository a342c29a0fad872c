"""Multi-objective Bayesian optimisation, for evaluations that cost minutes: Optuna's Gaussian processes, expected hypervolume
improvement under the promises (logCEHVI; Ament et al. 2023, Daulton et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from twin.base import InputError
from twin.search.algorithms.base import Stall
from twin.search.front import Scored, relative
from twin.search.search_space import SearchSpace

FIRST = 12
"""Of the starts; the processes then know something."""

BATCH = 2
"""Asked at a time: every further one knows less."""

PATIENCE = 6
"""Tells without growth until it stops: each is only a row or two."""


class Bayes:
    """Few evaluations, chosen with care. Raises :class:`InputError` where Optuna or torch is missing."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._told: dict[int, Scored] = {}
        self._stall, self._stopped = Stall(PATIENCE), False
        self._optuna = needs_bayes()
        choice, integer = (
            self._optuna.distributions.CategoricalDistribution,
            self._optuna.distributions.IntDistribution,
        )
        self._distributions: dict[str, Any] = {
            v.name: choice(list(range(v.high + 1))) if v.is_choice else integer(v.low, v.high) for v in space.variables
        }
        self._study: Any = None

    def ask(self) -> list[int]:
        if self._stopped or len(self._told) == len(self._space.rows):
            return []
        if self._study is None:
            return list(self._space.starts[:FIRST])
        running = [self._study.ask(self._distributions) for _ in range(BATCH)]
        rows: list[int] = []
        for trial in running:
            point = np.array([[trial.params[v.name] for v in self._space.variables]], dtype=np.int64)
            rows += self._space.nearest(point, [*self._told, *rows])
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)  # the row that came of it is told instead
            if len(rows) + len(self._told) == len(self._space.rows):
                break
        return rows

    def tell(self, scored: Mapping[int, Scored]) -> None:
        if self._study is None:
            directions = ["minimize"] * len(next(iter(scored.values())).objectives)
            sampler = self._optuna.samplers.GPSampler(seed=self._space.seed, n_startup_trials=1)
            self._study = self._optuna.create_study(directions=directions, sampler=sampler)
        for row in sorted(set(scored) - set(self._told)):
            self._study.add_trial(self._trial(row, scored[row]))
        self._told |= scored
        self._stopped = self._stall.watch(self._told)

    def _trial(self, row: int, heard: Scored) -> Any:
        return self._optuna.trial.create_trial(
            params=self._space.values(row),
            distributions=self._distributions,
            values=relative(np.array(heard.objectives)).tolist(),
            constraints={"promises": float(np.clip(heard.violation, -1.0, 1.0))},
        )


def needs_bayes() -> Any:
    """Optuna. Raises :class:`InputError` where it or torch is missing."""
    try:
        import optuna
        import torch  # noqa: F401  (Optuna's Gaussian processes need it)
    except ImportError as error:
        raise InputError(f"--algorithm mobo needs the extra bayes: pip install 'twin[bayes]' ({error.name})") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
