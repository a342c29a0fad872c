"""How soon the first useful page is there, and how soon a report."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browsing import PLAN_S, QUIET, dashboard

START_S, REPORT_S, REPORT_MB = 3.0, 10.0, 5.0


def first_page(browser, runs: Path) -> float:
    """Seconds from the start of the process to a form that can be filled in, in a browser that knows nothing yet."""
    from playwright.sync_api import expect

    with browser.new_context(viewport={"width": 1400, "height": 900}) as context:
        page = context.new_page()
        start = time.perf_counter()
        with dashboard(runs) as address:
            page.goto(address)
            expect(page.get_by_role("button", name="Make the plan")).to_be_enabled(timeout=PLAN_S * 1000)
            return time.perf_counter() - start


def test_first_useful_page(benchmark, figure, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium (make browser)")
    from playwright.sync_api import sync_playwright

    (tmp_path / "runs").mkdir()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(QUIET))
        benchmark.pedantic(first_page, args=(browser, tmp_path / "runs"), rounds=1)
        found = [first_page(browser, tmp_path / "runs") for _ in range(5)]
        browser.close()
    figure("first useful page of the dashboard, after its start", statistics.median(found), "s", at_most=START_S)


def test_report(benchmark, figure, tmp_path: Path, run_folder) -> None:
    run, out = run_folder("risk"), tmp_path / "report.html"

    def write() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "twin", "report", run, "--out", out], check=True, capture_output=True)
        return time.perf_counter() - start

    assert json.loads((run / "plan.json").read_text(encoding="utf-8"))["recommended"]
    seconds = benchmark.pedantic(write, rounds=1)
    figure("report as HTML, made", seconds, "s", at_most=REPORT_S)
    figure("report as HTML, size", out.stat().st_size / 1e6, "MB", at_most=REPORT_MB)
