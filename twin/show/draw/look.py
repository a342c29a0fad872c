"""How charts look, whoever draws them: colours, what is hollow, how numbers are written, how far the axes go.

Series differ by colour, and by mark, dash and hatch, so that a print without colours can be read as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import floor, isfinite, log10
from typing import NamedTuple
from unicodedata import east_asian_width

from twin.show.chart import Axis, Chart, Series
from twin.trust.plot import BAND, INK, SOFT

__all__ = ["BAND", "INK", "SOFT"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#4B0082", "#CC79A7", "#000000")
"""Okabe and Ito's, an indigo in the place of their yellow, in an order in which neighbours are far apart to all eyes."""
SHORT_LABEL, FEW_LABELS = 28, 8
"""Labels of a few points stand beside their marks when they are short; all others are in the tip."""
FEW_MARKS, FEW_DASHES = 30, 120
"""A line with more points is drawn without marks (but for those that are hollow); with many more, without dashes."""


class Look(NamedTuple):
    """Of one series: its colour, the number of its mark, dash and hatch, and its place in the chart."""

    colour: str
    number: int
    at: int


def looks(chart: Chart) -> list[Look]:
    """One for each series, in their order; a baseline is grey, and takes no colour from the others."""
    found, number = [], 0
    for at, series in enumerate(chart.series):
        if series.baseline:
            found.append(Look(SOFT, number, at))
            continue
        colour = number if series.colour is None else series.colour
        found.append(Look(COLOURS[colour % len(COLOURS)], number, at))
        number += 1
    return found


def names_on_x(chart: Chart) -> tuple[str, ...]:
    """The names that x counts through, in their order; empty when x are numbers."""
    found = [x for series in chart.series for x in series.x]
    return tuple(dict.fromkeys(str(x) for x in found)) if any(isinstance(x, str) for x in found) else ()


def stacks(chart: Chart) -> list[tuple[list[float], list[float | None]]]:
    """Per series the foot and the top of each point: areas, and bars of a stacked chart, stand on those before them."""
    reached: dict[float | str, float] = {}
    found = []
    for series in chart.series:
        stands = series.kind == "area" or (chart.stacked and series.kind == "bars")
        feet = [reached.get(x, 0.0) if stands else 0.0 for x in series.x]
        tops = [None if y is None else foot + y for foot, y in zip(feet, series.y, strict=True)]
        if stands:
            reached |= {x: top for x, top in zip(series.x, tops, strict=True) if top is not None}
        found.append((feet, tops))
    return found


def reach(chart: Chart) -> tuple[tuple[float, float], tuple[float, float]]:
    """How far x and y go: all that is drawn, rules and intervals too, unless the axis says otherwise.

    Names for x count from 0.
    """
    names = names_on_x(chart)
    xs = [float(x) for series in chart.series for x in series.x if not isinstance(x, str)]
    ys = [top for _, tops in stacks(chart) for top in tops if top is not None]
    ys += [y for series in chart.series for y in (*series.low, *series.high) if y is not None]
    for rule in chart.rules:
        (xs if rule.axis == "x" else ys).append(rule.at)
    across = (-0.5, len(names) - 0.5) if names else _span(xs, chart.x, from_zero=False)
    return across, _span(ys, chart.y, from_zero=True)


def _span(values: Sequence[float], axis: Axis, *, from_zero: bool) -> tuple[float, float]:
    known = [value for value in values if isfinite(value) and (value > 0 or not axis.log)]
    low, high = (min(known), max(known)) if known else ((1.0, 10.0) if axis.log else (0.0, 1.0))
    if axis.log:
        room = max((high / low) ** 0.06, 1.08)
        low, high = low / room, high * room
    else:
        room = 0.06 * ((high - low) or abs(high) or 1.0)
        floored = from_zero and low >= 0
        low, high = (0.0 if floored else low - room), high + room
        if axis.share and floored and high > 1.0 >= high - room:
            high = 1.02
    return low if axis.low is None else axis.low, high if axis.high is None else axis.high


def ticks(axis: Axis, low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers between ``low`` and ``high``: 1, 2 and 5 times powers of ten, fewer of them over many decades.

    >>> ticks(Axis("p99 TTFT, ms", log=True), 30.0, 900.0)
    [50.0, 100.0, 200.0, 500.0]
    >>> ticks(Axis("months"), 0.0, 36.0)
    [0.0, 10.0, 20.0, 30.0]
    """
    if axis.log:
        decades = range(floor(log10(low)), floor(log10(high)) + 1)
        for parts in ((1, 2, 5), (1, 3), (1,)):
            found = [float(f"{part}e{power}") for power in decades for part in parts]
            found = [value for value in found if low <= value <= high]
            if len(found) <= most:
                break
        return found if len(found) > 1 else [float(f"{low:.2g}"), float(f"{high:.2g}")]
    rough = (high - low) / most
    power = 10.0 ** floor(log10(rough))
    step = next(part * power for part in (1, 2, 5, 10) if part * power >= rough * 0.999)
    first = -floor(-low / step + 1e-9)
    return [round(place * step, 12) for place in range(first, floor(high / step + 1e-9) + 1)]


def along(value: float, axis: Axis, ends: tuple[float, float]) -> float:
    """How far a value stands along its axis, from 0 to 1; what a logarithm cannot show stands at 0."""
    low, high = (log10(end) for end in ends) if axis.log else ends
    place = value if not axis.log else log10(value) if value > 0 else low
    return min(max((place - low) / ((high - low) or 1.0), 0.0), 1.0)


def late(chart: Chart, x: float | str) -> bool:
    """Whether x stands so far right that words beside it go on its left."""
    names = names_on_x(chart)
    return (
        along(float(names.index(x)) if isinstance(x, str) else x, Axis("") if names else chart.x, reach(chart)[0]) > 0.7
    )


def dodges(chart: Chart) -> list[float]:
    """Per series how far its points stand aside from their names, so that several series do not hide each other."""
    mine = [series.kind == "points" and not series.baseline for series in chart.series]
    if not names_on_x(chart) or not all(mine):
        return [0.0] * len(mine)
    each = min(0.7 / len(mine), 0.24)
    return [(at - (len(mine) - 1) / 2) * each for at in range(len(mine))]


def number(value: float, axis: Axis) -> str:
    """A value as the axis writes it.

    >>> number(4993.2, Axis("a month", money=True)), number(0.953, Axis("held", share=True)), number(12.8437, Axis("ms"))
    ('$4,993', '95.3%', '12.8')
    """
    if axis.share:
        return f"{value:.1%}".replace(".0%", "%")
    sign, size = "-" if value < 0 else "", abs(value)
    said = f"{size:,.0f}" if size >= 100 else f"{size:.3g}"
    return f"{sign}${said}" if axis.money else f"{sign}{said}"


def short(value: float, axis: Axis) -> str:
    """A value at a tick, thousands as k and M.

    >>> short(20000, Axis("a month", money=True)), short(2.5e6, Axis("tokens")), short(0.5, Axis("held", share=True))
    ('$20k', '2.5M', '50%')
    """
    if axis.share or abs(value) < 1e4:
        return number(value, axis)
    size, unit = next(
        (abs(value) / scale, unit) for scale, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if abs(value) >= scale
    )
    return f"{'-' if value < 0 else ''}{'$' if axis.money else ''}{size:.4g}{unit}"


def tip(chart: Chart, series: Series, at: int) -> list[str]:
    """What is said of one point: its series, label, x, and y with its interval."""
    x, y = series.x[at], series.y[at]
    said = f"{chart.y.title}: {'–' if y is None else number(y, chart.y)}"
    if (ends := interval(series, at)) is not None:
        said += f" ({number(ends[0], chart.y)} – {number(ends[1], chart.y)})"
    where = x if isinstance(x, str) else f"{chart.x.title}: {number(x, chart.x)}"
    label = series.labels[at] if series.labels else ""
    return [line for line in (series.name, label, where, said) if line]


def interval(series: Series, at: int) -> tuple[float, float] | None:
    """The interval of a point; ``None`` where an end is not known."""
    if not series.low or not series.high:
        return None
    low, high = series.low[at], series.high[at]
    return None if low is None or high is None else (low, high)


def stretches(series: Series) -> Iterator[range]:
    """The unbroken stretches of points that have an interval, for bands."""
    start = None
    for at in range(len(series.x) + 1):
        there = at < len(series.x) and interval(series, at) is not None
        if there and start is None:
            start = at
        elif not there and start is not None:
            yield range(start, at)
            start = None


def corners(series: Series, stretch: range) -> tuple[list[float], list[float], list[float]]:
    """x, low and high along a stretch; steps turn at the next x."""
    x: list[float] = []
    low: list[float] = []
    high: list[float] = []
    for at in stretch:
        ends = interval(series, at)
        assert ends is not None
        if series.kind == "steps" and x:
            x, low, high = [*x, float(series.x[at])], [*low, low[-1]], [*high, high[-1]]
        x, low, high = [*x, float(series.x[at])], [*low, ends[0]], [*high, ends[1]]
    return x, low, high


def beside(series: Series) -> bool:
    """Whether its labels stand beside the marks."""
    said = [label for label in series.labels if label]
    return series.kind == "points" and len(said) <= FEW_LABELS and all(columns(s) <= SHORT_LABEL for s in said)


def hollow(series: Series, at: int) -> bool:
    return bool(series.outside) and series.outside[at]


def dashed(series: Series) -> bool:
    """Whether a line has its dash: over many points dashes are noise."""
    return series.baseline or len(series.x) <= FEW_DASHES


def stroke(series: Series, look: Look) -> float:
    """How thick a line is, in points; without dashes, thinner from one series to the next."""
    return 1.0 if series.baseline else 1.5 if dashed(series) else 1.6 / (1.0 + look.number)


def marked(series: Series) -> bool:
    """Whether each point of a line has a mark."""
    return series.kind in ("line", "steps") and sum(y is not None for y in series.y) <= FEW_MARKS


def wide(text: str) -> int:
    """How many characters are as wide as two (Chinese, mostly)."""
    return sum(east_asian_width(character) in "WF" for character in text)


def columns(text: str) -> int:
    """Columns of a terminal that ``text`` takes."""
    return len(text) + wide(text)
