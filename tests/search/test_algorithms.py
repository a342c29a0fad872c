"""Every algorithm, on a made-up space whose front is known: what it may ask, that it stops, and that it finds the front."""

from __future__ import annotations

import numpy as np
import pytest

from twin.base import InputError
from twin.search.algorithms import ALGORITHMS, make_algorithm
from twin.search.algorithms.base import Algorithm, Stall
from twin.search.algorithms.corrected import Corrected
from twin.search.front import Scored, front_points, gains, hypervolume, nondominated, relative
from twin.search.search_space import SearchSpace, Variable

QUICK = [name for name in ALGORITHMS if name != "mobo"]  # that one has tests of its own
GPUS, LAYOUTS, SETTINGS, REPLICAS = 3, 3, 4, 12
TRUE_SPEED, PRICE = (1.0, 1.7, 3.1), (1.0, 2.1, 3.9)


def made_up(budget: int = 120, seed: int = 0) -> tuple[SearchSpace, dict[int, Scored]]:
    """A space of 432 rows, and what each would measure: its estimates know neither GPU's true speed nor queues."""
    grids = np.meshgrid(*(np.arange(size) for size in (GPUS, LAYOUTS, SETTINGS, REPLICAS)), indexing="ij")
    gpu, layout, setting, fewer = (grid.ravel() for grid in grids)
    replicas, cards = fewer + 1, 2.0**layout
    cost = replicas * cards * np.array(PRICE)[gpu]
    speed = np.array(TRUE_SPEED)[gpu] * cards**0.8
    load = 2.0 / (replicas * speed)
    first = (1 + 0.2 * setting) / speed * (1 + load**2)
    following = (1.6 - 0.2 * setting) / speed * (1 + 0.5 * load)
    rows = np.arange(len(gpu)) * 3 + 5
    points = np.column_stack([cost, first, following])
    told = {
        int(row): Scored(tuple(point), float(max(point[1], point[2]) - 1))
        for row, point in zip(rows, points.tolist(), strict=True)
    }
    estimates = np.column_stack([cost, (1 + 0.2 * setting) / cards**0.8, (1.6 - 0.2 * setting) / cards**0.8])
    variables = (
        Variable("gpu", gpu, 8.0, ("a", "b", "c")),
        Variable("tensor_parallel_size", layout, 4.0),
        Variable("max_num_seqs", setting, 1.0),
        Variable("replicas", replicas, 4.0),
    )
    kind = gpu * LAYOUTS + layout
    starts = tuple(int(rows[np.flatnonzero(kind == k)[0]]) for k in range(GPUS * LAYOUTS))
    return SearchSpace(rows, variables, estimates, kind, starts, budget, seed), told


def run(
    algorithm: Algorithm, measured: dict[int, Scored], budget: int, *, backwards: bool = False
) -> tuple[list[int], dict[int, Scored]]:
    """Every row asked, in order, and what was told. ``backwards``: answers come in another order."""
    order: list[int] = []
    told: dict[int, Scored] = {}
    while len(told) < budget and (wanted := algorithm.ask()):
        assert len(set(wanted)) == len(wanted)
        assert not set(wanted) & set(told)
        assert set(wanted) <= set(measured)
        wanted = wanted[: budget - len(told)]
        order += wanted
        found = {row: measured[row] for row in (reversed(wanted) if backwards else wanted)}
        told |= found
        algorithm.tell(found)
    return order, told


def share_found(told: dict[int, Scored], measured: dict[int, Scored]) -> float:
    every = front_points(measured)
    box = every.min(axis=0), every.max(axis=0)
    return hypervolume(front_points(told), *box) / hypervolume(every, *box)


@pytest.mark.parametrize("name", QUICK)
def test_asks_depend_on_seed_and_answers_alone(name: str) -> None:
    space, measured = made_up()
    first, told = run(make_algorithm(name, space), measured, len(space.rows))
    again, _ = run(make_algorithm(name, space), measured, len(space.rows), backwards=True)
    assert first == again
    assert told == {row: measured[row] for row in first}


@pytest.mark.parametrize("name", QUICK)
def test_it_stops_and_asks_nothing_more(name: str) -> None:
    space, measured = made_up()
    algorithm = make_algorithm(name, space)
    order, _ = run(algorithm, measured, 10_000)
    assert not algorithm.ask()
    assert (len(order) == len(measured)) == (name == "enumerate")


@pytest.mark.parametrize("name", [name for name in QUICK if name != "enumerate"])
def test_the_front_is_found_with_a_fifth_of_the_simulations(name: str) -> None:
    for seed in range(3):
        space, measured = made_up(budget=86, seed=seed)
        _, told = run(make_algorithm(name, space), measured, space.budget)
        assert len(told) <= len(measured) / 5
        assert share_found(told, measured) >= 0.99


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_seeds_breed_different_generations(name: str) -> None:
    asked = [run(make_algorithm(name, made_up(seed=seed)[0]), made_up()[1], 60)[0] for seed in (0, 1)]
    assert asked[0] != asked[1]


@pytest.mark.parametrize("name", QUICK)
def test_a_space_of_one_row(name: str) -> None:
    space, measured = made_up()
    row = int(space.rows[7])
    variables = (Variable("gpu", np.zeros(1, dtype=np.int64), 8.0, ("a",)),)
    alone = SearchSpace(np.array([row]), variables, space.estimates[7:8], np.zeros(1, dtype=np.int64), (row,), 5, 0)
    order, _ = run(make_algorithm(name, alone), measured, 5)
    assert order == [row]


@pytest.mark.parametrize("name", QUICK)
def test_nothing_that_holds_is_no_end_and_no_error(name: str) -> None:
    space, measured = made_up()
    failing = {row: Scored(heard.objectives, 2.0) for row, heard in measured.items()}
    _, told = run(make_algorithm(name, space), failing, 80)
    assert len(told) == 80


@pytest.mark.parametrize("name", [name for name in QUICK if name != "enumerate"])
def test_more_is_better_and_a_lost_worker_are_understood(name: str) -> None:
    """A fourth objective of which more is better comes negated; a lost simulation is infinitely bad."""
    space, measured = made_up()
    more = {
        row: Scored((*heard.objectives, -1.0 / heard.objectives[1]), heard.violation) for row, heard in measured.items()
    }
    for row in space.starts[:2]:
        more[row] = Scored((more[row].objectives[0], *(np.inf,) * 3), np.inf)
    _, told = run(make_algorithm(name, space), more, 100)
    assert share_found(told, {row: heard for row, heard in more.items() if np.isfinite(heard.violation)}) > 0.9


def test_an_unknown_algorithm_names_the_nearest() -> None:
    with pytest.raises(InputError) as error:
        make_algorithm("nsga4", made_up()[0])
    assert "nsga2" in str(error.value)


def test_corrected_learns_what_the_closed_form_does_not_know() -> None:
    """Told a tenth of the rows, it ranks the others far better than the estimates do."""
    space, measured = made_up()
    rng = np.random.default_rng(0)
    at = np.sort(rng.choice(len(space.rows), 43, replace=False))
    truth = relative(np.array([measured[row].objectives for row in space.rows.tolist()]))
    predicted, _ = Corrected(space).predicted(at, truth[at])
    closed_form = relative(space.estimates)
    rest = np.setdiff1d(np.arange(len(space.rows)), at)
    for column in (1, 2):
        spread = [np.std((guess - truth)[rest, column]) for guess in (predicted, closed_form)]
        assert spread[0] < spread[1] / 3


def test_fronts_volumes_and_gains() -> None:
    points = np.array([[1.0, 4.0], [2.0, 2.0], [4.0, 1.0], [2.0, 2.0], [3.0, 3.0], [1.0, 5.0]])
    assert nondominated(points).tolist() == [True, True, True, False, False, False]
    assert hypervolume(np.array([[0.0, 0.0]]), (0, 0), (1, 1)) == pytest.approx(1.0)
    assert hypervolume(np.array([[0.55, 0.55]]), (0, 0), (1, 1)) == pytest.approx(0.25)
    assert hypervolume(np.zeros((0, 2)), (0, 0), (1, 1)) == 0.0
    kept = points[:3]
    assert gains(np.array([[3.0, 3.0], [1.5, 1.5], [0.5, 6.0]]), kept) == pytest.approx([-1.0, 0.5, 0.5])
    values = np.array([-10.0, -1.0, -1e-9, 0.0, 0.5, 7.0, np.inf])
    assert (np.diff(relative(values)) >= 0).all()


def test_a_front_that_moves_is_not_stalled() -> None:
    stall, told = Stall(2), {}
    for at in range(6):
        told[at] = Scored((float(10 - at), float(10 + at), 1.0), 0.0)
        assert not stall.watch(told)
    assert [stall.watch(told) for _ in range(2)] == [False, True]
