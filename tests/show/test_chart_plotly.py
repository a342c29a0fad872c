"""Charts of a page: what plotly is given is what the chart says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from every_chart import ACROSS, AREA, BARS, EMPTY, EVERY, HEAT, HOSTILE, LINE, POINTS, STACKED, STEPS

from twin.show.chart import Chart
from twin.show.draw.look import SOFT
from twin.show.draw.plotly_chart import figure

KEYS = [chart.key for chart in EVERY]


def drawn(chart: Chart) -> Any:
    return json.loads(figure(chart).to_json())


def named(chart: Chart) -> list[Any]:
    """The traces of the series, without bands."""
    return [trace for trace in drawn(chart)["data"] if trace.get("hoverinfo") != "skip"]


@pytest.mark.parametrize("chart", EVERY, ids=KEYS)
def test_traces_hold_the_series(chart: Chart) -> None:
    if chart.heat is not None:
        return
    traces = named(chart)
    assert len(traces) == len(chart.series)
    for trace, series in zip(traces, chart.series, strict=True):
        x, y = (trace["y"], trace["x"]) if chart.across else (trace["x"], trace["y"])
        assert (x, y) == (list(series.x), list(series.y))


@pytest.mark.parametrize("chart", EVERY, ids=KEYS)
def test_the_same_chart_gives_the_same_figure(chart: Chart) -> None:
    assert figure(chart).to_json() == figure(chart).to_json()
    assert drawn(chart)["layout"]["height"] >= 100


def test_lines_have_a_band_and_no_dash_twice() -> None:
    data = drawn(LINE)["data"]
    band = next(trace for trace in data if trace.get("fill") == "toself")
    series = LINE.series[0]
    assert band["x"] == [*series.x, *reversed(series.x)]
    assert band["y"] == [*series.high, *reversed(series.low)]
    p99, p50, before = named(LINE)
    assert len({trace["line"]["dash"] for trace in (p99, p50, before)}) == 3
    assert len({trace["marker"]["symbol"][0] for trace in (p99, p50, before)}) == 3
    assert before["line"]["color"] == SOFT != p99["line"]["color"]
    assert p99["marker"]["symbol"] == ["circle"] * 3 + ["circle-open"]


def test_steps_hold_until_the_next_x_in_line_and_band() -> None:
    band, line = drawn(STEPS)["data"]
    assert line["line"]["shape"] == "hv"
    assert band["x"][:7] == [0, 1, 1, 2, 2, 3, 3]
    assert band["y"][:7] == [1.0, 1.0, 0.9, 0.9, 0.6, 0.6, 0.2]


def test_points_have_whiskers_keys_and_labels() -> None:
    front, options = named(POINTS)
    assert [key[0] for key in front["customdata"]] == ["a", "b", "c"]
    whiskers = options["error_y"]
    assert (whiskers["array"], whiskers["arrayminus"]) == ([600.0, "none"], [100.0, "none"])
    assert options["marker"]["symbol"] == ["square-open", "square"]
    assert [text.strip() for text in options["text"]] == ["cheapest", "best latency"]
    assert options["textposition"] == ["top right", "top left"], "words stay on the page"
    assert "(200 – 900)" in options["hovertext"][0]
    assert "$6,000" in options["hovertext"][0]


def test_bars_stand_beside_or_on_each_other() -> None:
    assert drawn(BARS)["layout"]["barmode"] == "group"
    beside, _ = named(BARS)
    assert beside["marker"]["pattern"]["shape"] == ["", "", "/"]
    assert beside["error_y"]["array"][2] == "none"
    layout = drawn(STACKED)["layout"]
    assert layout["barmode"] == "stack"
    assert layout["xaxis"]["range"][1] > 5000
    assert layout["yaxis"]["categoryarray"] == ["on demand", "reserved", "owned"]
    patterns = [trace["marker"]["pattern"]["shape"] for trace in named(STACKED)]
    assert len(set(patterns)) == 3


def test_areas_are_stacked() -> None:
    assert {trace["stackgroup"] for trace in named(AREA)} == {"all"}
    assert drawn(AREA)["layout"]["yaxis"]["range"][1] > 6


def test_axes_and_rules() -> None:
    layout = drawn(LINE)["layout"]
    assert layout["yaxis"]["type"] == "log"
    assert 500 in layout["yaxis"]["tickvals"]
    shapes = {shape["x0"] if shape["xref"] == "x" else shape["y0"] for shape in layout["shapes"]}
    assert shapes == {500.0, 4.0}
    assert [note["text"] for note in layout["annotations"]] == ["promised", "planned"]
    assert layout["annotations"][0]["y"] == pytest.approx(2.69897), "notes stand at the logarithm"
    assert drawn(STEPS)["layout"]["yaxis"]["tickformat"] == ".0%"
    across = drawn(ACROSS)["layout"]
    assert across["shapes"][0]["x0"] == 1.0
    assert across["scattermode"] == "group"


def test_a_heat_map_keeps_its_gap() -> None:
    (heat,) = drawn(HEAT)["data"]
    assert heat["z"] == [[1.0, 2.0, 3.0], [4.0, None, 6.0]]
    assert (heat["x"], heat["y"]) == (["00", "01", "02"], ["Mon", "Tue"])


def test_what_users_named_is_text() -> None:
    whole = figure(HOSTILE).to_json()
    assert "<script>" not in whole
    assert "<i>" not in whole
    assert drawn(HOSTILE)["layout"]["title"]["text"].startswith("<b>&lt;script&gt;")


def test_an_empty_chart_is_drawn_empty() -> None:
    assert drawn(EMPTY)["data"] == []


def test_the_figure_brings_no_template() -> None:
    """plotly's own would paint over patterns, and is longer than the chart."""
    assert "layout" not in drawn(LINE)["layout"]["template"]
    assert len(figure(LINE).to_json()) < 8_000
