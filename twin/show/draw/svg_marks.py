"""The marks of a chart on paper: lines, points, bars, areas and heat maps, drawn by matplotlib."""

from __future__ import annotations

from math import isnan, nan
from typing import Any

from twin.show.chart import Axis, Chart, Heat, Series
from twin.show.draw.look import (
    BAND,
    INK,
    Look,
    beside,
    corners,
    dashed,
    hollow,
    interval,
    late,
    marked,
    names_on_x,
    short,
    stretches,
    stroke,
)

FONT = 8.0
DASHES: tuple[Any, ...] = ("-", (0, (6, 1.5, 1, 1.5)), (0, (1, 1.3)), (0, (9, 2)), (0, (9, 2, 1, 2, 1, 2)))
BASELINE_DASH = (0, (3, 2))
MARKS = ("o", "s", "D", "^", "P", "X", "*", "p")
HATCHES = ("", "///", "\\\\\\", "xxx", "---", "|||", "+++", "/////")
STRIPES = "//////"


def points(axes: Any, chart: Chart, series: Series, look: Look, aside: float) -> None:
    names = names_on_x(chart)
    x: list[float] = [names.index(at) + aside if isinstance(at, str) else float(at) for at in series.x]
    y = [nan if value is None else value for value in series.y]
    if chart.across:
        x, y = y, x
    if series.kind == "points":
        ends = [interval(series, at) for at in range(len(x))]
        for at, end in enumerate(ends):
            if end is not None:
                bar = {"lw": 1.0, "color": look.colour, "capsize": 2.5, "fmt": "none", "zorder": 2}
                middle = (x if chart.across else y)[at]
                reach_of = [[max(middle - end[0], 0.0)], [max(end[1] - middle, 0.0)]]
                axes.errorbar(x[at], y[at], **{"xerr" if chart.across else "yerr": reach_of}, **bar)
    else:
        for stretch in stretches(series):
            over, low, high = corners(series, stretch)
            axes.fill_between(over, low, high, facecolor=look.colour, alpha=0.16, lw=0, zorder=1)
        dash = BASELINE_DASH if series.baseline else DASHES[look.number % len(DASHES)] if dashed(series) else "-"
        style = "steps-post" if series.kind == "steps" else "default"
        axes.plot(
            x,
            y,
            color=look.colour,
            ls=dash,
            lw=stroke(series, look),
            drawstyle=style,
            zorder=3,
        )
    every = series.kind == "points" or marked(series)
    for out in (False, True):
        mine = [at for at in range(len(x)) if hollow(series, at) == out and not isnan(x[at] + y[at])]
        if mine and (every or out):
            axes.plot(
                [x[at] for at in mine], [y[at] for at in mine], ls="", marker=MARKS[look.number % len(MARKS)],
                ms=5.0 if series.kind == "points" else 3.2, mec=look.colour, mew=0.9,
                mfc="white" if out else look.colour, zorder=4, clip_on=False,
                gid=f"marks-{look.at}{'-outside' if out else ''}",
            )  # fmt: skip
    if beside(series):
        for at, label in enumerate(series.labels):
            left = late(chart, series.x[at])
            place = {"xytext": (-5 if left else 5, 3), "ha": "right" if left else "left"}
            place = {"xytext": (0, 7), "ha": "center"} if chart.across else place
            if label and not isnan(x[at] + y[at]):
                axes.annotate(label, (x[at], y[at]), textcoords="offset points", fontsize=FONT - 0.5, **place)


def bars(axes: Any, chart: Chart, series: Series, look: Look, feet: list[float]) -> None:
    names = names_on_x(chart)
    rows = [each for each in chart.series if each.kind == "bars"]
    width = 0.7 if chart.stacked else 0.76 / len(rows)
    shift = 0.0 if chart.stacked else (next(i for i, r in enumerate(rows) if r is series) - (len(rows) - 1) / 2) * width
    for at, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
        if y is None:
            continue
        place, out = names.index(str(x)) + shift, hollow(series, at)
        paint = {
            "facecolor": "white" if out else look.colour,
            "edgecolor": look.colour if out else "white",
            "hatch": STRIPES if out else HATCHES[look.number % len(HATCHES)],
            "lw": 0.7,
            "gid": f"bar-{look.at}-{at}",
        }
        if chart.across:
            axes.barh(place, y, width * 0.94, left=feet[at], **paint)
        else:
            axes.bar(place, y, width * 0.94, bottom=feet[at], **paint)
        if (end := interval(series, at)) is not None:
            error = [[max(y - end[0], 0.0)], [max(end[1] - y, 0.0)]]
            where = (y, place) if chart.across else (place, y)
            axes.errorbar(
                *where,
                **{"xerr" if chart.across else "yerr": error},
                fmt="none",
                ecolor=INK,
                elinewidth=0.9,
                capsize=2.5,
            )


def area(axes: Any, series: Series, look: Look, feet: list[float], tops: list[float | None]) -> None:
    high = [nan if top is None else top for top in tops]
    hatch = HATCHES[look.number % len(HATCHES)]
    axes.fill_between(series.x, feet, high, facecolor=look.colour, edgecolor="white", hatch=hatch, lw=0.0)
    axes.plot(series.x, high, color=look.colour, lw=1.0)


def heat(figure: Any, axes: Any, heat: Heat) -> None:
    import matplotlib as mpl
    import numpy as np

    values = np.array([[nan if value is None else value for value in row] for row in heat.values], dtype=np.float64)
    colours = mpl.colormaps["cividis"].with_extremes(bad=BAND)
    drawn = axes.imshow(np.ma.masked_invalid(values), cmap=colours, aspect="auto", interpolation="nearest")
    for side, names, most in ((axes.xaxis, heat.columns, 24), (axes.yaxis, heat.rows, 16)):
        step = -(-len(names) // most)
        side.set_ticks(range(0, len(names), step), labels=names[::step])
        side.set_tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(drawn, ax=axes, aspect=30, pad=0.01, label=heat.unit)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter(lambda value, _: short(value, Axis("")))
