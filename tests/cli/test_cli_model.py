"""``twin model show``: what a person reads and what a script parses say the same, and follow from the model's sizes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from twin.cli.main import main
from twin.cost.layout import Layout
from twin.cost.memory import memory_budget
from twin.cost.model_payload import compute_bound_batch, decode_bytes, flops_per_token
from twin.spec.hardware import load_profile
from twin.spec.model import load_model

SHIPPED = Path(__file__).resolve().parents[2] / "twin" / "spec" / "models"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["model", "show", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_json_is_complete_and_agrees_with_the_memory_of_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(run(capsys, "Qwen3-32B", "--format", "json"))
    model = load_model("Qwen3-32B")
    assert next(iter(data)) == "schema_version"
    assert data["parameters"] == data["active_parameters"] == model.num_parameters
    assert data["weight_bytes"]["fp8"] == model.weight_bytes("fp8")
    assert data["kv_bytes_per_token"] | {"auto": 262144, "fp8": 131072} == data["kv_bytes_per_token"]
    assert data["request_bytes"]["auto"] == 8192 * 262144
    h100 = next(gpu for gpu in data["gpus"] if gpu["gpu"] == "h100_sxm")
    for fit in h100["fits"]:
        budget = memory_budget(model, load_profile("h100_sxm"), Layout(fit["tensor_parallel_size"]))
        assert fit["kv_tokens"] == budget.kv_tokens
        assert fit["max_concurrency_8k"] == pytest.approx(budget.num_gpu_blocks / 512, abs=0.05)


@pytest.mark.parametrize(
    "name", ["gpt-oss-120b", "DeepSeek-V3", "Qwen3.5-397B-A17B", "Llama-4-Scout", "Nemotron-H-56B-Base-8K"]
)
def test_a_person_reads_it_in_100_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = next(p.stem.replace("--", "/") for p in SHIPPED.glob("*.json") if name in p.stem)
    table = run(capsys, name)
    assert max(map(len, table.splitlines())) <= 100
    assert name in table
    for part in load_model(name).left_out:
        assert part in table


def test_rows_are_of_one_gpu_and_tp(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(run(capsys, "Qwen2.5-7B", "--format", "csv"))))
    eight = next(row for row in rows if (row["gpu"], row["tensor_parallel_size"]) == ("h200_sxm", "8"))
    assert eight["kv_tokens"] == ""
    assert "28 attention heads" in eight["why_not"]


def test_another_format_changes_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    def tokens(*flags: str) -> int:
        data = json.loads(run(capsys, "Llama-3.1-70B", *flags, "--format", "json"))
        gpu = next(gpu for gpu in data["gpus"] if gpu["gpu"] == "h100_sxm")
        found: int | None = gpu["fits"][0]["kv_tokens"]
        return found or 0

    assert tokens() == 0
    assert tokens("--quantization", "w4a16") > 0
    assert tokens("--quantization", "w4a16", "--kv-cache-dtype", "fp8") == pytest.approx(
        2 * tokens("--quantization", "w4a16"), abs=16
    )


def test_compute_takes_over_where_the_roofline_bends() -> None:
    """A dense model: at the ratio of peak to bandwidth, times the bytes of a weight over its two FLOPs."""
    profile, model = load_profile("h100_sxm"), load_model("Llama-3.1-70B")
    facts = profile.facts
    found = compute_bound_batch(model, profile, None)
    assert found == pytest.approx(facts.flops.bf16.value / facts.mem_bw_bytes_per_s.value, rel=0.01)
    mixture = load_model("Qwen3-30B-A3B")
    for batch in (1, 16, 4096):
        assert decode_bytes(mixture, None, batch) <= mixture.weight_bytes()
    assert decode_bytes(mixture, None, 1) == pytest.approx(flops_per_token(mixture), rel=0.01)  # two bytes, two FLOPs
    assert decode_bytes(mixture, None, 4096) == pytest.approx(mixture.weight_bytes() - 2 * 2048 * 151936, rel=0.001)


def test_an_unknown_name_or_format_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "show", "gpt-oss-121b"]) == 2
    assert "did you mean 'openai/gpt-oss-120b'?" in capsys.readouterr().err
    assert main(["model", "show", "gpt-oss-120b", "--quantization", "nvfp5"]) == 2
    assert "did you mean 'nvfp4'?" in capsys.readouterr().err


def test_a_config_json_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine" / "config.json"
    path.parent.mkdir()
    path.write_text((SHIPPED / "Qwen--Qwen3-8B.json").read_text())
    mine, shipped = (json.loads(run(capsys, name, "--format", "json")) for name in (str(path), "Qwen3-8B"))
    assert (mine.pop("name"), shipped.pop("name")) == ("mine", "Qwen/Qwen3-8B")
    assert mine == shipped
