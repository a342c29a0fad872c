"""Kernels of a GPU that nobody measured, as the average over GPUs that were, with the error that this has on those.

Coefficients are averaged as shares of the donors' datasheet peaks, in the logarithm. Whether over all donors or only those
of the same class, and with or without their mean table, is decided by predicting each donor from the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from calibrate.fit import COEFFICIENTS, Observations, Peaks
from calibrate.grid import Axes, TableFit, as_table
from calibrate.judge import coverage90, errors, interval90, round_to, rounded
from twin.base import Estimate, InputError, Provenance
from twin.cost.operators import gemm_fill
from twin.cost.tables import Floats, interpolate, p_norm
from twin.spec.kernels import Collective, Copy, Errors, HeldOut, Kernel, Segment

COPY_COEFFICIENTS = COEFFICIENTS[1:]
TAILS = (0.05, 0.04, 0.03, 0.02, 0.01, 0.005, 0.0)
LEAST_DONORS = 3  # two for a mean with a spread, and one to judge it on


@dataclass(frozen=True)
class Donor:
    """A measured GPU: its fit of one kernel, its datasheet peaks, and rows to judge on."""

    gpu: str
    fit: Kernel | Copy
    peaks: Peaks
    rows: Observations


@dataclass(frozen=True)
class Average:
    """Mean and spread of the logarithms of the shares, and a mean table on ``axes`` (row-major) or none."""

    names: tuple[str, ...]
    log_share: Floats
    spread: Floats
    axes: Axes
    table: Floats | None

    def figures(self, peaks: Peaks) -> dict[str, float]:
        """The coefficients on a device with these peaks, in SI."""
        scale = _scale(self.names, peaks)
        return {name: float(value) for name, value in zip(self.names, np.exp(self.log_share) * scale, strict=True)}

    def seconds(self, rows: Observations, peaks: Peaks) -> Floats:
        figures = self.figures(peaks)
        memory_s = rows.bytes_moved / figures["bytes_per_s"]
        if "flops_per_s" in figures:
            compute_s = rows.flops / figures["flops_per_s"]
            seconds = figures["launch_s"] + p_norm(compute_s, memory_s, figures["p"])
        else:
            seconds = p_norm(figures["launch_s"], memory_s, figures["p"])
        if self.table is not None:
            nodes = [np.log(np.asarray(axis, dtype=np.float64)) for axis in self.axes.values()]
            values = self.table.reshape([len(axis) for axis in nodes])
            seconds = seconds * np.exp(interpolate(nodes, values, [rows.coords[name] for name in self.axes]))
        return np.asarray(seconds, dtype=np.float64)


def _scale(names: Sequence[str], peaks: Peaks) -> Floats:
    of = {"flops_per_s": peaks.flops_per_s, "bytes_per_s": peaks.bytes_per_s}
    return np.array([of.get(name, 1.0) for name in names])


def _grid(axes: Axes) -> dict[str, Floats]:
    """Every coordinate that a table may be over, at the nodes of ``axes`` (row-major)."""
    nodes = np.meshgrid(*(np.asarray(axis, dtype=np.float64) for axis in axes.values()), indexing="ij")
    at = {name: values.ravel() for name, values in zip(axes, nodes, strict=True)}
    if "m" in at:
        at |= {"area": at["m"] * at["n"], "fill": gemm_fill(at["m"])}
    if "heads" in at:
        at |= {"group": np.maximum(at["heads"] / at["kv_heads"], 1.0)}
    return at


def _tables(donors: Sequence[Donor], axes: Axes) -> list[Floats]:
    """The tables of those that have one, each at the nodes of ``axes`` (row-major)."""
    grid = _grid(axes)
    tables = [donor.fit.table for donor in donors if donor.fit.table is not None]
    return [interpolate(one.log_axes, one.values, [grid[name] for name in one.axes]) for one in tables]


def average(donors: Sequence[Donor], axes: Axes, with_table: bool) -> Average:
    """Over two or more donors (one has no spread: NaN)."""
    names = COPY_COEFFICIENTS if isinstance(donors[0].fit, Copy) else COEFFICIENTS
    values = np.array([[getattr(donor.fit, name).value for name in names] for donor in donors])
    shares = np.log(values / np.array([_scale(names, donor.peaks) for donor in donors]))
    spread = shares.std(axis=0, ddof=1) if len(donors) > 1 else np.full(len(names), np.nan)
    table = np.asarray(np.mean(_tables(donors, axes), axis=0), dtype=np.float64) if with_table else None
    return Average(names, shares.mean(axis=0), spread, axes, table)


@dataclass(frozen=True)
class Way:
    """How to average: over donors of the same class only or all, with their mean table or without."""

    own_class: bool
    with_table: bool

    def of(self, donors: Sequence[Donor], gpu: str, class_of: Callable[[str], str]) -> list[Donor]:
        """The donors that ``gpu`` takes its mean of, itself left out."""
        others = [donor for donor in donors if donor.gpu != gpu]
        same = [donor for donor in others if class_of(donor.gpu) == class_of(gpu)]
        return same if self.own_class and same else others

    def __str__(self) -> str:
        whose = "GPUs of its class" if self.own_class else "all measured GPUs"
        return f"the mean over {whose} of their shares of peak{' and tables' if self.with_table else ''}"


WAYS = tuple(Way(*flags) for flags in product((False, True), (False, True)))


def hold_one_out(donors: Sequence[Donor], axes: Axes, class_of: Callable[[str], str]) -> tuple[Way, HeldOut]:
    """The way with the least error on serving shapes of donors left out (each donor counts alike), and its errors.

    The coverage is that of intervals set by the other donors. Raises :class:`InputError` for too few donors.
    """
    if len(donors) < LEAST_DONORS:
        raise InputError(
            f"{len(donors)} measured GPUs are too few for an average: {LEAST_DONORS - len(donors)} more are needed"
        )
    found = []
    for way in WAYS:
        guesses = [
            average(way.of(donors, donor.gpu, class_of), axes, way.with_table).seconds(donor.rows, donor.peaks)
            for donor in donors
        ]
        off = [
            float(np.abs(guess / donor.rows.seconds - 1)[donor.rows.serving].mean())
            for guess, donor in zip(guesses, donors, strict=True)
        ]
        found.append((float(np.mean(off)), way, guesses))
    _, way, guesses = min(found, key=lambda item: item[0])
    guess = np.concatenate(guesses)
    measured = np.concatenate([donor.rows.seconds for donor in donors])
    serving = np.concatenate([donor.rows.serving for donor in donors])
    gpu = np.repeat(np.arange(len(donors)), [len(donor.rows.seconds) for donor in donors])
    return way, _held_out(guess, measured, serving, gpu)


def _held_out(guess: Floats, measured: Floats, serving: NDArray[np.bool_], gpu: NDArray[np.intp]) -> HeldOut:
    overall = _errors(guess, measured, gpu)
    return rounded(HeldOut(overall=overall, serving=_errors(guess[serving], measured[serving], gpu[serving])))


def _errors(guess: Floats, measured: Floats, gpu: NDArray[np.intp]) -> Errors:
    """A few GPUs say less of the next than as many shapes would: the interval's tails are cut until intervals set by the
    other GPUs hold 90 % of one left out, or all that was seen is inside. Two GPUs, each predicted from the other, are off
    by the same in opposite directions, so they tell no coverage.
    """
    found, ratio = errors(guess, measured), measured / guess
    if len(np.unique(gpu)) < LEAST_DONORS:
        return found
    for tail in TAILS:
        coverage = coverage90(ratio, gpu, tail)
        if coverage is None or coverage >= 0.9:
            break
    return found.model_copy(update={"interval90": interval90(ratio, tail), "coverage90": coverage})


def assumed(
    donors: Sequence[Donor], gpu: str, peaks: Peaks, axes: Axes, class_of: Callable[[str], str], date: str
) -> Kernel | Copy:
    """The kernel of ``gpu``, marked assumed; standard errors are the spread over the donors."""
    way, held_out = hold_one_out(donors, axes, class_of)
    chosen = way.of(donors, gpu, class_of)
    mean = average(chosen, axes, way.with_table)
    source = f"{way}: {', '.join(donor.gpu for donor in chosen)}"
    figures = {
        name: Estimate(
            value=round_to(value),
            stderr=round_to(value * spread, 2) if np.isfinite(spread) else None,
            n=len(chosen),
            origin="assumed",
            source=source,
            date=date,
        )
        for (name, value), spread in zip(mean.figures(peaks).items(), mean.spread, strict=True)
    }
    count = sum(donor.fit.table.n for donor in chosen if donor.fit.table is not None)
    table = None if mean.table is None else as_table(TableFit(mean.table, _table_spread(chosen, axes)), axes, count)
    if isinstance(donors[0].fit, Copy):
        return Copy(**figures, table=table, held_out=held_out)
    provenance = Provenance(origin="assumed", source=source, date=date)
    return Kernel(**figures, table=table, held_out=held_out, provenance=provenance)


def _table_spread(donors: Sequence[Donor], axes: Axes) -> float:
    """Typical standard deviation of an entry over the donors."""
    found = _tables(donors, axes)
    return float(np.median(np.std(found, axis=0, ddof=1))) if len(found) > 1 else 0.0


@dataclass(frozen=True)
class Ring:
    """Measured all-reduce of one GPU: rising ``size`` in bytes, seconds, and the link's bytes/s in one direction."""

    gpu: str
    size: Floats
    seconds: Floats
    link_bytes_per_s: float
    fast: bool

    def on(self, link_bytes_per_s: float) -> Floats:
        """Seconds at another link's bandwidth: the shortest message is all latency, the rest is moved."""
        latency = self.seconds.min()
        return np.asarray(latency + (self.seconds - latency) * self.link_bytes_per_s / link_bytes_per_s)


def assumed_all_reduce(
    rings: Sequence[Ring], num_gpus: int, link_bytes_per_s: float, fast: bool, serving: tuple[float, float], date: str
) -> Collective:
    """Geometric mean over GPUs with the same kind of link (direct or PCIe), scaled by link bandwidth; errors of each
    predicted from the others of its kind. Raises :class:`InputError` without two of a kind.
    """

    def mean(of: Sequence[Ring], link: float) -> Floats:
        return np.asarray(np.exp(np.mean([np.log(ring.on(link)) for ring in of], axis=0)), dtype=np.float64)

    chosen = [ring for ring in rings if ring.fast == fast]
    if len(chosen) < 2:
        raise InputError(
            f"all-reduce among {num_gpus} GPUs was measured on {len(chosen)} of this kind: an average needs 2"
        )
    guesses = [mean([other for other in chosen if other is not ring], ring.link_bytes_per_s) for ring in chosen]
    size = np.concatenate([ring.size for ring in chosen])
    held_out = _held_out(
        np.concatenate(guesses),
        np.concatenate([ring.seconds for ring in chosen]),
        (size >= serving[0]) & (size <= serving[1]),
        np.repeat(np.arange(len(chosen)), [len(ring.size) for ring in chosen]),
    )
    seconds = mean(chosen, link_bytes_per_s)
    names = ", ".join(ring.gpu for ring in chosen)
    segment = Segment(
        algorithm="assumed",
        message_bytes=tuple(float(size) for size in chosen[0].size),
        us=tuple(round_to(value * 1e6) for value in seconds),
    )
    return Collective(
        num_gpus=num_gpus,
        segments=(segment,),
        held_out=held_out,
        provenance=Provenance(origin="assumed", source=f"mean of {names}, scaled by link bandwidth", date=date),
    )
