"""A chart for paper and for the report's one file: SVG by matplotlib, text as text."""

from __future__ import annotations

import io
import re
import warnings
from html import escape
from threading import Lock
from typing import Any

from twin.base import not_installed
from twin.show.chart import Chart
from twin.show.draw.look import (
    BAND,
    INK,
    SOFT,
    dashed,
    dodges,
    looks,
    marked,
    names_on_x,
    reach,
    short,
    stacks,
    stroke,
    ticks,
    wide,
)
from twin.show.draw.places import free_place, leans_left
from twin.show.draw.svg_marks import BASELINE_DASH, DASHES, FONT, HATCHES, MARKS, area, bars, heat, points

FAMILY = "'Helvetica Neue', Arial, 'Liberation Sans', 'DejaVu Sans', 'Noto Sans CJK SC', 'PingFang SC', sans-serif"
STYLE: dict[Any, Any] = {
    "font.size": FONT,
    "font.family": "DejaVu Sans",
    "axes.linewidth": 0.6,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
}
DROPPED = {"Date": None, "Creator": None, "Format": None, "Type": None}
_ONE_AT_A_TIME = Lock()
"""matplotlib's settings are the process's; a dashboard draws in several threads."""


def svg(chart: Chart, *, width_in: float = 6.3, height_in: float = 3.2) -> str:
    """One ``<svg>`` element: the same chart gives the same text, and ids begin with its key, so that many fit in one page.

    Raises :class:`InputError` without matplotlib.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise not_installed("a chart on paper", error.name, "dashboard") from None
    buffer = io.StringIO()
    with _ONE_AT_A_TIME, mpl.rc_context(STYLE | {"svg.hashsalt": chart.key}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page's fonts have them
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        _draw(figure, chart, width_in)
        figure.savefig(buffer, format="svg", dpi=144, metadata=DROPPED, transparent=True)
    return _inline(buffer.getvalue(), chart)


def _inline(text: str, chart: Chart) -> str:
    """Without the prologue; ids told apart from those of other charts, coordinates to a hundredth of a point."""
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\n?\s*", "", text, flags=re.S)
    own = re.sub(r"[^A-Za-z0-9_-]", "-", chart.key)
    text = re.sub(r'\bid="', f'id="{own}--', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{own}--", text)
    if chart.heat is None:  # in tags, not in what is said; a heat map is a picture, whose data no one may cut
        text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(?<=\.\d\d)\d+", "", tag[0]), text)
    text = text.replace(" font-family: 'DejaVu Sans';", "").replace("'DejaVu Sans'", FAMILY)
    said = f"<title>{escape(chart.title)}</title>\n <desc>{escape(chart.note)}</desc>"
    return re.sub(r"<svg([^>]*)>", rf'<svg\1 role="img" style="font-family: {FAMILY}">{_literal(said)}', text, count=1)


def _literal(text: str) -> str:
    return "\n " + text.replace("\\", "\\\\")


def _draw(figure: Any, chart: Chart, width_in: float) -> None:
    axes = figure.add_subplot()
    axes.set_title(chart.title, loc="left", weight="bold", fontsize=FONT + 1.5, pad=6)
    names = names_on_x(chart)
    if chart.heat is not None:
        heat(figure, axes, chart.heat)
    each = zip(chart.series, looks(chart), stacks(chart), dodges(chart), strict=True)
    for series, look, (feet, tops), aside in each:
        if series.kind == "bars":
            bars(axes, chart, series, look, feet)
        elif series.kind == "area":
            area(axes, series, look, feet, tops)
        else:
            points(axes, chart, series, look, aside)
    if chart.heat is None:
        _scales(axes, chart, names)
    across, up = (chart.y, chart.x) if chart.across else (chart.x, chart.y)
    axes.set_xlabel(across.title)
    axes.set_ylabel(up.title)
    _rules(axes, chart)
    _legend(figure, axes, chart)
    left = max((wide(name) for name in (names if chart.across else ())), default=0)
    if left:  # matplotlib's own font has no such letters, and takes them for narrow ones
        room = 0.45 * left * FONT / 72 / width_in
        figure.get_layout_engine().set(rect=(room, 0, 1 - room, 1))


def _scales(axes: Any, chart: Chart, names: tuple[str, ...]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    reached = reach(chart)
    sides = (axes.yaxis, axes.xaxis) if chart.across else (axes.xaxis, axes.yaxis)
    for side, axis, (low, high) in zip(sides, (chart.x, chart.y), reached, strict=True):
        stands = side is axes.yaxis
        if axis is chart.x and names:
            side.set_ticks(range(len(names)), labels=[_folded(name, 34) for name in names])
            side.set_tick_params(length=0)
            (axes.set_ylim if stands else axes.set_xlim)((high, low) if stands else (low, high))
            continue
        (axes.set_yscale if stands else axes.set_xscale)("log" if axis.log else "linear")
        (axes.set_ylim if stands else axes.set_xlim)(low, high)
        side.set_major_locator(FixedLocator(ticks(axis, low, high)))
        side.set_major_formatter(FuncFormatter(lambda value, _, axis=axis: short(value, axis)))
        side.set_minor_locator(NullLocator())
        if axis is chart.y:
            side.grid(True, color=BAND, lw=0.6)
    axes.set_axisbelow(True)


def _folded(name: str, most: int) -> str:
    """A long name in two lines."""
    if len(name) <= most or " " not in name[:most]:
        return name
    cut = name.rindex(" ", 0, most)
    return f"{name[:cut]}\n{name[cut + 1 :]}"


def _rules(axes: Any, chart: Chart) -> None:
    """Dashed, across the whole plot; see :func:`twin.show.draw.plotly_chart.figure`."""
    row = 0
    for rule in chart.rules:
        stands = (rule.axis == "x") != chart.across
        (axes.axvline if stands else axes.axhline)(rule.at, color=INK, lw=0.8, ls=(0, (4, 2)), zorder=2)
        if stands:
            left = leans_left(chart, rule)
            place, where = (rule.at, 1.0), axes.get_xaxis_transform()
            side = {"xytext": (-3 if left else 3, -1 - 10 * row), "ha": "right" if left else "left", "va": "top"}
        else:
            free, height = free_place(chart, rule)
            above = height == "above"
            place, where = (float(free == "right"), rule.at), axes.get_yaxis_transform()
            side = {"xytext": (0 if free == "right" else 3, 2 if above else -2), "ha": free}
            side["va"] = "bottom" if above else "top"
        row += stands
        ground = {"facecolor": "white", "alpha": 0.6, "lw": 0, "pad": 0.5}
        axes.annotate(
            rule.name, place, xycoords=where, textcoords="offset points", fontsize=FONT - 0.5, bbox=ground, **side
        )


def _legend(figure: Any, axes: Any, chart: Chart) -> None:
    """Above the plot, in one row where it fits."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if sum(bool(series.name) for series in chart.series) < 2:
        return
    handles: list[Any] = []
    for series, look in zip(chart.series, looks(chart), strict=True):
        label = series.name
        if series.kind in ("bars", "area"):
            hatch = HATCHES[look.number % len(HATCHES)]
            handles.append(Patch(facecolor=look.colour, edgecolor="white", hatch=hatch, label=label))
            continue
        dash = BASELINE_DASH if series.baseline else DASHES[look.number % len(DASHES)] if dashed(series) else "-"
        dash = "" if series.kind == "points" else dash
        mark = MARKS[look.number % len(MARKS)] if series.kind == "points" or marked(series) else ""
        handles.append(
            Line2D([], [], color=look.colour, ls=dash, marker=mark, ms=4, lw=stroke(series, look), label=label)
        )
    letters = max(len(series.name) + wide(series.name) for series in chart.series)
    fit = max(1, min(len(handles), int(figure.get_figwidth() * 72 / ((letters * 0.62 + 5) * FONT))))
    spread = 1.5 + 0.45 * max(wide(series.name) for series in chart.series)
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=fit, frameon=False, borderaxespad=0.1,
        handlelength=2.6, columnspacing=spread, fontsize=FONT - 0.5,
    )  # fmt: skip
    axes.set_title(chart.title, loc="left", weight="bold", fontsize=FONT + 1.5, pad=8 + 13 * -(-len(handles) // fit))
