"""Where the name of a rule stands, whoever draws it: where it hides the least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from twin.show.chart import Chart, Rule
from twin.show.draw.look import along, columns, interval, names_on_x, reach, stacks

STEPS = 16
Side = Literal["left", "right"]
Height = Literal["above", "below", "on"]
NAME_HIGH, LETTER_WIDE, WIDEST_NAME = 0.1, 0.022, 0.75
"""Of a plot: how high a rule's name is, and how wide at most, on a telephone."""


def free_place(chart: Chart, rule: Rule, heights: Sequence[Height] = ("above", "below")) -> tuple[Side, Height]:
    """At which end of a horizontal rule, and on which side of it, its name stands most free of what is drawn."""
    at = along(rule.at, chart.y, reach(chart)[1])
    width = min(LETTER_WIDE * columns(rule.name), WIDEST_NAME)
    spots = list(_drawn(chart))
    feet = {"above": at, "below": at - NAME_HIGH, "on": at - NAME_HIGH / 2}
    sides: dict[Side, tuple[float, float]] = {"right": (1.0 - width, 1.0), "left": (0.0, width)}

    def hidden(place: tuple[Side, Height]) -> float:
        (left, right), foot = sides[place[0]], feet[place[1]]
        outside = place[1] != "on" and not -0.01 <= foot <= 1.01 - NAME_HIGH
        there = sum(weight for x, y, weight in spots if left <= x <= right and foot <= y <= foot + NAME_HIGH)
        return there + (1e6 if outside else 0.0)

    places: list[tuple[Side, Height]] = [(side, height) for height in heights for side in sides]
    return min(places, key=hidden)


def leans_left(chart: Chart, rule: Rule) -> bool:
    """Whether the name of a rule that stands goes on its left, as on its right the plot ends."""
    axis, ends = (chart.x, reach(chart)[0]) if rule.axis == "x" else (chart.y, reach(chart)[1])
    return along(rule.at, axis, ends) > 0.7


def _drawn(chart: Chart) -> Iterator[tuple[float, float, float]]:
    """Spots of what is drawn, x and y from 0 to 1, and how bad it is to hide them: a band's edge is not as bad as a line."""
    ends, names = reach(chart), names_on_x(chart)

    def place(x: float | str, y: float) -> tuple[float, float]:
        across = (names.index(x) + 0.5) / len(names) if isinstance(x, str) else along(x, chart.x, ends[0])
        return across, along(y, chart.y, ends[1])

    for series, (feet, tops) in zip(chart.series, stacks(chart), strict=True):
        line, edges = series.kind not in ("points", "bars"), (series.low, series.high)
        rows: list[tuple[Sequence[float | None], float]] = [(tops, 1.0), *((edge, 0.3) for edge in edges if edge)]
        for row, weight in rows if line else ():
            known = [place(x, y) for x, y in zip(series.x, row, strict=True) if y is not None]
            yield from ((*spot, weight) for one, other in pairwise(known) for spot in _between(one, other))
        for at, x in enumerate(series.x if not line else ()):
            if (top := tops[at]) is None:
                continue
            yield (*place(x, top), 20.0)
            low, high = (feet[at], top) if series.kind == "bars" else interval(series, at) or (top, top)
            yield from ((*spot, 1.0) for spot in _between(place(x, low), place(x, high)))
    for at, rule in enumerate(rule for rule in chart.rules if rule.axis == "x"):
        yield along(rule.at, chart.x, ends[0]), 1.0 - NAME_HIGH * (at + 0.5), 20.0


def _between(one: tuple[float, float], other: tuple[float, float]) -> Iterator[tuple[float, float]]:
    for step in range(STEPS + 1):
        far = step / STEPS
        yield one[0] + far * (other[0] - one[0]), one[1] + far * (other[1] - one[1])
