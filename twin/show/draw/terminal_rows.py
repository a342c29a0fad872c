"""Bars and heat maps for a terminal: rows of plain text."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twin.show.chart import Axis, Chart, Heat, Series
from twin.show.draw.look import columns, hollow, interval, names_on_x, number, reach, short

MARKS = "ox+*#@%&"
FILLS = "#=:%*+o-"
OUT, EDGE, BASELINE = "?", ".", "~"
"""What lies outside of what was calibrated, the ends of an interval, what one compares with."""
SHADES = ".:-=+*#%@"
UNKNOWN = " "


def mark_of(chart: Chart, series: Series) -> str:
    """The character that draws a series."""
    if series.baseline:
        return BASELINE
    others = [each for each in chart.series if not each.baseline]
    at = next(number for number, each in enumerate(others) if each is series)
    marks = FILLS if series.kind == "bars" else MARKS
    return marks[at % len(marks)]


def wrapped(said: str, width: int) -> list[str]:
    """Lines of at most ``width`` columns; a word that is longer is cut.

    >>> wrapped("one two three", 8)
    ['one two', 'three']
    """
    lines, line = [], ""
    for word in said.split(" "):
        if line and columns(line) + 1 + columns(word) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
        while columns(line) > width:
            cut = next(at for at in range(len(line), 0, -1) if columns(line[:at]) <= width)
            lines.append(line[:cut])
            line = line[cut:]
    return [*lines, line] if line else lines


def padded(said: str, width: int) -> str:
    return said + " " * (width - columns(said))


def in_rows(chart: Chart) -> bool:
    """Whether a chart is a list of names with a bar or a mark each."""
    return bool(names_on_x(chart)) and (chart.across or all(series.kind == "bars" for series in chart.series))


def bar_rows(chart: Chart, width: int) -> list[str]:
    """A row for each bar or point: its name, its length with its interval, its value in figures; rules are named below."""
    rows = list(_rows(chart))
    room = min(max(columns(name) for name, _, _ in rows), width * 2 // 5)
    most = min(max(columns(said) for _, _, said in rows), width * 2 // 5)
    span = width - room - most - 4
    low, high = reach(chart)[1]

    def place(value: float) -> int:
        return min(max(round((value - low) / (high - low) * (span - 1)), 0), span - 1)

    lines, last = wrapped(chart.y.title, width), ""
    for name, paint, said in rows:
        *above, shown = wrapped(name if name != last else "", room) or [""]
        first, *more = wrapped(said, most) or [""]
        cells = [" "] * span
        for rule in chart.rules:
            cells[place(rule.at)] = "|"
        paint(cells, place)
        lines += above
        lines.append(f"{padded(shown, room)} |{''.join(cells)}  {first}")
        lines += [" " * (width - most) + line for line in more]
        last = name
    return lines + [_named(rule.name, room + 2 + place(rule.at), width) for rule in chart.rules]


def _named(name: str, at: int, width: int) -> str:
    """A name under its rule, on the side where there is room."""
    said = f"^ {name}"
    return " " * at + said if at + columns(said) <= width else padded("", max(at - columns(name) - 1, 0)) + f"{name} ^"


Paint = Callable[[list[str], Callable[[float], int]], None]


def _rows(chart: Chart) -> Iterator[tuple[str, Paint, str]]:
    for name in names_on_x(chart):
        if chart.stacked:
            bars = [series for series in chart.series if series.kind == "bars"]
            parts = [(series, at) for series in bars for at, x in enumerate(series.x) if x == name]
            known = [(mark_of(chart, series), series.y[at] or 0.0) for series, at in parts]
            yield name, _stacked(known), number(sum(value for _, value in known), chart.y)
        for series in chart.series:
            if chart.stacked and series.kind == "bars":
                continue
            for at, x in enumerate(series.x):
                y = series.y[at]
                if x == name and y is not None:
                    yield name, _drawn(chart, series, at, y), _said(chart, series, at, y)


def _said(chart: Chart, series: Series, at: int, y: float) -> str:
    end = interval(series, at)
    said = number(y, chart.y)
    if end is not None:
        said += f" ({number(end[0], chart.y)} to {number(end[1], chart.y)})"
    return f"{said} {series.labels[at]}" if series.labels and series.labels[at] else said


def _stacked(known: list[tuple[str, float]]) -> Paint:
    def paint(cells: list[str], place: Callable[[float], int]) -> None:
        foot = 0.0
        for mark, value in known:
            for at in range(place(foot), place(foot + value)):
                cells[at] = mark
            foot += value

    return paint


def _drawn(chart: Chart, series: Series, at: int, y: float) -> Paint:
    mark, end = OUT if hollow(series, at) else mark_of(chart, series), interval(series, at)

    def paint(cells: list[str], place: Callable[[float], int]) -> None:
        if series.kind == "bars":
            cells[: place(y)] = [mark] * place(y)
        if end is not None:
            for cell in range(place(end[0]), place(end[1]) + 1):
                cells[cell] = "-" if cells[cell] == " " else cells[cell]
            cells[place(end[0])], cells[place(end[1])] = "[", "]"
        if series.kind != "bars":
            cells[place(y)] = mark

    return paint


def heat_rows(chart: Chart, heat: Heat, width: int) -> list[str]:
    """A character for each cell, the darker the more; columns that do not fit are left out at the end, and it is said."""
    known = [value for row in heat.values for value in row if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = min(max((columns(name) for name in heat.rows), default=0), width // 3)
    each = max(min((width - room - 2) // max(len(heat.columns), 1), 3), 1)
    fit = min(len(heat.columns), (width - room - 2) // each)

    def shade(value: float | None) -> str:
        if value is None:
            return UNKNOWN * each
        return SHADES[min(int((value - low) / ((high - low) or 1.0) * len(SHADES)), len(SHADES) - 1)] * each

    head = ""
    for at, name in enumerate(heat.columns[:fit]):
        start = at * each
        if columns(head) <= start and start + columns(name) <= fit * each:
            head = padded(head, start) + name + " "
    lines = [f"{' ' * room}  {head}"]
    for name, row in zip(heat.rows, heat.values, strict=True):
        lines.append(f"{padded(wrapped(name, room)[0] if name else '', room)} |{''.join(shade(v) for v in row[:fit])}|")
    ends = f"{short(low, Axis(''))} {SHADES} {short(high, Axis(''))} {heat.unit}"
    left = len(heat.columns) - fit
    return [*lines, ends, *([f"({left} columns more do not fit)"] if left else [])]
