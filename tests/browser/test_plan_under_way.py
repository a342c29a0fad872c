"""A plan that is being made: the page may be reloaded and the search stopped, and gone on with."""

from __future__ import annotations

from collections.abc import Callable

from browsing import PLAN_S, settle
from playwright.sync_api import Page, expect

LONG = "traffic=&request_rate=20&input_len=1000&output_len=300&num_requests=6000&model=Qwen/Qwen3-32B&explain="


def test_reload_stop_and_go_on(visit: Callable[..., Page]) -> None:
    page = visit(f"?{LONG}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    settle(page)
    page.get_by_role("button", name="Make the plan").click()
    _searching(page)

    page.reload()
    _searching(page)
    _stop(page)
    expect(page.get_by_role("button", name="Go on with the search")).to_be_visible(timeout=PLAN_S * 1000)
    settle(page)

    stopped = page.url
    page.get_by_role("button", name="Go on with the search").click()
    expect(page.get_by_text("are known already")).to_be_visible(timeout=PLAN_S * 1000)
    expect(page).to_have_url(stopped)
    _stop(page)
    expect(page.get_by_role("button", name="Go on with the search")).to_be_visible(timeout=PLAN_S * 1000)


def _searching(page: Page) -> None:
    """Simulations are counted."""
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.get_by_text("simulations").first).to_be_visible(timeout=PLAN_S * 1000)


def _stop(page: Page) -> None:
    page.get_by_role("button", name="Stop").click()
