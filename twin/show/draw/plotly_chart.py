"""A chart for a page: plotly."""

from __future__ import annotations

from html import escape
from math import log10
from typing import TYPE_CHECKING, Any

from twin.base import not_installed
from twin.show.chart import Axis, Chart, Rule
from twin.show.draw.look import (
    BAND,
    INK,
    SOFT,
    beside,
    columns,
    dodges,
    looks,
    names_on_x,
    reach,
    short,
    stacks,
    ticks,
)
from twin.show.draw.places import free_place, leans_left
from twin.show.draw.plotly_marks import bands, heat, trace

if TYPE_CHECKING:
    import plotly.graph_objects as go

LEGEND_ROW, PAGE = 27, 640
"""Pixels."""


def figure(chart: Chart, *, titled: bool = True) -> go.Figure:
    """The chart for a browser, 340 px high; ``customdata[i][0]`` of a series are its ``keys``.

    ``titled``: whether it says its title; plotly's does not wrap, so that a page says it above.

    Raises :class:`InputError` without plotly.
    """
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise not_installed("a chart in a page", error.name, "dashboard") from None
    traces = [] if chart.heat is None else [heat(chart.heat)]
    named = list(zip(chart.series, looks(chart), stacks(chart), strict=True))
    traces += [band for series, look, _ in named for band in bands(chart, series, look)]
    traces += [trace(chart, series, look, feet) for series, look, (feet, _) in named]
    drawn = go.Figure(data=traces, layout=_layout(chart, titled=titled))
    standing = 0
    for rule in chart.rules:
        _rule(drawn, chart, rule, standing)
        standing += rule.axis == "x"
    return drawn


def _layout(chart: Chart, *, titled: bool) -> dict[str, Any]:
    """White, no frame, the legend on top; the font is the page's, and plotly's own look is left out."""
    import plotly.graph_objects as go

    shown = sum(bool(series.name) for series in chart.series) > 1
    across, up = _axis(chart, chart.x), _axis(chart, chart.y)
    if chart.across:
        across, up = up, across | {"range": [len(names_on_x(chart)) - 0.5, -0.5]}
    top = 42 if titled else 14
    return {
        "template": go.layout.Template(),
        "title": {
            "text": f"<b>{escape(chart.title, quote=False)}</b>" if titled else "",
            "x": 0,
            "xref": "container",
            "font": {"size": 15},
            "y": 0.98,
            "yanchor": "top",
            "pad": {"l": 4},
        },
        "font": {"size": 13, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 8, "r": 16, "t": top + LEGEND_ROW * _legend_rows(chart), "b": 8},
        "height": _height(chart),
        "xaxis": across,
        "yaxis": up,
        "showlegend": shown,
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.0,
            "yanchor": "bottom",
            "font": {"size": 12},
        },
        "barmode": "stack" if chart.stacked else "group",
        "bargap": 0.35,
        "scattermode": "group" if any(dodges(chart)) else "overlay",
        "scattergap": 0.5,
        "hoverlabel": {"align": "left"},
        "clickmode": "event+select",
        "uirevision": chart.key,
    }


def _height(chart: Chart) -> int:
    names = len(names_on_x(chart)) if chart.across else len(chart.heat.rows) if chart.heat else 0
    each = 64 if any(beside(series) for series in chart.series) else 34
    return max(0 if chart.across else 340, 100 + LEGEND_ROW * _legend_rows(chart) + names * each)


def _legend_rows(chart: Chart) -> int:
    """Of a plot as wide as the page, but for the names that stand beside it."""
    names = [series.name for series in chart.series if series.name]
    width = PAGE - 7 * max(map(columns, names_on_x(chart)), default=0) if chart.across else PAGE
    return -(-sum(60 + 7 * columns(name) for name in names) // max(width, 200)) if len(names) > 1 else 0


def _axis(chart: Chart, axis: Axis) -> dict[str, Any]:
    found: dict[str, Any] = {
        "title": {"text": escape(axis.title, quote=False), "standoff": 10, "font": {"size": 13}},
        "automargin": True,
        "gridcolor": BAND,
        "linecolor": SOFT,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": SOFT,
    }
    if chart.heat is not None:
        return found | {"type": "category", "showgrid": False} | ({"autorange": "reversed"} if axis is chart.y else {})
    names = names_on_x(chart) if axis is chart.x else ()
    if names:
        return found | {"type": "category", "categoryorder": "array", "categoryarray": names, "showgrid": False}
    low, high = reach(chart)[axis is chart.y]
    form = ".0%" if axis.share else "$,~s" if axis.money else ",~s" if high >= 1e4 else ""
    found["tickformat"] = form
    if axis.log:
        places = ticks(axis, low, high, 9)
        found |= {"type": "log", "tickvals": places, "ticktext": [short(place, axis) for place in places]}
        low, high = log10(low), log10(high)
    return found | {"range": [low, high]}


def _rule(drawn: go.Figure, chart: Chart, rule: Rule, row: int) -> None:
    """Dashed, across the whole plot, its name where nothing is drawn; names of those that stand are one below the other."""
    ruled = chart.x if rule.axis == "x" else chart.y
    stands = (rule.axis == "x") != chart.across
    here, there = ("x", "y") if stands else ("y", "x")
    refs = {f"{here}ref": here, f"{there}ref": f"{there} domain"}
    ends = {f"{here}0": rule.at, f"{here}1": rule.at, f"{there}0": 0, f"{there}1": 1}
    drawn.add_shape(type="line", layer="above", line={"color": INK, "width": 1.2, "dash": "dash"}, **ends, **refs)
    if stands:
        left = leans_left(chart, rule)
        side: dict[str, Any] = {there: 1, "xanchor": "right" if left else "left", "yanchor": "top", "yshift": -16 * row}
    else:
        free, height = free_place(chart, rule)
        side = {there: float(free == "right"), "xanchor": free, "yanchor": "bottom" if height == "above" else "top"}
    said = {
        "text": escape(rule.name, quote=False),
        "font": {"size": 12, "color": INK},
        "bgcolor": "rgba(255,255,255,0.6)",
    }
    place = log10(rule.at) if ruled.log else rule.at
    drawn.add_annotation(showarrow=False, **said, **side, **{here: place}, **refs)
