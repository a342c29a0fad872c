"""``twin validate``: how wrong the twin is on recorded runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twin.cli.common import Format, emit, note, write_atomic

if TYPE_CHECKING:
    from rich.console import RenderableType


def validate(
    file: Annotated[Path, typer.Argument(help="Table of closed-loop runs (CSV).", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", help="Write the rows with their predictions here.")] = None,
    max_tpot_mape: Annotated[str | None, typer.Option(help="Exit 4 above this error, e.g. 5%.")] = None,
    max_ttft_mape: Annotated[str | None, typer.Option(help="Exit 4 above this error, e.g. 12%.")] = None,
    fmt: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.table,
) -> None:
    """Predict every run of FILE from its configuration, then compare with what was measured.

    The measured columns are read only after the predictions are written. Saturated points are reported apart.
    """
    from twin.base import ThresholdError
    from twin.spec.versions import MODELLED_VLLM
    from twin.trust import validate as v

    limits = {"tpot": _share(max_tpot_mape, "--max-tpot-mape"), "ttft": _share(max_ttft_mape, "--max-ttft-mape")}
    columns, rows = v.read_table(file)
    predictions = v.predict_rows(rows)
    if out is not None:
        write_atomic(out, v.as_csv(columns, rows, predictions).encode())
        note(f"predictions written to {out}")
    errors, missing = v.compare(rows, predictions), v.not_predicted(predictions)
    payload: dict[str, object] = {
        "rows": len(rows),
        "vllm_version_modelled": MODELLED_VLLM,
        "predicted": sum(1 for prediction in predictions if not prediction["reason"]),
        "errors": errors,
        "not_predicted": missing,
    }
    emit(payload, fmt=fmt, table=lambda: _table(payload), rows=errors)
    overall = next((row for row in errors if row["system"] == "all" and not row["saturated"]), None)
    for name, limit in limits.items():
        if limit is None:
            continue
        if overall is None or f"{name}_mape" not in overall:
            raise ThresholdError(f"no measured {name.upper()} away from saturation to hold against the threshold")
        if (found := float(str(overall[f"{name}_mape"]))) > limit:
            raise ThresholdError(f"{name.upper()} MAPE {found:.1%} is above {limit:.1%}")


def _share(text: str | None, flag: str) -> float | None:
    """``5%`` or ``0.05`` → 0.05."""
    if text is None:
        return None
    from twin.base import InputError, split_number

    value, unit = split_number(text, what=flag)
    if unit not in ("", "%") or value < 0:
        raise InputError(f"{flag}: {text!r} is not a share", allowed=["5%", "0.05"])
    return value / 100 if unit == "%" else value


def _table(payload: dict[str, object]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    table = Table(
        title=f"{payload['predicted']} of {payload['rows']} rows predicted, vLLM {payload['vllm_version_modelled']}",
        title_justify="left",
    )
    for name in ("GPU", "model", "load", "rows", "TPOT MAPE", "bias", "TTFT MAPE", "bias", "in 90 %"):
        table.add_column(name, justify="left" if name in ("GPU", "model", "load") else "right")
    for row in _dicts(payload["errors"]):
        shares = [row.get(key) for key in ("tpot_mape", "tpot_bias", "ttft_mape", "ttft_bias", "tpot_inside_90")]
        table.add_row(
            str(row["system"]),
            str(row["model"]).rsplit("/", maxsplit=1)[-1],
            "saturated" if row["saturated"] else "below",
            str(row["rows"]),
            *("–" if share is None else f"{float(str(share)):.1%}" for share in shares),
        )
    reasons = [f"{row['count']} not predicted: {row['reason']}" for row in _dicts(payload["not_predicted"])]
    return Group(table, *reasons)


def _dicts(value: object) -> list[dict[str, object]]:
    return value if isinstance(value, list) else []
