"""The report as an Excel workbook, whose cost tree, totals and crossover are live formulas of an editable sheet of inputs.

Sections say what the report says (:mod:`twin.show.report.content`). Money is computed in the workbook, and stands beside what
the plan says: as long as no input was changed both agree, and a difference is marked.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twin.base import not_installed
from twin.results.run import Run
from twin.show.report.blocks import Report
from twin.show.report.content import RACK_KW, report
from twin.show.report.forms import plain, word
from twin.show.report.money import terms_of
from twin.show.report.xlsx_blocks import fill_sections
from twin.show.report.xlsx_costs import fill_costs
from twin.show.report.xlsx_inputs import Inputs, fill_inputs
from twin.show.report.xlsx_sheet import OFF, USD, Formula, Sheet
from twin.show.report.xlsx_tco import Total, fill_tco
from twin.show.words import Say, words

if TYPE_CHECKING:
    from openpyxl import Workbook

Json = Mapping[str, Any]
NO_TIME = (1980, 1, 1, 0, 0, 0)
"""The first that a zip archive can say."""
LIVE = "What follows are formulas: a viewer that does not compute (Excel's protected view) shows them empty."
WORDS_STAY = (
    "These words, and the figures down to row {row}, are the plan's. What you change in the inputs changes the line under this"
    " one and the figures from row {row} on, not the words."
)
SECTIONS = {"options": "Options", "risk": "Risk"}


def workbook(
    run: Run,
    today: Run | None = None,
    say: Say | None = None,
    *,
    rack_kw: float | None = None,
    start: str | None = None,
    name: str | None = None,
) -> bytes:
    """The workbook as a file's bytes, the same for the same run.

    ``today``: a run of ``twin plan --fixed``, compared as doing nothing; ``rack_kw``: what a rack can power. A plan without
    bills has no sheets of money, and says so. Raises as :func:`twin.show.report.content.report`, and :class:`TwinError`
    without openpyxl.
    """
    say = words("en") if say is None else say
    made = report(run, today=today, start=start, rack_kw=rack_kw, name=name, say=say)
    assert run.plan is not None
    book = _empty()
    priced = [option for option in _all_options(run.plan) if option.get("money", {}).get("groups")]
    first = _sheet(book, say("Summary"))
    inputs: Inputs | None = None
    totals: dict[str, Total] = {}
    checks: list[str] = []
    if priced and "price_book" in run.plan:
        inputs, totals, checks = _money(book, run, priced, RACK_KW if rack_kw is None else rack_kw, start, say)
    _summary(first, made, run.plan, totals, checks, say)
    for key, title in SECTIONS.items():
        found = [section for section in made.sections if section.key == key]
        fill_sections(_sheet(book, say(title)), say(title), found, say)
    _power(_sheet(book, say("Power")), made, run.plan, priced if inputs else [], inputs, say)
    trust = [section for section in made.sections if section.key in ("assumptions", "validity")]
    fill_sections(_sheet(book, say("Assumptions")), say("Assumptions"), trust, say)
    again = [section for section in made.sections if section.key == "reproduce"]
    fill_sections(_sheet(book, say("Reproduce")), say("Reproduce"), again, say)
    if inputs is not None:
        inputs.mark(book)
    return _bytes(book)


def _empty() -> Workbook:
    try:
        from openpyxl import Workbook
    except ImportError as error:
        raise not_installed("a workbook", error.name, "dashboard") from None
    book = Workbook()
    book.remove(book.worksheets[0])
    book.calculation.fullCalcOnLoad = True
    book.properties.creator = "twin"
    return book


def _sheet(book: Workbook, title: str) -> Sheet:
    return Sheet(book.create_sheet(title))


def _all_options(plan: Json) -> list[Json]:
    """The recommended first, then the others that hold, then near misses (which only a fixed fleet has bills of)."""
    found = [*plan["options"], *plan["near_misses"]]
    return sorted(found, key=lambda option: option["id"] != plan["recommended"])


def _money(
    book: Workbook, run: Run, options: Sequence[Json], rack_kw: float, start: str | None, say: Say
) -> tuple[Inputs, dict[str, Total], list[str]]:
    """The sheets with formulas; returns what others refer to: inputs, totals by option, and the cells of all checks."""
    assert run.plan is not None
    inputs = fill_inputs(_sheet(book, say("Inputs")), run.plan, options, rack_kw, say)
    terms = [say(term) for term in terms_of(run.flags, options[0]["money"])]
    costs = _sheet(book, say("Cost tree"))
    bills = fill_costs(costs, inputs, options, say)
    totals, sheets = {}, [costs]
    for at, option in enumerate(options, 1):
        sheets.append(_sheet(book, say("TCO") if at == 1 else f"{say('TCO')} {at}"))
        totals[option["id"]] = fill_tco(sheets[-1], inputs, option, bills, say, start=start, terms=terms)
    return inputs, totals, [check for sheet in sheets for check in sheet.checks]


def _summary(
    sheet: Sheet, made: Report, plan: Json, totals: Mapping[str, Total], checks: Sequence[str], say: Say
) -> None:
    """The decision page, and under it the totals that live on the inputs."""
    decision = [section for section in made.sections if section.key == "decision"]
    under = fill_sections(sheet, plain(made.title, say), decision, say, room=2 if totals else 0)
    if not totals:
        sheet.text(say("This plan has no bills that formulas could rest on: there are no sheets of money."), bold=True)
        return
    live = sheet.at
    sheet.text(say(LIVE), pale=True)
    _compared(sheet, {option["id"]: option for option in _all_options(plan)}, totals, say)
    paid = [(name, kind, at) for name, total in totals.items() for kind, at in total.paid_back.items()]
    if paid:
        sheet.heading(say("Month in which owning has paid for itself, as the fleet grows"))
        sheet.head([say("option"), say("against"), say("month")])
        for name, kind, at in paid:
            sheet.row([name, word(kind, say), Formula(at)], [None, None, "0.0"])
    _checked(sheet, checks, say)
    if under:
        first = _all_options(plan)[0]
        _live(sheet, under, live, first["money"]["kind"], totals[first["id"]].usd, say)


def _live(sheet: Sheet, row: int, below: int, chosen: str, usd: Mapping[str, str], say: Say) -> None:
    """In ``row`` and the next, under the verdict: that its words stay, and the way to pay that is cheapest as inputs stand."""
    lasting = {kind: at for kind, at in usd.items() if kind != "spot" or chosen == "spot"}
    least = f"MIN({','.join(lasting.values())})"
    *others, last = lasting
    named = f'"{word(last, say)}"'
    for kind in reversed(others):
        named = f'IF({lasting[kind]}={least},"{word(kind, say)}",{named})'
    end, sheet.at = sheet.at, row
    sheet.text(say(WORDS_STAY, row=below), across=7, pale=True)
    sheet.row([say("cheapest way now, live"), Formula(named), Formula(least)], [None, None, USD], bold=True)
    sheet.at = end


def _compared(sheet: Sheet, options: Mapping[str, Json], totals: Mapping[str, Total], say: Say) -> None:
    """Each option's total by way to pay, and the cheapest way as it now stands."""
    kinds = list(dict.fromkeys(kind for total in totals.values() for kind in total.usd))
    sheet.heading(say("Total over the horizon, live from the inputs"))
    names = [say("option"), *(word(kind, say) for kind in kinds), say("cheapest way"), say("plan says")]
    top = sheet.head(names, right=range(2, 2 + len(kinds)))
    heads = sheet.span(top, 2, top, len(kinds) + 1)
    for name, total in totals.items():
        own = [total.usd.get(kind) for kind in kinds]
        values = sheet.span(sheet.at, 2, sheet.at, len(kinds) + 1)
        cheapest = Formula(f"INDEX({heads},MATCH(MIN({values}),{values},0))")
        said = word(options[name]["money"]["tco"]["cheapest"], say)
        sheet.row([name, *(Formula(at) if at else None for at in own), cheapest, said], [None, *[USD] * len(kinds)])


def _checked(sheet: Sheet, checks: Sequence[str], say: Say) -> None:
    """How many of the figures that the plan says as well are off."""
    sheet.heading(say("Checks"))
    row = sheet.row([say("figures that the plan says as well"), len(checks)])
    by_sheet: dict[str, list[str]] = {}
    for each in checks:
        by_sheet.setdefault(each.rsplit("!", 1)[0] + "!" + each.rsplit("$", 2)[1], []).append(each)
    counts = []
    for cells in by_sheet.values():
        span = f"{cells[0]}:{cells[-1].rsplit('!', 1)[1]}"
        counts += [f'COUNTIF({span},">{OFF}")', f'COUNTIF({span},"<-{OFF}")']
    sheet.row([say("of these more than {share} off", share=f"{OFF:.1%}"), Formula("+".join(counts))])
    wrong = say("an input was changed, or the workbook computes otherwise than the plan")
    verdict = f'IF(B{row + 1}=0,"{say("this workbook computes what the plan says")}","{wrong}")'
    sheet.row([say("so"), Formula(verdict)])


def _power(sheet: Sheet, made: Report, plan: Json, priced: Sequence[Json], inputs: Inputs | None, say: Say) -> None:
    """What the report says of power; and the meter and racks, live from the inputs."""
    fill_sections(sheet, say("Power"), [section for section in made.sections if section.key == "power"], say)
    known = [option for option in priced if option.get("power", {}).get("meter_kw") is not None]
    if inputs is None or not known:
        return
    sheet.heading(say("Live from the inputs"))
    sheet.head([say(name) for name in ("option", "at the meter, kW", "plan says", "difference", "nodes", "racks")])
    for option in known:
        groups = range(len(option["money"]["groups"]))
        gpus = "+".join(inputs["gpus", option["id"], str(at)] for at in groups)
        parts = [
            f"{inputs['gpus', option['id'], str(at)]}*{inputs['asset', group['gpu'], 'all_in_kw']}"
            for at, group in enumerate(option["money"]["groups"])
        ]
        here = sheet.at
        nodes = Formula(f"ROUNDUP(ROUND(({gpus})/{inputs['per_node', option['id']]},6),0)")
        fit = f"INT({inputs['rack',]}*E{here}/B{here}+0.000000001)"
        never = say("a node does not fit")
        racks = Formula(f'IF({fit}=0,"{never}",ROUNDUP(ROUND(E{here}/{fit},9),0))')
        row = sheet.row(
            [option["id"], Formula("+".join(parts)), None, None, nodes, racks], [None, "#,##0.00", None, None, "0", "0"]
        )
        sheet.check(row, 2, option["power"]["meter_kw"], "#,##0.00")


def _bytes(book: Workbook) -> bytes:
    """The file without the time of its making."""
    made, still = io.BytesIO(), io.BytesIO()
    book.save(made)
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(still, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "docProps/core.xml":
                data = re.sub(rb"<dcterms:(created|modified).*?</dcterms:\1>", b"", data, flags=re.DOTALL)
            entry = zipfile.ZipInfo(name, NO_TIME)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o600 << 16
            target.writestr(entry, data)
    return still.getvalue()
