"""The bill month by month: it adds up to the total, and is what its replicas cost."""

from __future__ import annotations

import math
from typing import Any

import pytest

from twin.results.bill import GpuGroup
from twin.results.tco import CostTree, cost_of
from twin.spec.prices import PriceBook, load_price_book

FLEET = [GpuGroup("h100_sxm", num_gpus=16, replicas=8, utilisation=0.6, room=1.5)]
MIXED = [*FLEET, GpuGroup("l40s", num_gpus=3, replicas=3)]


def book(**more: Any) -> PriceBook:
    shipped = load_price_book()
    data = shipped.model_dump(mode="json") | more
    return PriceBook.model_validate(data)


def tree(fleet: list[GpuGroup], growth: float = 0.04, **more: Any) -> CostTree:
    return cost_of(fleet, "on_demand", book(**more), growth_per_month=growth)


@pytest.mark.parametrize("fleet", [FLEET, MIXED])
@pytest.mark.parametrize("growth", [-0.03, 0.0, 0.04])
def test_the_months_of_each_way_to_pay_add_up_to_its_total(fleet: list[GpuGroup], growth: float) -> None:
    data = tree(fleet, growth, items={"storage": 1234.5}).as_json()
    for way in data["ways"].values():
        assert len(way["usd_by_month"]) == 36
        assert math.fsum(way["usd_by_month"]) == pytest.approx(way["tco_usd"], rel=1e-9)
        assert way["usd_by_month"][0] == pytest.approx(way["usd_per_month"])


def test_a_month_costs_the_replicas_that_it_needs_and_what_the_fleet_costs_anyway() -> None:
    data = tree(FLEET, items={"storage": 1000.0}).as_json()
    price = book().price("h100_sxm", "on_demand").value
    needed = [max(math.ceil(8 * 1.04**month / 1.5 - 1e-9), 8) for month in range(36)]
    assert needed[-1] > needed[0]
    assert data["gpus_by_month"] == [2 * replicas for replicas in needed]
    by_hand = [2 * replicas * price * 730 + 1000.0 for replicas in needed]
    assert data["ways"]["on_demand"]["usd_by_month"] == pytest.approx(by_hand)


def test_the_gpus_of_a_mixed_fleet_are_those_of_its_groups() -> None:
    each = [tree([group]).as_json()["gpus_by_month"] for group in MIXED]
    assert tree(MIXED).as_json()["gpus_by_month"] == [sum(month) for month in zip(*each, strict=True)]


def test_what_a_bill_rests_on_is_in_the_part_of_the_book() -> None:
    """Bills of a book that is read back from the part are the same."""
    whole = book(items={"storage": 300})
    part = whole.part_of(["h100_sxm", "l40s"])
    assert part.keys() == {"name", "region", "prices", "assets", "ownership", "items"}
    assert part["prices"]["h100_sxm"]["on_demand"]["source"]
    prices = {
        gpu: {kind: {"usd_per_gpu_hour": price.pop("value"), **_known(price)} for kind, price in offers.items()}
        for gpu, offers in part["prices"].items()
    }
    rest = {name: part[name] for name in ("assets", "ownership", "items")}
    read = PriceBook.model_validate({"prices": prices, **rest})
    for fleet in (FLEET, MIXED):
        assert cost_of(fleet, "on_demand", read).ways == cost_of(fleet, "on_demand", whole).ways


def _known(price: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in price.items() if name != "stderr"}
