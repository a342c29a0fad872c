"""What if traffic doubles: from a saved plan to What-if, against the pinned plan; figures are those of the library."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import curves, difference, drawn, figure, number, settle
from numpy.typing import NDArray
from playwright.sync_api import Page, expect

from twin.plan.load_curve import at_load
from twin.plan.served import Served
from twin.results.run import read_run

DIGITS = 5e-3
SHOWN = {"p99 TTFT": "p99_ttft_ms", "p99 TPOT": "p99_tpot_ms", "Output tokens": "output_throughput"}


def test_what_if_traffic_doubles(visit: Callable[..., Page], runs: Path, plan: dict[str, Any]) -> None:
    page = visit("?run=service")
    page.get_by_role("link", name=re.compile("What if traffic")).click()
    expect(page.get_by_role("heading", name="What-if")).to_be_visible()
    settle(page)
    page.get_by_role("button", name="Pin as baseline").click()
    expect(page.get_by_role("button", name="Unpin")).to_be_visible()
    settle(page)
    _slide(page, "Load", "×2.00")
    expect(page).to_have_url(re.compile(r"[?&]load=2&"))

    served = Served.of_scenario(read_run(runs / "service").question)
    once, twice = (at_load(served, factor)[0] for factor in (1.0, 2.0))
    shown = _shows(page, once, twice)
    for metric in ("ttft", "tpot"):
        lines = curves(drawn(page, f"{metric.upper()} against load"))
        for name, column in (("p99", "p99"), ("p50", "p50"), ("p99 of the baseline", "p99")):
            assert lines[name] == pytest.approx(_curve(plan, f"{column}_{metric}_ms"))

    again = visit(page.url.split("/", 3)[3])
    expect(again.get_by_role("button", name="Unpin")).to_be_visible()
    settle(again)
    assert _shows(again, once, twice) == shown


def test_a_second_replica_halves_the_load(visit: Callable[..., Page], plan: dict[str, Any]) -> None:
    """A change of the fleet draws another curve over the baseline's, and the address holds both."""
    page = visit("whatif?run=service&option=recommended")
    expect(page.get_by_role("heading", name="What-if")).to_be_visible()
    settle(page)
    page.get_by_role("button", name="Pin as baseline").click()
    expect(page.get_by_role("button", name="Unpin")).to_be_visible()
    settle(page)
    _slide(page, "Replicas", "2")
    expect(page).to_have_url(re.compile(r"[?&]replicas=2&"))
    assert number(difference(page, "Per month")) == pytest.approx(number(figure(page, "Per month")) / 2, rel=DIGITS)
    lines = curves(drawn(page, "TPOT against load"))
    before, after = lines["p99 of the baseline"], lines["p99"]
    assert before == pytest.approx(_curve(plan, "p99_tpot_ms"))
    assert after[-1, 0] > 1.5 * before[-1, 0], "twice the replicas, and no more load is drawn"


def _slide(page: Page, label: str, to: str) -> None:
    """By the keys of a slider, one step after the other."""
    slider = page.get_by_role("slider", name=label)
    for _ in range(100):
        if slider.get_attribute("aria-valuetext") == to:
            break
        slider.press("ArrowRight")
    expect(page.get_by_text(to, exact=True).first).to_be_visible()
    settle(page)


def _shows(page: Page, before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Figures and their differences, as far as two are told apart."""
    found = {}
    for label, key in SHOWN.items():
        shown, change = figure(page, label), difference(page, label)
        found[label] = (shown, change)
        assert number(shown) == pytest.approx(now[key], rel=DIGITS)
        assert number(change) == pytest.approx(now[key] - before[key], rel=2 * DIGITS, abs=0.06)
        assert change.endswith("worse") is (key != "output_throughput"), "more tokens of more load are no merit"
    return found


def _curve(plan: Mapping[str, Any], column: str) -> NDArray[np.float64]:
    return np.array([(point["request_rate_per_s"], point[column]) for point in plan["load_curve"]["points"]])
