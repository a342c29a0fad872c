"""The report as one HTML file: style and charts inside, no script, nothing fetched. Every figure names its place in the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from twin.base import not_installed
from twin.show.chart import Chart
from twin.show.report.blocks import Cell, Report
from twin.show.report.forms import written
from twin.show.words import Say

WIDTH_IN, HEIGHT_IN = 6.9, 2.9
LOW_IN = 1.75
TALL_IN = 0.32
"""Of each bar that lies on its side."""


def html(made: Report, say: Say) -> str:
    """Raises :class:`InputError` where jinja2 or matplotlib is not installed."""
    try:
        import jinja2
        import markupsafe
    except ImportError as error:
        raise not_installed("a report in HTML", error.name, "dashboard") from None

    folder = Path(__file__).parent / "templates"
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    env.filters["prose"] = lambda text: markupsafe.Markup("".join(_part(part, say) for part in text))
    env.filters["chart"] = lambda chart: markupsafe.Markup(_svg(chart))
    env.filters["kind"] = lambda block: type(block).__name__
    style = markupsafe.Markup((folder / "report.css").read_text(encoding="utf-8"))
    return env.get_template("report.html").render(report=made, style=style, say=say)


def _part(part: str | Cell, say: Say) -> str:
    """A figure carries its unrounded value and its place."""
    from markupsafe import escape

    if isinstance(part, str):
        return str(escape(part))
    text = escape(written(part, say))
    if part.value is None:
        return str(text)
    if isinstance(part.value, str):
        tag = {"cite": "cite", "shell": "code", "command": "code", "hash": "code"}.get(part.form, "span")
        return f'<{tag} class="{part.form}" data-path="{escape(part.path)}">{text}</{tag}>'
    return f'<data class="{part.form}" value="{escape(repr(part.value))}" title="{escape(part.path)}">{text}</data>'


def _svg(chart: Chart) -> str:
    from twin.show.draw.svg_chart import svg

    bars = max((len(series.x) for series in chart.series), default=0) if chart.across else 0
    if chart.key.startswith("timeline"):
        return svg(replace(chart, title=""), width_in=WIDTH_IN, height_in=LOW_IN)
    height = max(HEIGHT_IN, bars * TALL_IN + 1.0) if chart.across else HEIGHT_IN
    return svg(replace(chart, title=""), width_in=WIDTH_IN, height_in=height)  # its title is the caption
