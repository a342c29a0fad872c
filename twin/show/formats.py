"""How numbers are written on pages: with their unit, as many digits as anybody can use, a dash where nothing is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOTHING = "–"


def usd(value: float | None, per: str = "") -> str:
    """``$4,993``; small amounts with cents.

    >>> usd(4993.2, "month"), usd(2.1, "GPU hour"), usd(-1200), usd(None)
    ('$4,993/month', '$2.10/GPU hour', '-$1,200', '–')
    """
    if value is None:
        return NOTHING
    digits = 0 if abs(value) >= 100 or value == 0 else 2
    sign = "-" if value < 0 else ""
    return f"{sign}${abs(value):,.{digits}f}{f'/{per}' if per else ''}"


def ms(value: float | None) -> str:
    """``398 ms``, ``34.1 ms``, ``12.4 s``.

    >>> ms(398.146), ms(34.052), ms(12_400), ms(None)
    ('398 ms', '34.1 ms', '12.4 s', '–')
    """
    if value is None:
        return NOTHING
    if abs(value) >= 10_000:
        return f"{value / 1e3:,.1f} s"
    return f"{value:,.0f} ms" if abs(value) >= 100 else f"{value:,.1f} ms"


def seconds(value: float | None) -> str:
    """As :func:`ms`, of seconds."""
    return ms(None if value is None else value * 1e3)


def share(value: float | None, digits: int = 0) -> str:
    """``78%``."""
    return NOTHING if value is None else f"{value:.{digits}%}"


def count(value: float | None, unit: str = "") -> str:
    """``12,903 requests``; a fraction keeps three digits.

    >>> count(12903), count(10.754, "/s"), count(0.0421)
    ('12,903', '10.8/s', '0.0421')
    """
    if value is None:
        return NOTHING
    whole = float(value).is_integer() or abs(value) >= 1000
    text = f"{value:,.0f}" if whole else f"{value:,.3g}"
    return text + (unit if unit.startswith("/") else f" {unit}" if unit else "")


def counted(number: float, noun: str) -> str:
    """``1 request``, ``12,903 requests``."""
    return count(number, noun if number == 1 else f"{noun}s")


def interval(low: str, high: str, of: str) -> str:
    """``5 to 95 %: $4,365–$9,802``."""
    return f"{of}: {low}–{high}" if low != high else f"{of}: {low}"


def probability(estimate: Mapping[str, Any] | None) -> str:
    """``78% ± 5%`` of an estimate with its standard error."""
    if not estimate:
        return NOTHING
    error = estimate.get("stderr")
    return share(estimate["value"]) + (f" ± {share(error)}" if error else "")


def held(risk: Mapping[str, Any] | None) -> str:
    """In which share of its possible worlds an option keeps every promise: ``all 64 worlds``, ``78% ± 5%``."""
    found = (risk or {}).get("probability_held")
    return f"all {risk['worlds']} worlds" if risk and found and found["value"] == 1 else probability(found)


def layout(option: Mapping[str, Any]) -> str:
    """``TP8 PP2 × 1``: a replica's ranks, and how many replicas; ``2 pools`` of a fleet of several."""
    if len(option.get("pools", ())) > 1:
        return f"{len(option['pools'])} pools"
    words = [f"TP{option['tensor_parallel_size']}"]
    more = {"PP": option["pipeline_parallel_size"], "DP": option.get("data_parallel_size", 1)}
    words += [f"{short}{size}" for short, size in more.items() if size > 1]
    words += ["EP"] if option.get("enable_expert_parallel") else []
    return f"{' '.join(words)} × {option['replicas']}"
