"""The marks of a chart on a page: lines, points, bars, areas, intervals and heat maps as traces of plotly."""

from __future__ import annotations

from html import escape
from typing import Any

from twin.show.chart import Chart, Heat, Series
from twin.show.draw.look import (
    INK,
    Look,
    beside,
    corners,
    dashed,
    hollow,
    interval,
    late,
    marked,
    stretches,
    stroke,
    tip,
)

DASHES = ("solid", "dashdot", "dot", "longdash", "longdashdot")
BASELINE_DASH = "dash"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon")
PATTERNS = ("", "/", "x", ".", "\\", "-", "+", "|")
NO_WHISKER = "none"
"""plotly draws an interval of nothing for null, and none for what is no number."""
SCALE = "Cividis"
"""Made for the colour-blind, and its grey rises all the way."""


def trace(chart: Chart, series: Series, look: Look, feet: list[float]) -> Any:
    import plotly.graph_objects as go

    x: list[Any] = list(series.x)
    y: list[Any] = list(series.y)
    found: dict[str, Any] = {
        "name": escape(series.name, quote=False),
        "hovertext": [
            escape("\n".join(tip(chart, series, at)), quote=False).replace("\n", "<br>") for at in range(len(x))
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "legendgroup": escape(series.name, quote=False),
    }
    if series.keys:
        found["customdata"] = [[key] for key in series.keys]
    if chart.across:
        x, y = y, x
    whiskers = (
        {"error_x" if chart.across else "error_y": _whiskers(series, look)} if series.kind in ("points", "bars") else {}
    )
    if series.kind == "bars":
        side = "h" if chart.across else "v"
        return go.Bar(x=x, y=y, orientation=side, marker=_bar(chart, series, look), **found, **whiskers)
    found |= {"line": _line(series, look)} if series.kind != "points" else {}
    if series.kind == "area":
        pattern = {"shape": PATTERNS[look.number % len(PATTERNS)], "fgopacity": 0.5, "size": 6}
        return go.Scatter(x=x, y=y, mode="lines", stackgroup="all", fillpattern=pattern, **found)
    found["orientation"] = "h" if chart.across else "v"
    mode = (
        "markers" if series.kind == "points" else "lines+markers" if marked(series) or any(series.outside) else "lines"
    )
    if beside(series):
        sides = ["top center" if chart.across else f"top {'left' if late(chart, at) else 'right'}" for at in series.x]
        text = [f"  {escape(label, quote=False)}  " for label in series.labels]
        found |= {"text": text, "textposition": sides, "cliponaxis": False}
        mode += "+text"
    return go.Scatter(x=x, y=y, mode=mode, marker=_marks(series, look), **found, **whiskers)


def _line(series: Series, look: Look) -> dict[str, Any]:
    dash = BASELINE_DASH if series.baseline else DASHES[look.number % len(DASHES)] if dashed(series) else "solid"
    shape = "hv" if series.kind == "steps" else "linear"
    return {
        "color": look.colour,
        "dash": dash,
        "width": 1.4 * stroke(series, look),
        "shape": shape,
    }


def _marks(series: Series, look: Look) -> dict[str, Any]:
    name = SYMBOLS[look.number % len(SYMBOLS)]
    every = series.kind == "points" or marked(series)
    size = 10 if series.kind == "points" else 6.5
    return {
        "symbol": [f"{name}-open" if hollow(series, at) else name for at in range(len(series.x))],
        "size": [size if every or hollow(series, at) else 0 for at in range(len(series.x))],
        "color": look.colour,
        "opacity": 1.0,
        "line": {"color": look.colour, "width": 1.5},
    }


def _bar(chart: Chart, series: Series, look: Look) -> dict[str, Any]:
    """A bar outside of what was calibrated is only stripes; those of a second series have a pattern in white.

    plotly takes colours of patterns for all bars of a series, so one that has bars outside has no pattern of its own.
    """
    edge = {"color": "white" if chart.stacked else look.colour, "width": 1}
    if any(series.outside):
        shape = ["/" if out else "" for out in series.outside]
        return {
            "color": look.colour,
            "line": edge,
            "pattern": {"fillmode": "replace", "shape": shape, "size": 6, "solidity": 0.3},
        }
    drawn = {
        "fillmode": "replace",
        "shape": PATTERNS[look.number % len(PATTERNS)],
        "bgcolor": look.colour,
        "fgcolor": "white",
    }
    return {"color": look.colour, "line": edge, "pattern": drawn | {"size": 6, "solidity": 0.25}}


def _whiskers(series: Series, look: Look) -> dict[str, Any] | None:
    ends = [interval(series, at) for at in range(len(series.x))]
    if not any(ends):
        return None
    known = [(*end, y) if end and y is not None else None for end, y in zip(ends, series.y, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": [NO_WHISKER if there is None else max(there[1] - there[2], 0.0) for there in known],
        "arrayminus": [NO_WHISKER if there is None else max(there[2] - there[0], 0.0) for there in known],
        "color": INK if series.kind == "bars" else look.colour,
        "thickness": 1.3,
        "width": 4,
    }


def bands(chart: Chart, series: Series, look: Look) -> list[Any]:
    """The interval of a line: one closed outline for each unbroken stretch."""
    import plotly.graph_objects as go

    if series.kind not in ("line", "steps"):
        return []
    found = []
    for stretch in stretches(series):
        x, low, high = corners(series, stretch)
        look_of_band = {"fillcolor": _faint(look.colour), "line": {"color": look.colour, "width": 0.5}}
        quiet = {"hoverinfo": "skip", "showlegend": False, "legendgroup": escape(series.name, quote=False)}
        ends = {"x": [*x, *reversed(x)], "y": [*high, *reversed(low)]}
        found.append(go.Scatter(**ends, mode="lines", fill="toself", name=series.name, **look_of_band, **quiet))
    return found


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def heat(heat: Heat) -> Any:
    import plotly.graph_objects as go

    unit = escape(heat.unit, quote=False)
    return go.Heatmap(
        z=heat.values,
        x=heat.columns,
        y=heat.rows,
        colorscale=SCALE,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        colorbar={
            "title": {"text": unit, "side": "right", "font": {"size": 13}},
            "thickness": 12,
            "outlinewidth": 0,
            "tickfont": {"size": 12},
        },
        hovertemplate="%{y}, %{x}<br>%{z:,.3~g} " + unit.replace("%", "&#37;") + "<extra></extra>",
    )
