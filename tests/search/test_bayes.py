"""Bayesian optimisation with Optuna: asked for few rows, and an honest sentence where it is not installed."""

from __future__ import annotations

import sys

import pytest
from test_algorithms import made_up, run, share_found

from twin.base import InputError
from twin.search.algorithms import check_algorithm, make_algorithm
from twin.search.algorithms.bayes import FIRST, Bayes

BUDGET = 26


@pytest.fixture
def installed() -> None:
    pytest.importorskip("optuna", reason="the extra bayes is not installed")
    pytest.importorskip("torch", reason="the extra bayes is not installed")


@pytest.mark.usefixtures("installed")
def test_asks_repeat_and_are_rows_not_told_yet() -> None:
    space, measured = made_up(budget=BUDGET, seed=2)
    first, told = run(Bayes(space), measured, 14)
    again, _ = run(Bayes(space), measured, 14, backwards=True)
    assert first == again
    assert len(told) == 14 > len(space.starts[:FIRST])


@pytest.mark.usefixtures("installed")
def test_few_evaluations_find_most_of_the_front() -> None:
    """In a sixteenth of the space, and more than the starts had."""
    space, measured = made_up(budget=BUDGET)
    _, told = run(make_algorithm("mobo", space), measured, space.budget)
    assert len(told) <= BUDGET
    started = {row: measured[row] for row in space.starts}
    assert share_found(told, measured) > max(0.9, share_found(started, measured))


def test_without_its_packages_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match="the extra bayes"):
        check_algorithm("mobo")
    check_algorithm("auto")
