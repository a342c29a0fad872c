"""The bill of a fleet: lines that add up, every way to pay, and nothing that nobody priced."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from twin.base import HOURS_PER_MONTH, InputError
from twin.results.bill import SPARES, GpuGroup
from twin.results.tco import CostTree, cost_of
from twin.spec.prices import PRICE_KINDS, PriceBook, load_price_book

OWNING = {
    "lifetime_months": 36,
    "residual_share": 0.25,
    "interest_per_year": 0.1,
    "electricity_usd_per_kwh": 0.1,
    "pue": 1.25,
    "server_power_ratio": 1.5,
    "server_usd_per_gpu": 5000,
    "network_share": 0.1,
    "space_usd_per_kw_month": 200,
}


def book(**more: Any) -> PriceBook:
    data = {
        "prices": {"a": {"on_demand": 4, "reserved": 2.5, "spot": 1}, "b": {"on_demand": 1, "owned": 0.5}},
        "assets": {"a": {"capex_usd_per_gpu": 30_000, "all_in_kw": 1.5}},
        "ownership": {**OWNING, **more.pop("ownership", {})},
        **more,
    }
    return PriceBook.model_validate(data)


FLEET = [GpuGroup("a", num_gpus=16, replicas=8, utilisation=0.6)]


def test_lines_add_up_in_every_way_to_pay() -> None:
    tree = cost_of(FLEET, "on_demand", book(items={"storage": 300}), output_tokens_per_s=2000.0)
    assert [way.kind for way in tree.ways] == list(PRICE_KINDS)
    for way in tree.ways:
        assert math.fsum(line.usd_per_month for line in way.lines) == pytest.approx(way.usd_per_month)
        assert way.tco_usd == pytest.approx(36 * way.usd_per_month)
        tokens = 2000.0 * HOURS_PER_MONTH * 3600 / 1e6
        assert way.usd_per_mtok == pytest.approx(way.usd_per_month / tokens)
        assert any(line.name == "storage" for line in way.lines)
    assert tree.way.usd_per_month == pytest.approx(16 * 4 * 730 + 300)


def test_owning_is_the_cash_flow_of_36_months() -> None:
    """Bought on credit at 10 % a year, run, sold at the end for a quarter: what is paid in all, less the sale."""
    tree = cost_of(FLEET, "owned", book())
    rate, price = 1.1 ** (1 / 12) - 1, 16 * 35_000 * 1.1
    running = 16 * (1.5 * 730 * 0.1 + 1.5 / 1.25 * 200)
    low, high = 0.0, price  # the payment, by bisection, that leaves exactly the resale as debt
    for _ in range(200):
        payment, debt = (low + high) / 2, price
        for _ in range(36):
            debt = debt * (1 + rate) - payment
        low, high = (payment, high) if debt > 0.25 * price else (low, payment)
    assert tree.way.tco_usd == pytest.approx(36 * (payment + running), rel=1e-9)


def test_idle_is_a_part_of_the_bill_and_counts_spares() -> None:
    tree = cost_of(FLEET, "on_demand", book(items={"storage": 300}))
    assert tree.idle.usd_per_month == pytest.approx(16 * 4 * 730 * 0.4)
    assert tree.idle.share == pytest.approx(0.4)
    often = {"spot_interruptions_per_hour": 0.1, "spot_restart_s": 3600, "spot_availability": 0.99}
    spot = cost_of(FLEET, "spot", book(ownership=often))
    spares = spot.spot[0].spare_replicas
    assert spares is not None
    assert spares > 0
    extra = next(line for line in spot.way.lines if line.name == SPARES)
    assert extra.usd_per_month == pytest.approx(16 * 730 * spares / 8)
    assert spot.idle.usd_per_month == pytest.approx(16 * 730 * 0.4 + extra.usd_per_month)
    assert cost_of([GpuGroup("a", 8)], "spot", book()).idle.usd_per_month is None


def test_the_crossover_is_where_both_bills_meet() -> None:
    tree = cost_of(FLEET, "on_demand", book(items={"storage": 300}))
    ways = {way.kind: way.usd_per_month - 300 for way in tree.ways}
    on_demand, reserved, spot = tree.crossover
    assert on_demand.utilisation is not None
    assert on_demand.utilisation * ways["on_demand"] == pytest.approx(ways["owned"])
    assert on_demand.owned_is_cheaper
    assert reserved.utilisation is None  # paid, used or not
    assert (spot.utilisation, spot.month, spot.owned_is_cheaper) == (None, None, False)
    assert on_demand.month is not None
    running = 16 * (1.5 * 730 * 0.1 + 1.5 / 1.25 * 200)
    rate, balance = 1.1 ** (1 / 12) - 1, -16 * 35_000 * 1.1
    for _ in range(math.ceil(on_demand.month)):
        assert balance < 0
        balance = balance * (1 + rate) + ways["on_demand"] - running
    assert balance >= 0


def test_what_nobody_priced_is_listed_and_never_zero() -> None:
    def items(tree: CostTree) -> set[str]:
        return {each.item for each in tree.unpriced}

    found = items(cost_of(FLEET, "on_demand", book()))
    assert {"network egress", "storage", "staff", "interruptions of spot", "insurance and repairs"} <= found
    assert "storage" not in items(cost_of(FLEET, "on_demand", book(items={"storage": 1})))
    assert "staff" not in items(cost_of(FLEET, "on_demand", book(ownership={"staff_usd_per_month": 20_000})))
    bare = PriceBook.model_validate({"prices": {"a": {"on_demand": 4}}})
    tree = cost_of(FLEET, "on_demand", bare)
    assert {"reserved", "spot", "owned"} <= items(tree)
    assert [way.kind for way in tree.ways] == ["on_demand"]
    assert "owned" not in tree.as_json()["tco"]["usd"]
    lean = {name: value for name, value in OWNING.items() if name not in ("space_usd_per_kw_month", "network_share")}
    leaner = book().model_dump(mode="json", exclude={"ownership", "assets"}) | {
        "ownership": lean,
        "assets": {"a": {"capex_usd_per_node": 300_000}},
    }
    assert {"space", "cluster network", "electricity"} <= items(
        cost_of(FLEET, "owned", PriceBook.model_validate(leaner))
    )


def test_staff_is_paid_once_and_only_where_owned() -> None:
    ways = {way.kind: way for way in cost_of(FLEET, "owned", book(ownership={"staff_usd_per_month": 9000})).ways}
    without = {way.kind: way for way in cost_of(FLEET, "owned", book()).ways}
    assert ways["owned"].usd_per_month - without["owned"].usd_per_month == pytest.approx(9000)
    assert ways["reserved"] == without["reserved"]


def test_a_mixed_fleet_is_the_sum_of_its_groups() -> None:
    mixed = [*FLEET, GpuGroup("b", num_gpus=4, replicas=4, utilisation=0.5)]
    tree = cost_of(mixed, "on_demand", book())
    assert tree.way.usd_per_month == pytest.approx(730 * (16 * 4 + 4))
    assert tree.idle.usd_per_month == pytest.approx(730 * (16 * 4 * 0.4 + 4 * 0.5))
    assert {way.kind for way in tree.ways} == {"on_demand", "owned"}  # b has no reserved or spot price
    assert tree.crossover[0].month is None  # what b costs to buy is not broken down
    assert {line.gpu for line in tree.way.lines} == {"a", "b"}


def test_a_reserved_price_that_is_missing_is_a_discount_where_one_is_assumed() -> None:
    tree = cost_of([GpuGroup("b", 4)], "reserved", book(ownership={"reserved_discount": 0.4}))
    assert tree.way.usd_per_month == pytest.approx(4 * 730 * 0.6)
    assert tree.way.lines[0].origin == "assumed"
    assert "40% under on demand" in tree.way.lines[0].name
    with pytest.raises(InputError, match="no reserved price of b"):
        cost_of([GpuGroup("b", 4)], "reserved", book())


def test_growth_is_in_the_total_and_not_in_the_month() -> None:
    still, growing = (cost_of(FLEET, "on_demand", book(), growth_per_month=growth) for growth in (0.0, 0.05))
    assert still.way.usd_per_month == growing.way.usd_per_month
    replicas = [math.ceil(8 * 1.05**month - 1e-9) for month in range(36)]
    assert growing.way.tco_usd == pytest.approx(sum(replicas) * 2 * 4 * 730)


def test_metered_energy_replaces_provisioned_power() -> None:
    metered = [GpuGroup("a", 16, 8, board_kwh_per_month=1000.0)]
    bill = {line.name: line.usd_per_month for line in cost_of(metered, "owned", book()).way.lines}
    assert bill["electricity"] == pytest.approx(1000 * 1.5 * 1.25 * 0.1)


@pytest.mark.parametrize(
    ("fleet", "more", "said"),
    [
        ([], {}, "at least one GPU"),
        ([GpuGroup("a", 0)], {}, "at least one GPU"),
        ([GpuGroup("a", 1, utilisation=1.5)], {}, "between 0 and 1"),
        ([GpuGroup("a", 1, board_kwh_per_month=-1)], {}, "negative"),
        (FLEET, {"months": 0}, "1 to 240 months"),
        (FLEET, {"growth_per_month": 5.0}, "growth of 500% a month over 36 months"),
        (FLEET, {"growth_per_month": float("nan")}, "growth of nan"),
        (FLEET, {"growth_per_month": -1.0}, "growth of -100%"),
        (FLEET, {"region": "eu"}, "unknown region 'eu'"),
    ],
)
def test_nonsense_is_one_sentence(fleet: list[GpuGroup], more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        cost_of(fleet, "on_demand", book(), **more)


def test_a_kind_that_has_no_price_is_refused() -> None:
    with pytest.raises(InputError, match=r"no spot price of b.*on_demand, owned"):
        cost_of([GpuGroup("b", 1)], "spot", book())
    hopeless = book(
        ownership={"spot_interruptions_per_hour": 60, "spot_restart_s": 600_000, "spot_availability": 0.999}
    )
    with pytest.raises(InputError, match="1,000 spares do not hold"):
        cost_of(FLEET, "spot", hopeless)
    assert "spot" not in cost_of(FLEET, "on_demand", hopeless).as_json()["ways"]


def test_every_gpu_of_the_shipped_book_has_a_bill_that_json_can_hold() -> None:
    shipped = load_price_book()
    for gpu, offers in shipped.prices.items():
        kind = next(iter(offers))
        data = cost_of([GpuGroup(gpu, 8, 4, 0.5)], kind, shipped, output_tokens_per_s=100.0).as_json()
        assert json.loads(json.dumps(data, allow_nan=False)) == data
        assert all(line["source"] and line["date"] for way in data["ways"].values() for line in way["lines"])
        assert data["tco"]["usd"][data["tco"]["cheapest"]] == min(data["tco"]["usd"].values())
        assert math.fsum(line["share"] for line in data["lines"]) == pytest.approx(1.0)


def test_the_money_spent_on_buying_meets_the_rent_in_the_month_that_it_is_paid_back() -> None:
    """Without growth the crossing of the two sums is the closed form's; the fleet that grows buys more, and later."""
    still, growing = (cost_of(FLEET, "on_demand", book(items={"storage": 300}), growth_per_month=g) for g in (0, 0.05))
    for turn in still.crossover[:2]:
        assert turn.month_as_it_grows == pytest.approx(turn.month, abs=0.02)
        assert len(turn.cash_by_month) == 36
    turn = still.crossover[0]
    assert turn.upfront_usd == pytest.approx(16 * 35_000 * 1.1)
    assert turn.month is not None
    running = 16 * (1.5 * 730 * 0.1 + 1.5 / 1.25 * 200) + 300
    rate = 1.1 ** (1 / 12) - 1
    assert turn.cash_by_month[0] == pytest.approx(turn.upfront_usd * (1 + rate) + running)
    assert turn.cash_by_month[math.ceil(turn.month) :] == pytest.approx([running] * (36 - math.ceil(turn.month)))
    later = growing.crossover[0]
    assert later.month == turn.month
    assert later.month_as_it_grows is not None
    assert later.month_as_it_grows > turn.month
    assert sum(later.cash_by_month) > sum(turn.cash_by_month)
    spot = still.crossover[2]
    assert (spot.month, spot.month_as_it_grows) == (None, None)
    short = cost_of(FLEET, "on_demand", book(ownership={"lifetime_months": 20.5})).crossover[0]
    assert len(short.cash_by_month) == 20
