"""Run folders as the dashboard names them: by the name of their folder among the runs, never by a path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from twin.base import InputError, TwinError, unknown_name
from twin.results.run import Run, read_run
from twin.show.store import runs_folder

FILES = ("plan.json", "summary.json", "timeline.json")


@dataclass(frozen=True)
class Unreadable:
    """A folder that looks like a run and is none, and why."""

    name: str
    why: str


def run_names() -> list[str]:
    """Folders of runs, the newest first."""
    folder = runs_folder()
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if (path / "summary.json").is_file() and not path.name.startswith(".")]
    return [path.name for path in sorted(found, key=lambda path: (-path.stat().st_mtime_ns, path.name))]


def run_named(name: str) -> Run:
    """Raises :class:`InputError` for an unknown name (with the nearest), and for a folder that is torn."""
    names = run_names()
    if name not in names:
        raise unknown_name("run", name, names) if names else InputError(f"unknown run {name!r}: nothing is saved yet")
    folder = runs_folder() / name
    return _read(str(folder), tuple((folder / file).stat().st_mtime_ns for file in FILES if (folder / file).exists()))


def plans(most: int) -> list[Run | Unreadable]:
    """Saved plans, the newest first; a torn folder tells why, instead of hiding the others."""
    found: list[Run | Unreadable] = []
    for name in run_names():
        if len(found) == most:
            break
        if not (runs_folder() / name / "plan.json").is_file():
            continue
        try:
            found.append(run_named(name))
        except TwinError as error:
            found.append(Unreadable(name, str(error)))
    return found


@st.cache_resource(max_entries=64, show_spinner=False)
def _read(folder: str, version: tuple[int, ...]) -> Run:
    return read_run(Path(folder))
