"""``twin validate``: how wrong the twin is on recorded runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twin.cli.common import Format, emit, note, write_atomic

if TYPE_CHECKING:
    from rich.console import RenderableType


class GroupBy(StrEnum):
    """What the errors of a table are grouped by."""

    gpu_model = "gpu_model"
    gpu = "gpu"
    model = "model"
    layout = "layout"
    concurrency = "concurrency"


LOG = "What a request log does not say (overrides what it does)"


def validate(
    file: Annotated[
        Path, typer.Argument(help="Closed-loop runs (CSV), or a request log (CSV, JSON).", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Write what is predicted here, row by row.")] = None,
    by: Annotated[GroupBy, typer.Option("--by", help="Group a table's errors by this.")] = GroupBy.gpu_model,
    plot: Annotated[Path | None, typer.Option(help="Draw predicted against measured (png, pdf, svg).")] = None,
    max_tpot_mape: Annotated[str | None, typer.Option(help="Exit 4 above this error, e.g. 5%.")] = None,
    max_ttft_mape: Annotated[str | None, typer.Option(help="Exit 4 above this error, e.g. 12%.")] = None,
    max_e2el_mape: Annotated[str | None, typer.Option(help="Exit 4 above this error, e.g. 5%.")] = None,
    system: Annotated[str | None, typer.Option(help="GPU.", rich_help_panel=LOG)] = None,
    model: Annotated[str | None, typer.Option(help="Model.", rich_help_panel=LOG)] = None,
    precision: Annotated[str | None, typer.Option(help="bf16 or fp8.", rich_help_panel=LOG)] = None,
    tp_size: Annotated[int | None, typer.Option("--tensor-parallel-size", min=1, rich_help_panel=LOG)] = None,
    vllm_version: Annotated[str | None, typer.Option(rich_help_panel=LOG)] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Clients.", rich_help_panel=LOG)] = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, rich_help_panel=LOG)] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(min=1, rich_help_panel=LOG)] = None,
    max_model_len: Annotated[int | None, typer.Option(min=1, rich_help_panel=LOG)] = None,
    gpu_memory_utilization: Annotated[float | None, typer.Option(rich_help_panel=LOG)] = None,
    kv_cache_dtype: Annotated[str | None, typer.Option(rich_help_panel=LOG)] = None,
    fmt: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.table,
) -> None:
    """Predict every run of FILE from its configuration, then compare with what was measured.

    The measured columns are read only after the predictions are written. A table of runs is replayed as its benchmark client
    sent it, saturated points apart; a request log (CSV of an engine's stamps, or JSON of vllm bench serve --save-detailed)
    with the arrivals and lengths that it recorded.
    """
    from twin.base import InputError
    from twin.trust.request_log import is_request_log

    shares = {"tpot": max_tpot_mape, "ttft": max_ttft_mape, "e2el": max_e2el_mape}
    limits = {name: _share(text, f"--max-{name}-mape") for name, text in shares.items()}
    if out is not None and out.resolve() == file.resolve():
        raise InputError("--out would take the place of the measurements themselves", where=str(out))
    if plot is not None:
        from twin.trust.plot import require_plot

        require_plot(plot)
    if is_request_log(file):
        stated = {
            "system": system,
            "model": model,
            "precision": precision,
            "tp_size": tp_size,
            "vllm_version": vllm_version,
            "concurrency": concurrency,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens,
            "max_model_len": max_model_len,
            "gpu_memory_utilization": gpu_memory_utilization,
            "kv_cache_dtype": kv_cache_dtype,
        }
        found = _validate_log(file, out, plot, stated, fmt)
    else:
        found = _validate_table(file, out, plot, by, fmt)
    _hold(found, limits)


def _validate_table(file: Path, out: Path | None, plot: Path | None, by: GroupBy, fmt: Format) -> dict[str, float]:
    """Errors over all rows away from saturation, by name; empty where nothing was measured."""
    from twin.trust import table as t
    from twin.trust import validate as v
    from twin.trust.payloads import table_payload

    columns, rows = t.read_table(file)
    predictions = v.predict_rows(rows)
    if out is not None:
        write_atomic(out, t.as_csv(columns, rows, predictions).encode())
        note(f"predictions written to {out}")
    measured = t.measured_values(rows, predictions)
    payload = table_payload(columns, rows, predictions, measured)
    if plot is not None:
        from twin.trust.plot import plot_table

        write_atomic(plot, plot_table(rows, predictions, measured, plot.suffix))
        note(f"plot written to {plot}")
    grouped: dict[str, list[dict[str, object]]] = {"gpu_model": payload["errors"], **payload["errors_by"]}
    emit(payload, fmt=fmt, table=lambda: _table(payload, grouped[by], v.GROUPS[by.value]), rows=grouped[by])
    overall = next((row for row in grouped["gpu_model"] if row["system"] == v.ALL and not row["saturated"]), {})
    return {name: float(str(value)) for name, value in overall.items() if name.endswith("_mape")}


def _validate_log(
    file: Path, out: Path | None, plot: Path | None, stated: Mapping[str, object], fmt: Format
) -> dict[str, float]:
    """Mean over runs of the absolute errors of means, by name."""
    from twin.cli.validate_log import log_table
    from twin.trust.payloads import log_payload
    from twin.trust.replay import compare_run, errors_over_runs, predictions_csv, replay
    from twin.trust.request_log import read_inputs, read_requests

    inputs = read_inputs(file)
    runs, missing = replay(inputs, stated)
    if out is not None:
        write_atomic(out, predictions_csv(runs, missing))
        note(f"predictions written to {out}")
    requests = read_requests(file).requests
    measured = {run.run: requests[requests["run"] == run.run] for run in runs}
    rows = [row for run in runs for row in compare_run(run, measured[run.run])]
    if plot is not None:
        from twin.trust.plot import plot_log

        write_atomic(plot, plot_log(runs, measured, plot.suffix))
        note(f"plot written to {plot}")
    over_runs = errors_over_runs(rows)
    payload = log_payload(runs, missing, rows, over_runs, inputs.left_out)
    emit(payload, fmt=fmt, table=lambda: log_table(payload), rows=rows)
    return over_runs


def _hold(found: Mapping[str, float], limits: Mapping[str, float | None]) -> None:
    """Raises :class:`twin.base.ThresholdError` for an error above its limit, or one that nothing was measured for."""
    from twin.base import ThresholdError

    for name, limit in limits.items():
        if limit is None:
            continue
        if f"{name}_mape" not in found:
            raise ThresholdError(f"no measured {name.upper()} away from saturation to hold against the threshold")
        if (error := found[f"{name}_mape"]) > limit:
            raise ThresholdError(f"{name.upper()} MAPE {error:.1%} is above {limit:.1%}")


def _share(text: str | None, flag: str) -> float | None:
    """``5%`` or ``0.05`` → 0.05."""
    if text is None:
        return None
    from twin.base import InputError, parse_share

    share = parse_share(text, what=flag)
    if share is None or share < 0 or (share > 1 and "%" not in text):
        raise InputError(f"{flag}: {text!r} is not a share", allowed=["5%", "0.05"])
    return share


TITLES = {"system": "GPU", "model": "model", "tp_size": "TP", "concurrency": "clients"}
SHOWN = {"TTFT": "ttft", "TPOT": "tpot", "E2EL": "e2el", "requests/s": "request_throughput"}
FIGURES = {"MAPE": "mape", "p90": "p90", "bias": "bias", "in90": "inside_90"}


def _table(
    payload: Mapping[str, object], errors: Sequence[Mapping[str, object]], columns: Sequence[str]
) -> RenderableType:
    """Per metric its mean absolute error, the 90th percentile, the bias, and how many the 90 % bounds hold, all in %."""
    from rich import box
    from rich.console import Group
    from rich.table import Table

    metrics = {title: name for title, name in SHOWN.items() if any(f"{name}_mape" in row for row in errors)}
    figures = {head: key for head, key in FIGURES.items() if head != "p90" or len(metrics) < len(SHOWN)}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, title=_title(payload), title_justify="left")
    for name in columns:
        right = name in ("tp_size", "concurrency")
        table.add_column(TITLES[name], justify="right" if right else "left", no_wrap=name != "model")
    table.add_column("", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    for title in metrics:
        for head in figures:
            table.add_column(
                f"{title if head == 'MAPE' else ''}\n{' ' * (head == 'MAPE')}{head}", justify="right", no_wrap=True
            )
    for row in errors:
        table.add_row(
            *(str(row[name]).rsplit("/", maxsplit=1)[-1] for name in columns),
            "sat." if row["saturated"] else "",
            str(row["rows"]),
            *(_percent(row.get(f"{name}_{key}"), head) for name in metrics.values() for head, key in figures.items()),
        )
    notes = ["Errors in %; in90: how many lie inside the 90 % bounds; sat.: saturated in the simulation."]
    if metrics and payload["e2el"] == "derived":
        notes.append("Measured E2EL is TTFT + TPOT × (mean output length − 1), as the table does not have it.")
    notes += [
        f"{row['count']} not predicted: {str(row['reason']).split(' (allowed', maxsplit=1)[0]}"
        for row in _dicts(payload["not_predicted"])
    ]
    return Group(table, *notes)


def _percent(share: object, head: str) -> str:
    if share is None:
        return "–"
    number = 100 * float(str(share))
    return f"{number:+.1f}" if head == "bias" else f"{number:.1f}" if head == "MAPE" else f"{number:.0f}"


def _title(payload: Mapping[str, object]) -> str:
    said = [
        f"{row['rows']} rows of {row['stated'] or 'no stated version'} as {row['modelled']}"
        for row in _dicts(payload["vllm_versions"])
    ]
    return f"{payload['predicted']} of {payload['rows']} rows predicted; vLLM: {', '.join(said) or '–'}"


def _dicts(value: object) -> list[dict[str, object]]:
    return value if isinstance(value, list) else []
