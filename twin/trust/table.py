"""Tables of closed-loop runs: read, understood row by row, and their measured columns checked."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from twin.base import InputError
from twin.trust.closed_loop import PROMPTS_PER_CLIENT, BenchmarkRun, draw_lengths, is_older, modelled_version
from twin.trust.errors import thousand_times

REQUIRED = ("system", "model", "precision", "isl", "osl", "concurrency", "tp_size")
OPTIONAL_NUMBERS = {
    "num_gpu_blocks": int,
    "max_num_seqs": int,
    "max_num_batched_tokens": int,
    "max_model_len": int,
    "gpu_memory_utilization": float,
}
PARALLEL = ("pp_size", "attention_dp_size", "moe_ep_size")
INPUTS = (*REQUIRED, *OPTIONAL_NUMBERS, *PARALLEL, "kv_cache_dtype", "vllm_version", "measured")
"""All that a prediction may look at. ``measured`` is the date of the run, which tells the release where none is stated."""


@dataclass(frozen=True)
class Metric:
    """A measured column of a table, under the name that ``vllm bench serve`` gives it."""

    name: str
    column: str
    unit: str

    @property
    def predicted(self) -> tuple[str, str, str]:
        """Columns of the prediction and of its 90 % bounds."""
        name = f"predicted_{self.column}"
        return name, f"{name}_lo90", f"{name}_hi90"


METRICS = (
    Metric("ttft", "mean_ttft_ms", "ms"),
    Metric("tpot", "mean_tpot_ms", "ms"),
    Metric("e2el", "mean_e2el_ms", "ms"),
    Metric("request_throughput", "request_throughput", "requests/s"),
    Metric("output_throughput", "output_throughput", "tokens/s"),
)
PREDICTED = (*(name for metric in METRICS for name in metric.predicted), "saturated", "vllm_version_modelled", "reason")


class Row(dict[str, str]):
    """A line of a table: its cells by column. ``where`` is file and line."""

    where: str = ""


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    """Columns and rows of a closed-loop table. Raises :class:`InputError` for a missing column or no rows."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError("no such file", where=path.name) from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise InputError("is not a CSV table", where=path.name) from None
    reader = csv.DictReader(io.StringIO(text))
    columns = list(reader.fieldnames or [])
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise InputError(f"column {missing[0]!r} is missing", where=f"{path.name}:1", allowed=REQUIRED)
    rows = []
    for cells in reader:
        row = Row({key: value or "" for key, value in cells.items() if key is not None})
        row.where = f"{path.name}:{reader.line_num}"
        rows.append(row)
    if not rows:
        raise InputError("the table has no rows", where=path.name)
    return columns, rows


def as_csv(columns: Sequence[str], rows: Sequence[Row], predictions: Sequence[Row]) -> str:
    """The input rows in their order, all their columns, and the predicted ones."""
    keep = [name for name in columns if name not in PREDICTED]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=[*keep, *PREDICTED], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row, prediction in zip(rows, predictions, strict=True):
        writer.writerow({**row, **prediction})
    return out.getvalue()


MOST = 10_000_000
"""No length, client or batch of a benchmark is larger."""
MOST_TOKENS = 1_000_000_000
"""Input and output tokens of a run beyond which it is no benchmark: ten prompts per client are simulated one by one."""


def run_of(row: Mapping[str, str]) -> BenchmarkRun:
    """The run that a row describes. Raises :class:`InputError` for what is not modelled."""
    sizes = {name: _size(name, row[name], int) for name in ("isl", "osl", "concurrency", "tp_size")}
    if (tokens := (sizes["isl"] + sizes["osl"]) * PROMPTS_PER_CLIENT * sizes["concurrency"]) > MOST_TOKENS:
        raise InputError(
            f"{sizes['concurrency']:,} clients of {sizes['isl']}/{sizes['osl']} tokens are {tokens:,} tokens in all"
        )
    numbers = OPTIONAL_NUMBERS | dict.fromkeys(PARALLEL, int)
    stated = {name: _size(name, row[name], kind) for name, kind in numbers.items() if row.get(name)}
    return BenchmarkRun(
        system=row["system"],
        model=row["model"],
        precision=row["precision"],
        kv_cache_dtype=row.get("kv_cache_dtype", ""),
        vllm_version=modelled_version(row.get("vllm_version", ""), row.get("measured", "")),
        older_engine=is_older(row.get("vllm_version", ""), row.get("measured", "")),
        **sizes,
        **stated,
    )


def _size(name: str, text: str, kind: type[int] | type[float]) -> Any:
    try:
        value = kind(text)
    except ValueError:
        what = "whole number" if kind is int else "number"
        raise InputError(f"{name} {text!r} is not a {what}") from None
    least = 1 if kind is int else 0
    if not least <= value <= MOST:
        raise InputError(f"{name} is {text}: {least} … {MOST:,} is meant")
    return value


def measured_values(rows: Sequence[Row], predictions: Sequence[Row]) -> list[dict[str, float]]:
    """Per row its measured values by name of :data:`METRICS`; those that a row does not have are not in it.

    E2EL that is not there is TTFT + TPOT × (mean output length − 1), with the lengths that the client drew.
    Raises :class:`InputError`, with the line, for a value that is no positive number, and for a column that must be in
    another unit: decided on the whole column, against what is predicted.
    """
    found = [{m.name: value for m in METRICS if (value := _positive(row, m.column)) is not None} for row in rows]
    for metric in METRICS:
        if metric.unit == "ms":
            _check_unit(metric, rows, predictions, found)
    for row, prediction, values in zip(rows, predictions, found, strict=True):
        if "e2el" not in values and {"ttft", "tpot"} <= values.keys() and not prediction["reason"]:
            mean_output = float(draw_lengths(run_of(row))[1].mean())
            values["e2el"] = values["ttft"] + values["tpot"] * (mean_output - 1.0)
    return found


def derives_e2el(columns: Sequence[str]) -> bool:
    """Whether E2EL follows from the measured TTFT and TPOT, as the table does not have it."""
    return "mean_e2el_ms" not in columns and {"mean_ttft_ms", "mean_tpot_ms"} <= set(columns)


def _positive(row: Row, column: str) -> float | None:
    text = row.get(column, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value) or value <= 0:
        raise InputError(f"{column} {text!r} is not a positive number", where=row.where or None)
    return value


OTHER_UNITS = {-1: "smaller; seconds", 1: "larger; microseconds"}


def _check_unit(
    metric: Metric, rows: Sequence[Row], predictions: Sequence[Row], measured: Sequence[Mapping[str, float]]
) -> None:
    both = [
        (row, values[metric.name], float(guess), prediction["saturated"] == "true")
        for row, prediction, values in zip(rows, predictions, measured, strict=True)
        if metric.name in values and (guess := prediction[metric.predicted[0]])
    ]
    calm = [item for item in both if not item[3]] or both
    if not calm:
        return
    values, guesses = (np.array([item[place] for item in calm]) for place in (1, 2))
    if sign := thousand_times(values, guesses):
        row, value, said, _ = calm[0]
        raise InputError(
            f"{metric.column} {value:g} cannot be milliseconds: {said:.3g} ms is predicted, and the column as a whole is"
            f" about a thousand times {OTHER_UNITS[sign]}?",
            where=row.where or None,
        )
