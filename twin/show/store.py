"""Where the dashboard finds traces and runs, and keeps uploads: folders, so that everything is still there tomorrow."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Literal

from twin.base import InputError, TwinError, data_dir, unknown_name
from twin.traffic.trace import Trace

TRACE_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".json", ".gz", ".yaml", ".yml")
SCENARIO_SUFFIXES = (".yaml", ".yml")
CHUNK_BYTES = 1 << 20
LONGEST_NAME = 120
Shelf = Literal["uploads", "measurements"]


def runs_folder() -> Path:
    """``TWIN_RUNS``, which ``twin dashboard --runs`` sets; ``runs`` of the working folder unless given."""
    return Path(os.environ.get("TWIN_RUNS", "runs"))


def trace_files() -> dict[str, Path]:
    """Traces to choose from, by the name shown: the shipped scenarios, ``--traces``, and what was uploaded, the newest last.

    Of two with one name the later is told apart by its folder's: an upload's by the beginning of its content's hash.
    """
    shelves = [path for folder in (data_dir("scenarios"), *_given_folder()) for path in sorted(folder.iterdir())]
    uploads = [path for folder in _upload_folders() for path in sorted(folder.iterdir()) if path.is_file()]
    named: dict[str, Path] = {}
    for path in (*filter(_may_be_trace, shelves), *uploads):
        named[path.name if path.name not in named else f"{path.name} ({path.parent.name})"] = path
    return named


def trace_file(name: str) -> Path:
    """The file of a name of :func:`trace_files`. Raises :class:`InputError` with the nearest for an unknown one."""
    files = trace_files()
    if name not in files:
        raise unknown_name("trace", name, files)
    return files[name]


def shown_name(path: Path) -> str:
    """The name of a file in :func:`trace_files`, which pages and their addresses use."""
    return next((name for name, known in trace_files().items() if known == path), path.name)


def keep_upload(name: str, content: BinaryIO | bytes, shelf: Shelf = "uploads") -> Path:
    """The upload as a file under its own name, in a folder named after its content: the same file is kept once.

    ``shelf``: traces are ``uploads``, which can be chosen later; measurements to judge by are no traffic. It is copied
    piece by piece, never held twice. Raises :class:`TwinError` where it cannot be written.
    """
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    source.seek(0)
    draft: str | None = None
    try:
        parent = runs_folder() / f".{shelf}"
        parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=parent, prefix=".upload-")
        digest = hashlib.sha256()
        with os.fdopen(handle, "wb") as file:
            while piece := source.read(CHUNK_BYTES):
                digest.update(piece)
                file.write(piece)
        folder = parent / digest.hexdigest()[:12]
        folder.mkdir(exist_ok=True)
        path = folder / _file_name(name)
        os.replace(draft, path)
    except OSError as error:
        if draft is not None:
            Path(draft).unlink(missing_ok=True)
        raise TwinError(f"cannot keep the upload: {error.strerror}", where=name) from None
    return path


def drop_upload(path: Path) -> None:
    """Forget an upload that turned out to be none."""
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def trace_at(path: Path, rate: float = 1.0) -> Trace:
    """The requests of a trace file, or of a scenario's traffic, ``rate`` times as fast.

    Raises :class:`InputError` as the command line would.
    """
    from twin.traffic.readers import read_trace

    trace = _of_scenario(path) if path.suffix in SCENARIO_SUFFIXES else read_trace(path)
    return trace if rate == 1.0 else trace.scaled(rate)


def _of_scenario(path: Path) -> Trace:
    from dataclasses import replace

    from twin.cluster.deploy import asked_trace
    from twin.spec.scenario import load_scenario

    if not path.is_file():
        raise InputError(f"there is no file {path.name!r}")
    scenario = load_scenario(path)
    return replace(asked_trace(scenario.traffic, scenario.seed), name=path.stem)


def _given_folder() -> list[Path]:
    wanted = os.environ.get("TWIN_TRACES")
    return [Path(wanted)] if wanted and Path(wanted).is_dir() else []


def _upload_folders() -> list[Path]:
    if not _uploads().is_dir():
        return []
    return sorted((p for p in _uploads().iterdir() if p.is_dir()), key=lambda p: (p.stat().st_mtime_ns, p.name))


def _uploads() -> Path:
    return runs_folder() / ".uploads"


def _may_be_trace(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in TRACE_SUFFIXES and path.suffixes[-2:-1] != [".tar"]


def _file_name(name: str) -> str:
    """The name without folders, as a file system takes it; the end is kept, as it says what the file is."""
    plain = Path(name.replace("\\", "/")).name.replace("\0", "")
    return plain[-LONGEST_NAME:] if plain.strip(".") else "upload"
