"""Size a new service: from an empty dashboard and a file of requests to an answer, its figures those of the run folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from math import log
from pathlib import Path

import pytest
from browsing import PLAN_S, cells, choose, click_point, curves, drawn, figure, number, open_up, settle, write
from playwright.sync_api import Page, expect

DIGITS = 5e-3
"""Relative: a figure on a page has three digits."""


def requests(file: Path) -> Path:
    """A minute and a half of traffic as a CSV, as somebody's gateway might have written it."""
    rows = [f"{0.3 * i + 0.13 * (i % 3):.2f},{600 + 37 * i % 500},{90 + 11 * i % 90}" for i in range(300)]
    file.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]) + "\n", encoding="utf-8")
    return file


def test_size_a_new_service(visit: Callable[..., Page], runs: Path, tmp_path: Path) -> None:
    page = visit()
    expect(page.get_by_role("heading", name="Plan", exact=True)).to_be_visible()
    _ask(page, requests(tmp_path / "gateway.csv"))
    page.get_by_role("button", name="Make the plan").click()
    expect(page.get_by_role("progressbar").first).to_be_visible()
    expect(page.get_by_role("heading", name="Take it away")).to_be_visible(timeout=PLAN_S * 1000)
    settle(page)

    run = page.url.split("run=")[1].split("&")[0]
    plan = json.loads((runs / run / "plan.json").read_text(encoding="utf-8"))
    assert plan["traffic"]["requests"] == 300
    _decision(page, plan)
    _options(page, plan)
    _front(page, plan)


def _ask(page: Page, trace: Path) -> None:
    open_up(page, "Upload a trace")
    page.locator("input[type=file]").set_input_files(trace)
    expect(page.get_by_role("combobox", name="Trace or scenario")).to_have_value("gateway.csv")
    choose(page, "Model", "Qwen/Qwen3-8B")
    choose(page, "GPUs", "l40s", "h100_sxm")
    page.keyboard.press("Escape")
    write(page, "Time to first token", "1s")
    write(page, "Time per output token", "40ms")
    write(page, "Budget", "20k/month")
    page.get_by_text("How sure is it?").click()
    settle(page)
    open_up(page, "More")
    write(page, "Most GPUs", "3")
    write(page, "Weights", "fp8")
    write(page, "Possible worlds", "8")
    expect(page).to_have_url(re.compile(r"(?=.*worlds=8)(?=.*risk=true)(?=.*max_gpus=3)(?=.*ttft=1s)"))


def _decision(page: Page, plan: dict) -> None:
    best = next(item for item in plan["options"] if item["id"] == plan["recommended"])
    assert number(figure(page, "Cost")) == pytest.approx(best["usd_per_month"], rel=DIGITS, abs=0.06)
    for bound in best["bounds"]:
        shown = figure(page, f"p{bound['quantile'] * 100:g} {bound['metric'].upper()}")
        assert number(shown) == pytest.approx(1e3 * bound["worst_s"], rel=DIGITS, abs=0.06)
    assert _held(figure(page, "P(every promise holds)")) == pytest.approx(
        best["risk"]["probability_held"]["value"], abs=0.005
    )


def _held(text: str) -> float:
    return 1.0 if text.startswith("all ") else number(text)


def _options(page: Page, plan: dict) -> None:
    every = [*plan["options"], *plan["near_misses"]]
    rows = cells(page.get_by_test_id("stDataFrame").first.locator("table"))
    assert len(rows) == len(every)
    for row, item in zip(rows, every, strict=True):
        assert number(row["USD/month"]) == pytest.approx(item["usd_per_month"], rel=DIGITS, abs=0.06)
        if "risk" in item:
            assert _held(row["P(held)"]) == pytest.approx(item["risk"]["probability_held"]["value"], abs=0.005)
        for bound in item["bounds"]:
            [shown] = [text for head, text in row.items() if head.startswith(f"p99 {bound['metric'].upper()}")]
            assert number(shown) == pytest.approx(1e3 * bound["worst_s"], rel=DIGITS, abs=0.06)


def _front(page: Page, plan: dict) -> None:
    """Points are the run's, and a click tells of one."""
    chart = drawn(page, "Cost against latency")
    series = {name: [_rounded(x, y) for x, y in points] for name, points in curves(chart).items()}
    known = {_rounded(point["usd_per_month"], point["p99_ttft_ms"]): point for point in plan["front"]}
    assert set(known) <= {point for points in series.values() for point in points}
    place, at = max(enumerate(series["on the front"]), key=lambda item: _apart(item[1], series.values()))
    point = known[at]
    click_point(page, chart, "on the front", place)
    expect(page.get_by_text(point["id"], exact=True)).to_be_visible()
    settle(page)
    told = page.get_by_test_id("stColumn").filter(has_text=point["id"])
    assert number(figure(told, "Cost")) == pytest.approx(point["usd_per_month"], rel=DIGITS, abs=0.06)
    assert number(figure(told, "p99 TTFT")) == pytest.approx(point["p99_ttft_ms"], rel=DIGITS, abs=0.06)


def _apart(at: tuple[float, float], series: Iterable[list[tuple[float, float]]]) -> float:
    """How far the nearest other point is, on logarithmic axes: what lies on top of another cannot be clicked."""
    others = [xy for points in series for xy in points if xy != at]
    return min(abs(log(at[0] / x)) + abs(log(at[1] / y)) for x, y in others)


def _rounded(usd: float, ms: float) -> tuple[float, float]:
    """Seconds and milliseconds of one figure differ in the last bit."""
    return round(float(usd), 6), round(float(ms), 6)
