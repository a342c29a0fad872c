"""The experiment's design, its log, and a small one on a real engine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrate.experiment import design
from calibrate.experiment.run import _drop_torn_run, plan, run
from calibrate.step_log import read_steps
from twin.base import InputError
from twin.trust.live.runtime import find_python

ENGINE = {
    "schema_version": 1, "device": "cpu", "name": "a CPU", "threads": 1, "mode": "in_process", "model": {},
    "vllm_version": "0.32.0", "async_scheduling": False, "cuda_graphs": False,
}  # fmt: skip
RUN = {"run": "a 0", "name": "a", "kind": "fit", "load": None, "order": 0}
STEP = {
    "step": 0, "start": 5.0, "scheduled": 5.1, "end": 5.9, "seconds": 1.0, "prefills": [[10, 0], [6, 32]],
    "decodes": 2, "context": 70, "waiting": 1, "preempted": 0,
}  # fmt: skip
REQUEST = {
    "request": "1", "sent": 4.0, "first_token": 6.5, "last_token": 9.0, "input_tokens": 10, "output_tokens": 3,
    "arrived": 4.5, "first_step_end": 5.9,
}  # fmt: skip


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(("device", "quick"), list(design.SIZES))
def test_sentinels_stand_between_all_runs_and_loads_to_judge_by_are_not_fitted(device: str, quick: bool) -> None:
    found = design.runs(device, quick=quick)
    assert all((run.kind == "sentinel") == (position % 2 == 0) for position, run in enumerate(found))
    assert found[-1].kind == "sentinel"
    assert len({run.requests for run in found if run.kind == "sentinel"}) == 1
    assert len({run.run for run in found}) == len(found)
    loads = {kind: {run.load for run in found if run.kind == kind and run.load} for kind in ("fit", "test")}
    assert len(loads["test"]) == 5
    assert not loads["fit"] & loads["test"]
    assert {run.kind for run in design.runs(device, closed=False)} == {"fit", "test", "sentinel"}


def test_loads_are_poisson_arrivals_of_rate_one() -> None:
    loads = [run for run in design.runs("cpu") if run.load]
    gaps = np.concatenate([np.diff([at for at, _, _ in run.requests]) for run in loads])
    assert gaps.mean() == pytest.approx(1.0, rel=0.05)
    assert gaps.std() == pytest.approx(1.0, rel=0.05)


def test_the_same_seed_designs_the_same_experiment() -> None:
    assert design.runs("cpu", seed=3) == design.runs("cpu", seed=3)
    assert design.runs("cpu", seed=3) != design.runs("cpu", seed=4)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(InputError, match="unknown model 'smal'; did you mean 'small'"):
        plan("cpu", "server", "smal", threads=1, quick=True, seed=0, vllm_version="", name="", memory=0)


def test_a_python_without_vllm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWIN_ORACLE", raising=False)
    with pytest.raises(InputError, match="name one that has it with --python"):
        find_python(None)


def test_a_log_becomes_tables(tmp_path: Path) -> None:
    log = read_steps(write(tmp_path / "x.jsonl", {"engine": ENGINE}, RUN, STEP, REQUEST))
    step, request = log.steps.iloc[0], log.requests.iloc[0]
    assert (step["prefill_tokens"], step["num_prefills"], step["decodes"], step["seconds"]) == (16, 2, 2, 1.0)
    assert step["prefills"] == [(10, 0), (6, 32)]
    assert request["ttft_s"] == pytest.approx(2.5)
    assert request["outside_s"] == pytest.approx(0.5 + 0.6)


def test_the_api_s_time_is_told_by_requests_that_find_the_engine_idle(tmp_path: Path) -> None:
    during = REQUEST | {"request": "2", "sent": 5.5, "arrived": 6.01, "first_token": 8.0, "first_step_end": 7.5}
    log = read_steps(write(tmp_path / "x.jsonl", {"engine": ENGINE}, RUN, STEP, REQUEST, during))
    assert log.requests["outside_s"].isna().tolist() == [False, True]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"engine": ENGINE}, RUN, STEP)
    path.write_text(path.read_text() + '{"step": 1, "sta')
    assert len(read_steps(path).steps) == 1


def test_a_torn_run_is_dropped_before_more_is_written(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"engine": ENGINE}, RUN, STEP, RUN | {"run": "b 0"}, STEP)
    whole = path.read_bytes()
    _drop_torn_run(path)
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-20])
    _drop_torn_run(path)
    assert set(read_steps(path).steps["run"]) == {"a 0"}
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "no steps"),
        ([{"engine": ENGINE}, RUN], "no steps"),
        ([RUN, STEP], "x.jsonl:2: a step log begins with its engine and a run"),
        ([{"engine": ENGINE}, RUN, STEP | {"seconds": 0.0}], "x.jsonl:3: step: seconds is 0.0, not a positive number"),
        ([{"engine": ENGINE}, RUN, STEP | {"seconds": float("nan")}], "seconds is nan"),
        ([{"engine": ENGINE}, RUN | {"kind": "fits"}, STEP], "unknown kind of run 'fits'"),
        ([{"engine": ENGINE}, RUN, {"step": 0}], "step: 'start' is missing"),
        ([{"engine": {"device": "cpu"}}, RUN, STEP], "engine: 'schema_version' is missing"),
        ([{"engine": ENGINE}, RUN, STEP, {"engine": ENGINE | {"name": "another"}}], "x.jsonl:4: steps of two engines"),
        ([{"engine": ENGINE}, RUN, STEP, {"request": "1"}], "request: 'sent' is missing"),
    ],
)
def test_what_is_no_step_log_is_refused_with_its_line(
    rows: list[dict[str, Any]], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        read_steps(write(tmp_path / "x.jsonl", *rows))


@pytest.fixture
def few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same closed run twice, one load, sentinels."""
    whole = design.runs

    def some(device: str, *, quick: bool = False, closed: bool = True, seed: int = 0) -> list[design.Run]:
        found = whole(device, quick=True, closed=closed, seed=seed)
        loads = [item for item in found if item.load == 0.6]
        return [*[item for item in found if item.kind == "repeat"][:2], *loads, found[0]]

    monkeypatch.setattr(design, "runs", some)


@pytest.mark.parametrize("mode", ["in_process", "server"])
def test_a_small_experiment_on_a_real_engine(mode: str, oracle: Path, few_runs: None, tmp_path: Path) -> None:
    out = tmp_path / "steps.jsonl"
    run(oracle, "cpu", mode, "small", out, threads=1, quick=True, seed=0)
    log = read_steps(out)
    assert log.engine["vllm_version"].startswith("0.32")
    assert (log.steps["seconds"] > log.steps["schedule_s"]).all()
    outside = log.requests["outside_s"].dropna()
    assert len(outside)
    assert (outside > 0).all()
    assert (log.requests["ttft_s"] <= log.requests["e2el_s"]).all()
    done = log.steps.groupby("run")[["prefill_tokens", "decodes"]].sum().sum(axis=1)
    asked = log.requests.assign(tokens=log.requests["input_tokens"] + log.requests["output_tokens"] - 1)
    assert done.to_dict() == asked.groupby("run")["tokens"].sum().to_dict()  # every token was computed once
    if mode == "in_process":
        first, second = (part for name, part in log.steps.groupby("run") if str(name).startswith("repeat"))
        same = ["step", "prefills", "decodes", "context"]
        assert first[same].to_numpy().tolist() == second[same].to_numpy().tolist()
    size = out.stat().st_size
    run(oracle, "cpu", mode, "small", out, threads=1, quick=True, seed=0)  # nothing is left to do
    assert out.stat().st_size == size
    with pytest.raises(InputError, match="this log is of another engine: its model is"):
        run(oracle, "cpu", mode, "wide", out, threads=1, quick=True, seed=0)


def test_an_interrupt_leaves_no_process_behind(oracle: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from calibrate.experiment.run import run;"
        f"run(Path({str(oracle)!r}), 'cpu', 'server', 'small', Path({str(tmp_path / 'x.jsonl')!r}),"
        " threads=1, quick=True, seed=0)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    time.sleep(12)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in listed
    assert "timed_scheduler" not in listed
