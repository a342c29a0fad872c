"""Charts on paper: marks stand where the chart says, text is text, and many fit in one page."""

from __future__ import annotations

import re
from math import log10
from xml.etree import ElementTree

import pytest
from every_chart import ACROSS, BARS, CHINESE, EMPTY, EVERY, HEAT, HOSTILE, LINE, POINTS, STACKED, STEPS

from twin.show.chart import Axis, Chart, Series
from twin.show.draw.svg_chart import svg

KEYS = [chart.key for chart in EVERY]
SVG = "{http://www.w3.org/2000/svg}"


def parsed(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(svg(chart))


def texts(chart: Chart) -> list[str]:
    return ["".join(element.itertext()) for element in parsed(chart).iter(f"{SVG}text")]


def value_at(chart: Chart, axis: str) -> list[tuple[float, float]]:
    """Pixel and value of the ticks of an axis."""
    found = []
    for group in parsed(chart).iter(f"{SVG}g"):
        if re.search(rf"--{axis}tick_\d+$", group.get("id", "")):
            said = "".join(next(group.iter(f"{SVG}text")).itertext())
            place = next(group.iter(f"{SVG}use")).get(axis, "")
            scale = {"%": 0.01, "k": 1e3, "M": 1e6}.get(said[-1], 1.0)
            found.append((float(place), scale * float(said.strip("$%kM").replace(",", ""))))
    return found


def scaled(chart: Chart, axis: str, pixel: float, *, log: bool) -> float:
    (a, low), *_, (b, high) = value_at(chart, axis)
    low, high = (log10(low), log10(high)) if log else (low, high)
    value = low + (pixel - a) / (b - a) * (high - low)
    return 10**value if log else value


def marks(chart: Chart, number: int, suffix: str = "") -> list[tuple[float, float]]:
    groups = [g for g in parsed(chart).iter(f"{SVG}g") if g.get("id", "").endswith(f"--marks-{number}{suffix}")]
    return [(float(use.get("x", "")), float(use.get("y", ""))) for group in groups for use in group.iter(f"{SVG}use")]


@pytest.mark.parametrize("chart", [LINE, POINTS, STEPS], ids=["line", "points", "steps"])
def test_marks_stand_where_the_series_says(chart: Chart) -> None:
    for number, series in enumerate(chart.series):
        known = [
            (x, y, bool(series.outside) and series.outside[at])
            for at, (x, y) in enumerate(zip(series.x, series.y, strict=True))
            if y is not None
        ]
        for suffix, out in (("", False), ("-outside", True)):
            wanted = [(x, y) for x, y, outside in known if outside == out]
            drawn = marks(chart, number, suffix)
            assert len(drawn) == len(wanted)
            for (x, y), (wanted_x, wanted_y) in zip(drawn, wanted, strict=True):
                assert scaled(chart, "x", x, log=chart.x.log) == pytest.approx(wanted_x, rel=2e-3, abs=2e-3)
                assert scaled(chart, "y", y, log=chart.y.log) == pytest.approx(wanted_y, rel=2e-3, abs=2e-3)


def test_bars_are_as_long_as_the_series_says() -> None:
    for number, series in enumerate(BARS.series):
        for at, wanted in enumerate(series.y):
            path = bar(BARS, number, at)
            tops = [float(y) for y in re.findall(r"[ML] \S+ (\S+)", path)]
            assert scaled(BARS, "y", min(tops), log=False) == pytest.approx(wanted, rel=5e-3)
            assert scaled(BARS, "y", max(tops), log=False) == pytest.approx(0.0, abs=1e-3)


def test_stacked_bars_stand_on_each_other() -> None:
    ends = [re.findall(r"[ML] (\S+) ", bar(STACKED, number, 0)) for number in (1, 2)]
    spans = [(min(map(float, xs)), max(map(float, xs))) for xs in ends]
    assert spans[0][1] == pytest.approx(spans[1][0], abs=0.02)
    assert scaled(STACKED, "x", spans[1][1], log=False) == pytest.approx(1500.0, rel=5e-3)


def bar(chart: Chart, number: int, at: int) -> str:
    group = next(g for g in parsed(chart).iter(f"{SVG}g") if g.get("id", "").endswith(f"--bar-{number}-{at}"))
    return next(group.iter(f"{SVG}path")).get("d", "")


@pytest.mark.parametrize("chart", EVERY, ids=KEYS)
def test_text_is_text(chart: Chart) -> None:
    said = texts(chart)
    wanted = [chart.title, chart.x.title, chart.y.title, *(rule.name for rule in chart.rules)]
    wanted += [series.name for series in chart.series] if len(chart.series) > 1 else []
    assert [text for text in wanted if text and text not in said] == []
    head = parsed(chart)
    assert head.findtext(f"{SVG}title") == chart.title
    assert head.findtext(f"{SVG}desc") == chart.note


@pytest.mark.parametrize("chart", EVERY, ids=KEYS)
def test_the_same_bytes_twice_and_small(chart: Chart) -> None:
    first = svg(chart)
    assert first == svg(chart)
    assert len(first.encode()) < 60_000
    assert first.startswith("<svg")
    assert not re.search(r"<script|<\?xml|<!DOCTYPE|metadata", first)
    assert not re.search(r"\d{4}-\d\d-\d\dT", first), "no clock"


def test_ids_of_a_page_of_charts_are_distinct_and_all_references_lead_somewhere() -> None:
    page = "".join(svg(chart) for chart in EVERY)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 100
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', page)) <= set(ids)


def test_long_series_stay_small() -> None:
    """As many points as a timeline has, and half as many again, at their worst: no two alike."""
    x = tuple(float(at) for at in range(360))
    noisy = [tuple(float((at * 7919 + number) % 1009) for at in range(360)) for number in (0, 1)]
    series = tuple(Series(f"s{number}", x, y, "steps") for number, y in enumerate(noisy))
    assert len(svg(Chart("long", "Long", Axis("x"), Axis("y"), series))) < 60_000


def test_what_is_outside_is_hollow() -> None:
    page = svg(BARS)
    assert "url(#bars--" in page, "stripes"
    uses = [g for g in parsed(LINE).iter(f"{SVG}g") if g.get("id", "").endswith("--marks-0-outside")]
    assert "fill: #ffffff" in ElementTree.tostring(uses[0]).decode()


def test_chinese_and_hostile_text_are_whole() -> None:
    assert "按需租用" in texts(CHINESE)
    assert "0.123456 {x}" in texts(HOSTILE), "only coordinates are shortened"


def test_points_of_several_series_stand_aside_from_their_names() -> None:
    ys = [{y for _, y in marks(ACROSS, number)} for number in (0, 1)]
    assert not ys[0] & ys[1]


def test_heat_and_empty_charts_are_drawn() -> None:
    assert "data:image/png" in svg(HEAT)
    assert "<svg" in svg(EMPTY)
