"""Fit what a running engine adds to its kernels, from recorded runs, with the simulation in the loop.

The kernels stay as they were measured. One set of coefficients serves every GPU: the host's are of the engine's software, and
what power, launches and the skew of ranks do to kernels came out alike on each GPU that has runs; only :data:`OWN` are a
GPU's own. Engines before vLLM 0.16 and since have host times of their own (:data:`GENERATIONS`); what the newer runs cannot
tell is taken from the older (:data:`KEPT`). They minimise the log error of mean TPOT and mean TTFT of the closed-loop runs
that are away from saturation. What they are worth is seen on layouts and on whole GPUs left out of the fit, and those errors
are kept beside them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from calibrate.fit import correlation_rows
from calibrate.judge import round_to
from twin.base import Estimate, InfeasibleError, InputError, Origin
from twin.cost.layout import HostCosts
from twin.spec.hardware import HostFit, RunErrors, load_profile
from twin.spec.model import load_model
from twin.trust.closed_loop import BenchmarkRun, predict
from twin.trust.table import Row, read_table, run_of

Floats = NDArray[np.float64]

UNITS = {
    "step_s": 1e-3,
    "sequence_s": 1e-5,
    "request_s": 1e-2,
    "input_token_s": 1e-6,
    "kernel_overlap_s": 1e-6,
    "compute_stretch": 1.0,
    "reduce_skew_s": 1e-6,
    "launch_s": 1e-5,
    "cold_start_s": 1e-1,
    "client_s": 1e-2,
}
"""Scale of each coefficient: the fit works in these units, in which all are of the order of one."""
START = {"step_s": 0.4, "sequence_s": 3.0, "compute_stretch": 1.4, "reduce_skew_s": 2.0}
OWN = ("cold_start_s", "client_s")
"""What is a GPU's own, or rather of the machine that its runs were made on."""
KEPT = ("request_s", "input_token_s", "kernel_overlap_s", "compute_stretch", "reduce_skew_s")
"""What the newer engines' fit takes from the older one's: the device's part, and an API server's, which ``client_s`` hides."""
GENERATIONS = {True: "before vLLM 0.16", False: "since vLLM 0.16"}
LEAST = {"compute_stretch": 1.0}
PRIOR = {"step_s": (0.5, 0.5), "kernel_overlap_s": (0.7, 0.5)}
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


Runs = Mapping[str, Sequence[MeasuredRun]]
"""Measured runs by GPU."""


@dataclass(frozen=True)
class JointFit:
    """``values`` in SI: a coefficient of all GPUs under its name, one of a single GPU under (name, GPU)."""

    names: tuple[str | tuple[str, str], ...]
    values: Floats
    covariance: Floats
    n: int
    known: Mapping[str, float] = field(default_factory=dict)
    """Coefficients that were not fitted, as they are known already."""

    @cached_property
    def _by_name(self) -> dict[str | tuple[str, str], float]:
        fitted = zip(self.names, self.values.tolist(), strict=True)
        return dict([*self.known.items(), *fitted])

    def of(self, gpu: str, name: str) -> float:
        """A GPU that was not fitted has the least of the others' own coefficients, which excuse what was seen there."""
        own = [value for key, value in self._by_name.items() if isinstance(key, tuple) and key[0] == name]
        neutral = 1.0 if name.endswith("stretch") else 0.0
        return self._by_name.get((name, gpu), self._by_name.get(name, min(own, default=neutral)))

    def host(self, gpu: str) -> HostCosts:
        return HostCosts(**{name: self.of(gpu, name) for name in UNITS})


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
    except (InputError, InfeasibleError, KeyError, ValueError):
        return None


def log_errors(runs: Sequence[MeasuredRun], host: HostCosts) -> Floats:
    """log(predicted / measured) of TPOT and TTFT, shape (runs, 2)."""
    rows = []
    for item in runs:
        got = predict(item.run, host=host)
        rows.append((log(got.tpot_s / item.tpot_s), log(got.ttft_s / item.ttft_s)))
    return np.array(rows).reshape(-1, 2)


def below_saturation(runs: Sequence[MeasuredRun]) -> list[MeasuredRun]:
    """The runs that the simulation alone finds unsaturated (with nominal host times)."""
    nominal = HostCosts(1e-3, 1e-5, 2e-2, 1e-6)
    return [item for item in runs if not predict(item.run, host=nominal).saturated]


def fit_jointly(runs: Runs, start: JointFit | None = None, known: Mapping[str, float] | None = None) -> JointFit:
    """Least squares over all ``runs``; what they cannot tell (skew on one GPU, a cold start after warm-ups) is left out.

    ``known`` coefficients stay as they are. Raises :class:`InputError` when there are fewer than two runs per coefficient.
    """
    fixed = dict(known or {})
    names = tuple(name for name in _told(runs) if name not in fixed)
    count = sum(map(len, runs.values()))
    if (missing := 2 * len(names) - count) > 0:
        where = ", ".join(
            f"{gpu}, vLLM {items[0].vllm_version or '(not stated)'}" for gpu, items in runs.items() if items
        )
        what = f"{count} runs are too few for {len(names)} host coefficients: {missing} more are needed"
        raise InputError(what, where=where or None)
    kinds = [name if isinstance(name, str) else name[0] for name in names]
    units = np.array([UNITS[kind] for kind in kinds])

    def fitted(x: Floats) -> JointFit:
        return JointFit(names, x * units, np.zeros((len(x), len(x))), count, fixed)

    def residuals(x: Floats) -> Floats:
        fit = fitted(x)
        errors = np.concatenate([log_errors(items, fit.host(gpu)) for gpu, items in runs.items()])
        belief = [
            NOISE * (x[kinds.index(name)] - mean) / spread for name, (mean, spread) in PRIOR.items() if name in kinds
        ]
        return np.concatenate([errors[:, 0], TTFT_WEIGHT * errors[:, 1], belief])

    near = start._by_name if start else {}
    begin = [near[name] / UNITS[kind] if name in near else START.get(kind, 1.0)
             for name, kind in zip(names, kinds, strict=True)]  # fmt: skip
    least = np.array([LEAST.get(kind, 0.0) for kind in kinds])
    found = least_squares(
        residuals, np.maximum(begin, least), bounds=(least, np.inf), loss="soft_l1", f_scale=NOISE,
        diff_step=np.full(len(names), 0.05), xtol=1e-3, ftol=1e-4, max_nfev=12,
    )  # fmt: skip
    freedom = max(found.fun.size - len(names), 1)
    slopes = np.asarray(found.jac, dtype=np.float64)
    covariance = np.linalg.pinv(slopes.T @ slopes) * float(found.fun @ found.fun) / freedom
    return JointFit(names, found.x * units, covariance * np.outer(units, units), count, fixed)


def _told(runs: Runs) -> tuple[str | tuple[str, str], ...]:
    """The coefficients that these runs tell: skew where there are several ranks, launching where steps of many short kernels
    outgrow CUDA graphs, as those of mixtures do; a cold start where nothing warmed the engine up, else what its client adds.
    """
    every = [item.run for items in runs.values() for item in items]
    silent = {*OWN}
    if not any(run.tp_size > 1 for run in every):
        silent.add("reduce_skew_s")
    if not any(load_model(run.model).num_experts for run in every):
        silent.add("launch_s")
    cold = [gpu for gpu, items in runs.items() if any(i.run.tp_size > 1 and not i.run.flags.warmed_up for i in items)]
    warm = [gpu for gpu, items in runs.items() if all(i.run.flags.warmed_up for i in items)]
    own = [("cold_start_s", gpu) for gpu in cold] + [("client_s", gpu) for gpu in warm]
    return (*(name for name in UNITS if name not in silent), *own)


def left_out(runs: Runs, fit: JointFit, tell: Callable[[str], None]) -> dict[str, dict[str, Floats]]:
    """Log errors by GPU of runs that a fit had not seen: with each layout, and with each GPU, left out of it."""
    found: dict[str, dict[str, list[Floats]]] = {"layout_left_out": {}, "gpu_left_out": {}}
    folds: list[tuple[str, Callable[[MeasuredRun], object]]] = [
        ("layout_left_out", lambda item: item.run.tp_size), ("gpu_left_out", lambda item: item.run.system)
    ]  # fmt: skip
    for kind, fold_of in folds:
        folds_here = sorted({fold_of(item) for items in runs.values() for item in items}, key=str)
        for fold in folds_here if len(folds_here) > 1 else ():
            rest = {gpu: kept for gpu, items in runs.items() if (kept := [i for i in items if fold_of(i) != fold])}
            try:
                without = fit_jointly(rest, fit, fit.known)
            except InputError:  # too few runs are left
                continue
            for gpu, items in runs.items():
                if unseen := [item for item in items if fold_of(item) == fold]:
                    found[kind].setdefault(gpu, []).append(log_errors(unseen, without.host(gpu)))
                    tell(f"  without {fold}: {gpu} {describe(found[kind][gpu][-1])}")
    return {kind: {gpu: np.concatenate(parts) for gpu, parts in by_gpu.items()} for kind, by_gpu in found.items()}


def describe(errors: Floats) -> str:
    mean = run_errors(errors)
    return f"TPOT {mean.tpot:.1%}, TTFT {mean.ttft:.1%} mean absolute error over {mean.n} runs"


def run_errors(errors: Floats) -> RunErrors:
    tpot, ttft = np.abs(np.expm1(errors)).mean(axis=0)
    return RunErrors(tpot=round(float(tpot), 4), ttft=round(float(ttft), 4), n=len(errors))


def fit_hosts(
    table: Path, tell: Callable[[str], None], date: str, gpus: Sequence[str]
) -> dict[str, tuple[HostFit, HostFit | None]]:
    """Host sections for ``gpus``: of the newer engines, and of the older ones where runs of both are there.

    A GPU without runs has what the others tell, assumed (:func:`_joined`).

    Raises :class:`InputError` when the table has no run that can be predicted, or too few.
    """
    runs = read_runs(table)
    sections: list[dict[str, HostFit]] = []  # the older engines' first
    known: dict[str, float] = {}
    for older, what in GENERATIONS.items():
        own = {gpu: [i for i in items if _of(i.run, older=older)] for gpu, items in sorted(runs.items())}
        calm = {gpu: kept for gpu, items in own.items() if gpu in gpus and (kept := below_saturation(items))}
        if not calm:
            continue
        tell(f"{what}: {sum(map(len, calm.values()))} runs of {', '.join(calm)}")
        fit = fit_jointly(calm, known=known)
        known = {name: fit.of("", name) for name in KEPT}
        seen = {gpu: log_errors(items, fit.host(gpu)) for gpu, items in calm.items()}
        for gpu, errors in seen.items():
            tell(f"  {gpu} ({load_profile(gpu).label}): {describe(errors)}")
        unseen = left_out(calm, fit, tell)
        version = max((item.vllm_version for items in calm.values() for item in items), key=_release)
        source = f"{table.name}: runs of {', '.join(calm)}"
        found = {gpu: host_section(fit, gpu, seen, unseen, version, source, date) for gpu in gpus}
        if sections:
            found = {gpu: _joined(found[gpu], sections[0][gpu], own=gpu in seen) for gpu in gpus}
        sections.append(found)
    if not sections:
        raise InputError("no runs of these GPUs away from saturation", where=table.name, allowed=gpus)
    return {gpu: (sections[-1][gpu], sections[0][gpu] if len(sections) > 1 else None) for gpu in gpus}


def _of(run: BenchmarkRun, *, older: bool) -> bool:
    """Whether a run tells of this generation; kernels of mixtures were not timed on a release as old as its."""
    return run.older_engine == older and not (older and load_model(run.model).num_experts)


def _joined(newer: HostFit, older: HostFit, *, own: bool) -> HostFit:
    """The newer engines' section with what was taken from the older ones' fit. A GPU without runs of its own keeps what the
    older runs tell: they are of more GPUs, and of the same model on each; only what they do not tell comes from the newer.
    """
    if own:
        return newer.model_copy(update={name: getattr(older, name) for name in (*KEPT, "cold_start_s")})
    return older.model_copy(update={name: getattr(newer, name) for name in ("launch_s", "client_s")})


def _release(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def host_section(
    fit: JointFit,
    gpu: str,
    seen: Mapping[str, Floats],
    unseen: Mapping[str, Mapping[str, Floats]],
    version: str,
    source: str,
    date: str,
) -> HostFit:
    """The ``host`` section of a profile: with this GPU's own errors, or where it has no runs those of every GPU left out."""
    own = gpu in seen
    origin: Origin = "fitted" if own else "assumed"
    deviation = dict(zip(fit.names, np.sqrt(np.diag(fit.covariance)).tolist(), strict=True))
    told = {name if isinstance(name, str) else name[0] for name in fit.names}
    figures = {}
    for name in UNITS:
        error = deviation.get(name, deviation.get((name, gpu)))
        figures[name] = Estimate(
            value=round_to(fit.of(gpu, name)), stderr=None if error is None else round_to(error, 2), n=fit.n,
            origin=origin if name in told else "assumed",
            source=source if name in told else "not told by these runs", date=date,
        )  # fmt: skip
    errors = {"fitted": seen, **unseen}
    mine = {kind: [by_gpu[gpu]] if own and gpu in by_gpu else list(by_gpu.values()) for kind, by_gpu in errors.items()}
    pooled = {kind: np.concatenate(parts) for kind, parts in mine.items() if parts}
    decisive = pooled.get("layout_left_out" if own else "gpu_left_out", pooled["fitted"])
    tpot, ttft = np.sqrt((decisive**2).mean(axis=0)).tolist()
    tied = [i for i, name in enumerate(fit.names) if isinstance(name, str) or name[1] == gpu]
    names = tuple(name if isinstance(name, str) else name[0] for name in (fit.names[i] for i in tied))
    return HostFit(
        **figures,
        vllm_version=version,
        tpot_error=round(tpot, 4),
        ttft_error=round(ttft, 4),
        runs={kind: run_errors(parts) for kind, parts in pooled.items()},
        correlated=names,
        correlation=correlation_rows(fit.covariance[np.ix_(tied, tied)]),
        source=source,
    )
