"""Robust fits of kernel timings: a roofline, then a table of corrections, judged on shapes left out of both.

The roofline's four coefficients (FLOP rate, bandwidth, launch time, p of the p-norm) come from a soft-L1 fit of log
times; the table (:mod:`calibrate.grid`) takes up what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from calibrate import checks
from calibrate.grid import Axes, Candidate, TableFit, as_table, fit_table, hat_matrix, within
from calibrate.judge import Judged, errors, round_to, rounded
from twin.base import Estimate, Provenance
from twin.cost.tables import Floats, p_norm
from twin.spec.hardware import Facts
from twin.spec.kernels import HeldOut, Kernel, Precision

FOLDS = 5
ROOFLINE_SAMPLE = 8000  # enough for four coefficients; the table sees every row
OFF_SERVING_WEIGHT = 0.3  # shapes that no dense model serves with still shape the table, less
WORTH = 0.96  # a larger table must lower the held-out error by 4 %
AT_BOUND = 0.01  # relative distance to a bound at which a coefficient counts as stopped by it
UNFELT = 1e-6  # a coefficient whose slope is this small beside the largest was not seen by the data

COEFFICIENTS = ("flops_per_s", "bytes_per_s", "launch_s", "p")


@dataclass(frozen=True)
class Peaks:
    """Of the device, in SI; ``headroom`` is how far a fit may go above them (caches can beat the memory)."""

    flops_per_s: float
    bytes_per_s: float
    headroom: float = 1.3

    @classmethod
    def of(cls, facts: Facts, dtype: Precision = "bf16", headroom: float = 1.3) -> Peaks:
        """Of a device at a precision; where it has none of its own, at bf16's rate."""
        rate = getattr(facts.flops, dtype, None) or facts.flops.bf16
        return cls(rate.value, facts.mem_bw_bytes_per_s.value, headroom)

    def bounds(self) -> tuple[Floats, Floats]:
        """Least and most of :data:`COEFFICIENTS`."""
        low = np.array([0.01 * self.flops_per_s, 0.05 * self.bytes_per_s, 2e-7, 1.0])
        return low, np.array([self.headroom * self.flops_per_s, self.headroom * self.bytes_per_s, 2e-4, 16.0])

    def log_bounds(self) -> tuple[Floats, Floats]:
        low, high = self.bounds()
        return np.log(low), np.log(high)


@dataclass(frozen=True)
class Observations:
    """Timings of one kernel. Arrays of one length; ``shape`` numbers what is held out together."""

    name: str
    coords: dict[str, Floats]
    flops: Floats
    bytes_moved: Floats
    seconds: Floats
    shape: NDArray[np.intp]
    serving: NDArray[np.bool_]
    provenance: Provenance

    def part(self, keep: NDArray[np.bool_]) -> Observations:
        return replace(
            self,
            coords={name: x[keep] for name, x in self.coords.items()},
            flops=self.flops[keep],
            bytes_moved=self.bytes_moved[keep],
            seconds=self.seconds[keep],
            shape=self.shape[keep],
            serving=self.serving[keep],
        )

    @property
    def weight(self) -> Floats:
        return np.where(self.serving, 1.0, OFF_SERVING_WEIGHT)

    @property
    def size(self) -> Floats:
        """FLOPs of matrix products and prefill, bytes of the others: what a report draws over."""
        return self.flops if self.name.startswith(("gemm", "prefill")) else self.bytes_moved

    def folds(self) -> NDArray[np.intp]:
        """A fold per row; rows of one shape share it."""
        shapes, position = np.unique(self.shape, return_inverse=True)
        dealt = np.random.default_rng(1).permutation(len(shapes)) % FOLDS
        return np.asarray(dealt[position], dtype=np.intp)


@dataclass(frozen=True)
class Roofline:
    """log of :data:`COEFFICIENTS` with standard errors: NaN at a bound and where the data do not feel one."""

    log_params: Floats
    stderr: Floats

    def seconds(self, obs: Observations) -> Floats:
        rate, bandwidth, launch, p = np.exp(self.log_params)
        return np.asarray(launch + p_norm(obs.flops / rate, obs.bytes_moved / bandwidth, p), dtype=np.float64)


def fit_roofline(obs: Observations, peaks: Peaks) -> Roofline:
    """Four coefficients within ``peaks.bounds()``."""
    count = len(obs.seconds)
    keep = np.zeros(count, dtype=bool)
    keep[np.random.default_rng(0).permutation(count)[:ROOFLINE_SAMPLE]] = True
    some = obs.part(keep)
    log_seconds, root_weight = np.log(some.seconds), np.sqrt(some.weight)

    def residual(log_params: Floats) -> Floats:
        model = Roofline(log_params, log_params).seconds(some)
        return np.asarray((np.log(model) - log_seconds) * root_weight, dtype=np.float64)

    start = np.log([0.6 * peaks.flops_per_s, 0.7 * peaks.bytes_per_s, 5e-6, 4.0])
    found = least_squares(residual, start, bounds=peaks.log_bounds(), loss="soft_l1", f_scale=0.1)
    spread = float(np.sqrt(2.0 * found.cost / max(len(some.seconds) - 4, 1)))
    return Roofline(np.asarray(found.x), spread * free_stderr(found, peaks.log_bounds()))


def unit_stderr(jacobian: object) -> Floats:
    """Standard errors of least-squares parameters for residuals of unit spread."""
    j = np.asarray(jacobian, dtype=np.float64)
    return np.asarray(np.sqrt(np.diag(np.linalg.pinv(j.T @ j))), dtype=np.float64)


def correlation_rows(covariance: Floats) -> tuple[tuple[float, ...], ...]:
    """Correlation as a profile keeps it, in thousandths; a parameter without variance is tied to none."""
    deviation = np.sqrt(np.diag(covariance))
    safe = np.where(deviation > 0, deviation, 1.0)
    return tuple(tuple(map(float, row)) for row in np.round(covariance / np.outer(safe, safe), 3))


def free_stderr(found: Any, log_bounds: tuple[Floats, Floats]) -> Floats:
    """:func:`unit_stderr` of the parameters that the data decide; NaN for one stopped by a bound or not felt."""
    felt = np.linalg.norm(found.jac, axis=0)
    free = (felt > UNFELT * felt.max()) & ~np.any(np.abs(found.x - np.array(log_bounds)) < AT_BOUND, axis=0)
    stderr = np.full(len(found.x), np.nan)
    stderr[free] = unit_stderr(np.asarray(found.jac)[:, free])
    return stderr


def bound_note(name: str, kernel: Kernel, peaks: Peaks) -> str | None:
    """Which coefficients stopped at the bounds of the fit, and which the data did not decide; ``None`` without any."""
    said = []
    for coefficient, low, high in zip(COEFFICIENTS, *peaks.bounds(), strict=True):
        figure: Estimate = getattr(kernel, coefficient)
        near = [
            f"at its {side} bound {x:.4g}" for side, x in (("lower", low), ("upper", high)) if _met(figure.value, x)
        ]
        if figure.stderr is None:
            said.append(f"{coefficient} {near[0] if near else 'not felt'}")
    return f"{name}: {', '.join(said)}" if said else None


def _met(value: float, bound: float) -> bool:
    return abs(float(np.log(value / bound))) < AT_BOUND


def predict(roofline: Roofline, axes: Axes, table: TableFit, obs: Observations) -> Floats:
    return np.asarray(roofline.seconds(obs) * np.exp(hat_matrix(axes, obs.coords) @ table.values), dtype=np.float64)


def _table(obs: Observations, roofline: Roofline, axes: Axes, smoothing: float) -> TableFit:
    return fit_table(obs.coords, obs.weight, np.log(obs.seconds / roofline.seconds(obs)), axes, smoothing)


def held_out_seconds(obs: Observations, peaks: Peaks, candidates: Sequence[Candidate]) -> list[Floats]:
    """For each candidate every row predicted by a fit (roofline and table) that saw no row of its shape."""
    folds = obs.folds()
    predicted = [np.zeros(len(obs.seconds)) for _ in candidates]
    for fold in np.unique(folds):
        out = folds == fold
        seen, unseen = obs.part(~out), obs.part(out)
        roofline = fit_roofline(seen, peaks)
        for (axes, smoothing), guess in zip(candidates, predicted, strict=True):
            guess[out] = predict(roofline, axes, _table(seen, roofline, axes, smoothing), unseen)
    return predicted


def judge(obs: Observations, predicted: Floats, groups: NDArray[Any] | None = None) -> HeldOut:
    """Errors over all rows and over serving shapes; coverage between ``groups``, the folds without them."""
    groups = obs.folds() if groups is None else groups
    keep = obs.serving
    return HeldOut(
        overall=errors(predicted, obs.seconds, groups),
        serving=errors(predicted[keep], obs.seconds[keep], groups[keep]),
    )


def fit_kernel(
    obs: Observations,
    peaks: Peaks,
    candidates: Sequence[Candidate],
    gpu: str = "",
    judged: list[Judged] | None = None,
) -> Kernel:
    """Fit on all rows the candidate with the least held-out error on serving shapes; later ones must win by 4 %.

    The held-out predictions are appended to ``judged``. Raises :class:`InputError` for too few points or shapes (says how
    many more) and for times that are not in seconds.
    """
    where = obs.provenance.source
    checks.enough(obs.name, len(obs.seconds), len(np.unique(obs.shape)), len(COEFFICIENTS), where)
    possible = np.maximum(obs.flops / peaks.flops_per_s, obs.bytes_moved / peaks.bytes_per_s)
    checks.plausible(obs.name, obs.seconds, possible, where, peaks.headroom)
    choices = [(within(axes, obs.coords), smoothing) for axes, smoothing in candidates]
    guesses = held_out_seconds(obs, peaks, choices)
    found = [judge(obs, guess) for guess in guesses]
    best = 0
    for position in range(1, len(choices)):
        if found[position].serving.mape < WORTH * found[best].serving.mape:
            best = position
    if judged is not None:
        judged.append(Judged(gpu, obs.name, obs.size, obs.seconds, guesses[best], obs.serving))
    return _kernel(obs, peaks, choices[best], found[best])


def _kernel(obs: Observations, peaks: Peaks, choice: Candidate, held_out: HeldOut) -> Kernel:
    axes, smoothing = choice
    roofline = fit_roofline(obs, peaks)
    figures = estimates(np.exp(roofline.log_params), roofline.stderr, obs)
    return Kernel(
        **dict(zip(COEFFICIENTS, figures, strict=True)),
        table=as_table(_table(obs, roofline, axes, smoothing), axes, len(obs.seconds)),
        held_out=rounded(held_out),
        provenance=obs.provenance,
    )


def estimates(values: Floats, log_stderr: Floats, obs: Observations) -> list[Estimate]:
    """Coefficients as a profile shows them; ``log_stderr`` are relative standard errors, NaN for none."""
    return [
        Estimate(
            value=round_to(value),
            stderr=round_to(value * stderr, 2) if np.isfinite(stderr) else None,
            n=len(obs.seconds),
            origin="fitted",
            source=obs.provenance.source,
            date=obs.provenance.date,
        )
        for value, stderr in zip(values, log_stderr, strict=True)
    ]
