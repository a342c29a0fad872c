"""``twin claims``: what people repeat about serving, and what the twin gets for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twin.cli.common import Format, emit, note, write_atomic

if TYPE_CHECKING:
    from rich.console import RenderableType

    from twin.trust.claims import Verdict


def claims(
    names: Annotated[
        list[str] | None, typer.Argument(help="Claims by name; all unless given.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Claims (YAML), their scenarios beside it; those shipped unless given."),
    ] = None,
    page: Annotated[Path | None, typer.Option("--page", help="Write the page of these claims (Markdown) here.")] = None,
    fmt: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.table,
) -> None:
    """Put claims people repeat to the twin: before and after, what is claimed, and why they differ."""
    from twin.base import data_dir
    from twin.trust.claims import judge, read_claims, rows_of
    from twin.trust.claims import page as page_of

    path = file or data_dir("scenarios") / "claims" / "claims.yaml"
    verdicts = []
    for claim in read_claims(path, names or ()):
        note(f"{claim.name}: {len(claim.cases)} cases")
        verdicts.append(judge(claim, path.parent))
    rows = rows_of(verdicts)
    if page is not None:
        write_atomic(page, page_of(verdicts))
    payload = {"claims": [_payload(verdict) for verdict in verdicts]}
    emit(payload, fmt=fmt, rows=rows, table=lambda: _table(verdicts))


def _payload(verdict: Verdict) -> dict[str, object]:
    claim = verdict.claim
    return {
        "name": claim.name,
        "claim": claim.claim,
        "scenario": claim.scenario,
        "cases": {
            case: {"changes": changes, "figures": verdict.values.get(case), "refused": verdict.refused.get(case)}
            for case, changes in claim.cases.items()
        },
        "figures": {
            figure: {"claimed": claimed, "verdict": verdict.judgement(figure) or None}
            for figure, claimed in claim.figures.items()
        },
        "why": claim.why,
    }


def _table(verdicts: list[Verdict]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    from twin.trust.claims import cells

    parts: list[RenderableType] = []
    for verdict in verdicts:
        found = Table(title=verdict.claim.claim, title_justify="left")
        found.add_column("")
        for case in verdict.claim.cases:
            found.add_column(case, justify="right")
        found.add_column("verdict")
        for line in cells(verdict):
            found.add_row(*line)
        parts += [found, *(f"refused, {case}: {why}" for case, why in verdict.refused.items()), verdict.claim.why, ""]
    return Group(*parts)
