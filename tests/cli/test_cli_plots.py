"""``--plot``, and the width of every table: 100 columns, as they are counted in a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twin.cli.main import main
from twin.show.draw.look import columns

WIDTH = 100
MADE_UP = ("--request-rate", "3", "--input-len", "800", "--output-len", "150", "--num-requests", "300")
ASKED = ("plan", *MADE_UP, "--model", "Qwen/Qwen3-8B", "--gpu", "h100_sxm", "--ttft", "600", "--tpot", "40")
SMALL = ("--tensor-parallel-size", "1", "--jobs", "1")
SCENARIO = """\
name: small
model: Qwen/Qwen3-8B
traffic: {synthetic: {request_rate: 4, num_requests: 200, input_len: 500, output_len: 60}}
deployment: {gpu: h100_sxm, replicas: 1}
slo: {ttft: 600ms, tpot: 40ms}
"""


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SCENARIO)
    return path


def too_wide(text: str) -> list[str]:
    return [line for line in text.splitlines() if columns(line) > WIDTH]


def test_a_plan_is_drawn_below_its_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = (*ASKED, *SMALL, "--out", str(tmp_path))
    code, out, _ = run(capsys, *flags, "--plot")
    assert code == 0
    assert too_wide(out) == []
    assert "\x1b" not in out
    table, front, load = (
        out.index("Options that hold"),
        out.index("Cost against latency"),
        out.index("TTFT against load"),
    )
    assert table < front < load < out.index("TPOT against load")
    assert "promised: p99 TTFT ≤ 600 ms" in out[front:load]
    plan = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert plan["load_curve"]["fidelity"] in out
    assert "plot" not in json.loads((tmp_path / "plan" / "flags.json").read_text()), (
        "how it was shown is not the question"
    )
    assert run(capsys, *flags)[1] == out[: front - 1], "the table is what it is without"


def test_a_simulation_is_drawn_and_its_curve_kept(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenario: Path
) -> None:
    code, out, _ = run(capsys, "simulate", str(scenario), "--plot", "--out", str(tmp_path))
    assert code == 0
    assert too_wide(out) == []
    assert out.index("TTFT against load") < out.index("TPOT against load")
    summary = json.loads((tmp_path / "small" / "summary.json").read_text())
    assert summary["load_curve"]["fidelity"] in out


@pytest.mark.parametrize("command", [ASKED, ("simulate", "nowhere.yaml")], ids=["plan", "simulate"])
@pytest.mark.parametrize("fmt", ["json", "csv", "md"])
def test_only_a_table_has_plots(capsys: pytest.CaptureFixture[str], command: tuple[str, ...], fmt: str) -> None:
    code, _, err = run(capsys, *command, "--plot", "--format", fmt)
    assert code == 2
    assert err == f"error: --plot draws after the table, and --format {fmt} has none; leave one of them out\n"


@pytest.mark.parametrize(
    "command",
    [
        ("hardware", "list"),
        ("hardware", "show", "h100_sxm"),
        ("hardware", "show", "rtx_pro_6000_server"),
        ("hardware", "compare", "h100_sxm", "l40s", "b200_sxm"),
        ("model", "list"),
        ("model", "show", "Qwen/Qwen3-8B"),
        ("claims",),
        ("traffic", "show", "{trace}"),
        ("--help",),
        ("plan", "--help"),
    ],
    ids=" ".join,
)
def test_tables_fit(capsys: pytest.CaptureFixture[str], command: tuple[str, ...], tmp_path: Path) -> None:
    trace = tmp_path / "一个很长的名字的流量文件.csv"
    trace.write_text(
        "arrival_s,input_tokens,output_tokens\n" + "".join(f"{at},{100 + at},{10 + at}\n" for at in range(50))
    )
    _, out, err = run(capsys, *(part.format(trace=trace) for part in command))
    assert out, err
    assert too_wide(out) == []


def test_tables_of_runs_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path, scenario: Path) -> None:
    for replicas in ("1", "2"):
        arguments = ("--set", f"deployment.replicas={replicas}", "--out", str(tmp_path))
        assert too_wide(run(capsys, "simulate", str(scenario), *arguments)[1]) == []
    code, out, err = run(capsys, "compare", str(tmp_path / "small"), str(tmp_path / "small-2"))
    assert code == 0, err
    assert too_wide(out) == []


def test_a_plan_with_risk_growth_and_an_explanation_fits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    more = ("--risk", "--worlds", "8", "--growth", "5%±2%/month", "--explain", "recommended", "--plot")
    code, out, err = run(capsys, *ASKED, *SMALL, *more, "--out", str(tmp_path))
    assert code == 0, err
    assert too_wide(out) == []
    assert ". ends of the interval" in out[out.index("Cost against latency") :]
