"""``twin validate``: predictions for a table of closed-loop runs, then, and only then, the measured columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from math import exp, hypot, isfinite
from pathlib import Path

import numpy as np

from twin.base import InfeasibleError, InputError
from twin.cost.parts import Z90
from twin.spec.hardware import load_profile
from twin.trust.closed_loop import BenchmarkRun, Prediction, predict

REQUIRED = ("system", "model", "precision", "isl", "osl", "concurrency", "tp_size")
MEASURED = ("mean_ttft_ms", "mean_tpot_ms")
SINGLE = ("pp_size", "attention_dp_size", "moe_ep_size")
PREDICTED = (
    "predicted_mean_ttft_ms",
    "predicted_mean_ttft_ms_lo90",
    "predicted_mean_ttft_ms_hi90",
    "predicted_mean_tpot_ms",
    "predicted_mean_tpot_ms_lo90",
    "predicted_mean_tpot_ms_hi90",
    "predicted_request_throughput",
    "saturated",
    "reason",
)

Row = dict[str, str]


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    """Columns and rows of a closed-loop table. Raises :class:`InputError` for a missing column or no rows."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise InputError("is not a CSV table", where=str(path)) from None
    reader = csv.DictReader(io.StringIO(text))
    columns = list(reader.fieldnames or [])
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise InputError(f"column {missing[0]!r} is missing", where=f"{path}:1", allowed=REQUIRED)
    rows = [{key: value or "" for key, value in row.items() if key is not None} for row in reader]
    if not rows:
        raise InputError("the table has no rows", where=str(path))
    return columns, rows


def predict_rows(rows: Sequence[Row], progress: Callable[[int], None] = lambda done: None) -> list[Row]:
    """The predicted columns of every row, as text. Measured columns are not looked at."""
    known: dict[tuple[str, ...], Row] = {}
    predictions = []
    for done, row in enumerate(rows):
        blind = {key: value.strip() for key, value in row.items() if key not in MEASURED}
        key = tuple(f"{name}={value}" for name, value in sorted(blind.items()))
        if key not in known:
            known[key] = _predict_row(blind)
        predictions.append(known[key])
        progress(done + 1)
    return predictions


def _predict_row(row: Mapping[str, str]) -> Row:
    empty = dict.fromkeys(PREDICTED, "")
    try:
        run = run_of(row)
        central = predict(run)
        return empty | _columns(run, central)
    except (InputError, InfeasibleError) as error:
        return empty | {"reason": str(error)}


def run_of(row: Mapping[str, str]) -> BenchmarkRun:
    """The run that a row describes. Raises :class:`InputError` for what is not modelled."""
    for name in SINGLE:
        if row.get(name, "") not in ("", "1"):
            raise InputError(f"{name} {row[name]} is not modelled yet", allowed=["1"])
    sizes: dict[str, int] = {}
    for name in ("isl", "osl", "concurrency", "tp_size"):
        try:
            sizes[name] = int(row[name])
        except ValueError:
            raise InputError(f"{name} {row[name]!r} is not a whole number") from None
        if sizes[name] < 1:
            raise InputError(f"{name} must be at least 1, not {sizes[name]}")
    blocks = row.get("num_gpu_blocks", "")
    return BenchmarkRun(
        system=row["system"],
        model=row["model"],
        precision=row["precision"],
        kv_cache_dtype=row.get("kv_cache_dtype", ""),
        num_gpu_blocks=int(blocks) if blocks.isdigit() else None,
        **sizes,
    )


def _columns(run: BenchmarkRun, central: Prediction) -> Row:
    """Central values with 90 % bounds: step time moved by its error and simulated again, TTFT's own error added."""
    host = load_profile(run.system).host
    step = Z90 * (host.tpot_error or 0.0) if host else 0.0
    first = Z90 * (host.ttft_error or 0.0) if host else 0.0
    fast, slow = predict(run, scale=exp(-step)), predict(run, scale=exp(step))
    row = {
        "predicted_request_throughput": f"{central.request_throughput:.6g}",
        "saturated": str(central.saturated).lower(),
    }
    for name, spread in (("ttft", first), ("tpot", step)):
        middle, low, high = (getattr(p, f"{name}_s") * 1e3 for p in (central, fast, slow))
        if not isfinite(middle):
            continue
        down = hypot(np.log(middle / low), spread) if low < middle else spread
        up = hypot(np.log(high / middle), spread) if high > middle else spread
        if name == "tpot":
            down, up = max(step, np.log(middle / low)), max(step, np.log(high / middle))
        row[f"predicted_mean_{name}_ms"] = f"{middle:.6g}"
        row[f"predicted_mean_{name}_ms_lo90"] = f"{middle * exp(-down):.6g}"
        row[f"predicted_mean_{name}_ms_hi90"] = f"{middle * exp(up):.6g}"
    return row


def as_csv(columns: Sequence[str], rows: Sequence[Row], predictions: Sequence[Row]) -> str:
    """The input rows in their order, all their columns, and the predicted ones."""
    keep = [name for name in columns if name not in PREDICTED]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=[*keep, *PREDICTED], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row, prediction in zip(rows, predictions, strict=True):
        writer.writerow({**row, **prediction})
    return out.getvalue()


def compare(rows: Sequence[Row], predictions: Sequence[Row]) -> list[dict[str, object]]:
    """Error of TTFT and TPOT by GPU and model, saturated points apart; and over all. Empty without measured columns."""
    groups: dict[tuple[str, str, bool], list[tuple[Row, Row]]] = {}
    for row, prediction in zip(rows, predictions, strict=True):
        if prediction["predicted_mean_tpot_ms"] and any(row.get(name) for name in MEASURED):
            saturated = prediction["saturated"] == "true"
            for key in ((row["system"], row["model"], saturated), ("all", "all", saturated)):
                groups.setdefault(key, []).append((row, prediction))
    ordered = sorted(groups.items(), key=lambda item: (item[0][0] == "all", item[0][2], item[0]))
    return [
        {"system": system, "model": model, "saturated": saturated, "rows": len(pairs), **_errors(pairs)}
        for (system, model, saturated), pairs in ordered
    ]


def _errors(pairs: Sequence[tuple[Row, Row]]) -> dict[str, float]:
    errors: dict[str, float] = {}
    for name in ("ttft", "tpot"):
        found = [
            (float(row[f"mean_{name}_ms"]), prediction)
            for row, prediction in pairs
            if row.get(f"mean_{name}_ms") and prediction[f"predicted_mean_{name}_ms"]
        ]
        if not found:
            continue
        measured = np.array([value for value, _ in found])
        guess, low, high = (
            np.array([float(p[f"predicted_mean_{name}_ms{suffix}"]) for _, p in found])
            for suffix in ("", "_lo90", "_hi90")
        )
        relative = guess / measured - 1.0
        errors |= {
            f"{name}_mape": float(np.abs(relative).mean()),
            f"{name}_median": float(np.median(np.abs(relative))),
            f"{name}_p90": float(np.percentile(np.abs(relative), 90)),
            f"{name}_bias": float(relative.mean()),
            f"{name}_inside_90": float(((low <= measured) & (measured <= high)).mean()),
        }
    return errors


def not_predicted(predictions: Sequence[Row]) -> list[dict[str, object]]:
    """Reasons why rows have no prediction, with their counts, most frequent first."""
    counts: dict[str, int] = {}
    for prediction in predictions:
        if prediction["reason"]:
            counts[prediction["reason"]] = counts.get(prediction["reason"], 0) + 1
    return [{"reason": reason, "count": count} for reason, count in sorted(counts.items(), key=lambda item: -item[1])]
