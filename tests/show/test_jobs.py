"""Plans in the background: they end, fail, are stopped and gone on with, whoever looks at them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import psutil
import pytest
import small_plan

from twin.base import InputError
from twin.results.run import read_run
from twin.show import jobs
from twin.show.jobs import Job, State
from twin.show.question import Question

PATIENCE_S = 120.0


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWIN_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def _small(**more: str) -> list[str]:
    params = {**small_plan.QUESTION, "risk": "", "worlds": "", **more}
    return [*Question.from_params(params).argv({}), "--jobs", "1"]


def _long() -> list[str]:
    """Takes minutes, unless it is stopped."""
    return _small(num_requests="3000", max_gpus="", gpu="", model="Qwen/Qwen3-32B")


def _ended(job: Job) -> State:
    until = time.monotonic() + PATIENCE_S
    while (state := job.state).name == "running":
        assert time.monotonic() < until, "it did not end"
        time.sleep(0.1)
    return state


def _simulating(job: Job, least: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while sum(done for _, done, _ in job.progress.stages) < least:
        assert job.state.name == "running", job.state
        assert time.monotonic() < until, "it simulates nothing"
        time.sleep(0.05)


def test_a_plan_ends_in_a_run_folder_and_is_forgotten(runs: Path) -> None:
    params = {"model": "Qwen/Qwen3-8B"}
    job = jobs.start(_small(), params)
    assert job.question == params
    assert jobs.find(job.id) == job
    state = _ended(job)
    assert (state.name, state.run) == ("done", runs / "plan")
    run = read_run(runs / "plan")
    assert state.answer == run.plan
    progress = job.progress
    assert [name for name, _, _ in progress.stages][:1] == ["busiest minutes"]
    assert all(0 < done <= total for _, done, total in progress.stages)
    assert {"id", "usd_per_month", "p99_ttft_ms", "p99_tpot_ms"} == set(progress.front[0])
    later = jobs.start(_small(ttft="soon"), {})
    assert [one.id for one in jobs.jobs()] == [later.id]
    _ended(later)


def test_bad_input_is_the_sentence_of_the_command_line(runs: Path, tmp_path: Path) -> None:
    argv = _small(model="Qwen/Qwen3-80B")
    state = _ended(jobs.start(argv, {}))
    done = small_plan.make(argv[:-2], tmp_path / "other")
    assert done.returncode == 2
    assert state.name == "failed"
    assert f"error: {state.error}" == done.stderr.strip()
    assert not [path for path in runs.iterdir() if path.name != ".jobs"]


def test_a_stopped_search_is_kept_and_gone_on_with(runs: Path) -> None:
    job = jobs.start(_long(), {"model": "x"})
    _simulating(job, 8)
    again = Job(job.folder)  # what a reloaded page, or a server that was started again, makes of it
    again.stop()
    state = _ended(again)
    assert state.name == "stopped"
    assert state.resumable is not None
    simulated = len((state.resumable / "search.jsonl").read_text(encoding="utf-8").splitlines())
    following = job.resume()
    assert following.id == job.id, "links to it go on leading there"
    assert following.argv[:2] == ["plan", "--resume"]
    assert following.argv[3:] == ["--explain", "recommended", "--jobs", "1"], "what a search does not remember"
    assert following.question == {"model": "x"}
    assert jobs.jobs() == [jobs.find(job.id)]
    assert [path.name for path in (runs / ".jobs").iterdir()] == [job.id]
    _simulating(following, simulated)
    following.stop()
    _ended(following)


def test_a_process_that_was_killed_says_so_and_leaves_its_search(runs: Path) -> None:
    job = jobs.start(_long(), {})
    _simulating(job, 4)
    about = json.loads((job.folder / "job.json").read_text(encoding="utf-8"))
    os.killpg(about["pid"], 9)
    state = _ended(job)
    assert state.name == "failed"
    assert "ended without an answer" in state.error
    assert state.resumable is not None
    assert state.resumable.name.startswith(".plan-")


def _gone(pid: int) -> bool:
    """A process that ended, but that its parent has not asked about, keeps its number."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_stopping_twice_ends_every_process(runs: Path) -> None:
    job = jobs.start(_long(), {})
    time.sleep(0.2)
    job.stop()
    job.stop()
    assert _ended(job).name == "stopped"
    assert _gone(job._about()["pid"])


def test_only_so_many_at_once(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    job = jobs.start(_long(), {})
    with pytest.raises(InputError, match="a plan is being made already, as many as this machine has cores for"):
        jobs.start(_long(), {})
    assert jobs.jobs() == [job]
    job.stop()
    job.stop()
    _ended(job)


def test_another_process_under_the_same_number_is_not_ours(runs: Path) -> None:
    folder = runs / ".jobs" / "old"
    folder.mkdir(parents=True)
    about = {"argv": ["plan"], "question": {}, "pid": os.getpid(), "created": 1.0}
    (folder / "job.json").write_text(json.dumps(about), encoding="utf-8")
    job = Job(folder)
    assert job.state.name == "failed"
    job.stop()  # nobody is sent a signal: this test goes on
    job.remove()
    assert not folder.exists()


def test_a_torn_line_of_progress_is_left_for_the_next_look(runs: Path) -> None:
    folder = runs / ".jobs" / "torn"
    folder.mkdir(parents=True)
    said = '{"stage": "busiest minutes", "done": 3, "total": 9}\na note\n{"front": [{"id": "a"'
    (folder / "stderr").write_text(said, encoding="utf-8")
    progress = Job(folder).progress
    assert progress.stages == (("busiest minutes", 3, 9),)
    assert progress.front == ()
    assert progress.notes == ("a note",)


def test_a_job_that_is_gone_is_one_sentence(runs: Path) -> None:
    with pytest.raises(InputError, match="gone: no such plan is being made"):
        jobs.find("gone")
    with pytest.raises(InputError, match="no such plan is being made"):
        _ = Job(runs / ".jobs" / "gone").state
