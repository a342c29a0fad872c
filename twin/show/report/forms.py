"""How a figure is written: its unit, as many digits as it deserves, a dash where it is not known."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from twin.show import formats
from twin.show.report.blocks import Cell, Text
from twin.show.words import Say

HASH_CHARACTERS = 12
COMMAND_CHARACTERS = 84

MEANINGS = {
    "ttft": "time to first token, from the arrival at the server",
    "tpot": "time per output token after the first, the mean of a request",
    "e2el": "the whole request, from its arrival to its last token",
}

WORDS = {
    "on_demand": "on demand",
    "owned": "bought",
    "best_latency": "best latency",
    "tpot": "TPOT",
    "ttft": "TTFT",
    "e2el": "E2EL",
    "gemm": "matrix products",
    "decode_attention": "decode attention",
    "prefill_attention": "prefill attention",
    "least_loaded": "least loaded",
    "by_class": "by class",
    "inside": "inside the calibrated range",
    "outside": "outside the calibrated range",
    "stable": "stable",
    "backlogged": "backlogged, then drained",
    "overloaded": "overloaded",
}
"""Names of a run that read better otherwise; others are read with spaces for underscores."""


def written(cell: Cell, say: Say) -> str:
    """The cell for people."""
    return formats.NOTHING if cell.value is None else FORMS[cell.form](cell.value, say)


def plain(text: Text, say: Say) -> str:
    """Words and figures as one string."""
    return "".join(part if isinstance(part, str) else written(part, say) for part in text)


def word(value: str, say: Say) -> str:
    return say(WORDS.get(value, value.replace("_", " ")))


def _share(value: float, say: Say) -> str:
    """Whole per cents, tenths below ten, and never 0% or 100% of what is not."""
    if 0 < value < 0.001:
        return f"< {0.001:.1%}"
    if 0.0995 <= abs(value) < 0.995 or value in (0, 1) or abs(value) >= 1:
        return f"{value:.0%}"
    return f"{value:.1%}" if abs(value) < 0.0995 else f"> {0.99:.0%}" if value < 1 else f"{value:.0%}"


def _number(value: float, say: Say) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _command(value: str) -> str:
    """Broken before its flags, so that it can be read and pasted."""
    lines = [""]
    for at, part in enumerate(value.split(" --")):
        piece = f"--{part}" if at else part
        if len(lines[-1]) + len(piece) > COMMAND_CHARACTERS:
            lines.append("  ")
        lines[-1] += f"{piece} "
    return "\\\n".join(lines).rstrip()


def _duration(value: float, say: Say) -> str:
    """In the largest unit of which there is one."""
    seconds, unit = next((size, name) for size, name in UNITS if value >= size or size == 1.0)
    return say(unit, number=f"{value / seconds:,.3g}")


def _calendar(value: str, say: Say) -> str:
    year, month = value.split("-")
    return say("{month} {year}", month=say(MONTHS[int(month) - 1]), year=year)


UNITS = ((86_400.0, "{number} days"), (3600.0, "{number} h"), (60.0, "{number} min"), (1.0, "{number} s"))
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)

FORMS: dict[str, Callable[[Any, Say], str]] = {
    "name": lambda value, say: str(value),
    "cite": lambda value, say: str(value),
    "shell": lambda value, say: shlex.quote(f"{value:g}" if isinstance(value, float) else str(value)),
    "command": lambda value, say: _command(value),
    "meaning": lambda value, say: say(MEANINGS[value]),
    "date": lambda value, say: str(value),
    "word": word,
    "sentence": lambda value, say: say(value),
    "hash": lambda value, say: str(value)[:HASH_CHARACTERS],
    "calendar": _calendar,
    "usd": lambda value, say: formats.usd(value),
    "usd_hour": lambda value, say: f"${value:,.2f}",
    "availability": lambda value, say: f"{value:.3%}",
    "usd_mtok": lambda value, say: f"${value:,.2f}",
    "share": _share,
    "percentile": lambda value, say: f"p{value:g}",
    "factor": lambda value, say: f"×{value:.2f}" if value < 10 else f"×{value:.1f}",
    "ms": lambda value, say: formats.ms(value),
    "seconds": lambda value, say: formats.seconds(value),
    "duration": _duration,
    "count": lambda value, say: f"{value:,.0f}",
    "number": _number,
    "rate": lambda value, say: say("{number}/s", number=f"{value:,.1f}" if value >= 10 else f"{value:.2f}"),
    "kw": lambda value, say: f"{value:,.3g} kW" if value < 100 else f"{value:,.0f} kW",
    "kwh": lambda value, say: f"{value:,.0f} kWh",
}
