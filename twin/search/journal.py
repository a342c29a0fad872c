"""What a search has paid for: every simulation's figures, one JSON line each, written as they come.

A search that is stopped, or killed, is taken up again by running it anew on its journal: the same seed asks the same
questions in the same order, and those already answered cost nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from twin import __version__
from twin.base import InputError
from twin.search.evaluate import Measured
from twin.traffic.trace import Trace

SCHEMA_VERSION = 1
FILE = "search.jsonl"


def trace_digest(trace: Trace) -> str:
    """SHA-256 of arrivals, lengths, classes and prefix hashes: of what a simulation reads."""
    found = hashlib.sha256()
    for column in (trace.arrival_s, trace.input_tokens, trace.output_tokens):
        found.update(column.tobytes())
    found.update(repr((trace.hash_block_tokens, trace.prefix_hashes)).encode())
    if trace.request_class is not None:
        found.update(repr(trace.request_class.tolist()).encode())
    return found.hexdigest()


class Journal:
    """Figures by fidelity and candidate id, in memory and, with a ``path``, appended to its file as they come.

    Raises :class:`InputError` for a file that is no journal, or one of another question: its figures would not hold.
    """

    def __init__(self, question: Mapping[str, object], path: Path | None = None, resume: Path | None = None) -> None:
        self._question = question
        self._known: dict[tuple[str, str], Measured] = {} if resume is None else _read(resume, question)
        self.resumed = len(self._known)
        self._file: IO[str] | None = None
        if path is not None:
            self.write_to(path)

    def write_to(self, path: Path) -> None:
        """Write what is known to a new file, and from now on what comes."""
        self._file = path.open("w", encoding="utf-8")
        self._line({"schema_version": SCHEMA_VERSION, "twin_version": __version__, "question": self._question})
        for (fidelity, name), measured in self._known.items():
            self._line({"fidelity": fidelity, "id": name, **measured.as_json()})

    def __len__(self) -> int:
        return len(self._known)

    def get(self, fidelity: str, name: str) -> Measured | None:
        return self._known.get((fidelity, name))

    def put(self, fidelity: str, name: str, measured: Measured) -> None:
        self._known[fidelity, name] = measured
        self._line({"fidelity": fidelity, "id": name, **measured.as_json()})

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _line(self, document: Mapping[str, object]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(document, default=float) + "\n")
            self._file.flush()


def _read(path: Path, question: Mapping[str, object]) -> dict[tuple[str, str], Measured]:
    """The figures of a journal. A last line that was cut off as it was written is left out."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise InputError(f"there is no search to go on with: no {path.name} in it", where=str(path.parent)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from None
    head = _parsed(path, 1, lines[0], "the first line of a search is cut off: nothing of it can be used")
    if head.get("schema_version") != SCHEMA_VERSION or not isinstance(head.get("question"), dict):
        raise InputError("this is not the record of a search", where=f"{path.name}:1")
    _check_question(path, head, question)
    found = {}
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        if number == len(lines):  # no line end followed: it was being written
            break
        data = _parsed(path, number, line, "this line is damaged")
        try:
            found[str(data["fidelity"]), str(data["id"])] = Measured.from_json(data)
        except (KeyError, TypeError, ValueError):
            raise InputError("this line holds no figures of a simulation", where=f"{path.name}:{number}") from None
    return found


def _parsed(path: Path, number: int, line: str, wrong: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except json.JSONDecodeError:
        data = None
    if not isinstance(data, dict):
        raise InputError(wrong, where=f"{path.name}:{number}")
    return data


def _check_question(path: Path, head: Mapping[str, Any], question: Mapping[str, object]) -> None:
    asked = json.loads(json.dumps(question, default=float))
    if head.get("twin_version") != __version__:
        raise InputError(f"made by twin {head.get('twin_version')}, this is {__version__}", where=path.name)
    made = head["question"]
    other = [name for name, value in asked.items() if not _agree(value, made.get(name))]
    if other:
        raise InputError(
            f"the search was for another {' and another '.join(other)}; its simulations do not answer this question",
            where=path.name,
        )


def _agree(asked: Any, made: Any) -> bool:
    """Profiles agree where both have them: figures of a GPU left out now are left alone."""
    if isinstance(asked, dict) and isinstance(made, dict):
        return all(asked[name] == made[name] for name in asked.keys() & made.keys())
    return bool(asked == made)
