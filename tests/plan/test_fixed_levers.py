"""What is deployed today may pull levers, or be no vLLM at all: the command says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twin.base import InputError
from twin.cli.main import main
from twin.spec.scenario import load_scenario
from twin.trust.live.target import Target

SCENARIO = """
model: Qwen/Qwen3-8B
traffic: {synthetic: {request_rate: 2, num_requests: 100, input_len: 200, output_len: 50}}
deployment: {gpu: h100_sxm}
"""


@pytest.mark.parametrize(
    ("engine", "ends"),
    [
        ("{enforce_eager: true, cpu_offload_gb: 2}", "--enforce-eager --cpu-offload-gb 2"),
        ("{fuse_act_quant: false}", """--compilation-config '{"pass_config": {"fuse_act_quant": false}}'"""),
        ("{batching: static, max_num_seqs: 8}", "# vLLM has no static batching"),
        ("{kv_cache: contiguous, max_model_len: 2048}", "# vLLM has no KV cache that is contiguous"),
    ],
)
def test_the_command_of_a_fixed_deployment_pulls_its_levers(
    engine: str, ends: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "today.yaml"
    path.write_text(f"{SCENARIO}engine: {engine}\n", encoding="utf-8")
    budget = ["--budget", "8gpu", "--ttft", "60s", "--tpot", "1s"]
    main(["plan", "--fixed", str(path), *budget, "--format", "json", "--quiet"])
    plan = json.loads(capsys.readouterr().out)
    (shown,) = plan["options"] or plan["near_misses"]
    assert shown["vllm_command"].endswith(ends)


def test_a_baseline_cannot_be_verified_on_vllm(tmp_path: Path) -> None:
    path = tmp_path / "today.yaml"
    path.write_text(f"{SCENARIO}engine: {{batching: static, max_num_seqs: 8}}\n", encoding="utf-8")
    scenario = load_scenario(path)
    target = Target("plan", scenario, scenario.model_spec, scenario.profile, "words")
    with pytest.raises(InputError, match="a baseline cannot be verified"):
        target.flags()
