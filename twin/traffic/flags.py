"""Traffic as people type it on a command line."""

from __future__ import annotations

import math

from twin.base import InputError, split_number


def parse_rate_factor(text: str) -> float:
    """``×2``, ``x2``, ``2x`` or ``2`` → 2.0. Raises :class:`InputError` unless it is a finite number above
    0."""
    value, rest = split_number(text.strip().lstrip("×xX*"), what="--rate")
    if rest.lower() not in ("", "x", "×") or not (math.isfinite(value) and value > 0):
        raise InputError(f"--rate: {text!r} is not a factor above 0 such as ×2")
    return value


def parse_lengths(text: str, *, what: str) -> int | dict[str, float]:
    """``1200`` or ``median=1200,p99=6000`` (also ``:``) → what :class:`twin.traffic.lengths.Lengths`
    takes."""
    if "=" not in text and ":" not in text:
        return int(_number(text, what))
    pairs = [part.replace(":", "=").partition("=") for part in text.strip(" {}").split(",")]
    return {name.strip(): _number(value, what) for name, _, value in pairs}


def parse_numbers(text: str, *, what: str) -> tuple[float, ...]:
    """``1,2,0.5`` → ``(1.0, 2.0, 0.5)``."""
    return tuple(_number(part, what) for part in text.split(","))


def _number(text: str, what: str) -> float:
    value, rest = split_number(text, what=what)
    if rest:
        raise InputError(f"{what}: {text!r} is not a number")
    return int(value) if value.is_integer() else value
