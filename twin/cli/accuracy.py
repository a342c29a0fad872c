"""``twin accuracy``: the page, the pictures and the shipped figures of how wrong the twin is, made from measurements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twin.cli.common import Format, emit, json_text, note, write_atomic

if TYPE_CHECKING:
    from twin.trust.accuracy import Evidence

FILES = "Measurements (each may be given again)"


def accuracy(
    runs: Annotated[
        list[Path] | None, typer.Option("--runs", help="Closed-loop table (CSV).", rich_help_panel=FILES)
    ] = None,
    log: Annotated[list[Path] | None, typer.Option("--log", help="Request log.", rich_help_panel=FILES)] = None,
    verified: Annotated[
        list[Path] | None,
        typer.Option("--verified", help="verdict.json of twin verify, or a folder of them.", rich_help_panel=FILES),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page (.md); its pictures stand beside it.")] = Path("docs/accuracy.md"),
    data: Annotated[Path | None, typer.Option(help="Write the figures that plans quote here (JSON).")] = None,
    readme: Annotated[Path | None, typer.Option(help="Put the short table between the markers of this file.")] = None,
    date: Annotated[str | None, typer.Option(help="Date on the page; else that of the newest fit.")] = None,
    fmt: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.table,
) -> None:
    """State the error by GPU, model, layout and load, what was fitted on what, and where not to believe it.

    The same measurements and profiles give the same bytes. Everything is computed before the first file is written.
    """
    from twin.base import InputError
    from twin.trust.accuracy import gather, summarized
    from twin.trust.accuracy_page import page, short_table, with_block

    if out.suffix != ".md":
        raise InputError(f"the page is Markdown, not {out.suffix or 'a file without suffix'}", where=out.name)
    text = _text(readme)
    evidence = gather(runs or [], log or [], verified or [])
    found = summarized(evidence, date)
    pictures = _pictures(evidence, out)
    names = {what: path.name for what, (path, _) in pictures.items()}
    files: dict[Path, str | bytes] = {out: page(evidence, found, names, text)}
    files |= dict(pictures.values())
    short = short_table(evidence, found)
    payload = found.model_dump(mode="json", exclude_none=True, exclude={"schema_version"})
    if data is not None:
        files[data] = json_text(payload)
    if readme is not None and text is not None:
        files[readme] = with_block(text, short, readme.name)
    for path, content in files.items():
        write_atomic(path, content)
        note(f"{path} written")
    rows = [
        {"gpu": gpu, **errors.model_dump(exclude={"inside_90"})}
        for gpu, parts in found.gpus.items()
        for errors in parts
    ]
    emit(payload, fmt=fmt, table=lambda: short, rows=rows)


def _text(readme: Path | None) -> str | None:
    from twin.base import InputError

    try:
        return None if readme is None else readme.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(error.strerror or "cannot be read", where=str(readme)) from None


def _pictures(evidence: Evidence, out: Path) -> dict[str, tuple[Path, bytes]]:
    """What is drawn, by what it shows: the file beside the page, and its bytes."""
    from twin.trust.plot import plot_log, plot_table, require_plot

    found: dict[str, tuple[Path, bytes]] = {}
    if evidence.runs is not None:
        path = out.with_suffix(".png")
        require_plot(path)
        runs = evidence.runs
        found["runs"] = (path, plot_table(runs.rows, runs.predictions, runs.measured, path.suffix))
    if evidence.logs:
        path = out.with_name(f"{out.stem}_requests.png")
        require_plot(path)
        measured = {run.predicted.run: run.measured for run in evidence.logs}
        found["requests"] = (path, plot_log([run.predicted for run in evidence.logs], measured, path.suffix))
    return found
