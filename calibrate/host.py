"""Fit what a running engine adds to its kernels, from recorded runs, with the simulation in the loop.

Six coefficients per GPU and engine version (see :class:`twin.spec.hardware.HostFit`); the kernels stay as they were
measured. They minimise the log error of mean TPOT and mean TTFT of the closed-loop runs that are away from saturation; the
errors kept beside them are those on layouts (tensor-parallel sizes) left out of the fit. A GPU without runs takes the mean
of the others, marked assumed, with the error that leaving a whole GPU out shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from calibrate.fit import correlation_rows
from calibrate.judge import round_to
from twin.base import Estimate, InputError, Origin
from twin.cost.step import HostCosts
from twin.spec.hardware import HostFit, load_profile
from twin.trust.closed_loop import BenchmarkRun, predict
from twin.trust.table import Row, read_table, run_of

Floats = NDArray[np.float64]

FITTED = ("step_s", "sequence_s", "request_s", "input_token_s", "kernel_overlap_s", "compute_stretch")
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
    vllm_version: str
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class HostResult:
    """Coefficients in the order of ``FITTED``, their covariance, and log errors (rows × [TPOT, TTFT]) on layouts left out."""

    values: Floats
    covariance: Floats
    held_out: Floats
    n: int
    vllm_version: str

    @property
    def host(self) -> HostCosts:
        return host_of(self.values)


def host_of(values: Floats) -> HostCosts:
    return HostCosts(**dict(zip(FITTED, map(float, values), strict=True)))


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
        ttft_s, tpot_s = float(row["mean_ttft_ms"]) / 1e3, float(row["mean_tpot_ms"]) / 1e3
        return MeasuredRun(run, row.get("vllm_version", ""), ttft_s, tpot_s)
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


def fit_host(runs: Sequence[MeasuredRun], start: Floats | None = None) -> tuple[Floats, Floats]:
    """Least squares over ``runs``: the coefficients in the order of ``FITTED``, and their covariance.

    Raises :class:`InputError` when there are fewer than two runs per coefficient.
    """
    if (missing := 2 * len(UNIT) - len(runs)) > 0:
        where = f"{runs[0].run.system}, vLLM {runs[0].vllm_version or '(not stated)'}" if runs else None
        what = f"{len(runs)} runs are too few for {len(UNIT)} host coefficients: {missing} more are needed"
        raise InputError(what, where=where)

    def residuals(units: Floats) -> Floats:
        errors = log_errors(runs, host_of(units * UNIT))
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
    return found.x * UNIT, covariance * np.outer(UNIT, UNIT)


def fit_with_errors(runs: Sequence[MeasuredRun], tell: Callable[[str], None]) -> HostResult:
    """Fit on all unsaturated runs, then once more without each layout to see the error on what was not fitted."""
    calm = below_saturation(runs)
    values, covariance = fit_host(calm)
    start = values / UNIT
    held_out = []
    for tp in sorted({item.run.tp_size for item in calm}):
        rest = [item for item in calm if item.run.tp_size != tp]
        left = [item for item in calm if item.run.tp_size == tp]
        held_out.append(log_errors(left, host_of(fit_host(rest, start)[0])))
        tell(f"  without TP {tp}: {_describe(held_out[-1])}")
    return HostResult(values, covariance, np.concatenate(held_out), len(calm), runs[0].vllm_version)


def host_section(result: HostResult, source: str, date: str) -> HostFit:
    """The ``host`` section of a profile that has runs of its own."""
    deviation = np.sqrt(np.diag(result.covariance))
    section = _section(result.values, deviation, _spread(result.held_out), result.n, "fitted", source, date)
    tied = {"correlated": FITTED, "correlation": correlation_rows(result.covariance)}
    return section.model_copy(update={"vllm_version": result.vllm_version, **tied})


def mean_host_section(results: dict[str, HostResult], runs: dict[str, list[MeasuredRun]], date: str) -> HostFit:
    """For GPUs without runs: the mean of the fitted hosts, with the error that leaving each GPU out shows."""
    errors = []
    for gpu in results:
        others = [result.values for name, result in results.items() if name != gpu]
        if others:
            errors.append(log_errors(below_saturation(runs[gpu]), host_of(np.mean(others, axis=0))))
    if not errors:
        raise InputError("the mean host of GPUs without runs needs runs of two GPUs: give them, or name one GPU")
    stack = np.array([result.values for result in results.values()])
    source = f"mean of {', '.join(sorted(results))}"
    spread = _spread(np.concatenate(errors))
    return _section(stack.mean(axis=0), stack.std(axis=0, ddof=1), spread, len(stack), "assumed", source, date)


def _section(
    values: Floats, stderr: Floats, errors: tuple[float, float], n: int, origin: Origin, source: str, date: str
) -> HostFit:
    figures = {
        name: Estimate(value=round_to(value), stderr=round_to(error, 2), n=n, origin=origin, source=source, date=date)
        for name, value, error in zip(FITTED, values.tolist(), stderr.tolist(), strict=True)
    }
    tpot, ttft = errors
    return HostFit(**figures, tpot_error=round(tpot, 4), ttft_error=round(ttft, 4), source=source)


def _spread(errors: Floats) -> tuple[float, float]:
    """Root mean square log error of TPOT and TTFT."""
    tpot, ttft = np.sqrt((errors**2).mean(axis=0))
    return float(tpot), float(ttft)


def _describe(errors: Floats) -> str:
    tpot, ttft = np.abs(np.expm1(errors)).mean(axis=0)
    return f"TPOT {tpot:.1%}, TTFT {ttft:.1%} mean absolute error over {len(errors)} runs"


def fit_hosts(table: Path, tell: Callable[[str], None], date: str, gpus: Sequence[str]) -> dict[str, HostFit]:
    """Host sections for ``gpus``: fitted where ``table`` has runs, else the mean of the fitted, marked assumed.

    Where a GPU has runs of several engine versions each is fitted, and the newest is the section.
    Raises :class:`InputError` when the table has no run that can be predicted.
    """
    runs, results = {}, {}
    for (gpu, version), measured in _by_version(read_runs(table)).items():
        if gpu in gpus:
            tell(f"{gpu} ({load_profile(gpu).label}), vLLM {version or '(not stated)'}: {len(measured)} runs")
            runs[gpu], results[gpu] = measured, fit_with_errors(measured, tell)
            in_sample = log_errors(below_saturation(measured), results[gpu].host)
            tell(f"  {results[gpu].host}; in sample {_describe(in_sample)}")
    sections = {gpu: host_section(result, table.name, date) for gpu, result in results.items()}
    without = [gpu for gpu in gpus if gpu not in sections]
    if without:
        sections |= dict.fromkeys(without, mean_host_section(results, runs, date))
    return sections


def _by_version(runs: dict[str, list[MeasuredRun]]) -> dict[tuple[str, str], list[MeasuredRun]]:
    """By GPU and engine version, a GPU's versions from the oldest (one that is not stated) to the newest."""

    def number(run: MeasuredRun) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", run.vllm_version)]

    groups: dict[tuple[str, str], list[MeasuredRun]] = {}
    for gpu, measured in sorted(runs.items()):
        for run in sorted(measured, key=number):
            groups.setdefault((gpu, run.vllm_version), []).append(run)
    return groups
