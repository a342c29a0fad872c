"""Precisions as a decision of ``twin plan``: flags, limits, and what each option says of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from twin.cli.main import main
from twin.plan.fixed import evaluate_fixed
from twin.plan.request import PlanRequest
from twin.search.precisions import KV_CACHE_DTYPES, QUANTIZATIONS, Precisions
from twin.spec.model import load_model
from twin.spec.precision import expected_loss
from twin.spec.scenario import load_scenario

Ask = Callable[..., PlanRequest]

MADE_UP = ("--request-rate", "4", "--input-len", "600", "--output-len", "80", "--num-requests", "400")
ASKED = ("plan", *MADE_UP, "--model", "Qwen/Qwen3-8B", "--gpu", "h100_sxm", "--ttft", "600", "--max-gpus", "2")


def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, *flags: str) -> tuple[int, str, str]:
    code = main([*ASKED, *flags, "--out", str(tmp_path / "runs"), "--jobs", "1"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_usual_formats_and_a_checkpoint_of_its_own() -> None:
    dense = load_model("Qwen/Qwen3-8B")
    assert Precisions().of(dense) == (QUANTIZATIONS, KV_CACHE_DTYPES)
    published = dense.model_copy(update={"quantization": "fp8_block"})
    assert Precisions().of(published)[0] == (None,)
    assert Precisions(quantizations=("nvfp4",)).of(published)[0] == ("nvfp4",)


def test_every_option_says_what_it_loses_and_by_whose_figures(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(capsys, tmp_path, "--kv-cache-dtype", "fp8", "--max-gpus", "1", "--format", "json")
    options = json.loads(out)["options"]
    assert code == 0
    assert options
    for option in options:
        assert option["kv_cache_dtype"] == "fp8"
        assert option["precision"]["expected_accuracy_loss"] == expected_loss(option["quantization"], "fp8").value
        assert "neuralmagic/Meta-Llama-3-70B-Instruct-FP8-KV" in option["precision"]["accuracy_loss_source"]


def test_flags_choose_formats_and_vllm_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, tmp_path, "--quantization", "ffn_fp8", "--kv-cache-dtype", "auto", "--format", "json")
    assert code == 0
    plan = json.loads(out)
    chosen = next(option for option in plan["options"] if option["id"] == plan["recommended"])
    assert (chosen["quantization"], chosen["kv_cache_dtype"]) == ("ffn_fp8", "auto")
    assert "--quantization fp8_per_tensor --quantization-config" in chosen["vllm_command"]
    assert chosen["precision"]["expected_accuracy_loss"] is None
    scenario = load_scenario(tmp_path / "runs" / "plan" / "scenario.yaml")
    assert scenario.deployment.quantization == "ffn_fp8"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--min-bits", "16"), "below --min-bits 16"),
        (("--max-accuracy-loss", "0.1%"), "above --max-accuracy-loss 0.001"),
    ],
)
def test_limits_rule_out_with_a_reason_and_a_count(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: tuple[str, ...], said: str
) -> None:
    code, out, _ = run(capsys, tmp_path, *flags, "--format", "json")
    assert code == 0
    plan = json.loads(out)
    assert {(option["quantization"], option["kv_cache_dtype"]) for option in plan["options"]} == {(None, "auto")}
    assert all(item["count"] > 0 for item in plan["rejected"])
    assert any(said in item["reason"] for item in plan["rejected"])


def test_a_limit_that_leaves_nothing_is_what_binds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, tmp_path, "--min-bits", "17", "--format", "json")
    assert code == 3
    assert json.loads(out)["binding"].startswith("min_bits: ")


def test_a_limit_that_contradicts_the_formats_asked_for_is_bad_input(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(capsys, tmp_path, "--quantization", "fp8", "--min-bits", "16", "--format", "json")
    assert code == 2
    said = json.loads(out)["error"]["message"]
    assert "--quantization fp8" in said
    assert "--min-bits 16" in said


def test_a_deployment_to_judge_is_held_against_the_limits(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "today.yaml"
    file.write_text(
        "model: Qwen/Qwen3-8B\ndeployment: {gpu: h100_sxm, quantization: fp8}\n"
        "traffic: {synthetic: {request_rate: 2, num_requests: 100, input_len: 200, output_len: 20}}\n"
    )
    request = replace(ask("h100_sxm"), precisions=Precisions(min_bits=16))
    answer = evaluate_fixed(request, load_scenario(file)).payload
    assert "fp8 weights with auto KV cache: 8 bits, below --min-bits 16" in answer["fixed"]["misses"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--quantization", "nvpf4"), "unknown quantization 'nvpf4'; did you mean 'nvfp4'"),
        (("--kv-cache-dtype", "fp4"), "unknown kv_cache_dtype 'fp4'"),
        (("--max-accuracy-loss", "120%"), "--max-accuracy-loss: '120%' is not a share below 1"),
    ],
)
def test_what_is_not_understood(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: tuple[str, ...], said: str
) -> None:
    code, out, err = run(capsys, tmp_path, *flags)
    assert code == 2
    assert said in out + err
    assert not (tmp_path / "runs").exists()
