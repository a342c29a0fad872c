"""``twin plan`` as a command: exit codes, bytes, files, and one sentence for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twin.cli.main import main
from twin.results.run import read_run
from twin.spec.scenario import load_scenario

MADE_UP = ("--request-rate", "4", "--input-len", "600", "--output-len", "80", "--num-requests", "500")
ASKED = ("plan", *MADE_UP, "--model", "Qwen/Qwen3-8B", "--gpu", "l40s,h100_sxm", "--ttft", "600", "--tpot", "p90:40ms")


def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, *flags: str) -> tuple[int, str, str]:
    code = main([*flags, "--out", str(tmp_path / "runs"), "--jobs", "1"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_is_what_the_run_folder_keeps(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = (*ASKED, "--budget", "20k/month", "--format", "json")
    code, out, _ = run(capsys, tmp_path, *flags)
    again = run(capsys, tmp_path, *flags)[1]
    assert code == 0
    assert out == again
    assert str(tmp_path) not in out
    folder = tmp_path / "runs" / "plan"
    assert (folder / "plan.json").read_text() == out
    assert {path.name for path in folder.iterdir()} == {
        *("scenario.yaml", "manifest.json", "summary.json", "requests.parquet", "plan.json"),
        *("timeline.json", "search.jsonl", "flags.json"),
    }
    chosen = next(o for o in json.loads(out)["options"] if "recommended" in o["names"])
    assert json.loads((folder / "summary.json").read_text()) == chosen["metrics"]
    scenario = load_scenario(folder / "scenario.yaml")
    assert (scenario.deployment.gpu, scenario.deployment.replicas) == (chosen["gpu"], chosen["replicas"])
    assert scenario.engine.num_gpu_blocks == chosen["num_gpu_blocks"]
    assert (tmp_path / "runs" / "plan-2").is_dir()


def test_table_is_readable_on_100_columns(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, tmp_path, *ASKED, "--budget", "20k/month")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 100
    assert "vllm serve Qwen/Qwen3-8B" in out
    assert "network time is not in" in out
    assert "run folder" in err


@pytest.mark.parametrize("fmt", ["csv", "md"])
def test_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path, fmt: str) -> None:
    code, out, _ = run(capsys, tmp_path, *ASKED, "--format", fmt)
    assert code == 0
    assert "usd_per_month" in out.splitlines()[0]


def test_infeasible_is_exit_3_with_the_usual_object(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, tmp_path, *ASKED, "--budget", "100/month", "--format", "json")
    payload = json.loads(out)
    assert code == 3
    assert payload["options"] == []
    assert payload["binding"].startswith("budget:")
    assert (tmp_path / "runs" / "plan" / "plan.json").read_text() == out, "what was computed is kept"


NEAR_MISS = ("--budget", "100/month")
NOTHING_FITS = ("--ttft", "1ms", "--request-rate", "300", "--budget", "2k/month")


@pytest.mark.parametrize("wanted", ["recommended", "cheapest", "best_latency"])
@pytest.mark.parametrize("asked", [NEAR_MISS, NOTHING_FITS])
def test_nothing_holds_and_is_explained_all_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, asked: tuple[str, ...], wanted: str
) -> None:
    code, out, _ = run(capsys, tmp_path, *ASKED, *asked, "--explain", wanted, "--format", "json")
    payload = json.loads(out)
    assert code == 3
    near = [item["id"] for item in payload["near_misses"]]
    assert [item["id"] for item in payload.get("explanation", ())] == near[:1]
    assert len(near) == (1 if asked == NEAR_MISS else 0)
    assert f"there is no {wanted} option to explain" in payload["notes"][-1]
    assert all(name in payload["notes"][-1] for name in near)


def test_an_unknown_option_to_explain_stays_an_error_where_nothing_holds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(capsys, tmp_path, *ASKED, *NOTHING_FITS, "--explain", "recomended")
    assert (code, "did you mean 'recommended'" in err) == (2, True)


def test_what_fits_nowhere_leaves_a_run_folder_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, tmp_path, *ASKED, *NOTHING_FITS, "--format", "json")
    folder = tmp_path / "runs" / "plan"
    assert code == 3
    assert "run folder: " in err
    assert (folder / "plan.json").read_text() == out
    kept = read_run(folder)
    assert kept.plan is not None
    assert kept.summary == {
        "screened": kept.plan["screened"],
        "simulated": 0,
        "simulated_on_whole_trace": 0,
        "binding": kept.plan["binding"],
    }
    assert kept.question.deployment.gpu == "l40s", "a place-holder: the first that was offered"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["plan"]
    again = run(capsys, tmp_path, "plan", "--resume", str(folder), "--format", "json")
    assert again[:2] == (code, out)


@pytest.mark.parametrize("budget", ["20k/month", "0.25M/yr", "$30/h", "8gpu", "9kW"])
def test_budgets(capsys: pytest.CaptureFixture[str], tmp_path: Path, budget: str) -> None:
    code, out, _ = run(capsys, tmp_path, *ASKED, "--budget", budget, "--format", "json")
    assert code == 0
    for option in json.loads(out)["options"]:
        assert option["usd_per_month"] <= {"20k/month": 20_000, "0.25M/yr": 250_000 / 12, "$30/h": 21_900}.get(
            budget, 1e9
        )
        assert budget != "8gpu" or option["num_gpus"] <= 8


def test_users_and_growth_are_rates(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ("--users", "600", "--requests-per-user-hour", "12", "--input-len", "300", "--output-len", "40")
    grown = ("--growth", "10%/month", "--horizon", "12", "--rate", "×2")
    flags = (*flags, "--num-requests", "400", "--model", "Qwen/Qwen3-8B", "--gpu", "l40s", "--format", "json")
    answers = [json.loads(run(capsys, tmp_path, "plan", *flags, *more)[1]) for more in ((), grown)]
    rates = [answer["traffic"]["mean_rate_per_s"] for answer in answers]
    assert rates[0] == pytest.approx(2.0, rel=0.01)
    assert rates[1] == pytest.approx(rates[0] * 2 * 1.1**12)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--model", "Qwen/Qwen3-8B"), "no traffic"),
        (MADE_UP, "no model"),
        ((*MADE_UP, "--model", "Qwen/Qwen3-9B"), "unknown model"),
        ((*MADE_UP, "--model", "Qwen/Qwen3-8B", "--gpu", "h100_sx"), "did you mean 'h100_sxm'"),
        ((*MADE_UP, "--model", "Qwen/Qwen3-8B", "--budget", "lots"), "budget"),
        ((*MADE_UP, "--model", "Qwen/Qwen3-8B", "--ttft", "p0:5ms"), "quantile"),
        ((*MADE_UP, "--model", "Qwen/Qwen3-8B", "--node-size", "3"), "--node-size is 1 or 8"),
        ((*MADE_UP, "--model", "Qwen/Qwen3-8B", "--headroom", "120%"), "--headroom"),
        ((*MADE_UP, "--model", "Qwen/Qwen3-8B", "--growth", "5 apples"), "--growth"),
        ((*MADE_UP, "--model", "Qwen/Qwen3-8B", "--users", "5"), "go together"),
        ((*MADE_UP, "--model", "Qwen/Qwen3-8B", "--growth", "90%/month", "--risk"), "no forecast"),
        ((*MADE_UP, "--model", "Qwen/Qwen3-8B", "--algorithm", "nsga4"), "did you mean 'nsga3'"),
        ((*MADE_UP, "--model", "Qwen/Qwen3-8B", "--region", "mars"), "unknown region"),
        ((*MADE_UP, "--model", "Qwen/Qwen3-8B", "--gpu", "a30", "--price", "reserved"), "no reserved price of a30"),
        ((*MADE_UP, "--model", "Qwen/Qwen3-8B", "--max-gpus", "4", "--node-size", "8"), "--node-size"),
        ((*MADE_UP, "--model", "Qwen/Qwen3-8B", "--ray-address", "127.0.0.1:1"), "needs the executor"),
        ((*MADE_UP, "--model", "Qwen/Qwen3-8B", "--traffic", "t.csv"), "leave out --traffic"),
        (("--traffic", "none.csv", "--model", "Qwen/Qwen3-8B"), "there is no file"),
        (("--request-rate", "2", "--model", "Qwen/Qwen3-8B"), "--input-len"),
    ],
)
def test_bad_input_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: tuple[str, ...], said: str
) -> None:
    code, out, err = run(capsys, tmp_path, "plan", *flags)
    assert code == 2
    assert out == ""
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_the_azure_conversation_trace(capsys: pytest.CaptureFixture[str], tmp_path: Path, shared: Path) -> None:
    trace = shared / "traces" / "AzureLLMInferenceTrace_conv.csv"
    flags = ("--budget", "120k/month", "--ttft", "500ms", "--tpot", "50ms", "--format", "json")
    code, out, _ = run(capsys, tmp_path, "plan", "--traffic", str(trace), "--model", "Qwen/Qwen3-32B", *flags)
    payload = json.loads(out)
    assert code == 0
    assert payload["screened"] >= 1000
    assert len(payload["gpus_on_whole_trace"]) >= 3
    assert all(option["slo_met"] and option["usd_per_month"] <= 120_000 for option in payload["options"])
    assert payload["traffic"]["requests"] == 19_366
