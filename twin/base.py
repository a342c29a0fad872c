"""What every room stands on: value classes, the error tree, provenance, and parsing of people's units.

Internal units are SI (s, bytes, FLOP/s, W, USD). ``500ms``, ``120k/month`` and ``3.35 TB/s`` exist only at the edges
and are turned into SI here.

The error tree, each with the exit code of the command line::

    TwinError            1  cannot go on
    ├── InputError       2  bad input or usage
    ├── InfeasibleError  3  no option holds
    └── ThresholdError   4  outside a threshold the user gave
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

HOURS_PER_MONTH = 730.0
HOURS_PER_YEAR = 8760.0

Origin = Literal["measured", "fitted", "datasheet", "assumed"]


class Frozen(BaseModel):
    """Base of all value classes: immutable, and a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Provenance(Frozen):
    """Where a figure comes from."""

    origin: Origin
    source: str
    date: str


class Estimate(Frozen):
    """A figure with its standard error, the number of observations behind it, and where they come from."""

    value: float
    stderr: float | None = None
    n: int | None = None
    origin: Origin
    source: str = ""
    date: str = ""


class TwinError(Exception):
    """One clear sentence: what is wrong, where, what is allowed, and the nearest name."""

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        allowed: Iterable[object] | None = None,
        nearest: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.allowed = None if allowed is None else [str(item) for item in allowed]
        self.nearest = nearest

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.nearest:
            text += f"; did you mean {self.nearest!r}?"
        if self.allowed:
            text += f" (allowed: {', '.join(self.allowed)})"
        return text

    def as_json(self) -> dict[str, object]:
        """The object that stands under ``error`` in ``--format json``."""
        return {
            "type": type(self).__name__,
            "message": str(self),
            "what": self.what,
            "where": self.where,
            "allowed": self.allowed,
            "nearest": self.nearest,
            "exit_code": self.exit_code,
        }


class InputError(TwinError):
    """Bad input or usage."""

    exit_code = 2


class InfeasibleError(TwinError):
    """Nothing that was asked for can hold; the message says which constraint binds."""

    exit_code = 3


class ThresholdError(TwinError):
    """A result lies outside a threshold the user gave."""

    exit_code = 4


def unknown_name(kind: str, name: str, names: Iterable[str], *, where: str | None = None) -> InputError:
    """An :class:`InputError` for a name that is not one of ``names``, with the nearest one."""
    known = sorted(names)
    folded = {item.lower(): item for item in known}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.4)
    return InputError(
        f"unknown {kind} {name!r}", where=where, allowed=known, nearest=folded[close[0]] if close else None
    )


def not_installed(what: str, package: str | None, extra: str) -> InputError:
    """An :class:`InputError` for ``what`` needs a package of an extra that is not installed.

    >>> print(not_installed("the dashboard", "plotly", "dashboard"))
    the dashboard needs plotly: pip install 'twin[dashboard]'
    """
    return InputError(f"{what} needs {package or extra}: pip install 'twin[{extra}]'")


_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*$")

_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_SCALE = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def split_number(text: str, *, what: str) -> tuple[float, str]:
    """``"500ms"`` → ``(500.0, "ms")``. Raises :class:`InputError` when there is no finite number in front."""
    match = _NUMBER.match(text)
    if not match:
        raise InputError(f"{what}: {text!r} does not start with a number")
    value = float(match[1])
    if not math.isfinite(value):
        raise InputError(f"{what}: {text!r} is not a finite number")
    return value, match[2]


def parse_share(text: str, *, what: str) -> float | None:
    """``5%`` or ``0.05`` → 0.05; None for another unit. Which shares are meant is the caller's to check, and to say."""
    value, unit = split_number(text, what=what)
    return {"": value, "%": value / 100}.get(unit)


def parse_duration(text: str | float, *, what: str = "duration", bare: str = "ms") -> float:
    """A duration in seconds. A bare number is in ``bare`` units (ms, as everywhere on the command line)."""
    value, unit = split_number(str(text), what=what)
    scale = _SECONDS.get(unit or bare)
    if scale is None:
        raise InputError(f"{what}: unknown unit {unit!r} in {text!r}", allowed=_SECONDS)
    return value * scale


def parse_quantity(text: str | float, *, unit: str, what: str = "quantity") -> float:
    """A number in SI of ``unit``: ``parse_quantity("3.35 TB/s", unit="B/s")`` → ``3.35e12``."""
    value, suffix = split_number(str(text), what=what)
    if not suffix:
        return value
    if suffix.endswith(unit) and suffix[: -len(unit)] in _SCALE:
        return value * _SCALE[suffix[: -len(unit)]]
    raise InputError(f"{what}: unknown unit {suffix!r} in {text!r}", allowed=[unit, f"k{unit}", f"M{unit}", "…"])


def data_dir(name: str) -> Path:
    """Folder of shipped data (``hwprofiles``, ``scenarios``): inside the wheel, or beside ``twin/`` in a checkout."""
    here = Path(__file__).resolve().parent
    packed = here / "_data" / name
    return packed if packed.is_dir() else here.parent / name
