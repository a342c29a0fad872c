"""Speed and accuracy of whole commands."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TWIN = ROOT / ".venv" / "bin" / "twin"

MODELS = (
    ("dense rows", "Llama", 3, 7),
    ("gpt-oss-120b", "gpt-oss", 8, 12),
    ("MiniMax-M2.5", "MiniMax", 8, 12),
    ("all rows", "", None, 12),
)
"""Rows of the development table: what they are, how their model is called, and the most TPOT and TTFT may be off, in %."""


def run(*arguments: object) -> tuple[float, bytes]:
    """Wall seconds and stdout of a ``twin`` command that must succeed."""
    start = time.perf_counter()
    done = subprocess.run([TWIN, *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return time.perf_counter() - start, done.stdout


def test_help(benchmark, figure) -> None:
    benchmark.pedantic(run, args=("--help",), rounds=1)
    figure("twin --help", statistics.median(run("--help")[0] for _ in range(7)), "s", at_most=0.5)


def test_plan(benchmark, figure, shared: Path, tmp_path: Path) -> None:
    trace = shared / "traces" / "AzureLLMInferenceTrace_conv.csv"
    asked = (
        "plan", "--traffic", trace, "--model", "Qwen/Qwen3-32B", "--budget", "120k/month", "--ttft", "p90:1s",
        "--tpot", "p90:50ms", "--max-model-len", "16384", "--format", "json", "--out", tmp_path,
    )  # fmt: skip
    seconds, out = benchmark.pedantic(run, args=asked, rounds=1)
    plan = json.loads(out)
    figure("plan for the Azure conversation trace, all measured GPU types", seconds, "s", at_most=60)
    figure("configurations screened after memory pruning", plan["screened"], "", at_least=1000)
    figure("the same plan with --risk", run(*asked, "--risk")[0], "s", at_most=180)


def test_validate(benchmark, figure, shared: Path, tmp_path: Path) -> None:
    table = shared / "groundtruth" / "inferencex_vllm_dev.csv"
    arguments = ("validate", table, "--out", tmp_path / "pred.csv", "--format", "json")
    seconds, out = benchmark.pedantic(run, args=arguments, rounds=1)
    errors = json.loads(out)["errors"]
    for what, model, tpot, ttft in MODELS:
        rows = [
            row for row in errors if model in row.get("model", "") and row["system"] != "all" and not row["saturated"]
        ]
        for metric, target in (("tpot", tpot), ("ttft", ttft)):
            mape = sum(row[f"{metric}_mape"] * row["rows"] for row in rows) / sum(row["rows"] for row in rows)
            figure(f"{metric.upper()} MAPE, {what}, away from saturation", 100 * mape, "%", at_most=target)
    figure("validate the development table", seconds, "s", at_most=60)
