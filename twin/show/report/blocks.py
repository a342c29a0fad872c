"""What a report is made of, before anybody decides how it looks: sections of blocks, and figures that know where they stand.

A figure is never typed: it is a :class:`Cell`, the value of one place of the run's JSON (``plan.options[1].usd_per_month``), or
of a formula of such places (``ratio(…, …)``; :data:`FORMULAS` has them all).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from twin.show.chart import Chart

Form = Literal[
    "name", "word", "meaning", "sentence", "cite", "shell", "command", "hash", "calendar", "date", "usd", "usd_hour",
    "usd_mtok", "share", "availability", "percentile", "factor", "ms", "seconds", "duration", "count", "number", "rate", "kw",
    "kwh",
]  # fmt: skip
"""How a value is written (:mod:`twin.show.report.forms`). ``ms`` is of milliseconds, ``seconds`` of seconds; ``cite`` stays
in the language that it was written in, ``sentence`` is told in the reader's."""


@dataclass(frozen=True)
class Cell:
    """``value`` as it stands at ``path``, unrounded; ``None`` is written as a dash."""

    value: Any
    form: Form
    path: str


Part = str | Cell
Text = tuple[Part, ...]
"""Words and figures. Words were said in the report's language already."""

Align = Literal["left", "right"]


@dataclass(frozen=True)
class Paragraph:
    """``lead`` opens a section; ``verdict`` is the one line that everything else explains; ``warning`` must not be missed."""

    text: Text
    kind: Literal["plain", "lead", "verdict", "warning", "note"] = "plain"


@dataclass(frozen=True)
class Facts:
    """Labelled answers, one under the other."""

    rows: tuple[tuple[Text, Text], ...]


@dataclass(frozen=True)
class Bullets:
    items: tuple[Text, ...]
    numbered: bool = False


@dataclass(frozen=True)
class Row:
    """``group`` is a heading across, ``total`` a sum, ``chosen`` what is recommended."""

    cells: tuple[Text, ...]
    kind: Literal["plain", "total", "chosen", "group"] = "plain"


@dataclass(frozen=True)
class Table:
    """``align`` per column. ``note`` says what a figure means that does not say so itself."""

    key: str
    caption: Text
    head: tuple[Text, ...]
    rows: tuple[Row, ...]
    align: tuple[Align, ...]
    note: Text = ()

    def __post_init__(self) -> None:
        wide = {len(self.head), len(self.align), *(len(row.cells) for row in self.rows if row.kind != "group")}
        if len(wide) != 1:
            raise ValueError(f"table {self.key}: rows of {sorted(wide)} cells")


@dataclass(frozen=True)
class Figure:
    chart: Chart


@dataclass(frozen=True)
class Command:
    """What is pasted into a shell. ``lines`` are whole lines; what is quoted from a run is its cells."""

    title: Text
    lines: tuple[Text, ...]


Block = Paragraph | Facts | Bullets | Table | Figure | Command


@dataclass(frozen=True)
class Section:
    """``key`` names it in links and tests. The decision page stands alone on its page."""

    key: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """``lang`` as browsers know it."""

    title: Text
    subtitle: Text
    sections: tuple[Section, ...]
    lang: str


FORMULAS: dict[str, Callable[..., Any]] = {
    "sum": lambda *values: math.fsum(values),
    "minus": lambda a, b: a - b,
    "ratio": lambda a, b: a / b,
    "racks": lambda nodes, meter_kw, rack_kw: _racks(nodes, meter_kw, rack_kw),
    "budget": lambda text: _usd_per_month(text),
    "first_below": lambda values, least: next((at for at, value in enumerate(values) if value < least), None),
    "month_above": lambda room, growth, planned, months: _month_above(room, growth, planned, months),
    "month_of": lambda start, month: _month_of(start, month),
    "percentile": lambda share: round(share * 100, 9),
    "short_name": lambda path: str(path).replace("\\", "/").rsplit("/", 1)[-1],
}
"""What a report may compute of a run: sums and shares, racks of whole nodes, months, a file's name without its folder."""


def _racks(nodes: int, meter_kw: float, rack_kw: float) -> int | None:
    """Racks that take whole nodes; ``None`` where not even one node fits into one.

    >>> _racks(3, 30.0, 25.0), _racks(1, 13.8, 5.0)
    (2, None)
    """
    each = math.floor(rack_kw * nodes / meter_kw + 1e-9)
    return math.ceil(nodes / each) if each else None


def _usd_per_month(budget: str) -> float | None:
    """A budget in money, for a month of 730 h; ``None`` for one in GPUs or power.

    >>> _usd_per_month("120k/month"), _usd_per_month("64gpu")
    (120000.0, None)
    """
    from twin.base import HOURS_PER_MONTH
    from twin.spec.slo import parse_budget

    hourly = parse_budget(budget).usd_per_hour
    return None if hourly is None else round(hourly * HOURS_PER_MONTH, 6)


def _month_above(room: float, growth: float, planned: float, months: int) -> int | None:
    """The first month whose traffic is more than ``room`` times that planned for, which is the traffic of month ``planned``.

    >>> _month_above(2.0, 0.05, 0.0, 36), _month_above(2.0, 0.0, 0.0, 36)
    (15, None)
    """
    return next((at for at in range(months + 1) if (1.0 + growth) ** (at - planned) > room), None)


def _month_of(start: str, month: float) -> str:
    """
    >>> _month_of("2027-01", 17)
    '2028-06'
    """
    year, first = (int(part) for part in start.split("-"))
    months = year * 12 + first - 1 + math.floor(month)
    return f"{months // 12:04d}-{months % 12 + 1:02d}"
