"""Every page, wide and narrow: nothing runs off its side, everything has a name, and text can be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from browsing import WIDE, settle
from playwright.sync_api import Page, expect

NARROW = {"width": 800, "height": 900}
PAGES = {
    "": "Plan",
    "?run=service": "service",
    "?run=service&view=Money": "service",
    "?run=service&view=Risk": "service",
    "whatif?run=service&option=recommended&load=2": "What-if",
    "traffic": "Traffic",
    "hardware": "Hardware",
    "hardware?view=What fits of a model": "Hardware",
    "accuracy": "Accuracy",
}
LEAST_CONTRAST, LARGE_CONTRAST = 4.5, 3.0
"""WCAG 2.2, 1.4.3; of text from 24 px, or bold from 18.66 px."""

NAMELESS = """() => [...document.querySelectorAll(':is(main, [data-testid=stMain]) :is(button, input, textarea, img)')]
    .filter(e => e.offsetParent && e.type !== 'hidden' && e.type !== 'file')
    .filter(e => !(e.getAttribute('aria-label') || e.getAttribute('alt') || e.getAttribute('title') || e.textContent
        || e.labels?.length || e.getAttribute('aria-labelledby') || e.querySelector('[aria-label],title')))
    .map(e => e.outerHTML.slice(0, 200))"""

FAINT = """([least, large]) => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    const rgba = text => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
    const over = (top, below) => [0, 1, 2].map(i => top[3] * top[i] + (1 - top[3]) * below[i]);
    const light = rgb => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = e => { const chain = [];
        for (; e; e = e.parentElement) chain.push(rgba(getComputedStyle(e).backgroundColor));
        return chain.reverse().reduce((below, top) => over(top, below), [255, 255, 255]); };
    const walk = document.createTreeWalker(document.querySelector('[data-testid=stMain]'), NodeFilter.SHOW_TEXT);
    const found = [];
    while (walk.nextNode()) {
        const e = walk.currentNode.parentElement, said = walk.currentNode.textContent.trim();
        if (!said || !e.checkVisibility({opacityProperty: true, visibilityProperty: true}) || e.closest(
            'svg, canvas, script, style, [disabled], [aria-hidden=true], .js-plotly-plot, ' +
            '[data-testid=stSliderThumbValue]')) continue;
        const style = getComputedStyle(e), below = behind(e), size = parseFloat(style.fontSize);
        const [one, other] = [light(over(rgba(style.color), below)), light(below)].sort((a, b) => b - a);
        const ratio = (one + 0.05) / (other + 0.05);
        const needed = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? large : least;
        if (ratio < needed) found.push(`${ratio.toFixed(2)} ${style.color} ${said.slice(0, 60)}`);
    }
    return found;
}"""

INSIDE = """() => [document.documentElement, document.querySelector('[data-testid=stMain]')]
    .every(e => e.scrollWidth <= e.clientWidth + 1)"""


@pytest.mark.parametrize("path", PAGES)
def test_a_page_can_be_read(visit: Callable[..., Page], plan: dict[str, Any], path: str) -> None:
    page = visit(path)
    expect(page.get_by_role("heading", level=1)).to_contain_text(PAGES[path])
    settle(page)
    for size in (WIDE, NARROW):
        page.set_viewport_size({"width": size["width"], "height": size["height"]})
        page.wait_for_function(INSIDE)
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate(FAINT, [LEAST_CONTRAST, LARGE_CONTRAST]) == []
    for chart in page.locator(".js-plotly-plot").all():
        drawn = chart.locator("xpath=ancestor::*[contains(@class, 'st-key-drawn-')][1]")
        assert drawn.get_by_test_id("stMarkdownContainer").first.text_content(), "a chart without a title"
    assert page.locator("[data-testid=stException]").count() == 0
