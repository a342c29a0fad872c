"""``twin traffic show | synth | scale | convert``: look at request traces, make them, change them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twin.cli.common import Format, emit, note

if TYPE_CHECKING:
    from rich.table import Table

    from twin.traffic.trace import Trace

traffic_app = typer.Typer(help="Look at request traces, make them, change them.", no_args_is_help=True)

TraceFile = Annotated[
    Path,
    typer.Argument(help="Azure, Mooncake, BurstGPT, vllm bench serve --save-detailed, or a plain CSV; may be gzipped."),
]
FormatOption = Annotated[Format, typer.Option("--format", help="How the result on stdout is written.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No notes on stderr.")]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Trace file to write: .csv, or .jsonl for Mooncake's format; .gz zips it."),
]
_LENGTHS = "Tokens: 1200 | min=100,max=400 | len=1024,range_ratio=0.2 | median=1200,p99=6000 | median=1200,mean=1900"


@traffic_app.command()
def show(
    file: TraceFile,
    format: FormatOption = Format.table,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the figures to this JSON file.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Rates, peak minute, burstiness, lengths and possible prefix hits of a trace."""
    from twin.traffic.readers import read_trace

    trace = read_trace(file)
    payload = _report(trace, format=format, quiet=quiet)
    if out is not None:
        import json

        from twin.traffic.writers import write_atomic

        write_atomic(out, (json.dumps(payload, indent=2) + "\n").encode())


@traffic_app.command()
def synth(
    request_rate: Annotated[float, typer.Option(help="Requests per second; inf sends all at once.")],
    burstiness: Annotated[float, typer.Option(help="Gamma shape of the gaps: 1 is Poisson, below is burstier.")] = 1.0,
    num_requests: Annotated[
        int | None, typer.Option("--num-requests", "--num-prompts", help="1000 when no duration is given.")
    ] = None,
    duration: Annotated[str | None, typer.Option(help="90min, 1h, 2d; a bare number is seconds.")] = None,
    input_len: Annotated[str | None, typer.Option(help=_LENGTHS)] = None,
    output_len: Annotated[str | None, typer.Option(help=_LENGTHS)] = None,
    lengths_from: Annotated[Path | None, typer.Option(help="Draw (input, output) pairs from this trace.")] = None,
    daily_curve: Annotated[str | None, typer.Option(help="24 multipliers, one an hour from midnight.")] = None,
    start_hour: Annotated[float, typer.Option(help="Hour of the day at which the trace starts.")] = 0.0,
    turns: Annotated[str, typer.Option(help="Turns of a session; a later turn's prompt holds the earlier.")] = "1",
    turn_gap: Annotated[str, typer.Option(help="Mean time between a session's turns.")] = "30s",
    session_context: Annotated[str | None, typer.Option(help="Tokens a session brings at its start.")] = None,
    shared_prefix_tokens: Annotated[int, typer.Option(help="System prompt shared by all, on top.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same trace.")] = 0,
    format: FormatOption = Format.table,
    out: OutOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make a trace: arrivals as vllm bench serve, lengths from distributions or from a trace."""
    from twin.traffic.recipes import synth_recipe
    from twin.traffic.synthetic import synthesize

    recipe = synth_recipe(
        {
            "request_rate": request_rate,
            "burstiness": burstiness,
            "num_requests": num_requests,
            "duration": duration,
            "input_len": input_len,
            "output_len": output_len,
            "lengths_from": lengths_from,
            "daily_curve": daily_curve,
            "start_hour": start_hour,
            "turns": turns,
            "turn_gap": turn_gap,
            "session_context": session_context,
            "shared_prefix_tokens": shared_prefix_tokens,
        }
    )
    trace = synthesize(recipe, seed)
    recipe_json = recipe.model_dump(mode="json", exclude_none=True)
    _write_and_report(trace, out, format=format, quiet=quiet, recipe=recipe_json, seed=seed)


@traffic_app.command()
def scale(
    file: TraceFile,
    rate: Annotated[str, typer.Option(help="×2 or 2: twice as many requests a second, in half the time.")],
    out: OutOption = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """The same requests, faster or slower."""
    from twin.traffic.flags import parse_rate_factor
    from twin.traffic.readers import read_trace

    _write_and_report(read_trace(file).scaled(parse_rate_factor(rate)), out, format=format, quiet=quiet)


@traffic_app.command()
def convert(
    file: TraceFile,
    out: Annotated[Path, typer.Option("--out", help="File to write; .gz zips it.")],
    to: Annotated[str | None, typer.Option(help="csv or mooncake; without it the file name decides.")] = None,
    format: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Write a trace in another format."""
    from twin.traffic.readers import read_trace

    _write_and_report(read_trace(file), out, to=to, format=format, quiet=quiet)


def _write_and_report(
    trace: Trace, out: Path | None, *, format: Format, quiet: bool, to: str | None = None, **extra: Any
) -> None:
    """Write the trace if asked to, then its figures. Without a file, csv and md print the requests
    themselves."""
    from twin.traffic.writers import format_for, request_rows, write_trace

    if out is not None:
        write_trace(trace, out, to)
        if trace.prefix_hashes is not None and (to or format_for(out)) == "csv" and not quiet:
            note("prefix hashes have no place in a CSV and were left out; --out x.jsonl keeps them")
    as_rows = out is None and format in (Format.csv, Format.md)
    _report(trace, format=format, quiet=quiet, rows=request_rows(trace) if as_rows else None, **extra)


def _report(
    trace: Trace,
    *,
    format: Format,
    quiet: bool,
    rows: list[dict[str, object]] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    from twin.traffic.describe import describe, figure_rows

    payload = {**describe(trace), **extra}
    if not quiet:
        for text in trace.notes:
            note(f"{trace.name}: {text}")
    figures = figure_rows(payload)
    shown = figures if rows is None else rows
    emit(payload, fmt=format, table=lambda: _table(trace.name, figures), rows=shown)
    return payload


def _table(title: str, figures: list[dict[str, object]]) -> Table:
    from rich.table import Table

    table = Table("figure", "value", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for row in figures:
        table.add_row(str(row["figure"]), _short(row["value"]))
    return table


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
