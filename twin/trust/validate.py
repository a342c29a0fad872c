"""``twin validate`` for closed-loop tables: predictions for every row, then, and only then, the measured columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp, hypot, isfinite, log
from typing import Literal

import numpy as np

from twin.base import InfeasibleError, InputError
from twin.cost.parts import Z90
from twin.spec.hardware import load_profile
from twin.trust.closed_loop import BenchmarkRun, Prediction, predict
from twin.trust.errors import judge
from twin.trust.table import INPUTS, METRICS, PREDICTED, Metric, Row, measured_values, run_of

By = Literal["gpu_model", "gpu", "model", "layout", "concurrency"]
GROUPS: dict[By, tuple[str, ...]] = {
    "gpu_model": ("system", "model"),
    "gpu": ("system",),
    "model": ("model",),
    "layout": ("tp_size",),
    "concurrency": ("concurrency",),
}
"""Columns whose values make a group."""
ALL = "all"


def predict_rows(rows: Sequence[Row], progress: Callable[[int], None] = lambda done: None) -> list[Row]:
    """The predicted columns of every row, as text. Only :data:`twin.trust.table.INPUTS` are looked at."""
    known: dict[tuple[str, ...], Row] = {}
    predictions = []
    for done, row in enumerate(rows):
        blind = {name: row.get(name, "").strip() for name in INPUTS}
        key = tuple(blind.values())
        if key not in known:
            known[key] = _predict_row(blind)
        predictions.append(known[key])
        progress(done + 1)
    return predictions


def _predict_row(row: Mapping[str, str]) -> Row:
    cells = Row(dict.fromkeys(PREDICTED, ""))
    try:
        run = run_of(row)
        cells.update(_columns(run, predict(run)))
    except (InputError, InfeasibleError) as error:
        cells["reason"] = str(error)
    return cells


def _columns(run: BenchmarkRun, central: Prediction) -> dict[str, str]:
    """Central values with 90 % bounds: step time moved by its error and simulated again, TTFT's own error added."""
    host = load_profile(run.system).host_of(older=run.older_engine)
    step = Z90 * (host.tpot_error or 0.0) if host else 0.0
    first = Z90 * (host.ttft_error or 0.0) if host else 0.0
    fast, slow = predict(run, scale=exp(-step)), predict(run, scale=exp(step))
    share = central.ttft_s / central.e2el_s
    whole = (first * share, step * (1.0 - share))
    own = {"ttft": (first, 0.0), "tpot": (0.0, step)}
    row = {"saturated": str(central.saturated).lower(), "vllm_version_modelled": run.vllm_version}
    for metric in METRICS:
        middle, *ends = (_value(metric, prediction) for prediction in (central, fast, slow))
        if not isfinite(middle):
            continue
        added, least = own.get(metric.name, whole)
        down = hypot(max(least, log(middle / min(ends))), added)
        up = hypot(max(least, log(max(ends) / middle)), added)
        figures = (middle, middle * exp(-down), middle * exp(up))
        row |= {name: f"{figure:.6g}" for name, figure in zip(metric.predicted, figures, strict=True)}
    return row


def _value(metric: Metric, prediction: Prediction) -> float:
    if metric.unit == "ms":
        return float(getattr(prediction, f"{metric.name}_s")) * 1e3
    return float(getattr(prediction, metric.name))


def compare(
    rows: Sequence[Row],
    predictions: Sequence[Row],
    by: By = "gpu_model",
    measured: Sequence[Mapping[str, float]] | None = None,
) -> list[dict[str, object]]:
    """Errors of every metric that was measured, by group, saturated points apart; and over all. Empty without any.

    A row: the columns of the group, ``saturated``, ``rows``, then ``ttft_mape`` and so on (:func:`twin.trust.errors.judge`).
    ``measured``: what :func:`twin.trust.table.measured_values` gives, read here otherwise. Raises as that does.
    """
    columns = GROUPS[by]
    groups: dict[tuple[tuple[str, ...], bool], list[tuple[Mapping[str, float], Row]]] = {}
    values = measured_values(rows, predictions) if measured is None else measured
    for row, found, prediction in zip(rows, values, predictions, strict=True):
        if found and not prediction["reason"]:
            saturated = prediction["saturated"] == "true"
            for key in (tuple(row[name] for name in columns), (ALL,) * len(columns)):
                groups.setdefault((key, saturated), []).append((found, prediction))
    ordered = sorted(groups.items(), key=lambda item: (item[0][0][0] == ALL, item[0][1], *map(_by_size, item[0][0])))
    return [
        {**dict(zip(columns, key, strict=True)), "saturated": saturated, "rows": len(pairs), **_errors(pairs)}
        for (key, saturated), pairs in ordered
    ]


def _by_size(text: str) -> tuple[float, str]:
    """Numbers in their own order, names after them in theirs."""
    return (float(text), "") if text.isdigit() else (float("inf"), text)


def _errors(pairs: Sequence[tuple[Mapping[str, float], Row]]) -> dict[str, float]:
    errors: dict[str, float] = {}
    for metric in METRICS:
        found = [
            (values[metric.name], *(float(prediction[name]) for name in metric.predicted))
            for values, prediction in pairs
            if metric.name in values and prediction[metric.predicted[0]]
        ]
        if found:
            measured, guess, low, high = np.array(found).T
            errors |= {f"{metric.name}_{name}": value for name, value in judge(measured, guess, low, high).items()}
    return errors


def not_predicted(predictions: Sequence[Row]) -> list[dict[str, object]]:
    """Reasons why rows have no prediction, with their counts, most frequent first."""
    counts: dict[str, int] = {}
    for prediction in predictions:
        if prediction["reason"]:
            counts[prediction["reason"]] = counts.get(prediction["reason"], 0) + 1
    return [{"reason": reason, "count": count} for reason, count in sorted(counts.items(), key=lambda item: -item[1])]


def versions(rows: Sequence[Row], predictions: Sequence[Row]) -> list[dict[str, object]]:
    """Which release was modelled for which stated one (empty: told by the date), with the number of rows."""
    counts: dict[tuple[str, str], int] = {}
    for row, prediction in zip(rows, predictions, strict=True):
        if not prediction["reason"]:
            key = (row.get("vllm_version", "").strip(), prediction["vllm_version_modelled"])
            counts[key] = counts.get(key, 0) + 1
    return [{"stated": stated, "modelled": name, "rows": count} for (stated, name), count in sorted(counts.items())]
