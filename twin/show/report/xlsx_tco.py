"""Month by month over the horizon, as live formulas: replicas, the bill of each way to pay, what is left to pay back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twin.show.charts_money import rent_or_buy
from twin.show.report.blocks import FORMULAS
from twin.show.report.forms import word
from twin.show.report.xlsx_costs import Bill, Bills, styled
from twin.show.report.xlsx_inputs import Inputs
from twin.show.report.xlsx_sheet import COUNT, SHARE, USD, Formula, Sheet, column
from twin.show.words import Say

Json = Mapping[str, Any]


LEAST_COLUMNS, LEAST_ROWS = 15, 44
"""Of a printed page: so small that all months fit on one, so long that totals and chart are on the next."""


@dataclass(frozen=True)
class Total:
    """Where the outcome of an option stands: its total by way to pay, and the month that owning has paid for itself."""

    usd: dict[str, str]
    paid_back: dict[str, str]


@dataclass(frozen=True)
class _Months:
    """Columns of the months: where each kind of figure starts. ``dated``: calendar months stand beside the numbers."""

    groups: int
    kinds: tuple[str, ...]
    against: tuple[str, ...]
    dated: bool

    @property
    def traffic(self) -> int:
        return 3 if self.dated else 2

    def group(self, at: int) -> int:
        return self.traffic + 1 + at

    @property
    def gpus(self) -> int:
        return self.group(self.groups)

    def cost(self, kind: str) -> int:
        return self.gpus + 1 + self.kinds.index(kind)

    def sum(self, kind: str) -> int:
        return self.cost(kind) + len(self.kinds)

    def owed(self, kind: str) -> int:
        return self.gpus + 1 + 2 * len(self.kinds) + self.against.index(kind)

    @property
    def last(self) -> int:
        return self.gpus + 2 * len(self.kinds) + 3 * len(self.against)

    def spent(self, kind: str) -> int:
        return self.owed(kind) + len(self.against)

    def paid(self, kind: str) -> int:
        return self.spent(kind) + len(self.against)


def fill_tco(
    sheet: Sheet,
    inputs: Inputs,
    option: Json,
    bills: Bills,
    say: Say,
    *,
    start: str | None = None,
    terms: Sequence[str] = (),
) -> Total:
    """The sheet of one option. ``start``: the calendar month of month 0; ``terms``: what the sums take for granted."""
    own = {kind: bill for (name, kind), bill in bills.items() if name == option["id"]}
    groups = option["money"]["groups"]
    bought = "owned" in own and all(("capex", group["gpu"]) in inputs for group in groups)
    against = tuple(kind for kind in own if kind != "owned") if bought else ()
    cols = _Months(len(groups), tuple(own), against, start is not None)
    sheet.widths(16, *[13] * (cols.gpus + 2 * len(own) + 3 * len(against)))
    sheet.title(say("Total over {months} months: {name}", months=option["money"]["tco"]["months"], name=option["id"]))
    sheet.text(
        say(
            "Replicas come whole, once the traffic is more than the fleet holds. The first month is month 0. Owning is a level"
            " payment; to be paid back is what buying still owes, with interest, after what it saves against renting; owned, as"
            " spent is the rent and that: hardware when it is needed, running it and interest, before any resale."
        ),
        across=10,
    )
    for term in terms:
        sheet.text(term, across=10, pale=True)
    top = _head(sheet, cols, groups, say)
    months = option["money"]["tco"]["months"]
    last = top + months
    for month in range(months):
        _month(sheet, inputs, option, own, cols, top, month)
        if start is not None:
            sheet.put(top + 1 + month, 2, FORMULAS["month_of"](start, month))
    sheet.print_setup(top, frozen_columns=1)
    sheet.page.print_area = f"A1:{column(max(LEAST_COLUMNS, cols.last))}{last + LEAST_ROWS}"
    return _totals(sheet, inputs, option, own, cols, (top + 1, last), say)


def _head(sheet: Sheet, cols: _Months, groups: Sequence[Json], say: Say) -> int:
    names = [
        say("month"),
        *([say("calendar")] if cols.dated else []),
        say("traffic"),
        *(say("replicas of {gpu}", gpu=group["gpu"]) for group in groups),
        say("GPUs"),
    ]
    names += [say("{way}, USD a month", way=word(kind, say)) for kind in cols.kinds]
    names += [say("{way}, USD in all", way=word(kind, say)) for kind in cols.kinds]
    names += [say("to be paid back, against {way}", way=word(kind, say)) for kind in cols.against]
    names += [say("owned, as spent, against {way}, USD in all", way=word(kind, say)) for kind in cols.against]
    names += [say("paid back, against {way}", way=word(kind, say)) for kind in cols.against]
    return sheet.head(names, right=range(1, len(names) + 1))


def _month(
    sheet: Sheet, inputs: Inputs, option: Json, own: Mapping[str, Bill], cols: _Months, top: int, month: int
) -> None:
    row, name = top + 1 + month, option["id"]
    sheet.put(row, 1, month, COUNT)
    traffic = f"{column(cols.traffic)}{row}"
    sheet.put(row, cols.traffic, Formula(f"(1+{inputs['growth',]})^A{row}"), '"×"0.00')
    gpus = []
    for at in range(cols.groups):
        planned, room = inputs["replicas", name, str(at)], inputs["room", name, str(at)]
        needed = f"ROUNDUP(ROUND({planned}*MAX(MIN({traffic},1),{traffic}/{room}),9),0)"
        sheet.put(row, cols.group(at), Formula(needed), COUNT)
        gpus.append(f"{inputs['gpus', name, str(at)]}/{planned}*{column(cols.group(at))}{row}")
    sheet.put(row, cols.gpus, Formula("+".join(gpus)), COUNT)
    for kind, bill in own.items():
        parts = [f"SUM({span})" for span in bill.groups]
        cost = column(cols.cost(kind))
        sheet.put(row, cols.cost(kind), Formula(_grown(inputs, name, parts, cols, row, bill.fixed)), USD)
        before = f"{column(cols.sum(kind))}{row - 1}+" if month else ""
        sheet.put(row, cols.sum(kind), Formula(f"{before}{cost}{row}"), USD)
    for kind in cols.against:
        _owed(sheet, inputs, option, own, cols, top, row, kind)
    sheet.at = row + 1


def _grown(inputs: Inputs, name: str, parts: Sequence[str], cols: _Months, row: int, fixed: str | None) -> str:
    """A month's sum: ``parts``, of the groups as planned, by the replicas of the month, and what the fleet costs anyway."""
    letters = [column(cols.group(at)) for at in range(len(parts))]
    each = [
        f"({part})/{inputs['replicas', name, str(at)]}*{letter}{row}"
        for at, (part, letter) in enumerate(zip(parts, letters, strict=True))
    ]
    return "+".join([*each, *([f"SUM({fixed})"] if fixed else [])])


def _owed(
    sheet: Sheet, inputs: Inputs, option: Json, own: Mapping[str, Bill], cols: _Months, top: int, row: int, kind: str
) -> None:
    """Bought at the start of the month that needs it, on credit; what renting would have cost more pays it off at the end."""
    name, here, first = option["id"], column(cols.owed(kind)), row == top + 1
    bought = []
    for at, group in enumerate(option["money"]["groups"]):
        letter = column(cols.group(at))
        new = f"{letter}{row}" if first else f"MAX(0,{letter}{row}-MAX({letter}${top + 1}:{letter}{row - 1}))"
        per_replica = f"{inputs['gpus', name, str(at)]}/{inputs['replicas', name, str(at)]}"
        bought.append(f"{inputs['capex', group['gpu']]}*{per_replica}*{new}")
    running = _grown(inputs, name, own["owned"].running, cols, row, own["owned"].fixed)
    debt = "+".join([*([] if first else [f"{here}{row - 1}"]), *bought])
    saved = f"{column(cols.cost(kind))}{row}-({running})"
    worn = f"A{row}>=INT({inputs['owning', 'lifetime_months']})"
    owed = f"{debt}+{inputs['rate',]}*MAX({debt},0)-({saved})"
    sheet.put(row, cols.owed(kind), Formula(f'IF({worn},"",{owed})'), USD)
    spent = f"{column(cols.sum(kind))}{row}+{here}{row}"
    sheet.put(row, cols.spent(kind), Formula(f'IF({worn},"",{spent})'), USD)
    before, after = "+".join(bought) if first else f"{here}{row - 1}", f"{here}{row}"
    met = f'IF(AND({before}>0,{after}<=0),A{row}+({before})/({before}-{after}),"")'
    sheet.put(row, cols.paid(kind), Formula(f'IF({worn},"",{met})'), "0.0")


def _totals(
    sheet: Sheet, inputs: Inputs, option: Json, own: Mapping[str, Bill], cols: _Months, rows: tuple[int, int], say: Say
) -> Total:
    """Totals and the crossover, beside what the plan says of them; the chart of the sums."""
    first, last = rows
    money = option["money"]
    sheet.page_break()
    sheet.heading(say("Total by way to pay"))
    sheet.head([say(text) for text in ("way to pay", "USD in all", "plan says", "difference")], right=(2, 3, 4))
    usd: dict[str, str] = {}
    for kind in cols.kinds:
        row = sheet.row([word(kind, say), Formula(f"{column(cols.sum(kind))}{last}")], [None, USD])
        sheet.check(row, 2, money["tco"]["usd"][kind], USD)
        usd[kind] = sheet.cell(row, 2)
    paid: dict[str, str] = {}
    if cols.against:
        paid = _crossover(sheet, inputs, option, own, cols, rows, say)
    _chart(sheet, cols, option, first, last, say)
    return Total(usd, paid)


def _crossover(
    sheet: Sheet, inputs: Inputs, option: Json, own: Mapping[str, Bill], cols: _Months, rows: tuple[int, int], say: Say
) -> dict[str, str]:
    first, last = rows
    name, said = option["id"], {each["against"]: each for each in option["money"]["crossover"]}
    sheet.heading(say("Rent or buy: when has owning paid for itself?"))
    heads = (
        "against",
        "month, as the fleet stands",
        "plan says",
        "difference",
        "month, as it grows",
        "plan says",
        "difference",
        "hours in use from which owning is cheaper",
        "plan says",
        "difference",
    )
    sheet.head([say(text) for text in heads], right=range(2, 11))
    groups = enumerate(option["money"]["groups"])
    price = "+".join(f"{inputs['capex', group['gpu']]}*{inputs['gpus', name, str(at)]}" for at, group in groups)
    fixed = [f"SUM({own['owned'].fixed})"] if own["owned"].fixed else []
    running, rate, life = (
        "+".join([*own["owned"].running, *fixed]),
        inputs["rate",],
        inputs["owning", "lifetime_months"],
    )
    items = "+".join(at for key, at in inputs.places.items() if key[0] == "item") or "0"
    found = {}
    for kind in cols.against:
        saved = f"({own[kind].total}-({running}))"
        due = f"({price})*{rate}"
        month = f"IF({rate}=0,({price})/{saved},-LN(1-{due}/{saved})/LN(1+{rate}))"
        never = say("not in its lifetime")
        own_usd, rent = f"({own['owned'].total}-({items}))", f"({own[kind].total}-({items}))"
        by_the_hour = kind != "reserved"
        row = sheet.row(
            [
                word(kind, say),
                Formula(f'IF({saved}<={due},"{never}",IF({month}>{life},"{never}",{month}))'),
                None,
                None,
                Formula(_first(column(cols.paid(kind)), first, last, say("not in these months"))),
                None,
                None,
                Formula(f'IF({own_usd}<={rent},{own_usd}/{rent},"{say("never")}")')
                if by_the_hour
                else say("a contract is paid used or not"),
            ],
            [None, "0.0", None, None, "0.0", None, None, SHARE],
        )
        sheet.check(row, 2, said[kind]["month"], "0.0")
        sheet.check(row, 5, said[kind].get("month_as_it_grows"), "0.0")
        sheet.check(row, 8, said[kind]["utilisation"], SHARE)
        found[kind] = sheet.cell(row, 5)
    return found


def _first(letter: str, first: int, last: int, never: str) -> str:
    span = f"{letter}{first}:{letter}{last}"
    return f'IF(COUNT({span})=0,"{never}",MIN({span}))'


def _chart(sheet: Sheet, cols: _Months, option: Json, first: int, last: int, say: Say) -> None:
    """The sums, and what was spent on buying as long as the first hardware lives."""
    from openpyxl.chart import LineChart, Reference

    chart = LineChart()
    chart.title, chart.x_axis.title, chart.y_axis.title = say("Cost in all, by way to pay"), say("month"), "USD"
    start = cols.sum(cols.kinds[0])
    data = Reference(sheet.page, min_col=start, max_col=start + len(cols.kinds) - 1, min_row=first - 1, max_row=last)
    chart.add_data(data, titles_from_data=True)
    if cols.against and (turn := rent_or_buy(option["money"])) is not None:
        end = first + len(turn["cash_by_month"]) - 1
        spent = Reference(sheet.page, cols.spent(turn["against"]), first - 1, max_row=end)
        chart.add_data(spent, titles_from_data=True)
    chart.set_categories(Reference(sheet.page, min_col=2 if cols.dated else 1, min_row=first, max_row=last))
    styled(chart)
    chart.width, chart.height = 26, 11
    sheet.page.add_chart(chart, f"A{sheet.at + 1}")
