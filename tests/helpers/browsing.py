"""The dashboard in a real browser: a server of its own, Chromium, and what tests ask of a page."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

WIDE = {"width": 1400, "height": 900}
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
START_S, ANSWER_S, PLAN_S = 30.0, 20.0, 150.0
"""Patience, many times what is usual: a busy machine is no failure."""

RESTS_MS = 250
"""A script that ends may be started again at once, by what it has just drawn."""

PROBES = re.compile(r"/_stcore/(health|host-config)$")
"""Streamlit's page looks for its server at each level of the address; what it does not find there is told on the console."""


@contextmanager
def dashboard(runs: Path, *flags: str) -> Iterator[str]:
    """``twin dashboard`` on a free port, by its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "twin", "dashboard", "--port", str(port), "--runs", str(runs), "--no-open", *flags]
    log = runs.parent / f"{runs.name}-dashboard.log"
    with log.open("wb") as said:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
    try:
        _listens(server, port, log)
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait(timeout=START_S)
        for job in runs.glob(".jobs/*/job.json"):  # they outlive their server, and a failed test would leave one behind
            with suppress(ProcessLookupError):
                os.killpg(json.loads(job.read_text(encoding="utf-8"))["pid"], signal.SIGTERM)


def _listens(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"http://localhost:{port}/_stcore/health"):
            return
        time.sleep(0.05)
    raise AssertionError(f"the dashboard did not start: {log.read_text(encoding='utf-8', errors='replace')}")


@dataclass
class Watched:
    """What went wrong on a page, as far as its reader's eyes do not tell: errors of scripts, and talk with strangers."""

    errors: list[str] = field(default_factory=list)
    abroad: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, page: Page) -> Watched:
        watched = cls()
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        page.on("console", watched._said)
        page.on("request", watched._asked)
        return watched

    def _said(self, message: Any) -> None:
        if message.type == "error" and not PROBES.search(message.location.get("url", "")):
            self.errors.append(message.text)

    def _asked(self, request: Any) -> None:
        if not re.match(r"(http://localhost:|data:|blob:|file:|about:)", request.url):
            self.abroad.append(request.url)


@contextmanager
def opened(browser: Browser, address: str, size: Mapping[str, int] = WIDE) -> Iterator[Page]:
    """A page of a browser that knows nothing yet; it must come without errors and without a word to the world outside."""
    context = browser.new_context(viewport=dict(size), accept_downloads=True, reduced_motion="reduce")
    context.set_default_timeout(ANSWER_S * 1000)
    page = context.new_page()
    watched = Watched.of(page)
    try:
        page.goto(address)
        yield page
        assert "Traceback" not in page.locator("body").inner_text()
        assert watched.errors == []
        assert watched.abroad == []
    finally:
        context.close()


def settle(page: Page, seconds: float = ANSWER_S) -> None:
    """Until the script has run to its end and starts no other, and nothing that it drew before is stale."""
    page.evaluate("window.restedSince = undefined")
    page.wait_for_function(
        """rest => {
            const app = document.querySelector('[data-testid=stApp]');
            const busy = '[data-testid=stSpinner], [data-stale=true], [data-testid=stSkeleton]';
            const rests = app?.dataset.testScriptState === 'notRunning' && !document.querySelector(busy);
            window.restedSince = rests ? window.restedSince ?? performance.now() : undefined;
            return rests && performance.now() - window.restedSince > rest;
        }""",
        arg=RESTS_MS,
        timeout=seconds * 1000,
    )


def choose(page: Page, label: str, *names: str) -> None:
    """Type into a list to choose from, as one does who knows the name."""
    for name in names:
        page.get_by_role("combobox", name=label, exact=True).fill(name)
        page.get_by_role("option", name=name, exact=True).click()
        settle(page)


def write(page: Page, label: str, text: str) -> None:
    box = page.get_by_label(label, exact=True).and_(page.locator("input"))
    box.fill(text)
    box.press("Enter")
    settle(page)
    assert box.input_value() == text, f"what was typed into {label!r} is lost"


def open_up(page: Page, title: str) -> None:
    page.locator("summary").filter(has_text=title).click()


def figure(page: Page | Locator, label: str) -> str:
    """A key figure of a page, or of a part of it, as it is read."""
    named = getattr(page, "page", page).get_by_text(label, exact=True)
    card = page.get_by_test_id("stMetric").filter(has=named)
    return card.get_by_test_id("stMetricValue").inner_text().strip()


def difference(page: Page, label: str) -> str:
    """What stands beside a key figure, of a baseline."""
    card = page.get_by_test_id("stMetric").filter(has=page.get_by_text(label, exact=True))
    return card.get_by_test_id("stMetricDelta").inner_text().strip()


def number(text: str) -> float:
    """The number in a figure, milliseconds of a time: ``$4,993/month`` → 4993."""
    found = re.search(r"([-+−]?)\s*\$?([\d,]+(?:\.\d+)?)\s*(ms|s\b|%)?", text)
    assert found is not None, text
    scale = {"s": 1e3, "%": 0.01}.get(found[3] or "", 1.0)
    return float(found[2].replace(",", "")) * scale * (-1.0 if found[1] in ("-", "−") else 1.0)


def cells(table: Locator) -> list[dict[str, str]]:
    """A data frame's rows by their heads, as a screen reader has them."""
    table.locator("tbody td").first.wait_for(state="attached")
    rows: list[list[str]] = table.evaluate(
        "t => [...t.querySelectorAll('tr')].map(r => [...r.children].map(c => c.textContent))"
    )
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def drawn(page: Page, title: str) -> Locator:
    """A chart by its title."""
    return page.locator("[class*='st-key-drawn-']").filter(has_text=title).locator(".js-plotly-plot")


def curves(chart: Locator) -> dict[str, NDArray[np.float64]]:
    """The points (x, y) that a chart draws, by the name of their series; bands aside."""
    found: dict[str, NDArray[np.float64]] = {}
    series = chart.evaluate("c => c._fullData.map(d => [d.name, d.showlegend, Array.from(d.x), Array.from(d.y)])")
    for name, in_legend, xs, ys in series:
        if in_legend:
            found[name] = np.array([xs, ys], dtype=np.float64).T
    return found


def click_point(page: Page, chart: Locator, series: str, place: int) -> None:
    """Click on a point of a scatter plot, where it is."""
    chart.scroll_into_view_if_needed()
    names: list[str] = chart.evaluate("c => c._fullData.filter(d => d.visible === true).map(d => d.name)")
    point = chart.locator(".scatterlayer .trace").nth(names.index(series)).locator(".points path.point").nth(place)
    box = point.bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.click(*middle)


def saved(page: Page, button: str, folder: Path, seconds: float = ANSWER_S) -> Path:
    """The file that a download button gives, under the name that it proposes."""
    with page.expect_download(timeout=seconds * 1000) as coming:
        page.get_by_role("button", name=button, exact=True).click()
    path = folder / coming.value.suggested_filename
    coming.value.save_as(path)
    return path


def refusal(command: str) -> str:
    """The sentence of a command as a page shows it (``twin …``); it must be refused."""
    words = shlex.split(command)
    assert words[0] == "twin"
    done = subprocess.run([sys.executable, "-m", "twin", *words[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    [said] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return said


def planned(runs: Path, *words: str) -> dict[str, Any]:
    """``twin plan`` into ``runs``: its answer."""
    command = [sys.executable, "-m", "twin", "plan", *words, "--out", str(runs), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
