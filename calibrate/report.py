"""One page on how good a profile is: measured against predicted, what is left over, errors against their targets."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibrate.report_panels import (
    COLUMN_WORDS,
    FAMILIES,
    INK,
    MOST_POINTS,
    OFF_PAGE,
    family_of,
    residuals,
    scatter,
    table,
)
from twin.base import Estimate, InputError
from twin.cli.common import write_atomic
from twin.cost.parts import Family, Part, parts, unseen
from twin.spec.hardware import HardwareProfile
from twin.spec.kernels import Errors, HeldOut

if TYPE_CHECKING:
    from calibrate.judge import Judged

Floats = NDArray[np.float64]

PAGE_INCHES = (11.69, 8.27)  # A4 landscape
METADATA: dict[str, dict[str, Any]] = {".pdf": {"CreationDate": None}, ".png": {}, ".svg": {"Date": None}}
"""How a page is written, by suffix: without a clock in it, so that the same fit gives the same bytes."""

TARGETS = {
    "gemm bf16": 0.05,
    "gemm fp8": 0.10,
    "decode attention": 0.06,
    "prefill attention": 0.06,
    "all-reduce": 0.06,
    "engine step (in process)": 0.06,
    "engine step (server)": 0.08,
}
"""Largest mean absolute error on serving shapes that the project asks for, by how a kernel's name begins."""

DENSE: tuple[Family, ...] = ("gemm", "decode_attention", "prefill_attention", "all_reduce", "elementwise")
HELD_TO_THEM = ("a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm")
"""The devices whose kernels those are asked of; others' are only reported. Engine steps are held to theirs anywhere."""

FONT: dict[Any, Any] = {
    "font.size": 7.0,
    "font.family": "DejaVu Sans",
    "axes.linewidth": 0.5,
    "pdf.fonttype": 42,
    "svg.hashsalt": "twin",
}
CAPTION = (
    "Measured against predicted by fits that had not seen the shape (of an engine step: the run). Line: equal. Shaded: 90 % of"
    " serving shapes. Grey: shapes\nthat serving does not use. Curves: running medians. Every figure is of all points; of"
    f" those, up to {MOST_POINTS:,} per kernel are drawn."
)


@dataclass(frozen=True)
class Summary:
    """A kernel's line in the table of errors, all on serving shapes. ``coverage90`` is the profile's own."""

    kernel: str
    errors: Errors
    target: float | None

    @property
    def missed(self) -> bool:
        return self.target is not None and self.errors.mape > self.target


def write_report(path: Path, profile: HardwareProfile, judged: Sequence[Judged]) -> None:
    """One A4 page (``.pdf``, ``.png`` or ``.svg``) on the kernels of dense models in ``profile``, from its held-out predictions
    ``judged``.

    Written whole or not at all. Raises :class:`InputError` for another suffix, a kernel of no known family, times that
    are not positive, nothing to show, or without matplotlib.
    """
    if path.suffix not in METADATA:
        raise InputError(f"a fit report is not written as {path.suffix or 'a file without suffix'}", allowed=METADATA)
    shown = [item for item in judged if len(item.measured_s) and not item.kernel.startswith(OFF_PAGE)]
    if not shown:
        raise InputError(f"no held-out measurement of {profile.name} to report on")
    for item in shown:
        family_of(item.kernel)
        if not all(np.isfinite(x).all() and (x > 0).all() for x in (item.size, item.measured_s, item.predicted_s)):
            raise InputError(f"{item.kernel} of {item.gpu}: a size or time is not a positive number")
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("the fit report needs matplotlib: pip install 'twin[calibrate]'") from None
    buffer = io.BytesIO()
    with mpl.rc_context(FONT):
        figure = Figure(figsize=PAGE_INCHES)
        FigureCanvasAgg(figure)
        _page(figure, profile, shown)
        figure.savefig(buffer, format=path.suffix[1:], dpi=200, metadata=METADATA[path.suffix])
    write_atomic(path, buffer.getvalue())


def summaries(profile: HardwareProfile, judged: Sequence[Judged]) -> list[Summary]:
    """Errors per kernel: those that the profile keeps, and where it keeps none those of the judged rows themselves."""
    kept: dict[str, HeldOut | None] = {part.name: part.held_out for part in parts(profile)}
    found = []
    for item in judged:
        own, held_out = _errors(item), kept.get(item.kernel)
        errors = held_out.serving if held_out else own
        if errors.interval90 is None:
            errors = errors.model_copy(update={"interval90": own.interval90})
        found.append(Summary(item.kernel, errors, target_of(item.kernel, profile.name)))
    return found


def target_of(kernel: str, device: str) -> float | None:
    if device not in HELD_TO_THEM and not kernel.startswith("engine step"):
        return None
    return next((target for name, target in TARGETS.items() if kernel.startswith(name)), None)


def _errors(item: Judged) -> Errors:
    """As the fits judge: predicted over measured for the error, measured over predicted for the interval."""
    keep = item.serving if item.serving.any() else np.ones(len(item.measured_s), dtype=bool)
    ratio = item.measured_s[keep] / item.predicted_s[keep]
    relative = 1.0 / ratio - 1.0
    low, high = np.quantile(ratio, [0.05, 0.95]).tolist()
    mape, bias = float(np.abs(relative).mean()), float(relative.mean())
    return Errors(mape=mape, bias=bias, n=int(keep.sum()), interval90=(low, high))


def _page(figure: Any, profile: HardwareProfile, judged: Sequence[Judged]) -> None:
    groups = {family: [item for item in judged if family_of(item.kernel) == family] for family in FAMILIES}
    groups = {family: members for family, members in groups.items() if members}
    sides = {"left": 0.055, "right": 0.985}
    upper = figure.add_gridspec(1, len(groups), top=0.885, bottom=0.685, wspace=0.33, **sides)
    middle = figure.add_gridspec(1, len(groups), top=0.615, bottom=0.475, wspace=0.33, **sides)
    lower = figure.add_gridspec(1, 2, top=0.405, bottom=0.125, width_ratios=(1.0, 1.16), wspace=0.05, **sides)
    title = {"fontsize": 13, "weight": "bold", "color": INK}
    figure.text(0.055, 0.962, f"{profile.name}: {textwrap.shorten(profile.label, 90, placeholder=' …')}", **title)
    figure.text(0.055, 0.947, CAPTION, fontsize=7.2, color=INK, va="top", linespacing=1.3)
    for column, (family, members) in enumerate(groups.items()):
        band = _band(members)
        scatter(figure.add_subplot(upper[0, column]), family, members, band, first=column == 0)
        residuals(figure.add_subplot(middle[0, column]), family, members, band, first=column == 0)
    _error_table(figure.add_subplot(lower[0, 0]), summaries(profile, judged))
    _coefficient_table(figure.add_subplot(lower[0, 1]), profile)
    figure.text(0.055, 0.10, _footer(profile), fontsize=5.6, color=INK, linespacing=1.4, va="top")


def _band(members: Sequence[Judged]) -> tuple[float, float]:
    """The 5 % and 95 % quantiles of measured / predicted over a family's serving shapes."""
    ratios = [item.measured_s / item.predicted_s for item in members]
    served = [ratio[item.serving] for ratio, item in zip(ratios, members, strict=True)]
    low, high = np.quantile(np.concatenate(served if any(map(len, served)) else ratios), [0.05, 0.95]).tolist()
    return low, high


def _error_table(axes: Any, found: Sequence[Summary]) -> None:
    columns = {COLUMN_WORDS + "serving shapes": 0.30, "error": 0.09, "target": 0.16, "bias": 0.10}
    columns |= {"90 % lie in": 0.16, "inside": 0.09, "n": 0.10}
    rows = []
    for item in found:
        errors, target = item.errors, "–"
        if item.target is not None:
            target = f"{'missed' if item.missed else 'kept'}: {item.target:.0%}"
        low, high = errors.interval90 or (1.0, 1.0)
        inside = "–" if errors.coverage90 is None else f"{errors.coverage90:.0%}"
        interval = f"{low - 1:+.0%} … {high - 1:+.0%}"
        cells = [item.kernel, f"{errors.mape:.1%}", target, f"{errors.bias:+.1%}", interval, inside, f"{errors.n:,}"]
        rows.append([cell.replace("-", "−") if i else cell for i, cell in enumerate(cells)])
    table(
        axes,
        "Held out: errors of predictions, and 90 % of measurements around them",
        columns,
        rows,
        {i for i, item in enumerate(found) if item.missed},
    )


def _coefficient_table(axes: Any, profile: HardwareProfile) -> None:
    prefix, scale = ("G", 1e9) if profile.device == "cpu" else ("T", 1e12)
    columns = {
        COLUMN_WORDS + "kernel": 0.215,
        f"{prefix}FLOP/s": 0.12,
        f"{prefix}B/s": 0.13,
        "launch, µs": 0.12,
        "p": 0.105,
    }
    columns |= {COLUMN_WORDS + "measured over": 0.31}
    fits = [part for part in _on_page(profile) if part.family != "all_reduce"]
    scales = {"flops_per_s": scale, "bytes_per_s": scale, "launch_s": 1e-6, "p": 1.0}
    rows = [
        [part.name, *(_with_error(getattr(part.fit, name, None), scales[name]) for name in scales), _span(part)]
        for part in fits
    ]
    bold = {i for i, part in enumerate(fits) if part.assumed}
    table(axes, "Coefficients ± standard error (open: the data do not decide it)", columns, rows, bold)


def _on_page(profile: HardwareProfile) -> list[Part]:
    """The kernels of a dense model; ``twin hardware show`` has them all."""
    return [part for part in parts(profile) if part.family in DENSE]


def _with_error(figure: Estimate | None, scale: float) -> str:
    """``793 ± 2.4``; a dash for what the kernel has not, ``open`` for what the data did not decide."""
    if figure is None:
        return "–"
    value = f"{figure.value / scale:.4g}" if figure.value >= 1000 * scale else f"{figure.value / scale:.3g}"
    if unseen(figure):
        return "open"
    return value if not figure.stderr else f"{value} ± {figure.stderr / scale:.2g}"


def _span(part: Part) -> str:
    if part.assumed:
        return "ASSUMED"
    ends = [f"{name} {_short(low)}–{_short(high)}" for name, (low, high) in part.span.items() if name != "fill"]
    return ", ".join(ends[:3])


def _short(value: float) -> str:
    for size, suffix in ((2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki")):
        if value >= size:
            return f"{value / size:.0f}{suffix}"
    return f"{value:g}"


def _footer(profile: HardwareProfile) -> str:
    """Where each family comes from, and which profile this is."""
    sources: dict[str, dict[str, None]] = {}
    for part in _on_page(profile):
        known = part.provenance
        families = sources.setdefault(f"{known.origin}: {known.source} ({known.date})", {})
        families[part.family.replace("_", " ")] = None
    lines = [f"{', '.join(families)} {source}" for source, families in sources.items()]
    wrapped = [piece for line in lines for piece in textwrap.wrap(line, 250)]
    return "\n".join([*wrapped[:7], f"Profile sha256 {profile.digest()[:16]}"])
