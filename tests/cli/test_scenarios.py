"""Every shipped scenario runs as it is; ``twin simulate`` keeps its promises about output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twin.base import data_dir
from twin.cli.main import main

SCENARIOS = sorted(data_dir("scenarios").glob("*.yaml"))


def test_five_kinds_of_service_are_shipped() -> None:
    assert len(SCENARIOS) >= 5


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_a_shipped_scenario_runs(scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(scenario), "--format", "json", "--out", str(tmp_path), "--quiet"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["schema_version"] == 1
    assert summary["completed"] > 100
    assert 0 < summary["mean_tpot_ms"] < summary["mean_e2el_ms"]
    folder = tmp_path / scenario.stem
    assert {file.name for file in folder.iterdir()} == {
        "scenario.yaml", "manifest.json", "summary.json", "requests.parquet", "timeline.json"
    }  # fmt: skip
    assert main(["simulate", str(folder / "scenario.yaml"), "--format", "json", "--out", str(tmp_path), "--quiet"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == summary, "the resolved scenario gives the same result"


def test_set_changes_one_field_and_the_same_seed_gives_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = str(next(path for path in SCENARIOS if path.stem == "on_premise"))

    def stdout(*more: str) -> str:
        assert main(["simulate", scenario, "--format", "json", "--out", str(tmp_path), "--quiet", *more]) == 0
        return capsys.readouterr().out

    first = stdout()
    assert first == stdout()
    assert json.loads(stdout("--set", "engine.max_num_seqs=1"))["mean_ttft_ms"] > json.loads(first)["mean_ttft_ms"]
    assert stdout("--seed", "7") != first


def test_an_unwritable_out_is_one_sentence_and_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    scenario = str(next(path for path in SCENARIOS if path.stem == "on_premise"))
    assert main(["simulate", scenario, "--out", str(blocked), "--format", "json"]) == 1
    streams = capsys.readouterr()
    assert "cannot write" in streams.err
    assert "Traceback" not in streams.err
    assert json.loads(streams.out)["error"]["exit_code"] == 1


def test_hardware_without_a_price_is_simulated_without_a_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = str(next(path for path in SCENARIOS if path.stem == "on_premise"))
    arguments = ["simulate", scenario, "--set", "deployment.gpu=rtx4090", "--set", "engine.max_model_len=8192"]
    arguments += ["--set", "traffic.rate=×0.3", "--set", "traffic.too_long=truncate"]
    assert main([*arguments, "--out", str(tmp_path), "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["usd_per_hour"] is None
    assert "price of rtx4090" in captured.err
