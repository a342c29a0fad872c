"""What is recommended where risk was asked: the cheapest that is sure enough, and a warning where nothing is."""

from __future__ import annotations

from typing import Any

import pytest

from twin.plan.annexes import Annexes, sure
from twin.plan.plan import solve
from twin.plan.request import PlanRequest


def answer(request: PlanRequest, confidence: float) -> dict[str, Any]:
    return solve(request, asked=Annexes(worlds=8, confidence=confidence)).payload


@pytest.fixture(scope="module")
def certain(request_: PlanRequest) -> dict[str, Any]:
    return answer(request_, 1.0)


def test_the_recommended_option_is_sure_enough_and_the_cheapest_need_not_be(
    request_: PlanRequest, certain: dict[str, Any]
) -> None:
    careless = answer(request_, 0.0)
    named = {name: option for option in certain["options"] for name in option["names"]}
    risks = {point["id"]: point["probability_held"] for point in certain["front"] if "probability_held" in point}
    assert sure(named["recommended"]["risk"], 1.0) or not any(held == 1.0 for held in risks.values())
    cheaper = [
        point
        for point in certain["front"]
        if point.get("probability_held") == 1.0
        and 1.05 * point["usd_per_month"] < named["recommended"]["usd_per_month"]
    ]
    assert not cheaper
    least = min(option["usd_per_month"] for option in careless["options"])
    assert {n: o for o in careless["options"] for n in o["names"]}["recommended"]["usd_per_month"] <= 1.05 * least
    assert named["recommended"]["usd_per_month"] >= least


def test_nothing_sure_is_called_a_gamble(request_: PlanRequest, certain: dict[str, Any]) -> None:
    assert not any("gamble" in note for note in answer(request_, 0.0)["notes"])
    impossible = answer(request_, 1.01)
    assert any("gamble" in note for note in impossible["notes"])
    assert impossible["recommended"] is not None
