"""Chromium, one dashboard for all tests, and a plan that is in it from the start."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import browsing
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PLAN = (
    *("--request-rate", "3", "--input-len", "800", "--output-len", "150", "--num-requests", "300"),
    *("--model", "Qwen/Qwen3-8B", "--quantization", "fp8", "--max-num-seqs", "128", "--gpu", "h100_sxm,l40s"),
    *("--max-gpus", "2", "--ttft", "1s", "--tpot", "40ms", "--budget", "30k/month", "--explain", "recommended"),
    *("--risk", "--worlds", "8", "--growth", "5%±2%/month"),
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Skips where there is no Chromium: ``make browser`` installs it."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium (make browser)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install 'twin[dev]')")
    with playwright.sync_playwright() as driver:
        playwright.expect.set_options(timeout=browsing.ANSWER_S * 1000)
        browser = driver.chromium.launch(executable_path=chromium, args=list(browsing.QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dashboard") / "runs"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def address(browser: Browser, runs: Path) -> Iterator[str]:
    with browsing.dashboard(runs) as address:
        yield address


@pytest.fixture(scope="session")
def plan(browser: Browser, runs: Path) -> dict[str, Any]:
    """What the run ``service`` says: a small plan with risk, growth and an explanation. Tests may make others."""
    made = browsing.planned(runs.parent / "made", *PLAN)
    (runs.parent / "made" / "plan").rename(runs / "service")
    return made


Visit = Callable[..., "Page"]


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    """``visit("whatif?load=2")``: that page in a browser of its own, to its end without errors."""
    with ExitStack() as stack:

        def go(path: str = "", size: dict[str, int] = browsing.WIDE) -> Page:
            page: AbstractContextManager[Page] = browsing.opened(browser, f"{address}/{path}", size)
            return stack.enter_context(page)

        yield go
