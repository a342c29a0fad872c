"""Broken uploads and impossible settings: the page says the very sentence of the command line."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from browsing import PLAN_S, open_up, refusal, settle, write
from playwright.sync_api import Page, expect

BROKEN = {
    "binary.csv": b"\x00\xff\xfe\x80 not text \x00",
    "columns.csv": b"when,how_much\n0.0,12\n1.0,13\n",
    "empty.csv": b"",
}
SMALL = "traffic=&request_rate=3&input_len=800&output_len=100&num_requests=300&model=Qwen/Qwen3-8B&gpu=l40s&explain="


def complaint(page: Page) -> str:
    """The error that the page shows."""
    alert = page.get_by_test_id("stAlert").filter(has_text="error:")
    expect(alert).to_be_visible(timeout=PLAN_S * 1000)
    return " ".join(alert.get_by_test_id("stMarkdownContainer").inner_text().split())


@pytest.mark.parametrize(
    ("path", "command"), [("traffic", "twin traffic show"), ("", "twin plan --model Qwen/Qwen3-8B --traffic")]
)
def test_a_broken_upload(visit: Callable[..., Page], tmp_path: Path, path: str, command: str) -> None:
    page = visit(path)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    settle(page)
    open_up(page, "Upload a trace")
    for name, content in BROKEN.items():
        file = tmp_path / name
        file.write_bytes(content)
        page.locator("input[type=file]").set_input_files(file)
        said = refusal(f"{command} {shlex.quote(str(file))}")
        assert name in said
        expect(page.get_by_test_id("stAlert").filter(has_text=name)).to_be_visible()
        assert complaint(page) == said
        page.get_by_role("button", name=re.compile("Remove|Delete")).first.click()
        expect(page.get_by_test_id("stAlert").filter(has_text=name)).to_be_hidden()
        settle(page)


@pytest.mark.parametrize(
    ("label", "text"), [("Time to first token", "abc"), ("Budget", "0"), ("Growth of the traffic", "fast")]
)
def test_an_impossible_setting(visit: Callable[..., Page], label: str, text: str) -> None:
    """Said where it is typed, before anything is started."""
    page = visit(f"?{SMALL}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    settle(page)
    write(page, label, text)
    said = complaint(page)
    expect(page.get_by_role("button", name="Make the plan")).to_be_disabled()
    command = _command(page)
    assert text in command
    assert said == refusal(command)


def test_a_plan_that_cannot_start(visit: Callable[..., Page]) -> None:
    """What only the command finds out: the question is there still, to be mended."""
    page = visit(f"?{SMALL}".replace("gpu=l40s", "gpu=h100_smx"))
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    settle(page)
    command = _command(page)
    page.get_by_role("button", name="Make the plan").click()
    assert complaint(page) == refusal(command)
    expect(page.get_by_role("button", name="Make the plan")).to_be_visible()


def _command(page: Page) -> str:
    open_up(page, "The same on the command line")
    return page.get_by_test_id("stCode").last.locator("code").inner_text()


def test_nothing_fits_the_budget(visit: Callable[..., Page]) -> None:
    """A model whose weights need several GPUs, and a budget of one: not an error, and no plan either."""
    page = visit(
        f"?{SMALL}".replace("Qwen/Qwen3-8B", "openai/gpt-oss-120b").replace("=300", "=60") + "&budget=1gpu&max_gpus=2"
    )
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    settle(page)
    command = _command(page)
    page.get_by_role("button", name="Make the plan").click()
    verdict = page.get_by_test_id("stAlert").first
    expect(verdict).to_contain_text(re.compile("nothing", re.IGNORECASE), timeout=PLAN_S * 1000)
    words = [sys.executable, "-m", "twin", *shlex.split(command)[1:], "--format", "json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert json.loads(done.stdout)["binding"] in page.locator("body").inner_text()
