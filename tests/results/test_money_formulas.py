"""The formulas of money against simulations of the same thing."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest

from twin.base import InputError
from twin.results import money
from twin.results.money import held_share, payback_month, replicas_by_month, spare_replicas, up_share
from twin.results.spot import spot_fleet
from twin.spec.ownership import Figure, Ownership


def owning(**more: float) -> Ownership:
    figures = {
        "lifetime_months": 36,
        "residual_share": 0,
        "interest_per_year": 0,
        "electricity_usd_per_kwh": 0.1,
        "pue": 1,
        **more,
    }
    return Ownership.model_validate({name: Figure(value=value) for name, value in figures.items()})


def test_doctests() -> None:
    result = doctest.testmod(money)
    assert (result.failed, result.attempted > 15) == (0, True)


def test_up_share_is_that_of_simulated_interruptions() -> None:
    """Running times of any distribution with the same mean."""
    draw = np.random.default_rng(0)
    for runs in (draw.exponential(2.0, 200_000), draw.uniform(0.0, 4.0, 200_000)):
        assert up_share(0.5, 1800.0) == pytest.approx(runs.sum() / (runs.sum() + 0.5 * runs.size), rel=5e-3)


@pytest.mark.parametrize(("replicas", "spares", "up"), [(1, 0, 0.9), (8, 2, 0.95), (20, 1, 0.99), (3, 3, 0.4)])
def test_held_share_is_that_of_replicas_drawn_one_by_one(replicas: int, spares: int, up: float) -> None:
    draw = np.random.default_rng(1)
    alive = (draw.random((200_000, replicas + spares)) < up).sum(axis=1)
    assert held_share(replicas, spares, up) == pytest.approx((alive >= replicas).mean(), abs=4e-3)


def test_spares_are_the_fewest_that_hold() -> None:
    for replicas in (1, 4, 16, 200):
        spares = spare_replicas(replicas, 0.97, 0.999)
        assert spares is not None
        assert spares > 0
        assert held_share(replicas, spares, 0.97) >= 0.999 > held_share(replicas, spares - 1, 0.97)


def test_payback_is_the_month_in_which_a_simulated_balance_turns() -> None:
    upfront, saved, rate = 100_000.0, 4_000.0, 0.008
    balance, month = -upfront, 0
    while balance < 0:
        month, balance = month + 1, balance * (1 + rate) + saved
    found = payback_month(upfront, saved, rate)
    assert found is not None
    assert math.ceil(found) == month


def test_a_growing_fleet_is_paid_for_month_by_month() -> None:
    assert replicas_by_month(10, 0.05, 12) == [math.ceil(round(10 * 1.05**month, 9)) for month in range(12)]
    assert replicas_by_month(10, -0.5, 3) == [10, 5, 3]
    assert replicas_by_month(3, 0.0, 36) == [3] * 36


def test_a_spot_fleet_says_what_is_assumed_of_it() -> None:
    often = owning(spot_interruptions_per_hour=0.1, spot_restart_s=1800, spot_lost_work_s=200, spot_availability=0.99)
    fleet = spot_fleet("l4", 4, 0.5, often)
    assert fleet.up_share == pytest.approx(1 / (1 + 0.1 * 2000 / 3600))
    assert fleet.usd_per_serving_hour == pytest.approx(0.5 / float(fleet.up_share or 0))
    assert fleet.spare_replicas == spare_replicas(4, 1 / (1 + 0.1 * 2000 / 3600), 0.99)
    assert fleet.held_share is not None
    assert fleet.held_share_bare is not None
    assert fleet.held_share >= 0.99 > fleet.held_share_bare
    assert spot_fleet("l4", 4, 0.5, owning()).spare_replicas is None
    assert spot_fleet("l4", 4, 0.5, None).up_share is None


def test_spot_that_no_spares_can_hold_is_refused() -> None:
    hopeless = owning(spot_interruptions_per_hour=60, spot_restart_s=600_000, spot_availability=0.999)
    with pytest.raises(InputError, match=r"spot replicas of l4 are up 0\.0% of the time: 1,000 spares do not hold 4"):
        spot_fleet("l4", 4, 0.5, hopeless)
