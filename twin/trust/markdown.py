"""Small Markdown tables, and how figures stand in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> str:
    """A Markdown table; the first ``text`` columns are words, the others numbers."""
    lines = [head, [":---"] * text + ["---:"] * (len(head) - text), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def percent(share: float | None, digits: int = 1) -> str:
    """``4.0 %``, or a dash."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def signed(share: float | None) -> str:
    """``+4.0 %``, ``−4.0 %``, or a dash."""
    return "–" if share is None else f"{100 * share:+.1f} %".replace("-", "−")


def figure(value: float | None) -> str:
    """Three digits, thousands in groups."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
