"""``twin deploy`` and the run folders that it reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_folders import edited, option_of

from twin.base import InputError
from twin.cli.main import main
from twin.results.run import read_run


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["deploy", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_stdout_is_yaml_that_kubectl_reads(plan_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, str(plan_folder), "cheapest", "--target", "kubernetes")
    kinds = [item["kind"] for item in yaml.safe_load_all(out)]
    assert (code, err) == (0, "")
    assert kinds[:3] == ["Deployment", "Service", "PodDisruptionBudget"]
    assert kinds[-2:] == ["ServiceMonitor", "PrometheusRule"]


@pytest.mark.parametrize("target", ["vllm", "compose", "kubernetes"])
def test_json_folder_and_stdout_say_the_same(
    plan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    code, out, _ = said(capsys, str(plan_folder), "best_latency", "--target", target, "--format", "json")
    answer = json.loads(out)
    assert code == 0
    assert answer["schema_version"] == 1
    folder = tmp_path / "new" / "deploy"
    code, out, err = said(capsys, str(plan_folder), "best_latency", "--target", target, "--out", str(folder))
    assert (code, out) == (0, "")
    assert {path.name: path.read_text() for path in folder.iterdir()} == answer["files"]
    if target == "vllm":
        assert all(path.stat().st_mode & 0o111 for path in folder.iterdir())
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    code, _, err = said(capsys, str(plan_folder), "--target", target, "--out", str(folder))
    assert code == 2
    assert "exists already, and nothing is overwritten" in err
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["deploy"]


def test_a_near_miss_is_deployed_by_id_and_said_to_be_one(
    plan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def move(answer: dict[str, Any]) -> None:
        missed = {**option_of(answer), "id": "missed", "names": [], "name": None, "misses": ["p99 TTFT of 1 ms: 13 ms"]}
        answer |= {"options": [], "near_misses": [missed], "recommended": None}

    run = edited(plan_folder, tmp_path / "run", move)
    code, out, err = said(capsys, str(run), "missed")
    assert code == 0
    assert "a near miss: p99 TTFT of 1 ms: 13 ms" in err
    assert "# it misses: p99 TTFT of 1 ms: 13 ms" in out
    code, _, err = said(capsys, str(run))
    assert code == 2
    assert "nothing holds in this plan; only a near miss can be named (allowed: missed)" in err


def test_an_unknown_option_says_the_nearest(plan_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, str(plan_folder), "cheepest", "--format", "json")
    assert code == 2
    assert "did you mean 'cheapest'?" in err
    assert json.loads(out)["error"]["nearest"] == "cheapest"


def test_flags_of_another_target_are_refused(plan_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, why in (
        (["--target", "compose", "--namespace", "llm"], "--namespace means nothing to --target compose"),
        (["--image", "mine:1"], "--image means nothing to --target vllm"),
        (["--target", "compose", "--image", "a b"], "is no container image"),
        (["--port", "0"], "ports from it on must lie"),
        (["--target", "helm"], "'helm'"),
    ):
        code, out, err = said(capsys, str(plan_folder), *arguments)
        assert (code, out) == (2, ""), arguments
        assert why in err


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def torn(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text((folder / name).read_text()[:-40])


def rewritten(name: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = json.loads((folder / name).read_text()) | values
        (folder / name).write_text(json.dumps({key: value for key, value in data.items() if value is not None}))

    return change


def unfinished(folder: Path) -> None:
    for name in ("summary.json", "plan.json"):
        (folder / name).unlink()
    (folder / "search.jsonl").write_text("")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (shutil.rmtree, "no such run folder"),
        (without("manifest.json"), "half-written run folder: manifest.json is missing"),
        (torn("plan.json"), "plan.json: half-written run folder: this is not whole JSON"),
        (torn("summary.json"), "summary.json: half-written run folder"),
        (rewritten("plan.json", schema_version=2), "written with schema 2, and this twin"),
        (rewritten("manifest.json", profiles=None), "another schema wrote this: profiles is missing"),
        (rewritten("plan.json", options=[{"id": "x"}]), "another schema wrote this: bounds, gpu"),
        (rewritten("plan.json", options={}, recommended="x"), "options is no list"),
        (lambda folder: (folder / "plan.json").write_text("[1]"), "no JSON object"),
        (lambda folder: (folder / "scenario.yaml").write_text("name: [1"), "scenario.yaml"),
        (without("requests.parquet"), "requests.parquet is missing or torn"),
        (lambda folder: (folder / "requests.parquet").write_bytes(b"PAR1"), "requests.parquet is missing or torn"),
        (unfinished, "twin plan --resume goes on with it"),
    ],
)
def test_a_bad_run_folder_is_one_sentence(
    plan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], why: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(plan_folder, run)
    spoil(run)
    code, out, err = said(capsys, str(run))
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1


def test_a_folder_without_a_run_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not a run folder: it has no"):
        read_run(tmp_path)
    with pytest.raises(InputError, match="it is a file"):
        read_run(tmp_path / "file")


def test_a_simulation_has_no_options(plan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(plan_folder, run)
    (run / "plan.json").unlink()
    summary = json.loads((run / "summary.json").read_text()) | {"usd_per_hour": 1.0, "deployment": {}}
    (run / "summary.json").write_text(json.dumps(summary))
    code, _, err = said(capsys, str(run))
    assert code == 2
    assert "it holds a simulation, and only a plan has options" in err
