"""Read and take away: the report as HTML, PDF and workbook, the run's own files, and the same in Chinese."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pypdf
import pytest
import yaml
from browsing import Watched, number, saved, settle
from playwright.sync_api import Browser, Page, expect

MADE_S = 60.0
A4_PT = (595.3, 841.9)


@pytest.fixture
def page(visit: Callable[..., Page], plan: dict[str, Any]) -> Page:
    page = visit("?run=service")
    expect(page.get_by_role("heading", name="Take it away")).to_be_visible()
    settle(page)
    return page


def _report(page: Page, paper: str, folder: Path, language: str = "English") -> Path:
    for label in (language, paper):
        page.get_by_role("radio", name=label, exact=True).click(force=True)
        settle(page)
    return saved(page, f"Download the report ({paper})", folder, MADE_S)


def _recommended(plan: dict[str, Any]) -> dict[str, Any]:
    return dict(next(item for item in plan["options"] if item["id"] == plan["recommended"]))


def _dollars(text: str) -> set[float]:
    return {number(found) for found in re.findall(r"\$[\d,]+(?:\.\d+)?", text)}


def _amount(plan: dict[str, Any]) -> float:
    return float(round(_recommended(plan)["usd_per_month"]))


def test_the_html_report_reads_alone(page: Page, browser: Browser, plan: dict[str, Any], tmp_path: Path) -> None:
    """One file, which asks nothing of the network, and says what the run says."""
    file = _report(page, "HTML", tmp_path)
    assert file.stat().st_size < 5e6
    with browser.new_context(viewport={"width": 1000, "height": 900}) as context:
        report = context.new_page()
        watched, asked = Watched.of(report), []
        report.on("request", lambda request: asked.append(request.url))
        report.goto(file.as_uri())
        expect(report.get_by_role("heading", level=1)).to_contain_text("Capacity plan")
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert watched.errors == []
        text = report.locator("body").inner_text()
        assert _amount(plan) in _dollars(text)
        assert len(report.locator("svg, img").all()) >= 5
        assert report.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_pdf_prints_well(page: Page, plan: dict[str, Any], tmp_path: Path) -> None:
    """A4, and the decision on its first page."""
    document = pypdf.PdfReader(_report(page, "PDF", tmp_path))
    assert 5 <= len(document.pages) <= 30
    for sheet in document.pages:
        assert (float(sheet.mediabox.width), float(sheet.mediabox.height)) == pytest.approx(A4_PT, abs=0.5)
    first = " ".join(document.pages[0].extract_text().split())
    assert _recommended(plan)["gpu"] in first
    assert _amount(plan) in _dollars(first)
    assert "promise" in first


def test_the_workbook_opens(page: Page, plan: dict[str, Any], tmp_path: Path) -> None:
    book = openpyxl.load_workbook(_report(page, "Excel", tmp_path))
    live = [cell for sheet in book for row in sheet.iter_rows() for cell in row if cell.data_type == "f"]
    assert len(live) > 100
    said = {cell.value for row in book["Options"].iter_rows() for cell in row if cell.data_type == "n"}
    assert {item["usd_per_month"] for item in plan["options"]} <= said


def test_files_of_the_run_are_those_of_its_folder(page: Page, plan: dict[str, Any], runs: Path, tmp_path: Path) -> None:
    folder = runs / "service"
    scenario = saved(page, "Scenario (YAML)", tmp_path)
    assert scenario.read_bytes() == (folder / "scenario.yaml").read_bytes()
    assert yaml.safe_load(scenario.read_text(encoding="utf-8"))["model"] == plan["model"]
    summary = json.loads(saved(page, "Summary (JSON)", tmp_path).read_text(encoding="utf-8"))
    assert summary == json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert json.loads(saved(page, "Plan (JSON)", tmp_path).read_text(encoding="utf-8")) == plan
    with saved(page, "Options (CSV)", tmp_path).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    every = [*plan["options"], *plan["near_misses"]]
    assert [(row["id"], float(row["usd_per_month"])) for row in rows] == [
        (item["id"], pytest.approx(item["usd_per_month"])) for item in every
    ]


def test_the_chinese_report_has_its_glyphs(page: Page, browser: Browser, plan: dict[str, Any], tmp_path: Path) -> None:
    """Drawn with a font that knows Chinese, and not as boxes; its figures are the English ones."""
    found = subprocess.run(["fc-list", ":lang=zh", "family"], capture_output=True, text=True, check=True)
    fonts = {name.strip() for line in found.stdout.splitlines() for name in line.split(",")}
    if not fonts:
        pytest.skip("needs a Chinese font (make browser)")
    file = _report(page, "HTML", tmp_path, language="中文")
    with browser.new_context() as context:
        report = context.new_page()
        report.goto(file.as_uri())
        title = report.get_by_role("heading", level=1)
        assert re.search(r"[\u4e00-\u9fff]{2}", title.inner_text())
        assert (report.locator("html").get_attribute("lang") or "").startswith("zh")
        assert _fonts(report) & fonts
        assert _amount(plan) in _dollars(report.locator("body").inner_text())


def _fonts(page: Page) -> set[str]:
    """With which the title is really drawn, as Chromium says."""
    tools = page.context.new_cdp_session(page)
    tools.send("DOM.enable")
    tools.send("CSS.enable")
    root = tools.send("DOM.getDocument")["root"]["nodeId"]
    title = tools.send("DOM.querySelector", {"nodeId": root, "selector": "h1"})["nodeId"]
    return {font["familyName"] for font in tools.send("CSS.getPlatformFontsForNode", {"nodeId": title})["fonts"]}
