"""``make bench``: every figure beside its target, and a peer's where one runs in the same session, into bench.json."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIGURES: list[dict[str, object]] = []


@pytest.fixture
def figure() -> Callable[..., None]:
    """``figure(name, value, unit, at_least=… | at_most=…, peer=…, peer_value=…)`` records one figure."""

    def record(
        name: str,
        value: float,
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        peer: str | None = None,
        peer_value: float | None = None,
    ) -> None:
        target = at_least if at_least is not None else at_most
        value = float(value)
        met = target is None or (value >= target if at_least is not None else value <= target)
        row = {"name": name, "value": value, "unit": unit, "target": target, "bound": None, "met": met}
        row["bound"] = "at least" if at_least is not None else "at most" if at_most is not None else None
        FIGURES.append(row | ({"peer": peer, "peer_value": peer_value} if peer else {}))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures and write bench.json."""
    if not FIGURES:
        return
    write = terminalreporter.write_line
    write("")
    for row in FIGURES:
        target = f"{row['bound']} {row['target']:g}" if row["bound"] else "reported"
        peer = f"   {row['peer']}: {row['peer_value']:,.4g}" if row.get("peer") else ""
        verdict = "met" if row["met"] else "MISSED"
        write(f"{row['name']:<58} {row['value']:>12,.4g} {row['unit']:<12} {target:<18} {verdict}{peer}")
    document = {"python": platform.python_version(), "machine": platform.machine(), "figures": FIGURES}
    (ROOT / "bench.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    write(f"written to {ROOT.name}/bench.json")
