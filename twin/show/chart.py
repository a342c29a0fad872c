"""A chart as data: what is drawn, never how. One chart can be drawn in a page, on paper and in a terminal.

:mod:`twin.show.draw` draws it. Series differ by colour (chosen so that the colour-blind can tell them apart), and by mark and
dash, which survive a black-and-white printer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["line", "steps", "points", "bars", "area"]
"""``steps`` holds its value until the next x; ``bars`` takes categories for x; ``area`` is stacked on the one before."""

Value = float | None
"""``None`` leaves a gap."""


@dataclass(frozen=True)
class Axis:
    """``title`` with its unit (``p99 TTFT, ms``). ``money``: numbers are dollars. ``share``: 0.5 is written 50%."""

    title: str
    log: bool = False
    low: float | None = None
    high: float | None = None
    money: bool = False
    share: bool = False


@dataclass(frozen=True)
class Series:
    """Equally long columns. ``x`` are numbers, or the names of bars.

    ``low`` and ``high``: an interval around ``y``; the chart's note says of how much. ``outside``: per point, whether it lies
    outside of what was calibrated; drawn hollow (a bar hatched). ``keys``: per point, what a click on it selects (an option's
    id). ``labels``: per point, a few words beside the mark or in the tip.
    """

    name: str
    x: tuple[float | str, ...]
    y: tuple[Value, ...]
    kind: Kind = "line"
    low: tuple[Value, ...] = ()
    high: tuple[Value, ...] = ()
    outside: tuple[bool, ...] = ()
    keys: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    colour: int | None = None
    baseline: bool = False

    def __post_init__(self) -> None:
        for name in ("y", "low", "high", "outside", "keys", "labels"):
            column = getattr(self, name)
            if len(column) != len(self.x) and (column or name == "y"):
                raise ValueError(f"series {self.name}: {name} has {len(column)} values, x {len(self.x)}")


@dataclass(frozen=True)
class Rule:
    """A straight line across: a promise, today's load, a month in which something breaks."""

    axis: Literal["x", "y"]
    at: float
    name: str


@dataclass(frozen=True)
class Heat:
    """``values[row][column]``, ``None`` where nothing is known; ``unit`` names the colour bar."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[Value, ...], ...]
    unit: str


@dataclass(frozen=True)
class Chart:
    """``key`` names it in a page and in tests. ``note``: what intervals mean, which fidelity, what is hollow and why.

    ``across``: bars lie on their side (and points with names for x), x being their names still. ``stacked``: bars of one name
    stand on each other.
    """

    key: str
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...] = ()
    rules: tuple[Rule, ...] = ()
    heat: Heat | None = None
    note: str = ""
    across: bool = False
    stacked: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return self.heat is None and not any(value is not None for series in self.series for value in series.y)
