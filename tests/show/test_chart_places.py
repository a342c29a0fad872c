"""The name of a rule stands where it hides least of what is drawn, in every renderer."""

from __future__ import annotations

import pytest

from twin.show.chart import Axis, Chart, Rule, Series
from twin.show.draw.places import free_place
from twin.show.draw.plotly_chart import figure
from twin.show.draw.svg_chart import svg
from twin.show.draw.terminal_chart import text

PROMISE = Rule("y", 50.0, "promised: p99 TPOT ≤ 50 ms")


def _chart(*y: float, rules: tuple[Rule, ...] = (PROMISE,)) -> Chart:
    x = tuple(float(at) for at in range(len(y)))
    return Chart("c", "Latency", Axis("requests per second"), Axis("ms", high=100.0), (Series("p99", x, y),), rules)


@pytest.mark.parametrize(
    ("y", "place"),
    [
        ((0.0, 5.0, 10.0, 60.0, 90.0), ("left", "above")),
        ((90.0, 60.0, 10.0, 5.0, 0.0), ("right", "above")),
        ((53.0, 54.0, 55.0, 54.0, 53.0), ("right", "below")),
        ((47.0, 46.0, 45.0, 46.0, 47.0), ("right", "above")),
    ],
)
def test_a_name_keeps_off_the_curve(y: tuple[float, ...], place: tuple[str, str]) -> None:
    chart = _chart(*y)
    assert free_place(chart, PROMISE) == place
    note = figure(chart).layout.annotations[0]
    assert (note.xanchor, note.yanchor) == (place[0], "bottom" if place[1] == "above" else "top")
    assert note.bgcolor == "rgba(255,255,255,0.6)"
    assert PROMISE.name.split(":")[0] in svg(chart)
    assert PROMISE.name in text(chart)


def test_a_name_never_leaves_the_plot() -> None:
    top = Rule("y", 98.0, "promised")
    assert free_place(_chart(1.0, 2.0, rules=(top,)), top)[1] == "below"
    low = Rule("y", 2.0, "promised")
    assert free_place(_chart(60.0, 50.0, rules=(low,)), low)[1] == "above"


def test_the_name_of_a_rule_at_the_right_end_of_bars_stays_in_the_plot() -> None:
    rule = Rule("y", 1.0, "promised")
    bars = Series("", ("p99 TTFT", "p99 TPOT"), (0.1, 0.3), "points")
    chart = Chart("c", "Bands", Axis(""), Axis("share", share=True), (bars,), (rule,), across=True)
    assert figure(chart).layout.annotations[0].xanchor == "right"


def test_a_page_says_the_title_itself() -> None:
    assert figure(_chart(1.0, 2.0), titled=False).layout.title.text == ""
    assert "Latency" in figure(_chart(1.0, 2.0)).layout.title.text
