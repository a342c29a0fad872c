"""The measurement log: JSON lines, a machine's facts before its points, in SI. Nothing that is not a measurement gets in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrate.json_lines import json_lines
from twin.base import InputError, TwinError, unknown_name

SCHEMA_VERSION = 1
Point = dict[str, Any]

KEYS: dict[str, tuple[str, ...]] = {
    "gemm": ("dtype", "m", "n", "k"),
    "decode": ("kv", "head_dim", "num_heads", "num_kv_heads", "batch", "context"),
    "prefill": ("kv", "head_dim", "num_heads", "num_kv_heads", "batch", "chunk", "context"),
    "elementwise": ("op", "m", "k", "bytes_moved"),
    "copy": ("direction", "bytes_moved"),
    "all_reduce": ("num_gpus", "message_bytes", "backend"),
}
"""What tells one point of a family from another."""

WORDS: dict[str, tuple[str, ...]] = {
    "dtype": ("bf16", "fp8", "int8"),
    "kv": ("bf16", "fp8"),
    "op": ("rms_norm", "silu_and_mul", "fp8_quant"),
    "direction": ("device", "h2d", "d2h"),
    "backend": ("nccl", "gloo"),
}
IDENTITY = ("device", "name", "num_sms", "threads", "host_cpu", "driver", "torch", "cuda")
"""Facts in which one machine never differs from itself; another day or kernel of its system is still the same machine."""
FACTS = ("schema_version", *IDENTITY, "memory_bytes", "l2_bytes", "board_power_w", "kernel", "date")


@dataclass(frozen=True)
class Log:
    """``machine``: the facts of the first session. ``points``: keys, ``seconds`` (median), ``spread``, ``repeats`` each."""

    path: Path
    machine: dict[str, Any]
    points: list[Point]


def key_of(point: Mapping[str, Any]) -> tuple[object, ...]:
    """What a point is of, hashable: its family and keys."""
    return (point["family"], *(point[name] for name in KEYS[point["family"]]))


def read_log(path: Path) -> Log:
    """The log at ``path``, checked; a last line torn by an interruption is left out.

    Raises :class:`InputError` with file and line for a file that is no log, a missing key, an unknown family, a number that
    is not finite and positive, and for points of two machines.
    """
    machine: dict[str, Any] | None = None
    points: list[Point] = []
    for where, row in json_lines(path, "measurements"):
        if "machine" in row:
            machine = _machine(row["machine"], machine, where)
        elif machine is None:
            raise InputError("a log of kernel timings begins with the facts of its machine", where=where)
        else:
            points.append(checked(row, where))
    if machine is None:
        raise InputError("no measurements: the file is empty", where=path.name)
    return Log(path, machine, points)


def same_machine(here: Mapping[str, Any], there: Mapping[str, Any], where: str) -> None:
    """Raises :class:`InputError` naming the first fact in which two machines differ."""
    for name in IDENTITY:
        if here.get(name) != there.get(name):
            raise InputError(
                f"measurements of two machines in one file: {name} is {there.get(name)!r} and {here.get(name)!r}; "
                "give each its own file",
                where=where,
            )


def checked(row: Point, where: str) -> Point:
    """``row`` when it is a measured point; raises :class:`InputError` otherwise."""
    family = row.get("family")
    if family not in KEYS:
        raise unknown_name("family", str(family), KEYS, where=where)
    for name in (*KEYS[family], "seconds", "spread", "repeats"):
        if name not in row:
            raise InputError(f"{family}: {name!r} is missing", where=where)
        _check_value(family, name, row[name], where)
    return row


def _check_value(family: str, name: str, value: object, where: str) -> None:
    if name in WORDS:
        if value not in WORDS[name]:
            raise unknown_name(name, str(value), WORDS[name], where=where)
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    may_be_zero = name == "spread" or (family, name) == ("prefill", "context")
    if not number or value < 0 or (value == 0 and not may_be_zero):  # type: ignore[operator]
        raise InputError(f"{family}: {name} is {value!r}, not a positive number", where=where)
    if name not in ("seconds", "spread") and value != int(value):  # type: ignore[call-overload]
        raise InputError(f"{family}: {name} is {value!r}, not a whole number", where=where)


def _machine(facts: Any, before: dict[str, Any] | None, where: str) -> dict[str, Any]:
    missing = [name for name in FACTS if not isinstance(facts, dict) or name not in facts]
    if missing:
        raise InputError(f"the machine's {missing[0]!r} is missing", where=where)
    if facts["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            f"schema_version {facts['schema_version']!r} is not known", where=where, allowed=[SCHEMA_VERSION]
        )
    if before is None:
        return dict(facts)
    same_machine(facts, before, where)
    return before


class Writer:
    """Appends to a log line by line, each whole; opens a new file, or goes on with one of the same machine.

    Raises :class:`InputError` for a log of another machine, :class:`TwinError` when the file cannot be written.
    """

    def __init__(self, path: Path, machine: Mapping[str, Any]) -> None:
        self.path = path
        self.done: set[tuple[object, ...]] = set()
        exists = path.exists() and path.stat().st_size > 0
        if exists:
            log = read_log(path)
            same_machine(machine, log.machine, path.name)
            self.done = {key_of(point) for point in log.points}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            if exists:
                self._mend()
        except OSError as error:
            raise TwinError(f"cannot write: {error.strerror}", where=str(path)) from None
        self._append({"machine": dict(machine)})

    def _mend(self) -> None:
        """Ends the file after its last whole line."""
        raw = self.path.read_bytes()
        if not raw.endswith(b"\n"):
            torn = raw[raw.rfind(b"\n") + 1 :]
            try:
                json.loads(torn)
            except ValueError:
                self._file.truncate(len(raw) - len(torn))
            else:
                self._file.write(b"\n")

    def add(self, points: Sequence[Point]) -> None:
        """Appends measured points; a time that is not finite and positive is refused, never written."""
        for point in points:
            self._append(checked(point, self.path.name))
            self.done.add(key_of(point))

    def _append(self, row: Mapping[str, Any]) -> None:
        try:
            self._file.write((json.dumps(row, allow_nan=False) + "\n").encode())
            self._file.flush()
        except OSError as error:
            raise TwinError(f"cannot write: {error.strerror}", where=str(self.path)) from None

    def close(self) -> None:
        self._file.close()
