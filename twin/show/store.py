"""Where the dashboard finds traces and runs, and keeps uploads: folders, so that everything is still there tomorrow."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from twin.base import data_dir
from twin.traffic.readers import read_trace
from twin.traffic.trace import Trace

TRACE_SUFFIXES = (".csv", ".jsonl", ".json", ".gz", ".yaml", ".yml")


def runs_folder() -> Path:
    """``TWIN_RUNS``, which ``twin dashboard --runs`` sets; ``runs`` of the working folder unless given."""
    return Path(os.environ.get("TWIN_RUNS", "runs"))


def trace_files() -> dict[str, Path]:
    """Traces to choose from, by the name shown: the shipped scenarios, ``--traces``, and what was uploaded."""
    folders = [data_dir("scenarios"), _uploads()]
    if wanted := os.environ.get("TWIN_TRACES"):
        folders.insert(1, Path(wanted))
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    return {path.name: path for path in found if path.is_file() and path.suffix in TRACE_SUFFIXES}


def keep_upload(name: str, content: bytes) -> Path:
    """The upload as a file under its own name, in a folder named after its content: the same file is kept once."""
    folder = _uploads() / hashlib.sha256(content).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(name).name
    path.write_bytes(content)
    return path


def trace_at(path: Path) -> Trace:
    """Raises :class:`InputError` as the command line would."""
    return read_trace(path)


def _uploads() -> Path:
    return runs_folder() / ".uploads"
