"""Fit what a running engine adds to its kernels, from recorded runs, with the simulation in the loop.

Six coefficients per GPU (see :class:`twin.spec.hardware.HostFit`); the kernels stay as they were measured. They minimise
the log error of mean TPOT and mean TTFT of the closed-loop runs that are away from saturation; the errors kept beside them
are those on layouts (tensor-parallel sizes) left out of the fit. A GPU without runs takes the mean of the others, marked
assumed, with the error that leaving a whole GPU out shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from math import log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from twin.base import Estimate, InputError
from twin.cost.step import HostCosts
from twin.spec.hardware import HostFit, load_profile
from twin.trust.closed_loop import BenchmarkRun, predict
from twin.trust.validate import Row, read_table, run_of

Floats = NDArray[np.float64]

UNIT = np.array([1e-3, 1e-5, 1e-2, 1e-6, 1e-6, 1.0])
"""Scale of each coefficient: the fit works in these units."""
LOWER = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
PRIOR = {0: (0.5, 0.5), 4: (0.7, 0.5)}
"""Host time per step and kernel overlap act alike on one model, so runs of one model tell only their difference. A weak
belief worth one run each keeps both sane: 0.5 ± 0.5 ms per step, 0.7 ± 0.5 µs per launch (assumed)."""
NOISE = 0.05
"""Relative scatter of a measured mean, the scale beyond which the loss turns linear."""
TTFT_WEIGHT = 0.5
"""A TTFT counts half a TPOT: its mean over a few dozen requests scatters more."""


@dataclass(frozen=True)
class MeasuredRun:
    run: BenchmarkRun
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class HostResult:
    """A fitted host, its covariance, and log errors (rows × [TPOT, TTFT]) on layouts left out."""

    host: HostCosts
    stderr: Floats
    held_out: Floats
    n: int


def read_runs(path: Path) -> dict[str, list[MeasuredRun]]:
    """Runs by GPU, those that the twin can predict at all. Raises :class:`InputError` when there is none."""
    _, rows = read_table(path)
    runs: dict[str, list[MeasuredRun]] = {}
    for row in rows:
        found = _measured(row)
        if found is not None:
            runs.setdefault(found.run.system, []).append(found)
    if not runs:
        raise InputError("no row has a known GPU and model and measured mean_ttft_ms and mean_tpot_ms", where=str(path))
    return runs


def _measured(row: Row) -> MeasuredRun | None:
    try:
        run = run_of(row)
        predict(run, host=HostCosts())
        return MeasuredRun(run, float(row["mean_ttft_ms"]) / 1e3, float(row["mean_tpot_ms"]) / 1e3)
    except (InputError, KeyError, ValueError):
        return None


def log_errors(runs: Sequence[MeasuredRun], host: HostCosts) -> Floats:
    """log(predicted / measured) of TPOT and TTFT, shape (runs, 2)."""
    rows = []
    for item in runs:
        got = predict(item.run, host=host)
        rows.append((log(got.tpot_s / item.tpot_s), log(got.ttft_s / item.ttft_s)))
    return np.array(rows)


def below_saturation(runs: Sequence[MeasuredRun]) -> list[MeasuredRun]:
    """The runs that the simulation alone finds unsaturated (with nominal host times)."""
    nominal = HostCosts(1e-3, 1e-5, 2e-2, 1e-6)
    return [item for item in runs if not predict(item.run, host=nominal).saturated]


def fit_host(runs: Sequence[MeasuredRun], start: Floats | None = None) -> tuple[HostCosts, Floats]:
    """Least squares over ``runs``; the host and its standard errors.

    Raises :class:`InputError` when there are fewer than two runs per coefficient.
    """
    if (missing := 2 * len(UNIT) - len(runs)) > 0:
        raise InputError(f"{len(runs)} runs are too few for {len(UNIT)} host coefficients: {missing} more are needed")

    def residuals(units: Floats) -> Floats:
        errors = log_errors(runs, HostCosts(*(units * UNIT)))
        belief = [NOISE * (units[i] - mean) / deviation for i, (mean, deviation) in PRIOR.items()]
        return np.concatenate([errors[:, 0], TTFT_WEIGHT * errors[:, 1], belief])

    found = least_squares(
        residuals, np.array([0.5, 1.0, 2.0, 1.0, 0.7, 1.1]) if start is None else start,
        bounds=(LOWER, np.inf), loss="soft_l1", f_scale=NOISE, diff_step=np.full(len(UNIT), 0.05),
        xtol=1e-3, ftol=1e-4, max_nfev=15,
    )  # fmt: skip
    freedom = max(found.fun.size - len(UNIT), 1)
    slopes = np.asarray(found.jac, dtype=np.float64)
    covariance = np.linalg.pinv(slopes.T @ slopes) * float(found.fun @ found.fun) / freedom
    return HostCosts(*map(float, found.x * UNIT)), np.sqrt(np.diag(covariance)) * UNIT


def fit_with_errors(runs: Sequence[MeasuredRun], tell: Callable[[str], None]) -> HostResult:
    """Fit on all unsaturated runs, then once more without each layout to see the error on what was not fitted."""
    calm = below_saturation(runs)
    host, stderr = fit_host(calm)
    start = np.array(astuple(host)) / UNIT
    held_out = []
    for tp in sorted({item.run.tp_size for item in calm}):
        rest = [item for item in calm if item.run.tp_size != tp]
        left = [item for item in calm if item.run.tp_size == tp]
        held_out.append(log_errors(left, fit_host(rest, start)[0]))
        tell(f"  without TP {tp}: {_describe(held_out[-1])}")
    return HostResult(host, stderr, np.concatenate(held_out), len(calm))


def host_section(result: HostResult, source: str, date: str) -> HostFit:
    """The ``host`` section of a profile that has runs of its own."""
    values = [
        Estimate(value=float(v), stderr=float(e), n=result.n, origin="fitted", source=source, date=date)
        for v, e in zip(astuple(result.host), result.stderr, strict=True)
    ]
    tpot, ttft = _spread(result.held_out)
    return _section(values, tpot, ttft, source)


def mean_host_section(results: dict[str, HostResult], runs: dict[str, list[MeasuredRun]], date: str) -> HostFit:
    """For GPUs without runs: the mean of the fitted hosts, with the error that leaving each GPU out shows."""
    hosts = {gpu: np.array(astuple(result.host)) for gpu, result in results.items()}
    errors = []
    for gpu in hosts:
        others = [host for name, host in hosts.items() if name != gpu]
        if others:
            errors.append(log_errors(below_saturation(runs[gpu]), HostCosts(*np.mean(others, axis=0))))
    stack = np.array(list(hosts.values()))
    source = f"mean of {', '.join(sorted(hosts))}"
    spread = stack.std(axis=0, ddof=1) if len(stack) > 1 else np.full(len(UNIT), np.nan)
    values = [
        Estimate(value=float(v), stderr=float(e), n=len(stack), origin="assumed", source=source, date=date)
        for v, e in zip(stack.mean(axis=0), spread, strict=True)
    ]
    return _section(values, *_spread(np.concatenate(errors)), source)


def _section(values: Sequence[Estimate], tpot: float, ttft: float, source: str) -> HostFit:
    rounded = {
        field.name: item.model_copy(update={"value": float(f"{item.value:.4g}"), "stderr": float(f"{item.stderr:.2g}")})
        for field, item in zip(fields(HostCosts), values, strict=True)
    }
    return HostFit(**rounded, tpot_error=round(tpot, 4), ttft_error=round(ttft, 4), source=source)


def _spread(errors: Floats) -> tuple[float, float]:
    """Root mean square log error of TPOT and TTFT."""
    tpot, ttft = np.sqrt((errors**2).mean(axis=0))
    return float(tpot), float(ttft)


def _describe(errors: Floats) -> str:
    tpot, ttft = np.abs(np.expm1(errors)).mean(axis=0)
    return f"TPOT {tpot:.1%}, TTFT {ttft:.1%} mean absolute error over {len(errors)} runs"


def fit_hosts(table: Path, tell: Callable[[str], None], date: str, gpus: Sequence[str]) -> dict[str, HostFit]:
    """Host sections for ``gpus``: fitted where ``table`` has runs, else the mean of the fitted, marked assumed.

    Raises :class:`InputError` when the table has no run that can be predicted.
    """
    runs = {gpu: measured for gpu, measured in read_runs(table).items() if gpu in gpus}
    results = {}
    for gpu, measured in sorted(runs.items()):
        tell(f"{gpu} ({load_profile(gpu).label}): {len(measured)} runs")
        results[gpu] = fit_with_errors(measured, tell)
        in_sample = log_errors(below_saturation(measured), results[gpu].host)
        tell(f"  {results[gpu].host}; in sample {_describe(in_sample)}")
    sections = {gpu: host_section(result, table.name, date) for gpu, result in results.items()}
    without = [gpu for gpu in gpus if gpu not in sections]
    if without:
        assumed = mean_host_section(results, runs, date)
        sections |= dict.fromkeys(without, assumed)
    return sections
