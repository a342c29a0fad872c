"""A CSV file with named columns as a trace: what the CSV formats have in common."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from twin.base import InputError, unknown_name
from twin.traffic.columns import Ints, Objects, bad_count
from twin.traffic.source import Source, bad_length
from twin.traffic.trace import Trace

Columns = dict[str, tuple[str, ...]]
"""Field of :class:`Trace` (``arrival`` for its clock) → names it may have in the file, folded by
:func:`fold`."""

REQUIRED = ("arrival", "input_tokens", "output_tokens")
_SECONDS_OF_SUFFIX = {"_ms": 1e-3, "_us": 1e-6, "_ns": 1e-9}


def read_header(source: Source) -> tuple[str, list[str], list[str]]:
    """The delimiter, the folded and the original column names."""
    line = re.split(rb"[\r\n]", source.body, maxsplit=1)[0].decode().strip()
    delimiter = max(",;\t", key=line.count)
    names = [cell.strip().strip('"') for cell in line.split(delimiter)]
    return delimiter, [fold(name) for name in names], names


def fold(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def read_csv(source: Source, columns: Columns, *, known: bool) -> Trace:
    delimiter, folded, names = read_header(source)
    found = {field: next((a for a in aliases if a in folded), None) for field, aliases in columns.items()}
    used = {alias for alias in found.values() if alias}
    ignored = [name for name, fold in zip(names, folded, strict=True) if fold not in used]
    for field in REQUIRED:
        if found[field] is None:
            raise _no_column(source, field, columns[field], ignored)
    table = _table(source, delimiter, folded, used)

    def column(field: str) -> pa.ChunkedArray | None:
        alias = found.get(field)
        return None if alias is None else table[alias]

    def label(field: str) -> str:
        return names[folded.index(found[field] or "")]

    note = f"columns not used: {', '.join(ignored)}"
    return Trace.from_rows(
        _times(source, column("arrival"), label("arrival")),
        _counts(source, column("input_tokens"), label("input_tokens")),
        _counts(source, column("output_tokens"), label("output_tokens")),
        session=_labels(column("session")),
        request_class=_labels(column("request_class")),
        name=source.name,
        notes=() if known or not ignored else (note,),
    )


def _no_column(source: Source, field: str, aliases: tuple[str, ...], unused: list[str]) -> InputError:
    what = field.replace("_", " ")
    if all(re.fullmatch(r"[\d.:+ TZ-]*", name) for name in unused):
        return InputError("the first line holds no column names", where=source.at(1))
    for name in unused:
        close = unknown_name("column", fold(name), aliases)
        if close.nearest:
            return InputError(
                f"no column for {what}; unknown column {name!r}",
                where=source.at(1),
                allowed=aliases,
                nearest=close.nearest,
            )
    return InputError(f"no column for {what}", where=source.at(1), allowed=aliases)


def _table(source: Source, delimiter: str, folded: list[str], used: set[str]) -> pa.Table:
    if twice := {name for name in used if folded.count(name) > 1}:
        raise InputError(f"column {min(twice)!r} stands twice", where=source.at(1))
    unique = [name if name in used else f"{index} {name}" for index, name in enumerate(folded)]
    try:
        return pa_csv.read_csv(
            io.BytesIO(source.body + b"\n"),
            # one thread: only then does Arrow know the row of an error
            read_options=pa_csv.ReadOptions(use_threads=False, column_names=unique, skip_rows=1),
            parse_options=pa_csv.ParseOptions(delimiter=delimiter),
            convert_options=pa_csv.ConvertOptions(
                include_columns=sorted(used), column_types=dict.fromkeys(used, pa.string())
            ),
        )
    except pa.ArrowInvalid as error:
        match = re.search(r"Row #(\d+): (Expected \d+ columns, got \d+)", str(error))
        if not match:
            raise InputError("not a table of columns", where=source.name) from None
        line = source.line_of_record(int(match[1]) - 1)
        raise InputError(match[2].lower(), where=source.at(line)) from None


def _cast(source: Source, values: pa.ChunkedArray, to: pa.DataType, what: str, kind: str) -> NDArray[Any]:
    """``values`` as ``to``; the first that cannot be is named with its line (found by bisection)."""
    try:
        return np.asarray(pc.cast(values, to).to_numpy())
    except pa.ArrowInvalid:
        good, bad = 0, len(values)
        while bad - good > 1:
            middle = (good + bad) // 2
            try:
                pc.cast(values.slice(good, middle - good), to)
                good = middle
            except pa.ArrowInvalid:
                bad = middle
        text = values[good].as_py()
        raise InputError(
            f"{what} is {text!r}, not {kind}" if text else f"{what} is missing",
            where=source.at(source.line_of_record(good + 1)),
        ) from None


def _trimmed(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_trim_whitespace(values)


def _times(source: Source, column: pa.ChunkedArray | None, what: str) -> NDArray[Any]:
    """Dates as int64 nanoseconds, numbers as float64 seconds (or the unit in the column's name)."""
    assert column is not None
    values = _trimmed(column)
    first = (values[0].as_py() if len(values) else None) or ""
    if re.match(r"\d{4}-\d\d-\d\d", first):
        zone = "UTC" if re.search(r"(Z|[+-]\d\d(:?\d\d)?)$", first[10:]) else None
        return _cast(source, values, pa.timestamp("ns", tz=zone), what, "a time like the others").astype(np.int64)
    seconds = _cast(source, values, pa.float64(), what, "a number or an ISO 8601 time")
    seconds = seconds * _SECONDS_OF_SUFFIX.get(fold(what)[-3:], 1.0)
    if (bad := ~np.isfinite(seconds)).any():
        row = int(np.argmax(bad))
        raise InputError(
            f"{what} is {seconds[row]}, not a finite time", where=source.at(source.line_of_record(row + 1))
        )
    return seconds


def _counts(source: Source, column: pa.ChunkedArray | None, what: str) -> Ints:
    assert column is not None
    values = _cast(source, _trimmed(column), pa.float64(), what, "a number")
    if (row := bad_count(values)) is not None:
        raise bad_length(source, what, values[row], source.line_of_record(row + 1))
    return values.astype(np.int64)


def _labels(column: pa.ChunkedArray | None) -> Objects | None:
    if column is None:
        return None
    values = [text or None for text in _trimmed(column).to_pylist()]
    return np.array(values, dtype=object) if any(values) else None
