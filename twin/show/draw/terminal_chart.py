"""A chart for a terminal: plain text, no colours. plotext draws lines and points; bars and heat maps are rows of text."""

from __future__ import annotations

from math import isnan, log10, nan
from typing import Any

from twin.show.chart import Axis, Chart, Series
from twin.show.draw.look import (
    beside,
    columns,
    hollow,
    interval,
    late,
    names_on_x,
    reach,
    short,
    stacks,
    ticks,
)
from twin.show.draw.places import free_place
from twin.show.draw.terminal_rows import EDGE, OUT, bar_rows, heat_rows, in_rows, mark_of, wrapped


def text(chart: Chart, *, width: int = 100, height: int = 22) -> str:
    """Lines of at most ``width`` columns, the last with its line break; ``height`` is that of title, plot and axis."""
    if chart.heat is not None:
        drawn = heat_rows(chart, chart.heat, width)
    else:
        drawn = bar_rows(chart, width) if in_rows(chart) else _plot(chart, width, height)
    lines = [*wrapped(chart.title, width), *_legend(chart, width), *drawn, *wrapped(chart.note, width)]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _legend(chart: Chart, width: int) -> list[str]:
    """What the marks mean, in words that do not break apart."""
    said = [f"{mark_of(chart, series)} {series.name}" for series in chart.series if series.name]
    if len(said) < 2 and not any(series.low for series in chart.series):
        said = []
    if any(series.low for series in chart.series if series.kind != "bars"):
        said.append(f"{EDGE} ends of the interval")
    if any(any(series.outside) for series in chart.series):
        said.append(f"{OUT} outside of what was calibrated")
    lines = [""]
    for part in said:
        joined = f"{lines[-1]}   {part}" if lines[-1] else part
        if columns(joined) > width and lines[-1]:
            lines.append(part)
        else:
            lines[-1] = joined
    return [line for line in lines if line]


def _plot(chart: Chart, width: int, height: int) -> list[str]:
    """Lines and points; the axes' titles above and below the frame."""
    import plotext

    plotext.terminal.limit(False, False)
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.legend(False)
    names = names_on_x(chart)
    used = 3 + len(_legend(chart, width))
    figure.plot_size(width, max(height - used, 6))
    for axis, side, (low, high) in zip((chart.x, chart.y), ("lower", "left"), reach(chart), strict=True):
        _ruler(figure, axis, side, low, high, names if axis is chart.x else ())
    _rules(figure, chart)
    for series, (_, tops) in zip(chart.series, stacks(chart), strict=True):
        _series(figure, chart, series, tops, names)
    _said(figure, chart, names)
    built = figure.build().string(colorless=True).rstrip("\n").split("\n")
    return [*wrapped(chart.y.title, width), *built, *(line.rjust(width) for line in [chart.x.title[:width]] if line)]


def _ruler(figure: Any, axis: Axis, side: str, low: float, high: float, names: tuple[str, ...]) -> None:
    ruler = figure.ruler("x" if side == "lower" else "y", side)
    places = [float(at) for at in range(len(names))] if names else ticks(axis, low, high, 8 if side == "lower" else 6)
    said = [name[:24] for name in names] or [short(place, axis) for place in places]
    ruler.lim(_at(low, axis), _at(high, axis))
    ruler.ticks([_at(place, axis) for place in places], said)


def _at(value: float, axis: Axis) -> float:
    """Where a value stands on an axis that plotext takes for linear; what a logarithm cannot show is a gap."""
    return value if not axis.log else log10(value) if value > 0 else nan


def _rules(figure: Any, chart: Chart) -> None:
    """A straight line of dashes."""
    for rule in chart.rules:
        stands = rule.axis == "x"
        (left, right), (bottom, top) = _ends(chart)
        at = _at(rule.at, chart.x if stands else chart.y)
        ends = ((at, at), (bottom, top)) if stands else ((left, right), (at, at))
        figure.draw(figure.segment(*ends, marker="|" if stands else "-"))


def _said(figure: Any, chart: Chart, names: tuple[str, ...]) -> None:
    """Names of rules, where nothing is drawn (those that stand one below the other), and labels beside their marks."""
    (left, right), (bottom, top) = _ends(chart)
    row = 0
    for rule in chart.rules:
        if rule.axis == "x":
            at, side = _at(rule.at, chart.x), "right" if late(chart, rule.at) else "left"
            figure.draw(
                figure.text(
                    at,
                    top - row * (top - bottom) / 14,
                    f"| {rule.name} " if side == "left" else f" {rule.name} |",
                    alignment=side,
                )
            )
            row += 1
        else:
            free, _ = free_place(chart, rule, ["on"])
            figure.draw(
                figure.text(right if free == "right" else left, _at(rule.at, chart.y), f" {rule.name} ", alignment=free)
            )
    for series in chart.series:
        for at, label in enumerate(series.labels if beside(series) else ()):
            x, y = series.x[at], series.y[at]
            if label and y is not None:
                place = float(names.index(x)) if isinstance(x, str) else _at(x, chart.x)
                mark = OUT if hollow(series, at) else mark_of(chart, series)
                side, said = ("right", f"{label} {mark}") if late(chart, x) else ("left", f"{mark} {label}")
                figure.draw(figure.text(place, _at(y, chart.y), said, alignment=side))


def _ends(chart: Chart) -> list[tuple[float, float]]:
    return [
        (_at(low, axis), _at(high, axis)) for axis, (low, high) in zip((chart.x, chart.y), reach(chart), strict=True)
    ]


def _series(figure: Any, chart: Chart, series: Series, tops: list[float | None], names: tuple[str, ...]) -> None:
    x = [float(names.index(at)) if isinstance(at, str) else _at(at, chart.x) for at in series.x]
    y = [nan if top is None else _at(top, chart.y) for top in tops]
    mark = mark_of(chart, series)
    for at in range(len(x)):
        if (end := interval(series, at)) is not None:
            low, high = (_at(value, chart.y) for value in end)
            edges = figure.segment((x[at], x[at]), (low, high), marker=EDGE)
            figure.draw(edges if series.kind == "points" else figure.signal([x[at], x[at]], [low, high], marker=EDGE))
    if series.kind != "points":
        for over, up in _unbroken(x, y, steps=series.kind == "steps"):
            figure.draw(figure.signal(over, up, marker=mark).lines(len(over) > 1))
    for out, shown in ((False, mark), (True, OUT)):
        mine = [at for at in range(len(x)) if hollow(series, at) == out and not isnan(y[at])]
        if mine:
            figure.draw(figure.signal([x[at] for at in mine], [y[at] for at in mine], marker=shown))


def _unbroken(x: list[float], y: list[float], *, steps: bool) -> list[tuple[list[float], list[float]]]:
    """The stretches of a line between its gaps; steps turn at the next x."""
    found: list[tuple[list[float], list[float]]] = []
    open_ = False
    for over, up in zip(x, y, strict=True):
        if isnan(up):
            open_ = False
            continue
        if not open_:
            found.append(([], []))
            open_ = True
        xs, ys = found[-1]
        if steps and xs:
            xs.append(over)
            ys.append(ys[-1])
        xs.append(over)
        ys.append(up)
    return found
