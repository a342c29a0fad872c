"""The panels of the fit report, on matplotlib axes: scatter, residuals, tables."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twin.base import InputError

if TYPE_CHECKING:
    from calibrate.judge import Judged

Floats = NDArray[np.float64]

MOST_POINTS = 1000  # drawn per kernel; every figure is computed from all of them
FEW = 100  # points that are drawn large, and have no running median
BINS = 12  # of the running median over size
ROWS = 18  # lines that a table has room for at its usual spacing

FAMILIES = {
    "gemm": ("Matrix products", "FLOP"),
    "decode attention": ("Decode attention", "bytes"),
    "prefill attention": ("Prefill attention", "FLOP"),
    "all-reduce": ("All-reduce", "bytes"),
    "element-wise": ("Element-wise", "bytes"),
    "engine step": ("Engine steps", "tokens"),
}
"""By how a kernel's name begins: the title of its panels and what its sizes count."""

OFF_PAGE = ("windowed", "latent", "recurrent", "experts", "all-gather", "reduce-scatter", "all-to-all", "ht-", "ll-")
"""How the names of kernels begin that one page has no room for: those of mixtures and of other than full attention."""

# Okabe & Ito's colours that stay apart for every kind of colour vision, and on paper by their lightness and marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "^", "s", "D", "v", "P")
GREY, BAND, INK, SOFT = "#a8a8a8", "#dfe7ee", "#222222", "#555555"
SMALL = 5.8
COLUMN_WORDS = "<"
"""A table's column whose name begins so is text, aligned left; the others are numbers."""


def family_of(kernel: str) -> str:
    """Raises :class:`InputError` for a name of no family."""
    found = next((family for family in FAMILIES if kernel.startswith(family)), None)
    if found is None:
        raise InputError(f"{kernel!r} is of no family that a report shows", allowed=FAMILIES)
    return found


def scatter(axes: Any, family: str, members: Sequence[Judged], band: tuple[float, float], *, first: bool) -> None:
    """Measured over predicted seconds, both logarithmic; ``band`` are bounds on measured / predicted."""
    seconds = np.concatenate([part for item in members for part in (item.measured_s, item.predicted_s)])
    ends = np.array([seconds.min() / 1.5, seconds.max() * 1.5])
    axes.fill_between(ends, ends * band[0], ends * band[1], color=BAND, lw=0, zorder=0)
    axes.plot(ends, ends, color=INK, lw=0.6, zorder=1)
    for number, item in enumerate(members):
        _dots(axes, item, item.predicted_s, item.measured_s, number)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="predicted")
    axes.set_title(FAMILIES[family][0], weight="bold", fontsize=8)
    for axis in (axes.xaxis, axes.yaxis):
        _log_ticks(axis, _seconds)
    if first:
        axes.set_ylabel("measured")
    labels = [item.kernel.removeprefix(family).strip(" ()") for item in members]
    if any(labels):
        handles = [_handle(number, label) for number, label in enumerate(labels)]
        axes.legend(handles=handles, loc="upper left", fontsize=SMALL, frameon=False, handletextpad=0.0, borderpad=0.0)
    _tidy(axes)


def residuals(axes: Any, family: str, members: Sequence[Judged], band: tuple[float, float], *, first: bool) -> None:
    """Measured over predicted in per cent, over size, with the running median of each kernel."""
    low, high = 100 * (band[0] - 1), 100 * (band[1] - 1)
    bottom, top = min(2.0 * low, -8.0), max(2.0 * high, 8.0)
    axes.axhspan(low, high, color=BAND, lw=0, zorder=0)
    axes.axhline(0, color=INK, lw=0.6, zorder=1)
    beyond, total = 0, 0
    for number, item in enumerate(members):
        left = 100 * (item.measured_s / item.predicted_s - 1)
        beyond, total = beyond + int(((left < bottom) | (left > top)).sum()), total + len(left)
        _dots(axes, item, item.size, left, number)
        if len(left) >= FEW:
            curve = running_median(item.size, left)
            axes.plot(*curve, color="white", lw=2.4, zorder=4)
            axes.plot(*curve, color=_colour(number), lw=1.2, zorder=5)
    axes.set(xscale="log", ylim=(bottom, top), xlabel=FAMILIES[family][1])
    _log_ticks(axes.xaxis, lambda value: f"$10^{{{round(np.log10(value))}}}$")
    if first:
        axes.set_ylabel("measured − predicted, %")
    if beyond:
        where = {"ha": "right", "va": "top", "transform": axes.transAxes, "fontsize": SMALL, "color": SOFT}
        axes.text(1.0, 1.09, f"{beyond / total:.1%} beyond", **where)
    _tidy(axes)


def running_median(size: Floats, left: Floats) -> tuple[Floats, Floats]:
    """Medians of ``left`` in bins of equal count over ``size``, at the mean logarithm of each bin's sizes."""
    order = np.argsort(size, kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    middles = np.array([np.exp(np.log(size[part]).mean()) for part in bins])
    return middles, np.array([np.median(left[part]) for part in bins])


def _points(item: Judged) -> Iterator[tuple[NDArray[np.intp], bool]]:
    """Rows to draw, those that serving does not use first: a fixed sample, so that the same fit draws the same page."""
    rows = np.random.default_rng(0).permutation(len(item.measured_s))[:MOST_POINTS]
    yield rows[~item.serving[rows]], False
    yield rows[item.serving[rows]], True


def _dots(axes: Any, item: Judged, x: Floats, y: Floats, number: int) -> None:
    few = len(item.measured_s) < FEW
    size, alpha = (13.0, 0.9) if few else (2.6, 0.35)
    for rows, serving in _points(item):
        axes.scatter(
            x[rows], y[rows], s=size, alpha=alpha, color=_colour(number) if serving else GREY, lw=0,
            marker=MARKERS[number % len(MARKERS)], zorder=3 if serving else 2, rasterized=not few,
        )  # fmt: skip


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _handle(number: int, label: str) -> Any:
    from matplotlib.lines import Line2D

    marker = MARKERS[number % len(MARKERS)]
    return Line2D([], [], color=_colour(number), marker=marker, ls="", markersize=3.2, label=label)


def _log_ticks(axis: Any, text: Any) -> None:
    """A few whole powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(base=10.0, numticks=4))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def _seconds(value: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale * 0.999:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2, width=0.5, labelsize=6)


def table(
    axes: Any, title: str, columns: Mapping[str, float], rows: Sequence[Sequence[str]], bold: Collection[int]
) -> None:
    """Text in columns of the given widths (shares of the panel); the rows numbered in ``bold`` stand out."""
    axes.axis("off")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_title(title, loc="left", weight="bold", pad=3, fontsize=8)
    step = 1.0 / max(len(rows) + 1, ROWS)
    starts = np.concatenate([[0.0], np.cumsum(list(columns.values()))])
    header = [name.removeprefix(COLUMN_WORDS) for name in columns]
    for line, cells in enumerate([header, *rows]):
        weight, colour = ("bold", INK) if line - 1 in bold else ("normal", INK if line else SOFT)
        for column, (name, text) in enumerate(zip(columns, cells, strict=True)):
            words = name.startswith(COLUMN_WORDS)
            x = starts[column] + 0.01 if words and column else starts[column] if words else starts[column + 1] - 0.01
            look = {"fontsize": SMALL, "color": colour, "weight": weight, "transform": axes.transAxes}
            axes.text(x, 1.0 - (line + 0.5) * step, text, ha="left" if words else "right", va="center", **look)
    for y, width in ((1.0, 0.7), (1.0 - step, 0.4), (1.0 - (len(rows) + 1) * step, 0.7)):
        axes.plot([0, starts[-1]], [y, y], color=INK, lw=width, transform=axes.transAxes, clip_on=False)
