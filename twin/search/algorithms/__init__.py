"""The algorithms behind ``--algorithm``: each asks for rows to simulate and is told what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twin.base import unknown_name
from twin.search.algorithms.base import Algorithm
from twin.search.algorithms.bayes import Bayes, needs_bayes
from twin.search.algorithms.corrected import Corrected
from twin.search.algorithms.exhaustive import Enumerate
from twin.search.algorithms.nsga import Nsga
from twin.search.algorithms.settings import Settings
from twin.search.algorithms.then import Then
from twin.search.search_space import SearchSpace

ENUMERATED = 60
"""So few rows are all simulated."""


def check_algorithm(name: str) -> None:
    """Raises :class:`InputError` for an unknown algorithm, and for one whose packages are not installed."""
    if name not in ALGORITHMS:
        raise unknown_name("algorithm", name, ALGORITHMS)
    if name == "mobo":
        needs_bayes()


def make_algorithm(name: str, space: SearchSpace) -> Algorithm:
    """As :func:`check_algorithm`."""
    check_algorithm(name)
    return ALGORITHMS[name](space)


def _auto(space: SearchSpace) -> Algorithm:
    """What found most with least where everything was enumerated too (tests/bench/test_front_quality.py)."""
    return Enumerate(space) if len(space.rows) <= ENUMERATED else _corrected(space)


def _corrected(space: SearchSpace) -> Algorithm:
    """Two thirds of the budget go where the corrected closed form puts the front, the rest to its engine settings."""
    return Then(Corrected(space), Settings(space), at=space.budget * 2 // 3)


def _begun_by(first: Algorithm, space: SearchSpace, share: float = 0.25) -> Algorithm:
    """The first ``share`` of the budget is another algorithm's; what it leaves is corrected from all that is known then."""
    return Then(first, _corrected(space), at=int(space.budget * share))


ALGORITHMS: Mapping[str, Callable[[SearchSpace], Algorithm]] = {
    "auto": _auto,
    "enumerate": Enumerate,
    "nsga2": lambda space: _begun_by(Nsga(space, "nsga2"), space),
    "nsga3": lambda space: _begun_by(Nsga(space, "nsga3"), space),
    "mobo": lambda space: _begun_by(Bayes(space), space, 0.5),
}
