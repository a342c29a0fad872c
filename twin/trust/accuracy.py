"""What is known of the twin's error, gathered: recorded runs and requests, verdicts of real engines, and the profiles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from twin.base import Estimate, InputError, Provenance
from twin.cost.parts import parts
from twin.spec.accuracy import METRICS, Accuracy, Errors, Source
from twin.spec.hardware import HardwareProfile, load_profile, profile_names
from twin.trust.replay import NotReplayed, Replay, compare_run, replay
from twin.trust.request_log import read_inputs, read_requests
from twin.trust.table import Row, derives_e2el, measured_values, read_table
from twin.trust.validate import ALL, By, compare, predict_rows


@dataclass(frozen=True)
class Runs:
    """Closed-loop runs of one or more tables: their rows, what was predicted for each, and what was measured."""

    rows: list[Row]
    predictions: list[Row]
    measured: list[dict[str, float]]
    derived_e2el: bool

    def errors(self, by: By = "gpu_model") -> list[dict[str, Any]]:
        return compare(self.rows, self.predictions, by, self.measured)


@dataclass(frozen=True)
class LogRun:
    """One run of a request log: what was predicted, measured, and the error of each statistic."""

    file: str
    predicted: Replay
    measured: pd.DataFrame
    errors: list[dict[str, Any]]

    @property
    def gpu(self) -> str:
        return self.predicted.scenario.deployment.gpu

    def error(self, metric: str, statistic: str) -> float | None:
        found = (row["error"] for row in self.errors if (row["metric"], row["statistic"]) == (metric, statistic))
        return next(found, None)


@dataclass(frozen=True)
class Verdict:
    """What ``twin verify`` wrote; ``name``: its folder and file."""

    name: str
    payload: dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """All of it, with the files that it comes from."""

    sources: tuple[Source, ...]
    runs: Runs | None
    logs: list[LogRun]
    not_replayed: list[NotReplayed]
    verdicts: list[Verdict]
    profiles: list[HardwareProfile]


def gather(tables: Sequence[Path], logs: Sequence[Path], verified: Sequence[Path]) -> Evidence:
    """Predict what was recorded, then read what was measured. ``verified``: verdict.json files, or folders of them.

    Raises :class:`InputError`, with the file, for one that cannot be read as what it is given as, and without any.
    """
    verdict_files = [found for path in verified for found in _verdict_files(path)]
    if not (tables or logs or verdict_files):
        raise InputError("nothing to judge by: give measurements", allowed=["--runs", "--log", "--verified"])
    runs = _runs(tables)
    replayed, missing = [], []
    for path in logs:
        found, unknown = _log_runs(path)
        replayed += found
        missing += unknown
    verdicts = [_verdict(path) for path in verdict_files]
    files = [(path.name, path) for path in (*tables, *logs)] + [(_short(path), path) for path in verdict_files]
    sources = tuple(Source(file=name, sha256=hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in files)
    return Evidence(sources, runs, replayed, missing, verdicts, [load_profile(name) for name in profile_names()])


def _runs(tables: Sequence[Path]) -> Runs | None:
    rows, predictions, measured, derived = [], [], [], False
    for path in tables:
        columns, found = read_table(path)
        guesses = predict_rows(found)
        values = measured_values(found, guesses)
        if not any(values):
            raise InputError("nothing in it was measured: no mean_ttft_ms, no mean_tpot_ms", where=path.name)
        rows += found
        predictions += guesses
        measured += values
        derived |= derives_e2el(columns)
    return Runs(rows, predictions, measured, derived) if tables else None


def _log_runs(path: Path) -> tuple[list[LogRun], list[NotReplayed]]:
    runs, missing = replay(read_inputs(path), {})
    requests = read_requests(path).requests
    found = []
    for run in runs:
        measured = requests[requests["run"] == run.run]
        found.append(LogRun(path.name, run, measured, compare_run(run, measured)))
    return found, missing


def _short(path: Path) -> str:
    return f"{path.resolve().parent.name}/{path.name}"


def _verdict_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.rglob("verdict.json"))
    if not found:
        raise InputError("holds no verdict.json of twin verify", where=path.name)
    return found


def _verdict(path: Path) -> Verdict:
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(error.strerror or "cannot be read", where=_short(path)) from None
    except ValueError:
        raise InputError("is not a verdict of twin verify: not valid JSON", where=_short(path)) from None
    known = isinstance(payload, dict) and {"scenario", "verdict", "model", "profile"} <= payload.keys()
    if not known or not (payload.get("partial") or isinstance(payload.get("loads"), list)):
        raise InputError("is not a verdict of twin verify", where=_short(path))
    return Verdict(_short(path), payload)


def summarized(evidence: Evidence, date: str | None = None) -> Accuracy:
    """The figures that are shipped and quoted. ``date``: when they were made; else the profiles' newest host fit."""
    gpus: dict[str, list[Errors]] = {}
    saturated = None
    tables = {row.where.rsplit(":", 1)[0] for row in evidence.runs.rows} if evidence.runs else set()
    for row in evidence.runs.errors("gpu") if evidence.runs else []:
        if row["system"] == ALL and row["saturated"]:
            saturated = _of_row(row, fitted=False)
        elif row["system"] != ALL and not row["saturated"]:
            gpus.setdefault(row["system"], []).append(_of_row(row, fitted=_is_fitted(evidence, row["system"], tables)))
    for gpu in sorted({run.gpu for run in evidence.logs}):
        logs = [run for run in evidence.logs if run.gpu == gpu]
        used = _is_fitted(evidence, gpu, {run.file for run in logs})
        gpus.setdefault(gpu, []).append(_of_logs(logs, fitted=used))
    return Accuracy(
        date=date or newest(evidence.profiles),
        sources=evidence.sources,
        profiles={profile.name: profile.digest() for profile in evidence.profiles},
        gpus={gpu: tuple(errors) for gpu, errors in sorted(gpus.items())},
        saturated=saturated,
        unseen_gpu=_mean(left_out(evidence.profiles, "gpu")),
        unseen_layout=_mean(left_out(evidence.profiles, "layout")),
    )


def overall(evidence: Evidence) -> Errors | None:
    """Over all runs of the tables away from saturation."""
    rows = evidence.runs.errors("gpu") if evidence.runs else []
    return next((_of_row(row, fitted=False) for row in rows if row["system"] == ALL and not row["saturated"]), None)


def _of_row(row: Mapping[str, Any], *, fitted: bool) -> Errors:
    inside = {name: _short_figure(row[f"{name}_inside_90"]) for name in METRICS if f"{name}_inside_90" in row}
    sizes = {name: _short_figure(row[f"{name}_mape"]) for name in METRICS if f"{name}_mape" in row}
    return Errors(n=row["rows"], fitted=fitted, inside_90=inside or None, **sizes)


def _of_logs(runs: Sequence[LogRun], *, fitted: bool) -> Errors:
    sizes = {}
    for name in METRICS:
        found = [abs(error) for run in runs if (error := run.error(name, "mean")) is not None]
        if found:
            sizes[name] = _short_figure(float(np.mean(found)))
    return Errors(n=len(runs), kind="request logs", fitted=fitted, **sizes)


def _short_figure(value: float) -> float:
    """Four digits: a figure that does not tremble with the last bit of a machine's arithmetic."""
    return float(f"{value:.4g}")


def fitted_on(profile: HardwareProfile, file: str) -> bool:
    """Whether any coefficient of the profile names ``file`` as what it was fitted on."""
    known: list[Estimate | Provenance] = _host_figures(profile)
    known += [part.provenance for part in parts(profile)]
    return any(figure.origin == "fitted" and file in figure.source for figure in known)


def _is_fitted(evidence: Evidence, gpu: str, files: Iterable[str]) -> bool:
    return any(fitted_on(profile, file) for profile in evidence.profiles if profile.name == gpu for file in files)


def left_out(profiles: Sequence[HardwareProfile], kind: Literal["gpu", "layout"]) -> dict[str, Errors]:
    """Per GPU with runs, the errors on them of a fit without the GPU, or without their layout (tensor-parallel size).

    A GPU with runs of older engines too has a row of each; the newer runs of each GPU are of one model, so that its row without
    the GPU is also one without the model.
    """
    found = {}
    for profile in profiles:
        for host in profile.hosts if profile.device == "gpu" else ():
            kept = (host.runs or {}).get("gpu_left_out" if kind == "gpu" else "layout_left_out")
            apart = host is profile.older_host and profile.host is not None and profile.host.runs != host.runs
            if kept is not None and host.step_s.origin == "fitted" and (apart or host is profile.host):
                older = ", engines before vLLM 0.16" if apart else ""
                found[profile.name + older] = Errors(**kept.model_dump())
    return found


def _mean(parts: Mapping[str, Errors]) -> Errors | None:
    """Over runs: each part weighs by its number."""
    sizes = {}
    for name in METRICS:
        known = [(size, part.n) for part in parts.values() if (size := getattr(part, name)) is not None]
        if known:
            values, weights = np.array(known).T
            sizes[name] = _short_figure(float(np.average(values, weights=weights)))
    return Errors(n=sum(part.n for part in parts.values()), **sizes) if sizes else None


def newest(profiles: Sequence[HardwareProfile]) -> str:
    dates = [figure.date for profile in profiles for figure in _host_figures(profile)]
    return max(dates, default="")


def _host_figures(profile: HardwareProfile) -> list[Estimate | Provenance]:
    return [figure for host in profile.hosts for _, figure in host if isinstance(figure, Estimate)]
