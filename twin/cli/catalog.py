"""``twin model list``: the names that ``--model`` takes; and how lists of names are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from twin.cli.common import Format, emit

if TYPE_CHECKING:
    from rich.table import Table

model_app = typer.Typer(help="Models whose configuration is shipped.", no_args_is_help=True)

FormatOption = Annotated[Format, typer.Option("--format", help="How the result on stdout is written.")]


@model_app.callback()
def _model() -> None:
    """Models whose configuration is shipped."""


@model_app.command("list")
def list_models(fmt: FormatOption = Format.table) -> None:
    """Shipped models by name; any other dense decoder is given as the path of its config.json."""
    from twin.spec.model import load_model, model_names

    models = [load_model(name) for name in model_names()]
    rows: list[dict[str, object]] = [
        {
            "name": model.name,
            "parameters": model.num_parameters,
            "max_model_len": model.max_position_embeddings,
        }
        for model in models
    ]
    emit({"models": rows}, fmt=fmt, rows=rows, table=lambda: names_table(rows, {"parameters": (1e9, "B")}))


def names_table(rows: list[dict[str, object]], scaled: dict[str, tuple[float, str]]) -> Table:
    """Rows as a table for people; ``scaled`` columns are divided and carry a unit."""
    from rich.table import Table

    table = Table(box=None)
    for column in rows[0]:
        table.add_column(column.removesuffix("_bytes"), justify="left" if column in ("name", "label") else "right")
    for row in rows:
        table.add_row(*(_cell(value, scaled.get(column)) for column, value in row.items()))
    return table


def _cell(value: object, scale: tuple[float, str] | None) -> str:
    if scale is None or not isinstance(value, int):
        return str(value)
    divisor, unit = scale
    return f"{value / divisor:.1f} {unit}"
