"""``twin model``: the names that ``--model`` takes, one in full; and how lists of names are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from twin.cli.common import Format, emit

if TYPE_CHECKING:
    from rich.table import Table

model_app = typer.Typer(help="Models: those whose configuration is shipped, and one in full.", no_args_is_help=True)

FormatOption = Annotated[Format, typer.Option("--format", help="How the result on stdout is written.")]


@model_app.callback()
def _model() -> None:
    """Models: those whose configuration is shipped, and one in full."""


@model_app.command("list")
def list_models(fmt: FormatOption = Format.table) -> None:
    """Shipped models by name; any other of the same architectures is given as the path of its config.json."""
    from twin.spec.model import load_model, model_names

    models = [load_model(name) for name in model_names()]
    rows: list[dict[str, object]] = [
        {
            "name": model.name,
            "parameters": model.num_parameters,
            "active": model.active_parameters,
            "format": model.quantization or "bf16",
            "max_model_len": model.max_position_embeddings,
        }
        for model in models
    ]
    emit(
        {"models": rows},
        fmt=fmt,
        rows=rows,
        table=lambda: names_table(rows, {"parameters": (1e9, "B"), "active": (1e9, "B")}),
    )


@model_app.command("show")
def show_model(
    name: Annotated[str, typer.Argument(help="Model, or the path of its config.json.", show_default=False)],
    quantization: Annotated[
        str | None, typer.Option("--quantization", help="Format of the weights on GPUs. [default: as published]")
    ] = None,
    kv_cache_dtype: Annotated[str, typer.Option("--kv-cache-dtype", help="Format of the KV cache on GPUs.")] = "auto",
    fmt: FormatOption = Format.table,
) -> None:
    """One model: parameters, bytes by format, KV per token, what fits on each GPU, and when computing takes over."""
    from twin.cli.model_table import model_tables
    from twin.cost.model_payload import described, rows
    from twin.spec.model import load_model

    payload = described(load_model(name), quantization, kv_cache_dtype)
    emit(payload, fmt=fmt, rows=list(rows(payload)), table=lambda: model_tables(payload))


def names_table(rows: list[dict[str, object]], scaled: dict[str, tuple[float, str]]) -> Table:
    """Rows as a table for people; ``scaled`` columns are divided and carry a unit."""
    from rich.table import Table

    table = Table(box=None)
    for column in rows[0]:
        table.add_column(
            column.removesuffix("_bytes"), justify="left" if column in ("name", "label", "format") else "right"
        )
    for row in rows:
        table.add_row(*(_cell(value, scaled.get(column)) for column, value in row.items()))
    return table


def _cell(value: object, scale: tuple[float, str] | None) -> str:
    if scale is None or not isinstance(value, int):
        return str(value)
    divisor, unit = scale
    return f"{value / divisor:.1f} {unit}"
