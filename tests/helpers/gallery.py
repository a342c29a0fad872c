"""``make gallery``: pictures of a plan, a what-if and a report, made of a real plan, into docs/gallery.

``python tests/helpers/gallery.py [FOLDER]``; 1400 px wide, cut to what matters.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from browsing import PLAN_S, QUIET, dashboard, opened, planned, settle
from playwright.sync_api import Browser, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 300_000
SERVICE = (
    *("--request-rate", "12", "--input-len", "median=900,p99=4000", "--output-len", "200", "--num-requests", "1500"),
    *("--model", "Qwen/Qwen3-32B", "--gpu", "h100_sxm,l40s", "--quantization", "fp8", "--max-num-seqs", "128"),
    *("--ttft", "2s", "--tpot", "50ms", "--budget", "120k/month", "--growth", "5%±2%/month"),
    *("--risk", "--worlds", "16", "--explain", "recommended"),
)
TALL = {"width": 1400, "height": 1500}
CUTS = {"plan": 1425, "what-if": 990, "report": 1200}
"""Height of each picture, px."""


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("make gallery: needs Chromium (make browser)")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        runs = Path(scratch) / "runs"
        runs.mkdir()
        planned(runs, *SERVICE)
        browser = driver.chromium.launch(executable_path=chromium, args=list(QUIET))
        with dashboard(runs) as address:
            _page(browser, f"{address}/?run=plan", "Take it away", folder / "plan.png")
            pinned = f"{address}/whatif?run=plan&option=recommended&load=2&pin=run%3Dplan%26option%3Drecommended"
            _page(browser, pinned, "Load", folder / "what-if.png")
        _report(browser, runs / "plan", Path(scratch) / "report.html", folder / "report.png")
        browser.close()
    for picture in sorted(folder.glob("*.png")):
        assert picture.stat().st_size <= MOST_BYTES, f"{picture.name} is larger than {MOST_BYTES:,} bytes"
        print(f"{picture.name}: {picture.stat().st_size:,} bytes")


def _page(browser: Browser, address: str, there: str, picture: Path) -> None:
    with opened(browser, address, TALL) as page:
        expect(page.get_by_text(there, exact=False).first).to_be_visible(timeout=PLAN_S * 1000)
        expect(page.get_by_text("closer", exact=False)).to_have_count(0, timeout=PLAN_S * 1000)
        settle(page)
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length > 0")
        page.mouse.move(0, 0)
        clip = {"x": 0, "y": 0, "width": TALL["width"], "height": CUTS[picture.stem]}
        page.screenshot(path=picture, clip=clip, animations="disabled")


def _report(browser: Browser, run: Path, file: Path, picture: Path) -> None:
    subprocess.run([sys.executable, "-m", "twin", "report", str(run), "--out", str(file)], check=True)
    with opened(browser, file.as_uri(), TALL) as page:
        clip = {"x": 0, "y": 0, "width": TALL["width"], "height": CUTS[picture.stem]}
        page.screenshot(path=picture, clip=clip, animations="disabled")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "gallery")
