"""The lines of a log that grows while it is measured: one JSON object each, the last one perhaps torn."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twin.base import InputError


def json_lines(path: Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """``(file:line, object)`` of every line of ``path`` (``.gz`` too); a last line torn by an interruption is left out.

    ``what`` the file is, for the error. Raises :class:`InputError` for a file that cannot be read, or a line that is not
    an object of JSON.
    """
    try:
        raw = path.read_bytes()
        lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode().splitlines(keepends=True)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        said = (error.strerror or "not gzip") if isinstance(error, OSError) else "not text"
        raise InputError(f"cannot read {what}: {said}", where=path.name) from None
    for number, line in enumerate(lines, start=1):
        where = f"{path.name}:{number}"
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines) and not line.endswith("\n"):
                return
            raise InputError("not a line of JSON", where=where) from None
        if not isinstance(row, dict):
            raise InputError("not a JSON object", where=where)
        yield where, row
