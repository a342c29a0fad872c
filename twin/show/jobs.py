"""Plans made in the background: each a process of its own, ``twin plan``, and a folder that tells how far it is.

A folder ``<runs>/.jobs/<id>`` holds ``job.json`` (command line, process), ``stdout`` (the answer as JSON) and ``stderr``
(progress, one JSON object a line). So a job outlives the page that started it, and the server too: a search of an hour is
not lost with a closed lid; the next dashboard shows it again, and Stop is one click.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from twin.base import InputError, TwinError
from twin.show.store import runs_folder

StateName = Literal["running", "done", "failed", "stopped"]

PLANS, SIMULATIONS = ".jobs", ".simulations"
"""Shelves of the runs' folder, one for each kind of job."""
BUSY = {
    PLANS: ("a plan is being made", "plans are being made"),
    SIMULATIONS: ("a whole trace is being simulated", "whole traces are being simulated"),
}

OF_ONE_RUN = ("--explain", "--jobs")
"""Flags that a search does not remember for ``--resume``."""

CORES_PER_JOB = 2
"""``twin plan --jobs`` unless told otherwise."""

# A shell that starts the dashboard in the background makes its children deaf to SIGINT, which is how a search is stopped.
STARTER = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from twin.cli.main import main; raise SystemExit(main())"
)


@dataclass(frozen=True)
class Progress:
    """``stages``: name, done, total, in the order in which they began. ``front``: the points of the front so far."""

    stages: tuple[tuple[str, int, int], ...] = ()
    front: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """``answer``: the JSON of stdout of a plan that came to its end; ``run``: its run folder, where it has one.

    ``error``: the sentence of one that failed. ``resumable``: a folder for ``--resume``, of one that is not done.
    """

    name: StateName
    answer: Mapping[str, Any] = field(default_factory=dict)
    run: Path | None = None
    error: str = ""
    resumable: Path | None = None


@dataclass(frozen=True)
class Job:
    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def argv(self) -> list[str]:
        """The command line after ``twin``, without what only the dashboard needs."""
        return [str(word) for word in self._about()["argv"]]

    @property
    def question(self) -> dict[str, str]:
        """The parameters of the page that asked."""
        return dict(self._about()["question"])

    @property
    def progress(self) -> Progress:
        stages: dict[str, tuple[int, int]] = {}
        front: tuple[Mapping[str, Any], ...] = ()
        notes = []
        for line in self._lines():
            if not isinstance(line, dict):
                notes.append(line)
            elif "stage" in line:
                stages[line["stage"]] = (line["done"], line["total"])
            elif "front" in line:
                front = tuple(line["front"])
        return Progress(tuple((name, *counts) for name, counts in stages.items()), front, tuple(notes))

    @property
    def state(self) -> State:
        if self._process() is not None:
            return State("running")
        said = {key: value for line in self._lines() if isinstance(line, dict) for key, value in line.items()}
        run, kept = (self._beside(said.get(key)) for key in ("run", "search"))
        kept = kept or self._resumed  # stopped before it had anything new: what it went on from is still there
        answer = self._answer()
        whole = bool(answer) and "error" not in answer
        if answer.get("interrupted") or (self._stopped and not whole):
            return State("stopped", answer, run, resumable=run or kept)
        if whole:
            return State("done", answer, run)
        error = answer.get("error", {}).get("message") or self._last_words()
        return State("failed", error=str(error), resumable=kept)

    def stop(self) -> None:
        """Ctrl-C for the search, which keeps what it has; asked again, the end of all its processes."""
        process = self._process()
        if process is None:
            return
        again = self._stopped
        (self.folder / "stop").touch()
        with suppress(ProcessLookupError):
            if again:
                os.killpg(process.pid, signal.SIGTERM)
            else:
                process.send_signal(signal.SIGINT)

    def resume(self) -> Job:
        """Go on with the search of this one, under its id, so that links to it still lead there. Raises :class:`InputError`
        where nothing was kept.
        """
        folder = self.state.resumable
        if folder is None:
            raise InputError("nothing was simulated yet, so there is nothing to go on with")
        words = self.argv
        again = [word for flag in OF_ONE_RUN if flag in words for word in (flag, words[words.index(flag) + 1])]
        return start(["plan", "--resume", str(folder), *again], self.question, instead_of=self)

    def remove(self) -> None:
        """Forget it; run folders and searches stay. Nothing is done to one that runs."""
        if self._process() is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _stopped(self) -> bool:
        return (self.folder / "stop").exists()

    @property
    def _resumed(self) -> Path | None:
        """The search that this one goes on with."""
        words = self.argv
        return self._beside(words[words.index("--resume") + 1]) if "--resume" in words else None

    def _about(self) -> dict[str, Any]:
        try:
            about: dict[str, Any] = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError("no such plan is being made; look among the saved plans", where=self.id) from None
        return about

    def _process(self) -> psutil.Process | None:
        """While it runs. A number that the system gave to another process since is told by when that began."""
        about = self._about()
        try:
            with suppress(ChildProcessError):
                os.waitpid(about["pid"], os.WNOHANG)
            process = psutil.Process(about["pid"])
            ours = abs(process.create_time() - about["created"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if ours else None

    def _lines(self) -> Iterator[dict[str, Any] | str]:
        """Of stderr, as far as they are whole."""
        with suppress(FileNotFoundError):
            text = (self.folder / "stderr").read_text(encoding="utf-8", errors="replace")
            for line in text.splitlines():
                if line.startswith("{"):
                    with suppress(ValueError):
                        yield json.loads(line)
                elif line.strip():
                    yield line

    def _answer(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            answer = json.loads((self.folder / "stdout").read_text(encoding="utf-8"))
            return answer if isinstance(answer, dict) else {}
        return {}

    def _beside(self, name: object) -> Path | None:
        """A folder of the runs, if it is still there."""
        path = self.folder.parent.parent / Path(str(name)).name
        return path if name and path.is_dir() else None

    def _last_words(self) -> str:
        said = [line for line in self._lines() if isinstance(line, str)]
        return f"the plan ended without an answer{f': {said[-1]}' if said else ', as if it had been killed'}"


def start(
    argv: Sequence[str], question: Mapping[str, str], shelf: str = PLANS, *, instead_of: Job | None = None
) -> Job:
    """Run ``twin`` with ``argv`` (``plan …``, or ``simulate …`` on the shelf of those) in the background, its run folder among
    the runs; ``instead_of`` one that ended, under its id.

    Raises :class:`InputError` when as many plans run as the machine has cores for, :class:`TwinError` when nothing can be
    written or started.
    """
    _tidy()
    busy, most = sum(job.state.name == "running" for job in jobs(shelf)), max((os.cpu_count() or 1) // CORES_PER_JOB, 1)
    if busy >= most:
        one, many = BUSY[shelf]
        under_way = one if busy == 1 else f"{busy} {many}"
        raise InputError(f"{under_way} already, as many as this machine has cores for: wait, or stop one")
    runs = runs_folder()
    words = [*argv, "--out", str(runs), "--format", "json", "--progress", "json"]
    try:
        parent = runs / shelf
        parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".", dir=parent))
        with (draft / "stdout").open("wb") as out, (draft / "stderr").open("wb") as err:
            child = subprocess.Popen(
                [sys.executable, "-c", STARTER, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
    except OSError as error:
        raise TwinError(f"cannot start a plan: {error.strerror}", where=str(runs)) from error
    about = {"argv": [*argv], "question": dict(question), "pid": child.pid, "created": _created(child.pid)}
    (draft / "job.json").write_text(json.dumps(about), encoding="utf-8")
    if instead_of is None:
        return Job(draft.rename(parent / draft.name.removeprefix(".")))
    ended = instead_of.folder.rename(draft.with_name(f"{draft.name}-ended"))
    job = Job(draft.rename(instead_of.folder))
    shutil.rmtree(ended, ignore_errors=True)
    return job


def jobs(shelf: str = PLANS) -> list[Job]:
    """Those that were not forgotten yet, the newest first."""
    folders = [path for path in (runs_folder() / shelf).glob("[!.]*") if (path / "job.json").is_file()]
    return [Job(path) for path in sorted(folders, key=lambda path: -path.stat().st_mtime)]


def find(name: str) -> Job:
    """By id. Raises :class:`InputError` where there is none."""
    known = {job.id: job for job in jobs()}
    if name not in known:
        raise InputError("no such plan is being made; look among the saved plans", where=name)
    return known[name]


def _tidy() -> None:
    """Forget jobs whose run folder tells everything."""
    for job in jobs():
        state = job.state
        if state.name == "done" and state.run is not None:
            job.remove()


def _created(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:  # ended already; nothing runs under its number that began at 0
        return 0.0
