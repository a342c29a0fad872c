"""What every command shares: output formats, notes on stderr, files written whole or not at all.

The result goes to stdout, everything else to stderr. JSON is the authority; csv and md are derived from rows,
the table is for people. Nothing here imports a room that does arithmetic, so ``twin --help`` stays quick.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, is_dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twin.base import TwinError

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA_VERSION = 1
PLAIN_WIDTH_COLUMNS = 100


class Format(StrEnum):
    """How a result is written to stdout."""

    table = "table"
    json = "json"
    csv = "csv"
    md = "md"


SetOption = Annotated[list[str] | None, typer.Option("--set", help="Change a field, e.g. engine.max_num_seqs=512.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of the traffic; the scenario's unless given.")]


def changes(overrides: Sequence[str] | None, seed: int | None) -> list[str]:
    """What :data:`SetOption` and :data:`SeedOption` ask of a scenario."""
    return [*(overrides or []), *([f"seed={seed}"] if seed is not None else [])]


@dataclass
class Session:
    """One run of the command line: what its flags ask for, and whether its result is already out."""

    quiet: bool = False
    debug: bool = False
    json: bool = False
    emitted: bool = False


session: ContextVar[Session] = ContextVar("session")


def note(text: str) -> None:
    """One line on stderr for a person; silent under ``--quiet``."""
    if not session.get(Session()).quiet:
        print(text, file=sys.stderr, flush=True)


def emit(
    payload: Mapping[str, object],
    *,
    fmt: Format,
    table: Callable[[], RenderableType],
    rows: Sequence[Mapping[str, object]] | None = None,
    out: Path | None = None,
) -> None:
    """Write the result to stdout in ``fmt``, and the same text to the file ``out`` if one is given.

    ``rows`` feed csv and md; without them ``payload`` is the only row. Raises :class:`TwinError` (exit 1)
    when ``out`` cannot be written; nothing is printed then.
    """
    text = _render(payload, fmt, table, rows)
    if out is not None:
        write_atomic(out, text)
    if fmt is Format.table and sys.stdout.isatty():
        _print_table(table(), sys.stdout, width=None)
    else:
        sys.stdout.write(text)
    sys.stdout.flush()
    current = session.get(None)
    if current is not None:
        current.emitted = True


def json_text(payload: Mapping[str, object]) -> str:
    """One JSON object: ``schema_version`` first, keys in their own order, ``null`` instead of NaN."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **_plain_dict(payload)}, indent=2, allow_nan=False) + "\n"


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    """``rows`` as CSV with a header; an absent value is an empty cell, a nested one is JSON."""
    columns = _columns(rows)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return buffer.getvalue()


def md_text(rows: Sequence[Mapping[str, object]]) -> str:
    """``rows`` as a Markdown table; a pipe or a line break inside a cell cannot break it."""
    columns = _columns(rows)
    lines = [
        columns,
        ["---"] * len(columns),
        *([_cell(row.get(column)) for column in columns] for row in rows),
    ]
    return "".join("| " + " | ".join(_md_escape(cell) for cell in line) + " |\n" for line in lines)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all (temporary file beside it, then rename); makes missing parent folders.

    Raises :class:`TwinError` (exit 1) naming ``path`` when the folder is unreadable, full or not a folder.
    """
    raw = data.encode() if isinstance(data, str) else data
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise TwinError(f"cannot write: {error.strerror or error}", where=str(path)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def plain(value: object) -> object:
    """``value`` in JSON's own types: NaN becomes ``None``, an array a list, a model or dataclass a dict."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return _plain_dict(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=repr)
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    for method in ("model_dump", "tolist"):  # pydantic models; numpy scalars and arrays
        convert = getattr(value, method, None)
        if convert is not None:
            return plain(convert())
    return str(value)


def _plain_dict(mapping: Mapping[str, object]) -> dict[str, object]:
    return {str(plain(key)): plain(value) for key, value in mapping.items()}


def _render(
    payload: Mapping[str, object],
    fmt: Format,
    table: Callable[[], RenderableType],
    rows: Sequence[Mapping[str, object]] | None,
) -> str:
    if fmt is Format.json:
        return json_text(payload)
    if fmt is Format.table:
        buffer = io.StringIO()
        _print_table(table(), buffer, width=PLAIN_WIDTH_COLUMNS)
        return buffer.getvalue()
    lines = [payload] if rows is None else rows
    return csv_text(lines) if fmt is Format.csv else md_text(lines)


def _print_table(table: RenderableType, file: io.StringIO | object, *, width: int | None) -> None:
    from rich.console import Console

    Console(file=file, width=width).print(table)  # type: ignore[arg-type]


def _columns(rows: Sequence[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(str(key) for row in rows for key in row))


def _cell(value: object) -> str:
    value = plain(value)
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _md_escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
