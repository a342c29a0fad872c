"""The cost tree as live formulas: what owning takes, and the bill of each option under each way to pay, line by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twin.results.bill import RENT, SPARES
from twin.show.draw.look import COLOURS
from twin.show.report.forms import word
from twin.show.report.xlsx_inputs import Inputs
from twin.show.report.xlsx_sheet import SHARE, USD, Formula, Sheet, column
from twin.show.words import Say

Json = Mapping[str, Any]
WIDTHS = (34, 46, 18, 16, 16, 12, 12, 12, 60, 12)
HEAD = ("line", "of", "GPU", "USD a month", "plan says", "difference", "share of the bill", "origin", "source", "date")


@dataclass
class Bill:
    """Where a bill stands: the lines of each group of GPUs (ranges), of the fleet as a whole, and its total."""

    groups: list[str]
    fixed: str | None
    total: str
    running: list[str] = field(default_factory=list)
    """Per group, the sum of what is paid for running owned hardware, as a formula."""


Bills = dict[tuple[str, str], Bill]
"""By option id and way to pay."""


def fill_costs(sheet: Sheet, inputs: Inputs, options: Sequence[Json], say: Say) -> Bills:
    """The sheet; returns where each bill stands."""
    sheet.widths(*WIDTHS)
    sheet.title(say("Cost tree"))
    sheet.text(
        say(
            "A month of each option as the fleet stands, by way to pay: formulas from the inputs, and what the plan says."
        )
    )
    sheet.head([say(name) for name in HEAD], right=range(4, 8))
    sheet.print_setup(sheet.at - 1)
    _worked_out(sheet, inputs, options, say)
    bills: Bills = {}
    for option in options:
        sheet.heading(say("Bill of {name}", name=option["id"]))
        for kind, way in option["money"]["ways"].items():
            bills[option["id"], kind] = _bill(sheet, inputs, option, kind, way, say)
    _summary(sheet, options, bills, say)
    return bills


def _worked_out(sheet: Sheet, inputs: Inputs, options: Sequence[Json], say: Say) -> None:
    """What owning one GPU takes, which its lines are made of."""
    owned = [gpu for gpu in _gpus(options) if _bought(inputs, gpu)]
    if not owned:
        return
    sheet.heading(say("Worked out of the inputs"))
    interest = inputs["owning", "interest_per_year"]
    row = sheet.row(
        [say("interest a month, compounding"), None, None, Formula(f"(1+{interest})^(1/12)-1")],
        [None, None, None, "0.0000%"],
    )
    inputs.places["rate",] = sheet.cell(row, 4)
    for gpu in owned:
        net = f"(1+{inputs['owning', 'network_share']})" if ("owning", "network_share") in inputs else "1"
        if ("asset", gpu, "capex_usd_per_node") in inputs:
            bare = f"{inputs['asset', gpu, 'capex_usd_per_node']}/{inputs['asset', gpu, 'gpus_per_node']}"
        else:
            server = f"+{inputs['owning', 'server_usd_per_gpu']}" if ("owning", "server_usd_per_gpu") in inputs else ""
            bare = f"({inputs['asset', gpu, 'capex_usd_per_gpu']}{server})"
        price = _figure(
            sheet,
            inputs,
            ("capex", gpu),
            say("purchase price of a GPU, server and network included"),
            gpu,
            f"{bare}*{net}",
        )
        life, kept = inputs["owning", "lifetime_months"], inputs["owning", "residual_share"]
        level = f"-PMT({inputs['rate',]},{life},{price},-{price}*{kept})"
        _figure(
            sheet, inputs, ("level", gpu), say("level payment a month for it (annuity, less its resale)"), gpu, level
        )
        _figure(sheet, inputs, ("wear", gpu), say("of it depreciation"), gpu, f"{price}*(1-{kept})/{life}")


def _figure(sheet: Sheet, inputs: Inputs, key: tuple[str, ...], name: str, gpu: str, formula: str) -> str:
    row = sheet.row([name, None, gpu, Formula(formula)], [None, None, None, '"$"#,##0.00'])
    inputs.places[key] = sheet.cell(row, 4)
    return inputs.places[key]


def _bill(sheet: Sheet, inputs: Inputs, option: Json, kind: str, way: Json, say: Say) -> Bill:
    """One way to pay: a row for each line, then the total."""
    start = sheet.at
    ranges: dict[int | None, list[int]] = {}
    running: dict[int, list[str]] = {}
    for at, line in _by_group(option, way["lines"]):
        cost = _cost(inputs, option, kind, at, line)
        row = sheet.row(
            [say(line["name"]), f"{word(kind, say)}: {option['id']}", line["gpu"], Formula(cost)],
            [None, None, None, USD],
        )
        sheet.check(row, 4, line["usd_per_month"], USD)
        for col, key in enumerate(("origin", "source", "date"), 8):
            sheet.put(row, col, say(line[key]) if key == "origin" else line[key])
        ranges.setdefault(at, []).append(row)
        if at is not None and line["name"] not in ("depreciation", "interest"):
            running.setdefault(at, []).append(sheet.cell(row, 4))
    total = sheet.row(
        [say("total, {way}", way=word(kind, say)), option["id"], None, Formula(f"SUM(D{start}:D{sheet.at - 1})")],
        [None, None, None, USD],
        bold=True,
    )
    sheet.check(total, 4, way["usd_per_month"], USD)
    for row in range(start, total + 1):
        sheet.put(row, 7, Formula(f"IF($D${total}=0,0,D{row}/$D${total})"), SHARE)
    sheet.at += 1
    spans = {at: sheet.span(rows[0], 4, rows[-1]) for at, rows in ranges.items()}
    count = len(option["money"]["groups"])
    return Bill(
        [spans[at] for at in range(count)],
        spans.get(None),
        sheet.cell(total, 4),
        ["+".join(running.get(at, ["0"])) for at in range(count)],
    )


def _by_group(option: Json, lines: Sequence[Json]) -> Iterator[tuple[int | None, Json]]:
    """Each line with the group of GPUs that it is of; ``None``: the fleet's own. Lines of a group stand together, and each of
    its names once: two pools of the same GPU are told apart by that."""
    groups, at = option["money"]["groups"], 0
    seen: set[str] = set()
    for line in lines:
        if not line["gpu"]:
            yield None, line
            continue
        if line["gpu"] != groups[at]["gpu"] or line["name"] in seen:
            at, seen = at + 1, set()
        seen.add(line["name"])
        yield at, line


def _cost(inputs: Inputs, option: Json, kind: str, at: int | None, line: Json) -> str:
    """The formula of a line of :mod:`twin.results.bill` and :mod:`twin.spec.ownership`."""
    name, gpu, hours = line["name"], line["gpu"], inputs["hours",]
    if at is None:
        staff = ("owning", "staff_usd_per_month")
        return inputs[staff] if kind == "owned" and name == "staff" and staff in inputs else inputs["item", name]
    own = (option["id"], str(at))
    gpus = inputs[("gpus", *own)]
    if name == SPARES:
        spares = f"{inputs[('spares', *own)]}/{inputs[('replicas', *own)]}"
        return f"{gpus}*{inputs['price', gpu, 'spot']}*{hours}*{spares}"
    if name == RENT.get(kind):  # type: ignore[call-overload]
        return f"{gpus}*{inputs['price', gpu, kind]}*{hours}"
    if kind == "reserved":
        discount = inputs["owning", "reserved_discount"]
        return f"{gpus}*{inputs['price', gpu, 'on_demand']}*(1-{discount})*{hours}"
    return f"{gpus}*{_owning(inputs, name, gpu, own)}"


def _owning(inputs: Inputs, name: str, gpu: str, own: tuple[str, str]) -> str:
    """A line of owning one GPU."""
    if name == "depreciation":
        return inputs["wear", gpu]
    if name == "interest":
        return f"({inputs['level', gpu]}-{inputs['wear', gpu]})"
    if name == "space":
        kw = f"{inputs['asset', gpu, 'all_in_kw']}/{inputs['owning', 'pue']}"
        return f"{kw}*{inputs['owning', 'space_usd_per_kw_month']}"
    metered = ("kwh", *own) in inputs and ("owning", "server_power_ratio") in inputs
    if metered:
        kwh = f"{inputs[('kwh', *own)]}*{inputs['owning', 'server_power_ratio']}*{inputs['owning', 'pue']}"
    else:
        kwh = f"{inputs['asset', gpu, 'all_in_kw']}*{inputs['hours',]}"
    return f"{kwh}*{inputs['owning', 'electricity_usd_per_kwh']}"


def _summary(sheet: Sheet, options: Sequence[Json], bills: Bills, say: Say) -> None:
    """Ways to pay side by side, and the chart of it."""
    from openpyxl.chart import BarChart, Reference

    kinds = list(dict.fromkeys(kind for _, kind in bills))
    sheet.page_break()
    sheet.heading(say("Bills side by side, USD a month"))
    top = sheet.head([say("option"), *(word(kind, say) for kind in kinds)], right=range(2, 2 + len(kinds)))
    for option in options:
        own = [bills.get((option["id"], kind)) for kind in kinds]
        sheet.row(
            [option["id"], *(None if bill is None else Formula(bill.total) for bill in own)],
            [None, *[USD] * len(kinds)],
        )
    chart = BarChart()
    chart.title, chart.y_axis.title = say("Bill by way to pay"), say("USD a month")
    chart.add_data(
        Reference(sheet.page, min_col=1, max_col=len(kinds) + 1, min_row=top + 1, max_row=sheet.at - 1),
        from_rows=True,
        titles_from_data=True,
    )
    chart.set_categories(Reference(sheet.page, min_col=2, max_col=len(kinds) + 1, min_row=top))
    styled(chart)
    chart.width, chart.height = 24, 9
    sheet.page.add_chart(chart, f"{column(1)}{sheet.at + 1}")


DASHES = ("solid", "dash", "sysDot", "dashDot", "lgDash", "sysDash", "lgDashDot")


def styled(chart: Any) -> None:
    """Colours that the colour-blind tell apart, and axes that current Excel shows."""
    chart.x_axis.delete = chart.y_axis.delete = False
    chart.legend.position = "b"
    for at, series in enumerate(chart.series):
        colour = COLOURS[at % len(COLOURS)].lstrip("#")
        series.graphicalProperties.line.solidFill = colour
        if chart.tagname == "barChart":
            series.graphicalProperties.solidFill = colour
        else:
            series.graphicalProperties.line.dashStyle = DASHES[at % len(DASHES)]
            series.smooth = False


def _gpus(options: Sequence[Json]) -> list[str]:
    return list(dict.fromkeys(group["gpu"] for option in options for group in option["money"]["groups"]))


def _bought(inputs: Inputs, gpu: str) -> bool:
    """Whether owning it is worked out line by line: its price to buy is known, and no price of owning stands instead."""
    known = any(("asset", gpu, key) in inputs for key in ("capex_usd_per_node", "capex_usd_per_gpu"))
    return known and ("owning", "interest_per_year") in inputs and ("price", gpu, "owned") not in inputs
