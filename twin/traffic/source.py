"""A trace file as text, and the checks on its values that every reader shares."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twin.base import InputError
from twin.traffic.columns import MAX_TOKENS


@dataclass(frozen=True)
class Source:
    """The unzipped text of a file, and how messages call it."""

    name: str
    text: bytes

    def at(self, line: int) -> str:
        return f"{self.name}:{line}"

    @property
    def body(self) -> bytes:
        """The text without blank lines at its ends."""
        return self.text.strip(b" \r\n")

    def line_of_record(self, record: int) -> int:
        """1-based line of the ``record``-th line of the body that is not empty (0 = the first)."""
        before = self.text[: self.text.index(self.body)].count(b"\n")
        filled = (n for n, line in enumerate(self.body.splitlines(), before + 1) if line)
        return next(n for k, n in enumerate(filled) if k == record)


def load(path: Path) -> Source:
    """Read, unzip and check that it is text."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {str(path)!r}") from None
    except IsADirectoryError:
        raise InputError(f"{str(path)!r} is a folder; give the trace file in it") from None
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from None
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except EOFError:
            raise InputError("the gzip file is truncated", where=path.name) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"the gzip file is damaged ({error})", where=path.name) from None
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        is_text = bool(data.decode("utf-8")) and b"\0" not in data
    except UnicodeDecodeError:
        is_text = False
    if not data.strip():
        raise InputError("the file is empty", where=path.name)
    if not is_text:
        raise InputError("the file is not UTF-8 text", where=path.name)
    return Source(path.name, data)


def parse_json(source: Source, text: str | bytes, line: int) -> Any:
    """``text`` as JSON; it stands at ``line`` of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON: {error.msg}", where=source.at(line + error.lineno - 1)) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, endless nesting
        raise InputError(f"not usable JSON: {error}", where=source.at(line)) from None


def bad_length(source: Source, what: str, value: object, line: int) -> InputError:
    return InputError(f"{what} is {value}, not a whole number from 0 to {MAX_TOKENS}", where=source.at(line))
