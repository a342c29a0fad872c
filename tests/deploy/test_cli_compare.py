"""``twin compare``: differences, and the warning when two runs answer different questions."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from run_folders import edited, option_of

from twin.cli.main import main


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["compare", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, _ = compared(capsys, *arguments, "--format", "json")
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


def figures(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By name; of equal names the option's own, not its bill's."""
    return {row["figure"]: row for row in sorted(answer["figures"], key=lambda row: row["group"] != "money")}


@pytest.fixture(scope="session")
def simulated(plan_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan's own scenario, simulated: it must say what the plan says."""
    folder = tmp_path_factory.mktemp("simulated")
    assert main(["--quiet", "simulate", str(plan_folder / "scenario.yaml"), "--out", str(folder)]) == 0
    return next(folder.iterdir())


def test_two_options_of_a_plan(plan_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = as_json(capsys, str(plan_folder), f"{plan_folder}:best_latency")
    rows = figures(answer)
    assert answer["same_question"] is True
    assert answer["warnings"] == []
    plan = json.loads((plan_folder / "plan.json").read_text())
    best = next(item for item in plan["options"] if "best_latency" in item["names"])
    dollars = rows["usd_per_month"]
    assert (dollars["a"], dollars["b"]) == (option_of(plan)["usd_per_month"], best["usd_per_month"])
    assert dollars["difference"] == pytest.approx(dollars["b"] - dollars["a"])
    assert dollars["better"] == "a"
    assert rows["p99_ttft_ms"]["better"] == "b"
    promised = rows["promised p90 tpot"]
    assert promised["b"] == pytest.approx(best["bounds"][1]["worst_s"] * 1e3)
    assert {item["field"] for item in answer["answer"]} >= {"replicas"}


def test_a_run_with_itself_differs_in_nothing(plan_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = as_json(capsys, str(plan_folder), str(plan_folder))
    assert answer["answer"] == answer["question"] == answer["evidence"] == []
    assert all(row["difference"] in (0, None) and row["better"] is None for row in answer["figures"])


def test_a_plan_and_its_simulation_say_the_same(
    plan_folder: Path, simulated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = as_json(capsys, str(plan_folder), str(simulated))
    rows = figures(answer)
    assert answer["same_question"] is True
    for name in ("p99_ttft_ms", "p50_e2el_ms", "usd_per_month", "output_throughput"):
        assert rows[name]["a"] == pytest.approx(rows[name]["b"], rel=1e-9), name
    assert answer["b"]["kind"] == "simulate"


def test_another_question_is_warned_of(plan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "other"
    shutil.copytree(plan_folder, run)
    text = (run / "scenario.yaml").read_text()
    (run / "scenario.yaml").write_text(
        text.replace("request_rate: 2.0", "request_rate: 3.0").replace("p99:2000ms", "p99:1s")
    )
    answer = as_json(capsys, str(plan_folder), str(run))
    assert answer["same_question"] is False
    assert answer["warnings"][0] == "these do not answer the same question: slo, traffic differ"
    assert {"field": "slo.ttft", "a": "p99:2000ms", "b": "p99:1s"} in answer["question"]
    assert all(row["better"] is None for row in answer["figures"]), "there is no better answer to another question"
    _, out, err = compared(capsys, str(plan_folder), str(run))
    assert "warning: these do not answer the same question" in err
    assert "They do not answer the same question." in out


def test_requests_that_differ_under_the_same_name_are_noticed(
    plan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fewer(answer: dict[str, Any]) -> None:
        option_of(answer)["metrics"]["completed"] -= 1

    answer = as_json(capsys, str(plan_folder), str(edited(plan_folder, tmp_path / "run", fewer)))
    assert answer["same_question"] is False
    assert "the traffic is named alike, but its requests differ" in answer["warnings"]


def test_another_profile_of_the_same_gpu_is_warned_of(
    plan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(plan_folder, run)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["profiles"]["l40s"] = "0" * 64
    manifest["twin_version"] = "0.0.9"
    (run / "manifest.json").write_text(json.dumps(manifest))
    answer = as_json(capsys, str(plan_folder), str(run))
    assert answer["same_question"] is True
    assert {item["field"] for item in answer["evidence"]} == {"twin_version", "profile of l40s"}
    assert any("profile of l40s differs" in text for text in answer["warnings"])


def test_risk_is_compared_where_both_have_it(
    plan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def risky(chance: float) -> Any:
        return lambda answer: option_of(answer).update(risk={"probability_held": {"value": chance}, "how": ["words"]})

    one = edited(plan_folder, tmp_path / "one", risky(0.9))
    other = edited(plan_folder, tmp_path / "other", risky(0.8))
    rows = figures(as_json(capsys, str(one), str(other)))
    assert rows["probability_held.value"]["difference"] == pytest.approx(-0.1)
    assert "probability_held.value" not in figures(as_json(capsys, str(one), str(plan_folder)))


def test_every_format_is_derived_from_the_same_rows(plan_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = (str(plan_folder), f"{plan_folder}:best_latency")
    rows = list(csv.DictReader(io.StringIO(compared(capsys, *pair, "--format", "csv")[1])))
    answer = as_json(capsys, *pair)
    assert [row["figure"] for row in rows[: len(answer["figures"])]] == [row["figure"] for row in answer["figures"]]
    assert compared(capsys, *pair, "--format", "md")[1].startswith("| group | figure |")
    table = compared(capsys, *pair)[1]
    assert max(map(len, table.splitlines())) <= 100
    assert str(plan_folder.parent) not in table + json.dumps(answer)


def test_bad_sides_are_one_sentence(
    plan_folder: Path, simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side, why in (
        (str(tmp_path / "none"), "no such run folder"),
        (f"{plan_folder}:cheepest", "did you mean 'cheapest'?"),
        (f"{plan_folder}:", "unknown option ''"),
        (f"{simulated}:cheapest", "a simulation, which has no option 'cheapest'"),
    ):
        code, out, err = compared(capsys, str(plan_folder), side)
        assert (code, out) == (2, "")
        assert why in err
