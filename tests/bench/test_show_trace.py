"""The dashboard with a trace of a million requests: uploaded, read and shown, by a server of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

REQUESTS = 1_000_000
HOURS = 24 * 7
CHROMIUM = Path(os.environ.get("TWIN_CHROMIUM", "/usr/bin/chromium"))


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A week of requests with dates, as Azure publishes them."""
    draw = np.random.default_rng(1)
    arrival = np.datetime64("2026-11-01T00:00:00") + np.sort(draw.integers(0, HOURS * 3_600_000_000, REQUESTS)).astype(
        "m8[us]"
    )
    lengths = draw.lognormal([6.8, 5.0], 0.9, (REQUESTS, 2)).astype(int) + 1
    path = tmp_path_factory.mktemp("million") / "million.csv"
    with path.open("w") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        rows = zip(np.datetime_as_string(arrival, unit="us").tolist(), *lengths.T.tolist(), strict=True)
        file.writelines(f"{at.replace('T', ' ')},{given},{made}\n" for at, given, made in rows)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["dashboard", "--port", str(port), "--runs", str(tmp_path / "runs"), "--no-open"]
    process = subprocess.Popen([sys.executable, "-m", "twin", *words], stderr=subprocess.DEVNULL, env=dict(os.environ))
    address = f"http://127.0.0.1:{port}"
    try:
        _until(lambda: _answers(f"{address}/_stcore/health"), 60.0)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.timeout(300)
def test_a_million_requests_are_uploaded_and_shown(benchmark, figure, million: Path, server: tuple[str, int]) -> None:
    pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip("needs Chromium (TWIN_CHROMIUM)")
    address, pid = server
    took_s = benchmark.pedantic(_uploaded, args=(address, million), rounds=1)
    figure("dashboard: a million requests, from upload to charts", took_s, "s", at_most=10)
    peak = _peak_bytes(pid)
    assert peak > 1e8, "another process was measured"
    figure("dashboard: peak memory of its server then", peak / 1e9, "GB", at_most=1.5)


def _uploaded(address: str, trace: Path) -> float:
    """Seconds in a browser from choosing the file until its figures and its last chart are there."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(f"{address}/traffic")
        page.locator("[data-testid=stPlotlyChart] .heatmaplayer image").first.wait_for(timeout=60_000)
        page.get_by_text("Upload a trace").click()
        begun = time.perf_counter()
        page.locator("input[type=file]").set_input_files(str(trace))
        page.get_by_text(f"{REQUESTS:,}", exact=True).first.wait_for(timeout=120_000)
        page.locator("[data-testid=stPlotlyChart] .yaxislayer-above text", has_text="2026-11-07").wait_for(
            timeout=120_000
        )
        took_s = time.perf_counter() - begun
        browser.close()
    return took_s


def _peak_bytes(pid: int) -> float:
    """The most that was ever resident (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024.0 * next(float(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "the server does not answer"
        time.sleep(0.1)
