"""``twin report``: a plan as a document for those who decide and for those who check."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twin.cli.common import note, write_atomic

if TYPE_CHECKING:
    from twin.results.run import Run


class Paper(StrEnum):
    """What is written."""

    html = "html"
    pdf = "pdf"
    md = "md"
    xlsx = "xlsx"


class Lang(StrEnum):
    en = "en"
    zh = "zh"


def report(
    run: Annotated[Path, typer.Argument(help="Run folder of twin plan.", show_default=False)],
    fmt: Annotated[Paper, typer.Option("--format", help="HTML is one self-contained file; PDF is A4.")] = Paper.html,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; report.FORMAT unless given.")] = None,
    lang: Annotated[Lang, typer.Option(help="Language.")] = Lang.en,
    today: Annotated[
        Path | None,
        typer.Option(help="Run folder of twin plan --fixed: what is deployed now, and doing nothing keeps."),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Calendar month of month 0, so that months have dates: 2027-01.")
    ] = None,
    rack_kw: Annotated[
        float | None, typer.Option(help="Power that a rack can take, kW; 40 is assumed unless given.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the service is called.")] = None,
) -> None:
    """Write the plan's report: the decision, what it costs, how sure it is, what it rests on, how to make it again."""
    from twin.results.run import read_run

    found = read_run(run)
    now = None if today is None else read_run(today)
    target = out or Path(f"report.{fmt.value}")
    write_atomic(target, _written(found, now, fmt, lang.value, start, rack_kw, name))
    note(f"written: {target}")


def _written(
    run: Run, today: Run | None, fmt: Paper, lang: str, start: str | None, rack_kw: float | None, name: str | None
) -> str | bytes:
    from twin.show.report.content import report as content
    from twin.show.words import words

    say = words(lang)
    made = content(run, today=today, start=start, rack_kw=rack_kw, name=name, lang=lang)
    if fmt is Paper.xlsx:
        from twin.show.report.xlsx import workbook

        return workbook(run, today, say, rack_kw=rack_kw, start=start, name=name)
    if fmt is Paper.pdf:
        from twin.show.report.pdf import pdf

        return pdf(made, say)
    if fmt is Paper.md:
        from twin.show.report.markdown import markdown

        return markdown(made, say)
    from twin.show.report.html import html

    return html(made, say)
