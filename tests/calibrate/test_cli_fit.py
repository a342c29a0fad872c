"""From measurements to a profile on the command line: this project's own CPU, kernels and engine, as it was measured."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from test_server_logs import result

from twin.cli.main import main
from twin.spec.hardware import load_profile

MEASURED = Path(__file__).parent / "measured"
KERNELS = MEASURED / "epyc_zen5_1c.kernels.jsonl"
STEPS = sorted(MEASURED.glob("epyc_zen5_1c.*.steps.jsonl.gz"))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("profiles")
    arguments = ["calibrate", "fit", "--name", "epyc_zen5_1c", "--kernels", str(KERNELS), "--out", str(out)]
    for log in STEPS:
        arguments += ["--engine", str(log)]
    assert main([*arguments, "--date", "2026-11-21", "--report", str(out / "fit.png"), "--quiet"]) == 0
    return out


def test_the_shipped_cpu_profile_is_what_the_measurements_give(fitted: Path) -> None:
    made, shipped = load_profile(fitted / "epyc_zen5_1c.yaml"), load_profile("epyc_zen5_1c")
    assert made.device == "cpu"
    assert (fitted / "fit.png").stat().st_size > 50_000
    assert made.host is not None
    assert shipped.host is not None
    assert made.host.step_s.value == pytest.approx(shipped.host.step_s.value, rel=1e-3)
    gemm = made.kernels.gemm["bf16"], shipped.kernels.gemm["bf16"]
    assert gemm[0].flops_per_s.value == pytest.approx(gemm[1].flops_per_s.value, rel=1e-3)
    text = (fitted / "epyc_zen5_1c.yaml").read_text()
    assert len(text.splitlines()) < 400
    assert not any(word in text.lower() for word in ("qwen", "llama", "mistral"))


def test_a_fitted_engine_says_how_wrong_its_steps_are(fitted: Path) -> None:
    host = load_profile(fitted / "epyc_zen5_1c.yaml").host
    assert host is not None
    assert host.steps is not None
    assert set(host.steps) == {"in_process", "server"}
    for errors in host.steps.values():
        assert errors.mape < 0.13
        assert errors.coverage90 is not None
        assert 0.8 < errors.coverage90 < 0.97
    assert host.request_s.value > 0
    assert host.correlation is not None
    assert host.correlation[0][0] == 1.0


def test_logs_of_two_machines_leave_the_old_profile(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = gzip.decompress(STEPS[0].read_bytes()).decode().splitlines()
    first = json.loads(rows[0])
    first["engine"]["name"] = "another CPU"
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join([json.dumps(first), *rows[1:2000]]) + "\n")
    profile = tmp_path / "epyc_zen5_1c.yaml"
    profile.write_text((fitted / profile.name).read_text())
    before = profile.read_bytes()
    arguments = ["calibrate", "fit", "--name", "epyc_zen5_1c", "--engine", str(STEPS[0]), "--engine", str(other)]
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert "step logs of different engines or machines: name is AMD EPYC and another CPU" in capsys.readouterr().err
    assert profile.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [[], ["--name", "x"], ["--kernels", str(KERNELS)], ["--runs", "a.csv", "--kernels", str(KERNELS), "--name", "x"]],
)
def test_fit_says_what_it_needs(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "fit", *arguments, "--out", str(tmp_path)]) == 2
    assert "give --runs TABLE, or --name NAME with --kernels LOG" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_results_of_a_server_become_a_table_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for clients in (1, 4):
        file = tmp_path / f"c{clients}.json"
        file.write_text(json.dumps(result(max_concurrency=clients)))
        files.append(str(file))
    table = tmp_path / "runs.csv"
    arguments = ["calibrate", "import", *files, "--runs", str(table), "--system", "h100_sxm", "--precision", "fp8"]
    assert main(arguments) == 0
    assert main(arguments) == 0  # the same results again add nothing
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["concurrency"] for row in rows] == ["1", "4"]
    assert main(["validate", str(table)]) == 0
    assert main([*arguments[:-4], "--system", "h100", "--precision", "fp8"]) == 2
    assert "did you mean 'h100_sxm'" in capsys.readouterr().err


def test_logs_of_a_server_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(__file__).parent / "data"
    logs = [str(data / "vllm_0.32_bench.json"), str(data / "vllm_0.32_cpu_server.log")]
    assert main(["calibrate", "import", *logs, "--format", "json"]) == 0
    requests, server = json.loads(capsys.readouterr().out)["logs"]
    assert requests["clock"] == "client"
    assert requests["mean_ttft_ms"] > 0
    assert server["vllm_version"].startswith("0.32")
    assert server["kv_cache_tokens"] > 0
    assert main(["calibrate", "import", *logs]) == 0
