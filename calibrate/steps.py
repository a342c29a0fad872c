"""Fit what a running engine adds to its kernels, from its single steps; the kernels stay as they were timed.

A step's time is linear in every coefficient of :class:`twin.cost.step.HostCosts`, so each column of the fit is the step's
price with that coefficient alone. Which coefficients are used is decided by the error on runs left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from calibrate.fit import correlation_rows, unit_stderr
from calibrate.judge import errors
from twin.base import InputError
from twin.cost.layout import HostCosts, Layout
from twin.cost.step import StepModel
from twin.spec.hardware import HardwareProfile
from twin.spec.kernels import Errors
from twin.spec.model import ModelSpec

Floats = NDArray[np.float64]

ABSENT = dict.fromkeys(("gemm_stretch", "elementwise_stretch", "prefill_stretch", "decode_stretch"), 1e-12)
"""Kernels as good as left out (their logarithms are tabulated, so not zero)."""
STRETCHES = tuple(ABSENT)
HOST = ("step_s", "sequence_s")
OVERLAP = "async_overlap_s"
STRUCTURES: tuple[tuple[str, ...], ...] = (
    HOST,
    (*HOST, "token_s"),
    (*HOST, "kernel_overlap_s"),
    (*HOST, "kernel_overlap_s", "gemm_stretch"),
    (*HOST, "kernel_overlap_s", "prefill_stretch", "decode_stretch"),
    (*HOST, "kernel_overlap_s", "gemm_stretch", "prefill_stretch", "decode_stretch"),
    (*HOST, "token_s", "gemm_stretch", "prefill_stretch", "decode_stretch"),
    (*HOST, "token_s", "kernel_overlap_s", "gemm_stretch", "prefill_stretch", "decode_stretch"),
    (*HOST, "kernel_overlap_s", "gemm_stretch", "elementwise_stretch", "prefill_stretch", "decode_stretch"),
)
"""Candidate sets of coefficients, from few to many. Without ``kernel_overlap_s`` the host's cost of a launch is in the
constant; a family without its stretch takes as long in the engine as when it was timed alone."""
OF_KERNELS = ("kernel_overlap_s", *STRETCHES)
WORTH = 0.96  # a larger set must lower the held-out error by 4 %
NOISE = 0.25
"""Relative residual beyond which the loss turns linear: a step that somebody else's work on the machine held up."""
ROUNDS = 5
STEPS_PER_COEFFICIENT = 10
FOLDS = 5
LEAST_REPEATS = 3
TELL_APART = 1e5  # condition number beyond which coefficients are not fitted together


@dataclass(frozen=True)
class Steps:
    """Timed steps of one model on one engine: ``table`` has the columns of :func:`calibrate.step_log.read_steps`.

    ``padded``: priced at the sizes of CUDA graphs. ``asynchronous``: the next step was scheduled while one ran.
    """

    model: ModelSpec
    table: pd.DataFrame
    padded: bool | None = None
    asynchronous: bool = False

    @property
    def seconds(self) -> Floats:
        return self.table["seconds"].to_numpy(dtype=np.float64)

    def of(self, *kinds: str) -> Steps:
        """Only the runs of these kinds."""
        return replace(self, table=self.table[self.table["kind"].isin(kinds)])


@dataclass(frozen=True)
class StepFit:
    """Coefficients by name with their standard errors and correlation, and the errors on runs left out.

    ``known``: those of the kernels that were taken from another fit.
    """

    names: tuple[str, ...]
    values: Floats
    stderr: Floats
    correlation: tuple[tuple[float, ...], ...]
    held_out: Errors
    n: int
    padded: bool | None = None
    known: Mapping[str, float] = field(default_factory=dict)

    @property
    def of_kernels(self) -> dict[str, float]:
        """What the engine's own kernels and launches cost, whoever drives the engine."""
        found = zip(self.names, map(float, self.values), strict=True)
        return dict(self.known) | {name: value for name, value in found if name in OF_KERNELS}

    def host(self, asynchronous: bool = False) -> HostCosts:
        """As the engine of these steps pays it."""
        found = dict(self.known) | dict(zip(self.names, map(float, self.values), strict=True))
        hidden = found.pop(OVERLAP, 0.0)
        return HostCosts(**found | {"step_s": found["step_s"] - hidden * asynchronous})


def price(profile: HardwareProfile, steps: Steps, host: HostCosts) -> Floats:
    """Predicted seconds of every step."""
    table = steps.table
    sizes = table["prefill_tokens"] + table["decodes"]
    most = int(sizes.max())
    cost = StepModel(steps.model, profile, Layout(), max_tokens=most, host=host, cuda_graphs=steps.padded)
    rows = zip(table["prefills"], table["decodes"].tolist(), table["context"].tolist(), strict=True)
    return np.array(
        [cost.step_s([(None, chunk, past) for chunk, past in chunks], n, context) for chunks, n, context in rows]
    )


@dataclass(frozen=True)
class Design:
    """What each coefficient costs in each of N steps; every cost is priced once, however many structures use it."""

    profile: HardwareProfile
    steps: Sequence[Steps]
    known: Mapping[str, float] = field(default_factory=dict)
    _priced: dict[str | tuple[str, ...], Floats] = field(default_factory=dict)

    def columns(self, names: Sequence[str]) -> tuple[Floats, Floats]:
        """(N, coefficients) and (N,): seconds per unit of each coefficient, and what is left when all of them are zero."""
        fixed = tuple(name for name in STRETCHES if name not in names)
        return np.stack([self._costs(name) for name in names], axis=1), self._costs(fixed)

    def _costs(self, what: str | tuple[str, ...]) -> Floats:
        """Seconds per unit of one coefficient, or of the kernel families that take as long as when timed alone."""
        if what not in self._priced:
            self._priced[what] = np.concatenate([self._costs_of(part, what) for part in self.steps])
        return self._priced[what]

    def _costs_of(self, part: Steps, what: str | tuple[str, ...]) -> Floats:
        if what == OVERLAP:  # hidden from steps of asynchronous engines
            return np.full(len(part.table), -1.0 if part.asynchronous else 0.0)
        if isinstance(what, tuple):
            return price(self.profile, part, HostCosts(**ABSENT | dict.fromkeys(what, 1.0) | dict(self.known)))
        return price(self.profile, part, HostCosts(**ABSENT | {what: _unit(what)})) / _unit(what)


def _unit(name: str) -> float:
    """A launch is priced as a cost, so that the limit on what an overlap can hide does not bind."""
    return {"kernel_overlap_s": -1e-6}.get(name, 1.0)


def _solve(x: Floats, rest: Floats, seconds: Floats, names: Sequence[str]) -> tuple[Floats, Floats]:
    """Robust relative least squares with every cost at least zero: the coefficients, and the slopes of relative residuals.

    Residuals are relative to the prediction of the round before, not to the measurement: what delays a step now and then
    only ever adds to it, and relative to the measurement such steps would count too little and the sum come out low.
    """
    free = np.array([name == "kernel_overlap_s" for name in names])
    predicted = seconds
    for _ in range(ROUNDS):
        relative, target = x / predicted[:, None], (seconds - rest) / predicted
        scale = np.maximum(np.abs(relative).mean(axis=0), 1e-30)
        values = _bounded(np.asarray(relative / scale, dtype=np.float64), target, free) / scale
        predicted = np.maximum(x @ values + rest, 0.1 * seconds)
    return values, relative


def _bounded(matrix: Floats, target: Floats, free: NDArray[np.bool_]) -> Floats:
    """Soft-L1 solution of matrix · u = target; ``free`` coefficients may be negative."""

    def residuals(units: Floats) -> Floats:
        return np.asarray(matrix @ units - target, dtype=np.float64)

    def slopes(_: Floats) -> Floats:
        return matrix

    plain = np.linalg.lstsq(matrix, target, rcond=None)[0]
    start = np.where(free, plain, np.maximum(plain, 0.01))  # inside the bounds
    low = np.where(free, -np.inf, 0.0)
    found = least_squares(residuals, start, jac=slopes, bounds=(low, np.inf), loss="soft_l1", f_scale=NOISE)
    return np.asarray(found.x, dtype=np.float64)


def fit_steps(profile: HardwareProfile, steps: Sequence[Steps], known: Mapping[str, float] | None = None) -> StepFit:
    """The structure with the least error on runs left out, fitted to all ``steps``.

    ``known``: coefficients of kernels (:data:`OF_KERNELS`) that another fit found; they stay as they are.
    Raises :class:`InputError` when there are too few steps (says how many more).
    """
    seconds = np.concatenate([part.seconds for part in steps])
    runs = np.concatenate([part.table["run"].to_numpy() for part in steps])
    need = STEPS_PER_COEFFICIENT * len(STRUCTURES[0])
    if len(seconds) < need:
        raise InputError(f"{len(seconds)} steps are too few: {need - len(seconds)} more are needed")
    folds = pd.Series(runs).factorize(sort=True)[0] % FOLDS
    both = len({part.asynchronous for part in steps}) > 1
    known = known or {}
    structures = [(*names, OVERLAP) if both else names for names in STRUCTURES if not set(names) & set(known)]
    plain = [replace(part, padded=False) for part in steps]  # what if graphs did not pad
    variants = [steps, plain] if any(part.padded for part in steps) else [steps]
    best: tuple[float, Design, tuple[str, ...], Floats] | None = None
    for design, names in product([Design(profile, variant, known) for variant in variants], structures):
        if len(seconds) < STEPS_PER_COEFFICIENT * len(names):
            continue
        x, rest = design.columns(names)
        if _alike(x / seconds[:, None]):
            continue
        predicted = np.empty_like(seconds)
        for fold in np.unique(folds):
            out = folds == fold
            values, _ = _solve(x[~out], rest[~out], seconds[~out], names)
            predicted[out] = x[out] @ values + rest[out]
        mape = float(np.abs(predicted / seconds - 1).mean())
        if best is None or mape < WORTH * best[0]:
            best = mape, design, names, predicted
    if best is None:
        raise InputError("all steps are alike: the cost of a step cannot be told from that of a sequence")
    return _finish(*best[1:], seconds)


def _alike(relative: Floats) -> bool:
    """Whether two coefficients act alike on these steps, as a launch's and a step's cost do on models of equal depth."""
    scaled = relative / np.maximum(np.abs(relative).mean(axis=0), 1e-30)
    return float(np.linalg.cond(scaled)) > TELL_APART


def _finish(design: Design, names: tuple[str, ...], held_out: Floats, seconds: Floats) -> StepFit:
    x, rest = design.columns(names)
    values, relative = _solve(x, rest, seconds, names)
    predicted = x @ values + rest
    residual = seconds / predicted - 1
    spread = float(np.sqrt((residual**2).sum() / max(len(seconds) - len(names), 1)))
    return StepFit(
        names=names,
        values=values,
        stderr=spread * unit_stderr(relative),
        correlation=correlation_rows(np.asarray(np.linalg.pinv(relative.T @ relative), dtype=np.float64)),
        held_out=errors(held_out, seconds),
        n=len(seconds),
        padded=design.steps[0].padded,
        known=design.known,
    )


def _speeds(sentinels: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The steps of sentinel runs that decode every request and nothing else, and the medians of each run by time."""
    full = sentinels[(sentinels["num_prefills"] == 0) & (sentinels["decodes"] == sentinels["decodes"].max())]
    return full, full.groupby("run")[["start_s", "seconds"]].median().sort_values("start_s")


def usual_s(sentinels: Sequence[pd.DataFrame]) -> float:
    """The median of all sentinel runs of one engine, in one log or several: what "not slowed" means."""
    medians = pd.concat([_speeds(part)[1]["seconds"] for part in sentinels])
    return float(medians.median())


def drift(sentinels: pd.DataFrame, at_s: Floats, usual: float) -> Floats:
    """How slow the machine was at times ``at_s`` against ``usual`` (:func:`usual_s`): lines between the sentinel runs.

    ``sentinels``: steps of runs that are all the same (columns ``run``, ``start_s``, ``seconds``, ``num_prefills``,
    ``decodes``); without any there is no drift to tell.
    """
    _, points = _speeds(sentinels)
    if points.empty:
        return np.ones_like(at_s)
    slow = np.log(points["seconds"] / usual)
    return np.asarray(np.exp(np.interp(at_s, points["start_s"], slow)), dtype=np.float64)


def noise_floor(sentinels: pd.DataFrame) -> float:
    """Mean absolute relative difference of identical steps from their median, drift taken out: no model can go below.

    Each sentinel run is corrected with the drift that the others show, as the steps of every other run are. NaN for fewer
    than three runs.
    """
    full, points = _speeds(sentinels)
    if len(points) < LEAST_REPEATS:
        return float("nan")
    at, slow = points["start_s"].to_numpy(), np.log(points["seconds"].to_numpy())
    others = [np.interp(at[i], np.delete(at, i), np.delete(slow, i)) for i in range(len(at))]
    by_run = dict(zip(points.index, others, strict=True))
    seconds = full["seconds"].to_numpy() / np.exp([by_run[run] for run in full["run"]])
    full = full.assign(seconds=seconds)
    groups = full.groupby(["decodes", "context"])["seconds"]
    many = groups.transform("size") >= LEAST_REPEATS
    return float((full["seconds"] / groups.transform("median") - 1).abs()[many].mean())


def by_load(table: pd.DataFrame, predicted: Floats) -> list[dict[str, Any]]:
    """Error of ``predicted`` (one per row of ``table``) at each load level: steps, MAPE, bias of the total time."""
    rows = []
    for load, part in table.assign(predicted=predicted).groupby("load", sort=True):
        ratio = part["predicted"] / part["seconds"]
        rows.append(
            {
                "load": float(load),  # type: ignore[arg-type]
                "steps": len(part),
                "mape": float((ratio - 1).abs().mean()),
                "bias": float(ratio.mean() - 1),
                "total_bias": float(part["predicted"].sum() / part["seconds"].sum() - 1),
            }
        )
    return rows


def fit_requests(requests: pd.DataFrame) -> tuple[Floats, Floats]:
    """Seconds per request and per input token that the API adds before the first token, and their standard errors.

    ``requests``: ``outside_s`` (time to the first token that was neither spent waiting in the engine nor in its steps) and
    ``input_tokens``. Raises :class:`InputError` for fewer than ten requests.
    """
    if len(requests) < STEPS_PER_COEFFICIENT:
        raise InputError(
            f"{len(requests)} requests are too few: {STEPS_PER_COEFFICIENT - len(requests)} more are needed"
        )
    outside = requests["outside_s"].to_numpy(dtype=np.float64)
    tokens = requests["input_tokens"].to_numpy(dtype=np.float64)
    x = np.stack([np.ones_like(tokens), tokens], axis=1)
    usual = float(np.median(outside))
    scale = np.array([usual, usual / max(float(tokens.mean()), 1.0)])

    def residuals(units: Floats) -> Floats:
        return np.asarray((x @ (units * scale) - outside) / usual, dtype=np.float64)

    found = least_squares(residuals, [1.0, 0.1], bounds=(0, np.inf), loss="soft_l1", f_scale=0.3)
    spread = float(np.sqrt((found.fun**2).mean()))
    return np.asarray(found.x * scale), spread * unit_stderr(found.jac) * scale
