"""Charts in a terminal: plain text that fits, marks on the row and in the column of their values."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from every_chart import ACROSS, AREA, BARS, EMPTY, EVERY, HEAT, LINE, POINTS, STACKED

from twin.show.chart import Axis, Chart, Heat, Rule, Series
from twin.show.draw.look import columns
from twin.show.draw.terminal_chart import text

KEYS = [chart.key for chart in EVERY]


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("chart", [*EVERY, EMPTY], ids=[*KEYS, "empty"])
def test_it_fits_and_is_plain(chart: Chart, width: int) -> None:
    drawn = text(chart, width=width)
    assert max(columns(line) for line in drawn.splitlines()) <= width
    assert "\x1b" not in drawn
    assert drawn == text(chart, width=width)
    assert drawn.splitlines()[0] == chart.title
    assert drawn.endswith("\n")


def row_of(drawn: str, tick: str) -> str:
    return next(line for line in drawn.splitlines() if re.match(rf"\s*{re.escape(tick)}┤", line))


def test_a_mark_stands_at_its_tick_and_under_a_log_axis_too() -> None:
    ys = (1.0, 10.0, 100.0)
    for log in (True, False):
        chart = Chart(
            "c",
            "C",
            Axis("x"),
            Axis("y", log=log),
            (Series("a", (0.0, 1.0, 2.0), ys, "points"),),
        )
        drawn = text(chart, height=30)
        places = [row_of(drawn, "100").rindex("o")]
        if log:
            places = [row_of(drawn, tick).index("o") for tick in ("1", "10", "100")]
            steps = [b - a for a, b in pairwise(places)]
            assert max(steps) - min(steps) <= 1, "x is linear"
        assert places[-1] > 80


def test_intervals_rules_and_what_is_outside() -> None:
    drawn = text(LINE, height=30)
    assert "? outside of what was calibrated" in drawn
    assert ". ends of the interval" in drawn
    assert "o p99   x p50   ~ before" in drawn
    ruled = next(line for line in drawn.splitlines() if "promised" in line)
    assert ruled.count("-") > 40
    lines = drawn.splitlines()
    above, below = (lines.index(row_of(drawn, tick)) for tick in ("1,000", "300"))
    assert above < lines.index(ruled) < below
    assert re.search(r"\| planned|planned \|", drawn)
    plot = "".join(line for line in drawn.splitlines() if "│" in line or "┤" in line)
    assert plot.count("?") == 1
    assert plot.count(".") >= 6


def test_labels_stand_beside_their_marks() -> None:
    drawn = text(POINTS)
    assert "? cheapest" in drawn
    assert "best latency x" in drawn


def lengths(drawn: str, name: str, mark: str) -> list[int]:
    lines = drawn.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(name))
    return [line.count(mark) for line in lines[start : start + 2]]


def test_bars_are_as_long_as_their_values() -> None:
    plain = Chart("b", "B", Axis(""), Axis("y"), (Series("", ("aa", "bb"), (10.0, 20.0), "bars"),))
    one, two = lengths(text(plain), "aa", "#")
    assert two == pytest.approx(2 * one, abs=1)
    drawn = text(BARS)
    assert "10% (5% to 20%)" in drawn
    assert re.search(r"b200 \|\?{10,}", drawn)
    assert re.search(r"l40s \|#+\[#*\]?-*\]", drawn)


def test_stacked_bars_hold_their_parts() -> None:
    drawn = text(STACKED)
    owned = next(line for line in drawn.splitlines() if line.startswith("owned"))
    assert owned.count("=") == pytest.approx(2 * owned.count(":"), abs=2)
    assert "$1,500" in owned


def test_points_across_have_whiskers_and_the_rule_its_name() -> None:
    drawn = text(ACROSS)
    first = next(line for line in drawn.splitlines() if line.startswith("p99 TTFT"))
    assert re.search(r"\[-*o-*\|-*\]", first), "the promise runs through the whisker"
    named = next(line for line in drawn.splitlines() if line.strip() == "^ promised")
    assert named.index("^") == first.rindex("|")


def test_areas_stand_on_each_other() -> None:
    drawn = text(AREA, height=30)
    assert row_of(drawn, "6").count("x") > 0, "2 + 4"


def test_heat_is_darker_where_there_is_more() -> None:
    rows = [line for line in text(HEAT).splitlines() if line.endswith("|")]
    assert rows == ["Mon |...:::===|", "Tue |***   @@@|"]
    wide = Chart("w", "W", Axis(""), Axis(""), heat=Heat(("a",), tuple(map(str, range(200))), ((1.0,) * 200,), "u"))
    assert "(103 columns more do not fit)" in text(wide)


def test_names_of_rules_do_not_cover_each_other() -> None:
    rules = (Rule("x", 4.0, "owned is cheaper than on demand"), Rule("x", 5.0, "owned is cheaper than spot"))
    chart = Chart("r", "R", Axis("x"), Axis("y"), (Series("a", (0.0, 9.0), (0.0, 9.0)),), rules)
    drawn = text(chart)
    assert all(rule.name in drawn for rule in rules)
