"""Predicted against measured, drawn: every run of a table, or the distributions of a request log."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from twin.base import InputError
from twin.trust.table import METRICS, Metric, Row

if TYPE_CHECKING:
    import pandas as pd

    from twin.trust.replay import Replay

METADATA: dict[str, dict[str, Any]] = {".pdf": {"CreationDate": None}, ".png": {}, ".svg": {"Date": None}}
"""How a plot is written, by suffix: without a clock in it, so that the same errors give the same bytes."""
STYLE: dict[Any, Any] = {
    "font.size": 8.0,
    "font.family": "DejaVu Sans",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,
    "svg.hashsalt": "twin",
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A3D9A", "#7F7F7F")
"""Okabe and Ito's, which the colour-blind can tell apart."""
INK, BAND, SOFT = "#222222", "#E9ECEF", "#6C757D"
NAMES = {"ttft": "TTFT", "tpot": "TPOT", "e2el": "E2EL", "queue": "Queue"}
WITHIN = 0.10
DASHED = (0, (3, 1.5))


class Point(NamedTuple):
    """One run of a table in one metric."""

    gpu: str
    saturated: bool
    measured: float
    predicted: float
    low: float
    high: float


def require_plot(path: Path) -> None:
    """Raises :class:`InputError` for a suffix that cannot be drawn, or without matplotlib."""
    if path.suffix not in METADATA:
        raise InputError(f"a plot is no {path.suffix or 'file without suffix'}", where=path.name, allowed=METADATA)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install matplotlib") from None


def plot_table(
    rows: Sequence[Row], predictions: Sequence[Row], measured: Sequence[Mapping[str, float]], suffix: str
) -> bytes:
    """One panel per metric that was measured: a point per run, with its 90 % bounds, GPUs by colour, saturated hollow.

    ``measured`` as :func:`twin.trust.table.measured_values` gives it. Raises
    :class:`InputError` where there is nothing to draw.
    """
    drawn = {metric: found for metric in METRICS if (found := points_of(metric, rows, predictions, measured))}
    if not drawn:
        raise InputError("no row has both a prediction and a measurement to draw")
    gpus = sorted({gpu for found in drawn.values() for gpu, *_ in found})

    def draw(panels: Sequence[Any]) -> None:
        for number, (axes, (metric, found)) in enumerate(zip(panels, drawn.items(), strict=True)):
            _scatter(axes, metric, found, gpus, first=not number)

    return _page(len(drawn), suffix, draw)


def plot_log(runs: Sequence[Replay], measured: Mapping[str, pd.DataFrame], suffix: str) -> bytes:
    """One panel per metric: cumulative shares of the requests, measured drawn through and predicted dashed, runs by colour."""
    names = [
        name
        for name in ("queue", "ttft", "tpot", "e2el")
        if any(np.isfinite(measured[run.run][f"{name}_s"]).any() for run in runs)
    ]

    def draw(panels: Sequence[Any]) -> None:
        for number, (axes, name) in enumerate(zip(panels, names, strict=True)):
            _shares(axes, name, runs, measured, first=not number)

    return _page(len(names), suffix, draw)


def _page(panels: int, suffix: str, draw: Callable[[Sequence[Any]], None]) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.3 * panels + 0.3, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.subplots(1, panels, squeeze=False)[0])
        figure.savefig(buffer, format=suffix[1:], dpi=200, metadata=METADATA[suffix])
    return buffer.getvalue()


def points_of(
    metric: Metric, rows: Sequence[Row], predictions: Sequence[Row], measured: Sequence[Mapping[str, float]]
) -> list[Point]:
    """GPU, saturated, measured, predicted and its bounds, of every row that has them."""
    return [
        Point(
            row["system"],
            guess["saturated"] == "true",
            values[metric.name],
            *(float(guess[name]) for name in metric.predicted),
        )
        for row, guess, values in zip(rows, predictions, measured, strict=True)
        if metric.name in values and guess[metric.predicted[0]]
    ]


def _scatter(axes: Any, metric: Metric, points: Sequence[Point], gpus: Sequence[str], *, first: bool) -> None:
    figures = np.array([item[2:] for item in points], dtype=np.float64)
    unit = metric.unit
    if unit == "ms" and np.median(figures[:, 0]) > 1e3:
        figures, unit = figures / 1e3, "s"
    ends = np.array([figures[:, :2].min() / 1.25, figures[:, :2].max() * 1.25])
    axes.fill_between(ends, ends * (1 - WITHIN), ends * (1 + WITHIN), color=BAND, lw=0, zorder=0)
    axes.plot(ends, ends, color=SOFT, lw=0.7, zorder=1)
    for number, gpu in enumerate(gpus):
        colour = COLOURS[number % len(COLOURS)]
        for saturated in (False, True):
            mine = np.array([item.gpu == gpu and item.saturated == saturated for item in points])
            if not mine.any():
                continue
            was, said, low, high = figures[mine].T
            bars = np.clip(np.array([said - low, high - said]), 0.0, None)
            axes.errorbar(was, said, yerr=bars, fmt="none", ecolor=colour, elinewidth=0.6, alpha=0.35, zorder=2)
            face = "white" if saturated else colour
            axes.scatter(was, said, s=14, facecolors=face, edgecolors=colour, linewidths=0.7, alpha=0.9, zorder=3)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="measured")
    axes.set_aspect("equal")
    title = NAMES.get(metric.name, metric.name.replace("_", " ").capitalize())
    axes.set_title(f"{title}, {unit}", loc="left", weight="bold")
    _ticks(axes)
    calm = np.array([not item.saturated for item in points])
    error = np.abs(figures[:, 1] / figures[:, 0] - 1.0)
    if calm.any():
        text = f"MAPE {error[calm].mean():.1%}"
        axes.text(0.97, 0.03, text, transform=axes.transAxes, ha="right", va="bottom", color=INK)
    if first:
        axes.set_ylabel("predicted")
        _legend(axes, gpus, hollow=not calm.all())


def _legend(axes: Any, gpus: Sequence[str], *, hollow: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def dot(colour: str, face: str, label: str) -> Line2D:
        return Line2D([], [], ls="", marker="o", ms=4, mec=colour, mfc=face, mew=0.7, label=label)

    handles: list[Any] = [dot(COLOURS[i % len(COLOURS)], COLOURS[i % len(COLOURS)], gpu) for i, gpu in enumerate(gpus)]
    if hollow:
        handles.append(dot(SOFT, "white", "saturated"))
    handles.append(Patch(color=BAND, label=f"within {WITHIN:.0%}"))
    axes.legend(handles=handles, loc="upper left", frameon=False, handletextpad=0.3, borderpad=0.0, labelspacing=0.3)


def _ticks(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    fine = high / low < 60
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if fine else (1.0,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axis.set_minor_formatter(NullFormatter())


def _shares(axes: Any, name: str, runs: Sequence[Replay], measured: Mapping[str, pd.DataFrame], *, first: bool) -> None:
    slow = any(np.nanmax(measured[run.run][f"{name}_s"]) > 1 for run in runs)
    scale, unit = (1.0, "s") if slow else (1e3, "ms")
    for number, run in enumerate(runs):
        colour = COLOURS[number % len(COLOURS)]
        both = (measured[run.run][f"{name}_s"], "-", 1.6), (run.requests[f"predicted_{name}_s"], DASHED, 1.1)
        for values, style, width in both:
            known = np.sort(np.asarray(values, dtype=np.float64)[np.isfinite(values)]) * scale
            share = np.arange(1, len(known) + 1) / len(known)
            axes.step(known, share, where="post", color=colour, ls=style, lw=width)
    axes.set(ylim=(0, 1.01), xlabel=unit)
    axes.set_xlim(left=0)
    axes.set_title(NAMES[name], loc="left", weight="bold")
    axes.grid(axis="y", color=BAND, lw=0.6)
    axes.set_axisbelow(True)
    if first:
        from matplotlib.lines import Line2D

        axes.set_ylabel("share of requests")
        handles = [Line2D([], [], color=COLOURS[i % len(COLOURS)], label=run.run) for i, run in enumerate(runs)]
        handles += [
            Line2D([], [], color=SOFT, lw=1.6, label="measured"),
            Line2D([], [], color=SOFT, lw=1.1, ls=DASHED, label="predicted"),
        ]
        axes.legend(handles=handles, loc="lower right", frameon=False, fontsize=7)
