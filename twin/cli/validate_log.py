"""How ``twin validate`` shows a replayed request log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def log_table(payload: Mapping[str, Any]) -> RenderableType:
    """One table per run: measured, predicted, error."""
    from rich.console import Group

    shown: list[RenderableType] = []
    for run in payload["runs"]:
        settings = run["engine"]
        release = settings.vllm_version + ("" if run["vllm_version_stated"] else " (the log does not say)")
        title = (
            f"{run['run']}: {run['model']} on {run['tensor_parallel_size']} × {run['system']}, vLLM"
            f" {release}, {settings.max_num_seqs} seats, {settings.max_num_batched_tokens} tokens;"
            f" {run['requests']} requests, {run['client']}, {run['clock']} clock"
        )
        shown.append(_run_table(title, [row for row in payload["errors"] if row["run"] == run["run"]]))
    shown += [f"{run['run']} is not predicted: {run['reason']}" for run in payload["not_predicted"]]
    if payload["left_out"]:
        shown.append(f"{payload['left_out']} requests that failed are left out.")
    shown.append("KS: largest gap between the two cumulative distributions.")
    return Group(*shown)


def _run_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, min_width=98)
    for name in ("", "", "measured", "predicted", "error", "", "KS"):
        table.add_column(name, justify="right" if name in ("measured", "predicted", "error", "KS") else "left")
    distance = {row["metric"]: row["error"] for row in rows if row["statistic"] == "ks"}
    for row in rows:
        if row["statistic"] == "ks":
            continue
        first = row["statistic"] in ("mean", "total")
        ks = distance.get(row["metric"])
        table.add_row(
            row["metric"].upper()
            if row["unit"] == "ms" and first
            else row["metric"].replace("_", " ")
            if first
            else "",
            row["statistic"] if row["unit"] == "ms" else "",
            _figure(row["measured"]),
            _figure(row["predicted"]),
            _error(row["error"]),
            row["unit"],
            f"{ks:.2f}" if first and ks is not None else "",
            end_section=row["statistic"] == "p99",
        )
    return table


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _error(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{share:+.1%}" if share < 10 else f"× {1 + share:.0f}"
