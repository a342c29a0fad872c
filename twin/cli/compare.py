"""``twin compare``: two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twin.cli.common import Format, emit, note
from twin.cli.money_table import WAYS

if TYPE_CHECKING:
    from rich.console import RenderableType

    from twin.results.compare import Side

NESTED = ("risk", "money", "energy", "power")
TOLD = {
    "risk.probability_held.value": "promises held, of possible worlds",
    "risk.headroom.factor": "head-room, times the traffic",
    "risk.down.node.share_of_traffic": "traffic it holds with one node down",
    "risk.growth.breaks_in_month": "growth breaks it in month",
    "risk.usd_per_month.p95": "$/month, 95 % point",
    "money.idle.usd_per_month": "$/month for capacity unused",
    **{f"money.tco.usd.{way}": f"36 months, {name}" for way, name in WAYS.items()},
}
"""What the table shows of risk and money."""

_RUN = "Run folder of twin plan or twin simulate; RUN:OPTION picks an option."


def compare(
    a: Annotated[str, typer.Argument(help=_RUN, show_default=False)],
    b: Annotated[str, typer.Argument(help=_RUN, show_default=False)],
    fmt: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.table,
) -> None:
    """Say how two runs differ: cost, latency, throughput, risk, and whether they answer the same question."""
    from twin.cli.common import plain
    from twin.results.compare import compare as compared

    payload: Any = plain(compared(_side(a), _side(b)))
    for text in payload["warnings"]:
        note(f"warning: {text}")
    rows = [*payload["figures"], *_unlike_rows(payload)]
    emit(payload, fmt=fmt, table=lambda: _table(payload), rows=rows)


def _side(text: str) -> Side:
    """``runs/plan``, or ``runs/plan:cheapest``; a folder whose own name has a colon is found first."""
    from twin.results.compare import side
    from twin.results.run import read_run

    folder, colon, option = text.rpartition(":")
    if not colon or Path(text).exists():
        return side(read_run(Path(text)))
    return side(read_run(Path(folder)), option)


def _unlike_rows(payload: dict[str, Any]) -> list[dict[str, Any]]:
    """What differs that is no figure, as rows for csv and md."""
    return [
        {"group": group, "figure": item["field"], "a": item["a"], "b": item["b"]}
        for group in ("answer", "question", "evidence")
        for item in payload[group]
    ]


def _table(payload: dict[str, Any]) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(f"{side}: {_named(payload[side])}") for side in ("a", "b")]
    figures = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("", "unit", "a", "b", "b − a", "%", "better"):
        figures.add_column(name, justify="left" if name in ("", "unit", "better") else "right", overflow="fold")
    for row in filter(_is_shown, payload["figures"]):
        relative = "" if row["relative"] is None else f"{row['relative']:+.1%}"
        values = [_figure(row[key], row["unit"]) for key in ("a", "b", "difference")]
        name = TOLD.get(f"{row['group']}.{row['figure']}") or row["figure"]
        figures.add_row(name.replace("_", " "), row["unit"], *values, relative, row["better"] or "")
    parts.append(figures)
    titles = {"answer": "What is deployed", "question": "What was asked", "evidence": "What it was computed with"}
    for group, title in titles.items():
        if payload[group]:
            parts.append(_unlike_table(title, payload[group]))
    said = "They answer the same question." if payload["same_question"] else "They do not answer the same question."
    return Group(*parts, Text(said), *(Text(f"Warning: {text}.") for text in payload["warnings"]))


def _is_shown(row: dict[str, Any]) -> bool:
    """Of risk, money and power the few that decide; json, csv and md have them all."""
    return row["group"] not in NESTED or f"{row['group']}.{row['figure']}" in TOLD


def _unlike_table(title: str, items: list[dict[str, Any]]) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=f"{title}, where it differs", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for name in ("", "a", "b"):
        table.add_column(name, overflow="fold")
    for item in items:
        table.add_row(item["field"], *(_value(item[key]) for key in ("a", "b")))
    return table


def _named(side: dict[str, Any]) -> str:
    option = "" if side["option"] is None else f", option {side['option']}"
    names = f" ({', '.join(side['names']).replace('_', ' ')})" if side["names"] else ""
    return f"{side['kind']} {side['run']}{option}{names}"


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit == "share":
        return f"{value:.1%}"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.3g}"


def _value(value: Any) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…{text[-11:]}"
