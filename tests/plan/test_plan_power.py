"""The power of an option: boards, what they draw, and what the meter sees, which an owned fleet's bill pays for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from twin.base import HOURS_PER_MONTH
from twin.cost.layout import Layout
from twin.plan.annexes import Annexes
from twin.plan.asked import asked_of
from twin.plan.plan import solve
from twin.plan.power import Power, together
from twin.plan.request import PlanRequest
from twin.results.energy import IDLE_POWER
from twin.spec.layout import fleet_nodes
from twin.spec.objectives import Objectives, parse_objectives
from twin.spec.prices import load_price_book

BOOK = load_price_book()


def _options(request: PlanRequest) -> list[dict[str, Any]]:
    payload = json.loads(json.dumps(solve(request, None, Annexes(book=BOOK)).payload, default=float))
    assert payload["options"]
    return list(payload["options"])


def test_boards_at_their_limit_draw_less_and_the_meter_has_room_for_more(ask: Callable[..., PlanRequest]) -> None:
    request = ask("h100_sxm")
    watts = request.profiles[0].facts.board_power_w
    assert watts is not None
    for option in _options(request):
        power = option["power"]
        assert power["boards_kw"] == pytest.approx(option["num_gpus"] * watts.value / 1e3)
        assert IDLE_POWER.value * power["boards_kw"] < power["drawn_kw"] < power["boards_kw"] < power["meter_kw"]
        assert power["billed"] == "provisioned"
        assert power["kwh_per_month"] == pytest.approx(power["meter_kw"] * HOURS_PER_MONTH)
        _agrees_with_the_bill(option)
        assert power["nodes"] == math.ceil(option["num_gpus"] / power["gpus_per_node"])
        assert all(said["origin"] and said["source"] and said["date"] for said in power["sources"].values())


def test_where_energy_is_an_objective_the_bill_is_of_what_is_drawn(ask: Callable[..., PlanRequest]) -> None:
    request = asked_of(ask("h100_sxm"), (), Objectives(minimise=parse_objectives("cost,energy")))
    assert BOOK.ownership is not None
    ratio = BOOK.ownership.server_power_ratio
    assert ratio is not None
    for option in _options(request):
        power = option["power"]
        assert power["billed"] == "drawn"
        at_the_meter = power["drawn_kw"] * ratio.value * BOOK.ownership.pue.value
        assert power["kwh_per_month"] == pytest.approx(at_the_meter * HOURS_PER_MONTH)
        assert power["drawn_kw"] * HOURS_PER_MONTH == pytest.approx(option["energy"]["kwh_per_month"])
        _agrees_with_the_bill(option)


def test_what_the_book_does_not_know_is_null(ask: Callable[..., PlanRequest]) -> None:
    bare = BOOK.model_copy(update={"assets": {}, "ownership": None})
    request = replace(ask("h100_sxm"), jobs=1)
    payload: Any = solve(request, None, Annexes(book=bare)).payload
    power = payload["options"][0]["power"]
    assert (power["meter_kw"], power["kwh_per_month"], power["billed"]) == (None, None, None)
    assert power["boards_kw"] > power["drawn_kw"] > 0
    assert payload["price_book"]["ownership"] is None


@pytest.mark.parametrize(("gpus", "replicas", "nodes"), [(1, 9, 2), (3, 4, 2), (4, 3, 2), (8, 3, 3), (16, 3, 6)])
def test_nodes_hold_whole_replicas(gpus: int, replicas: int, nodes: int) -> None:
    assert fleet_nodes(Layout(1, pipeline_parallel_size=gpus), replicas, 8) == nodes


def _agrees_with_the_bill(option: dict[str, Any]) -> None:
    assert BOOK.ownership is not None
    [line] = [line for line in option["money"]["ways"]["owned"]["lines"] if line["name"] == "electricity"]
    price = BOOK.ownership.electricity_usd_per_kwh.value
    assert line["usd_per_month"] == pytest.approx(option["power"]["kwh_per_month"] * price)


def test_pools_are_added_up() -> None:
    pools = [
        Power(1.0, 0.5, 2.0, 100.0, "provisioned", 1, 8, {"a": {"origin": "assumed"}}),
        Power(3.0, 1.5, None, 50.0, "provisioned", 2, 4, {"b": {"origin": "datasheet"}}),
    ]
    fleet = together(pools)
    assert (fleet.boards_kw, fleet.drawn_kw, fleet.meter_kw, fleet.kwh_per_month) == (4.0, 2.0, None, 150.0)
    assert (fleet.billed, fleet.nodes, fleet.gpus_per_node) == ("provisioned", 3, None)
    assert fleet.sources.keys() == {"a", "b"}
