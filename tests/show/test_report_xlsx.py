"""The workbook computes what the plan says, and follows its inputs as the program would."""

from __future__ import annotations

import copy
import io
import json
import math
import zipfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from sheets import Computed

from twin.plan.annexes import Annexes
from twin.plan.plan import solve
from twin.plan.request import PlanRequest
from twin.results.bill import GpuGroup
from twin.results.run import Run
from twin.results.tco import CostTree, cost_of
from twin.risk.growth import parse_growth
from twin.show.report.xlsx import workbook
from twin.show.words import words
from twin.spec.prices import PriceBook, load_price_book

SHIPPED = load_price_book()
BOUGHT = [GpuGroup("h100_sxm", 16, 4, 0.5, room=1.4)]
MIXED = [
    GpuGroup("h100_sxm", 8, 4, 0.5, 2500.0, room=1.2),
    GpuGroup("h100_sxm", 6, 3, 0.5, room=1.1),
    GpuGroup("b200_sxm", 2, 1, 0.4),
]
INTERRUPTED = {"spot_interruptions_per_hour": 0.1, "spot_restart_s": 3600, "staff_usd_per_month": 4000}
SHEETS = ["Summary", "Inputs", "Cost tree", "TCO", "TCO 2", "Options", "Risk", "Power", "Assumptions", "Reproduce"]
MONTHS = ("month", "month_as_it_grows", "utilisation")
Make = Callable[..., Run]


def book(**more: Any) -> PriceBook:
    data = SHIPPED.model_dump(mode="json")
    data["ownership"] |= INTERRUPTED | more.pop("ownership", {})
    return PriceBook.model_validate({**data, "items": {"storage": 900, "=1+1": 100}} | more)


def tree(fleet: list[GpuGroup], prices: PriceBook, growth: float = 0.04) -> CostTree:
    return cost_of(fleet, "on_demand", prices, growth_per_month=growth)


def powered(option: dict[str, Any], fleet: list[GpuGroup]) -> dict[str, Any]:
    each = [(group.num_gpus, SHIPPED.assets[group.gpu].all_in_kw) for group in fleet]
    return {**option["power"], "meter_kw": sum(gpus * figure.value for gpus, figure in each if figure is not None)}


@pytest.fixture(scope="module")
def payload(ask: Callable[..., PlanRequest]) -> dict[str, Any]:
    annexes = Annexes(book=SHIPPED, growth=parse_growth("4%/month"))
    found: dict[str, Any] = json.loads(json.dumps(solve(ask("h100_sxm"), None, annexes).payload, default=float))
    return found


@pytest.fixture(scope="module")
def make(payload: dict[str, Any]) -> Make:
    """A run whose first options have the bills of these fleets."""

    def run(*fleets: list[GpuGroup], **changed: Any) -> Run:
        plan = copy.deepcopy(payload) | changed
        prices = book()
        if fleets:
            first = plan["options"][0]
            plan["options"] = [
                {**first, "id": f"option-{at}", "money": tree(fleet, prices).as_json(), "power": powered(first, fleet)}
                for at, fleet in enumerate(fleets)
            ]
            plan["recommended"] = "option-0"
            gpus = dict.fromkeys(group.gpu for fleet in fleets for group in fleet)
            plan["price_book"] = prices.part_of(gpus)
        plan = json.loads(json.dumps(plan))
        manifest = {"twin_version": "0", "vllm_version_modelled": "0.32", "seed": 0, "profiles": {}}
        return Run(Path("plan"), {"price": "on_demand"}, manifest, {}, plan, {"ttft": "600ms"})

    return run


def first_months(found: Computed, sheet: str) -> range:
    top = found.row(sheet, "month") + 1
    return range(top, top + 36)


def opened(data: bytes) -> Any:
    return openpyxl.load_workbook(io.BytesIO(data))


@pytest.fixture(scope="module")
def both(make: Make) -> Run:
    return make(BOUGHT, MIXED)


@pytest.fixture(scope="module")
def found(both: Run, tmp_path_factory: pytest.TempPathFactory) -> Computed:
    return Computed(workbook(both), tmp_path_factory.mktemp("xlsx"))


def test_every_figure_of_the_plan_comes_out_of_the_formulas(both: Run, found: Computed) -> None:
    run = both
    assert run.plan is not None
    assert not found.errors()
    checked = 0
    for sheet in found.book:
        for row in sheet.iter_rows():
            for square in row:
                if square.number_format == "0.000%" and str(square.value).startswith("=IF("):
                    plan, here = found.at(sheet.title, square.row, square.column - 1), square.column - 2
                    assert found.at(sheet.title, square.row, here) == pytest.approx(plan, rel=1e-6)
                    checked += 1
    options = run.plan["options"]
    lines = sum(len(way["lines"]) + 2 for o in options for way in o["money"]["ways"].values())
    crossovers = [each[key] for o in options for each in o["money"]["crossover"] for key in MONTHS]
    powers = sum(o["power"]["meter_kw"] is not None for o in options)
    assert checked == lines + sum(each is not None for each in crossovers) + powers


def test_each_month_is_the_plan_s(both: Run, found: Computed) -> None:
    assert both.plan is not None
    for sheet, option in zip(("TCO", "TCO 2"), both.plan["options"], strict=True):
        money = option["money"]
        months = first_months(found, sheet)
        assert found.column(sheet, "GPUs", months) == money["gpus_by_month"]
        for kind, name in (("on_demand", "on demand"), ("reserved", "reserved"), ("spot", "spot"), ("owned", "bought")):
            by_month = found.column(sheet, f"{name}, USD a month", months)
            assert by_month == pytest.approx(money["ways"][kind]["usd_by_month"], rel=1e-6)
            assert found.column(sheet, f"{name}, USD in all", months)[-1] == pytest.approx(
                money["tco"]["usd"][kind], rel=1e-6
            )


def test_without_growth_owning_is_paid_back_in_the_month_that_the_plan_says(make: Make, tmp_path: Path) -> None:
    still = tree(BOUGHT, book(), growth=0.0).as_json()
    found = Computed(workbook(make(BOUGHT)), tmp_path, {"growth of the traffic a month": 0.0})
    against = next(each for each in still["crossover"] if each["against"] == "on_demand")
    row = found.row("TCO", "on demand", 1)
    assert found.at("TCO", row, 2) == pytest.approx(against["month"])
    assert found.at("TCO", row, 5) == pytest.approx(against["month"], abs=0.02)
    assert found.at("TCO", row, 5) == pytest.approx(against["month_as_it_grows"], rel=1e-6)
    spent = found.column("TCO", "owned, as spent, against on demand, USD in all", months := first_months(found, "TCO"))
    assert spent == pytest.approx(list(accumulate(against["cash_by_month"])), rel=1e-6)
    rented = found.column("TCO", "on demand, USD in all", months)
    month = math.floor(against["month"])
    assert spent[month - 1] > rented[month - 1]
    assert spent[month] <= rented[month]
    assert found.column("TCO", "month", months) == list(range(36)), "the first is month 0, as everywhere else"


def test_a_changed_input_flows_through_as_the_program_computes_it(make: Make, tmp_path: Path) -> None:
    changed = {
        "growth of the traffic a month": 0.07,
        "h100_sxm: rent on demand": 5.5,
        "h100_sxm: purchase price of a node": 400_000,
        "h100_sxm: GPUs": 24,
        "interest a year": 0.15,
        "electricity": 0.2,
        "residual value, of the price": 0.1,
    }
    data = book(
        ownership={"interest_per_year": 0.15, "electricity_usd_per_kwh": 0.2, "residual_share": 0.1}
    ).model_dump(mode="json")
    data["prices"]["h100_sxm"]["on_demand"] = 5.5
    data["assets"]["h100_sxm"]["capex_usd_per_node"] = 400_000
    wanted = tree([GpuGroup("h100_sxm", 24, 4, 0.5, room=1.4)], PriceBook.model_validate(data), 0.07).as_json()
    found = Computed(workbook(make(BOUGHT)), tmp_path, changed)
    for kind, name in (("on_demand", "on demand"), ("spot", "spot"), ("owned", "bought")):
        total = found.row("Cost tree", f"total, {name}")
        assert found.at("Cost tree", total, 4) == pytest.approx(wanted["ways"][kind]["usd_per_month"], rel=1e-6)
        assert found.at("TCO", found.row("TCO", name), 2) == pytest.approx(wanted["tco"]["usd"][kind], rel=1e-6)
    against = next(each for each in wanted["crossover"] if each["against"] == "on_demand")
    crossover = found.row("TCO", "on demand", 1)
    assert found.at("TCO", crossover, 2) == pytest.approx(against["month"], rel=1e-6)
    assert found.at("TCO", crossover, 8) == pytest.approx(against["utilisation"], rel=1e-6)
    off = found.row("Summary", "of these more than 0.5% off")
    assert found.at("Summary", off, 2) > 0
    assert "changed" in found.at("Summary", off + 1, 2)
    names = {"on_demand": "on demand", "owned": "bought"}
    cheapest = wanted["tco"]["cheapest"]
    totals = found.row("Summary", "option-0")
    assert found.at("Summary", totals, 6) == names.get(cheapest, cheapest)
    live = found.row("Summary", "cheapest way now, live")
    lasting = {kind: usd for kind, usd in wanted["tco"]["usd"].items() if kind != "spot"}
    least = min(lasting, key=lambda kind: lasting[kind])
    assert found.at("Summary", live, 2) == names.get(least, least)
    assert found.at("Summary", live, 3) == pytest.approx(lasting[least], rel=1e-6)


def test_it_is_made_to_be_read_and_printed(make: Make) -> None:
    made = opened(workbook(make(BOUGHT, MIXED)))
    assert made.sheetnames == SHEETS
    for sheet in made:
        assert sheet.page_setup.orientation == "landscape"
        assert (sheet.page_setup.fitToWidth, sheet.sheet_properties.pageSetUpPr.fitToPage) == (1, True)
        assert sheet.print_title_rows
        assert sheet.freeze_panes
    assert [len(made[name]._charts) for name in ("Cost tree", "TCO", "TCO 2")] == [1, 1, 1]
    inputs = made["Inputs"]
    blue = [row for row in range(4, inputs.max_row + 1) if inputs.cell(row, 2).font.color.rgb == "000000FF"]
    assert all(isinstance(inputs.cell(row, 2).value, int | float) and inputs.cell(row, 3).value for row in blue)
    assert all(inputs.cell(row, 7).value for row in blue if inputs.cell(row, 6).value)
    assert len(blue) > 30


def test_the_same_run_makes_the_same_bytes(make: Make) -> None:
    first = workbook(make(BOUGHT), None, words("en"))
    assert first == workbook(make(BOUGHT), None, words("en"))
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert b"dcterms" not in archive.read("docProps/core.xml").replace(b"xmlns:dcterms", b"")


def test_texts_of_a_run_are_never_formulas(make: Make) -> None:
    made = opened(workbook(make(BOUGHT, model='=HYPERLINK("http://x")')))
    assert all(
        square.data_type != "f"
        for sheet in made
        for row in sheet.iter_rows()
        for square in row
        if str(square.value).startswith(("=1+1", "=HYPERLINK"))
    )
    assert any(square.value == "=1+1" for square in made["Inputs"]["A"])


def test_without_bills_it_says_so(make: Make) -> None:
    run = make()
    assert run.plan is not None
    bare = {name: value for name, value in run.plan.items() if name != "price_book"}
    for option in bare["options"]:
        option.pop("money")
    made = opened(workbook(Run(run.path, run.scenario, run.manifest, run.summary, bare)))
    assert "TCO" not in made.sheetnames
    assert any("no bills" in str(square.value) for square in made["Summary"]["A"])


def test_where_nothing_holds_the_near_misses_are_there(make: Make) -> None:
    run = make()
    assert run.plan is not None
    missed = [{**option, "names": [], "misses": ["p99 TTFT of 10 ms: 40 ms"]} for option in run.plan["options"]]
    bills = opened(workbook(make(options=[], near_misses=missed, recommended=None, binding="p99 TTFT")))
    assert "TCO" in bills.sheetnames
    for option in missed:
        option.pop("money")
    none = opened(workbook(make(options=[], near_misses=missed, recommended=None, binding="p99 TTFT")))
    assert "TCO" not in none.sheetnames


def test_chinese(make: Make) -> None:
    made = opened(workbook(make(BOUGHT), None, words("zh")))
    assert made.sheetnames[0] == words("zh")("Summary") != "Summary"
    unsaid = [
        square.value
        for name in made.sheetnames[1:4]
        for square in [*made[name][1], *made[name][3]]
        if isinstance(square.value, str) and square.value.isascii() and square.value not in ("GPU",)
    ]
    assert not [text for text in unsaid if "GPU" not in text]


def test_every_blue_input_changes_something_that_is_checked(make: Make, tmp_path: Path) -> None:
    """What no formula of this run takes is not blue; what one takes moves a figure, up or down."""
    fleet = [GpuGroup("h100_sxm", 16, 4, 0.5, 2500.0, room=1.4)]
    run = make(fleet)
    assert run.plan is not None
    few = cost_of(fleet, "on_demand", book(), months=4, growth_per_month=0.3)
    run.plan["options"][0]["money"] = json.loads(json.dumps(few.as_json()))
    found = Computed(workbook(run), tmp_path)
    rows = [row for row in found.book["Inputs"].iter_rows(min_row=4) if isinstance(row[1].value, int | float)]
    blue = [row for row in rows if row[1].font.color.rgb == "000000FF"]
    black = {str(row[0].value) for row in rows if row not in blue}
    assert {"server around a GPU", "discount of a contract where no price is known"} <= black
    assert len(blue) > 15
    power = found.row("Power", "option-0")
    figures = [*found.checked(), *(f"'[book.xlsx]POWER'!{letter}{power}" for letter in "EF")]
    idle = []
    for name, square, *_ in blue:
        changes = (square.value * 0.3, square.value * 1.37 + 0.01)
        if not any(found.changed(found.again(square.row, value), figures) for value in changes):
            idle.append(name.value)
    assert not idle


def test_months_have_dates_where_the_first_is_known(make: Make, tmp_path: Path) -> None:
    found = Computed(workbook(make(BOUGHT), start="2027-11"), tmp_path)
    months = first_months(found, "TCO")
    assert found.column("TCO", "calendar", months)[:3] == ["2027-11", "2027-12", "2028-01"]
    assert not found.errors()
    off = found.row("Summary", "of these more than 0.5% off")
    assert found.at("Summary", off, 2) == 0


@pytest.mark.parametrize(("rack_kw", "racks"), [(40.0, 1), (30.0, 1), (27.0, 2), (13.0, "a node does not fit")])
def test_a_node_is_whole_in_a_rack(make: Make, tmp_path: Path, rack_kw: float, racks: int | str) -> None:
    """Two nodes of 8 H100, 13.84 kW each at the meter."""
    run = make(BOUGHT)
    assert run.plan is not None
    run.plan["options"][0]["power"]["nodes"] = 2
    found = Computed(workbook(run, rack_kw=rack_kw), tmp_path)
    row = found.row("Power", "option-0")
    assert (found.at("Power", row, 5), found.at("Power", row, 6)) == (2, racks)


def test_the_words_of_the_verdict_say_that_they_stay(make: Make) -> None:
    summary = opened(workbook(make(BOUGHT)))["Summary"]
    said = [str(row[0].value) for row in summary.iter_rows()]
    at = next(row for row, text in enumerate(said, 1) if text.startswith("These words"))
    below = next(row for row, text in enumerate(said, 1) if text.startswith("What follows are formulas"))
    assert at < 6
    assert f"down to row {below}," in said[at - 1]


def test_latencies_are_in_one_unit(make: Make) -> None:
    made = opened(workbook(make(BOUGHT)))
    assert not [
        square.coordinate
        for sheet in made
        for row in sheet.iter_rows()
        for square in row
        if square.number_format.endswith('"s"') and "/s" not in square.number_format
    ]
