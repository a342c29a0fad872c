"""Sections of the report as worksheets: figures stay numbers, with the unit in their format."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from twin.show.chart import Chart
from twin.show.report.blocks import Block, Bullets, Cell, Command, Facts, Paragraph, Section, Table, Text
from twin.show.report.forms import plain
from twin.show.report.xlsx_costs import styled
from twin.show.report.xlsx_sheet import COUNT, SHARE, USD, USD_HOUR, Sheet, Value, column
from twin.show.words import Say

if TYPE_CHECKING:
    from openpyxl.chart.error_bar import ErrorBars

FORMATS: dict[str, str] = {
    "usd": USD,
    "usd_hour": USD_HOUR,
    "usd_mtok": USD_HOUR,
    "share": SHARE,
    "factor": '"×"0.00',
    "percentile": '"p"0.##',
    "ms": '#,##0.0 "ms"',
    "seconds": '#,##0.0 "ms"',
    "count": COUNT,
    "number": "#,##0.0##",
    "rate": '#,##0.00"/s"',
    "kw": '#,##0.00 "kW"',
    "kwh": '#,##0 "kWh"',
}
"""Of the forms of :mod:`twin.show.report.forms` that are numbers."""
SCALES: dict[str, float] = {"seconds": 1e3}
"""Of a figure's number, so that all latencies have one unit."""
WIDE = 7


def fill_sections(sheet: Sheet, title: str, sections: Sequence[Section], say: Say, *, room: int = 0) -> int:
    """Blocks of the sections one under the other. ``room``: rows left free under the verdict; returns the first of them, 0
    where there is no verdict.
    """
    found = 0
    sheet.widths(36, *[22] * 11)
    sheet.title(title)
    sheet.print_setup(1)
    for section in sections:
        if len(sections) > 1:
            sheet.heading(section.title)
        for block in section.blocks:
            _block(sheet, block, say)
            if room and not found and isinstance(block, Paragraph) and block.kind == "verdict":
                found, sheet.at = sheet.at, sheet.at + room
    return found


def _block(sheet: Sheet, block: Block, say: Say) -> None:
    if isinstance(block, Paragraph):
        strong = block.kind in ("verdict", "warning")
        sheet.text(plain(block.text, say), across=WIDE, bold=strong, pale=block.kind == "note")
    elif isinstance(block, Facts):
        for name, answer in block.rows:
            sheet.fact(plain(name, say), *_value(answer, say), across=WIDE)
    elif isinstance(block, Bullets):
        for at, item in enumerate(block.items, 1):
            mark = f"{at}. " if block.numbered else "• "
            sheet.text(mark + plain(item, say), across=WIDE)
    elif isinstance(block, Table):
        _table(sheet, block, say)
    elif isinstance(block, Command):
        sheet.heading(plain(block.title, say))
        for line in block.lines:
            for part in plain(line, say).splitlines():
                sheet.text(part, across=WIDE)
    else:
        _figure(sheet, block.chart, say)


def _table(sheet: Sheet, table: Table, say: Say) -> None:
    sheet.heading(plain(table.caption, say))
    right = [col for col, side in enumerate(table.align, 1) if side == "right"]
    sheet.head([plain(text, say) for text in table.head], right)
    for row in table.rows:
        if row.kind == "group":
            sheet.text(plain(row.cells[0], say), across=WIDE, bold=True)
        else:
            _line(sheet, row.cells, say, right, bold=row.kind != "plain")
    if table.note:
        sheet.text(plain(table.note, say), across=WIDE, pale=True)


def _line(sheet: Sheet, cells: Sequence[Text], say: Say, right: Collection[int], *, bold: bool) -> None:
    for col, text in enumerate(cells, 1):
        value, fmt = _value(text, say)
        sheet.put(sheet.at, col, value, fmt, bold=bold, right=col in right)
    sheet.end_row()


def _value(text: Text, say: Say) -> tuple[Value, str | None]:
    """One figure alone stays a number."""
    alone = text[0] if len(text) == 1 else None
    if isinstance(alone, Cell) and alone.form in FORMATS and isinstance(alone.value, int | float):
        return alone.value * SCALES.get(alone.form, 1), FORMATS[alone.form]
    return plain(text, say), None


def _figure(sheet: Sheet, chart: Chart, say: Say) -> None:
    """A chart's data as a table, intervals and all, and beside it a native chart where Excel has its kind."""
    if chart.heat is not None or chart.empty or not _aligned(chart):
        return
    sheet.heading(chart.title)
    number = USD if chart.y.money else SHARE if chart.y.share else "#,##0.0##"
    names: list[str] = [chart.x.title or " "]
    columns: list[tuple[Value, ...]] = [tuple(chart.series[0].x)]
    places = []
    for series in chart.series:
        places.append(len(columns) + 1)
        ends = [(word, end) for word, end in (("low", series.low), ("high", series.high)) if end]
        names += [series.name, *(f"{series.name}, {say(word)}" for word, _ in ends)]
        columns += [series.y, *(end for _, end in ends)]
    top = sheet.head(names, right=range(2, len(names) + 1))
    for values in zip(*columns, strict=True):
        sheet.row(values, [None, *[number] * (len(columns) - 1)])
    if chart.note:
        sheet.text(chart.note, across=WIDE, pale=True)
    _draw(sheet, chart, top, places, number)
    sheet.at = max(sheet.at, top + 20)


def _draw(sheet: Sheet, chart: Chart, top: int, places: Sequence[int], number: str) -> None:
    """The native chart of the table under row ``top``; ``places``: the column of each series, its interval beside it."""
    from openpyxl.chart import BarChart, LineChart, Reference, Series

    drawn = BarChart() if chart.series[0].kind == "bars" else LineChart()
    if isinstance(drawn, BarChart) and chart.across:
        drawn.type = "bar"
        drawn.x_axis.scaling.orientation = "maxMin"
    drawn.title, drawn.x_axis.title, drawn.y_axis.title = chart.title, chart.x.title, chart.y.title
    drawn.y_axis.number_format = number
    last = top + len(chart.series[0].x)
    wide = 1
    for col, series in zip(places, chart.series, strict=True):
        wide = col + (2 if series.low and series.high else 0)
        made = Series(Reference(sheet.page, col, top + 1, col, last), title_from_data=False, title=series.name)
        if series.low and series.high:
            made.errBars = _whiskers(series.y, series.low, series.high)
        drawn.series.append(made)
    drawn.set_categories(Reference(sheet.page, 1, top + 1, 1, last))
    styled(drawn)
    drawn.width, drawn.height = 20, 9
    sheet.page.add_chart(drawn, f"{column(wide + 2)}{top}")


def _whiskers(values: Sequence[float | None], low: Sequence[float | None], high: Sequence[float | None]) -> ErrorBars:
    """The interval around each value."""
    from openpyxl.chart.data_source import NumData, NumDataSource, NumVal
    from openpyxl.chart.error_bar import ErrorBars

    def lengths(ends: Sequence[float | None], sign: int) -> NumDataSource:
        found = [
            NumVal(at, v=repr(max(sign * (end - value), 0.0)))
            for at, (end, value) in enumerate(zip(ends, values, strict=True))
            if end is not None and value is not None
        ]
        return NumDataSource(numLit=NumData(ptCount=len(values), pt=found))

    return ErrorBars(errBarType="both", errValType="cust", errDir="y", plus=lengths(high, 1), minus=lengths(low, -1))


def _aligned(chart: Chart) -> bool:
    """Whether all series count through the same x, as a table of them must."""
    first = chart.series[0].x
    return all(series.x == first and series.kind in ("line", "steps", "bars") for series in chart.series)
