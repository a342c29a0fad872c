"""``--plot``: the charts of a result in the terminal, after its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twin.base import InputError
from twin.cli.common import PLAIN_WIDTH_COLUMNS, Format

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from twin.show.chart import Chart

PlotOption = Annotated[bool, typer.Option("--plot", help="Draw latency in the terminal, after the table.")]
METRICS = ("ttft", "tpot")


def check_plot(plot: bool, fmt: Format) -> None:
    """Raises :class:`InputError` for another format than the table, which is read by programs."""
    if plot and fmt is not Format.table:
        raise InputError(f"--plot draws after the table, and --format {fmt.value} has none; leave one of them out")


def plotted(table: RenderableType, charts: Sequence[Chart]) -> RenderableType:
    """The table, and below it those of ``charts`` that have something to draw."""
    from rich.console import Group

    return Group(table, *(_Plot(chart) for chart in charts if not chart.empty))


def plan_charts(payload: Mapping[str, Any]) -> list[Chart]:
    """The front, and latency against load of the option that it is known of; of each of its pools where it has several."""
    from twin.show.charts import front

    curves = payload.get("load_curves") or [payload.get("load_curve")]
    return [front(payload), *(chart for curve in curves for chart in curve_charts(curve))]


def curve_charts(curve: Mapping[str, Any] | None) -> list[Chart]:
    """TTFT and TPOT against load; what their bands are is said once, under the last."""
    from twin.show.charts import load_curve

    *above, last = (load_curve(curve, metric) for metric in METRICS)
    return [*(replace(chart, note="") for chart in above), last]


@dataclass(frozen=True)
class _Plot:
    """As wide as the terminal, up to the width of tables."""

    chart: Chart

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        from twin.show.draw.terminal_chart import text

        drawn = text(self.chart, width=min(PLAIN_WIDTH_COLUMNS, options.max_width))
        yield Text(f"\n{drawn}", no_wrap=True, overflow="ignore", end="")
