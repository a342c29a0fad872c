"""Sizes of models against what their authors published, and what is refused."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.base import InputError
from twin.spec.hardware import load_profile
from twin.spec.layers import Attention
from twin.spec.model import ModelSpec, load_model, model_from_config, model_names
from twin.spec.precision import check_precision, precision_obstacle, weight_format

TABLE = Path(__file__).with_name("published_sizes.csv")


def _published() -> list[dict[str, str]]:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


PUBLISHED = _published()
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 8192,
}


def _config(**change: Any) -> dict[str, Any]:
    return {key: value for key, value in (LLAMA | change).items() if value is not ...}


@pytest.mark.parametrize("row", PUBLISHED, ids=[row["model"] for row in PUBLISHED])
def test_sizes_are_the_published_ones(row: dict[str, str]) -> None:
    """Parameters within 0.5 %, KV bytes of a token in 16 bits exactly (by hand: the product stands in the table)."""
    model = load_model(row["model"])
    if row["parameters"]:
        assert model.num_parameters == pytest.approx(int(row["parameters"]), rel=0.005)
    assert model.kv_bytes_per_token() == math.prod(int(factor) for factor in row["kv_bytes_per_token"].split("*"))


def test_enough_models_are_checked() -> None:
    assert sum(bool(row["parameters"]) for row in PUBLISHED) >= 25
    assert all(row["source"] for row in PUBLISHED)


def test_deepseek_v3_caches_what_its_authors_say() -> None:
    """70.272 KB per token in bf16: arXiv 2505.09343, table 1."""
    assert load_model("DeepSeek-V3").kv_bytes_per_token() == 70_272


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("gpt-oss-120b", 5.13),
        ("gpt-oss-20b", 3.61),
        ("DeepSeek-V3", 37),
        ("Qwen3-30B-A3B", 3.3),
        ("Mixtral-8x7B-v0.1", 12.9),
    ],
)
def test_active_parameters(name: str, billions: float) -> None:
    """As model cards say; gpt-oss's leaves the input embedding out."""
    model = load_model(name)
    table = model.hidden_size * model.vocab_size if "gpt-oss" in name else 0
    assert (model.active_parameters - table) / 1e9 == pytest.approx(billions, rel=0.02)


def test_every_shipped_model_loads_under_its_name() -> None:
    assert [load_model(name).name for name in model_names()] == model_names()
    assert len(model_names()) >= 30


@pytest.mark.parametrize(
    ("asked", "context", "name"),
    [
        ("qwen/qwen3-32b", 40960, "Qwen/Qwen3-32B"),
        ("Qwen3-8B", 40960, "Qwen/Qwen3-8B"),
        ("Llama-3.1-8B-Instruct", 131072, "meta-llama/Llama-3.1-8B"),
        ("meta-llama/Llama-3.1-70B-Instruct", 131072, "meta-llama/Llama-3.1-70B-Instruct"),
        ("meta-llama/Meta-Llama-3.1-8B", 131072, "meta-llama/Meta-Llama-3.1-8B"),
        ("Mistral-7B", 32768, "mistralai/Mistral-7B-v0.3"),
        ("mistralai/Mistral-7B-Instruct-v0.3", 32768, "mistralai/Mistral-7B-Instruct-v0.3"),
        ("Qwen2.5-7B", 131072, "Qwen/Qwen2.5-7B"),
        ("Qwen2.5-7B-Instruct", 32768, "Qwen/Qwen2.5-7B-Instruct"),
    ],
)
def test_spellings(asked: str, context: int, name: str) -> None:
    model = load_model(asked)
    assert (model.max_position_embeddings, model.name) == (context, name)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [("Qwen/Qwen3-33B", "Qwen/Qwen3-32B"), ("openai/gpt-oss-121b", "openai/gpt-oss-120b")],
)
def test_unknown_model_names_the_nearest_and_the_way_out(asked: str, nearest: str) -> None:
    with pytest.raises(InputError, match=r"path of its config\.json") as caught:
        load_model(asked)
    assert caught.value.nearest == nearest


def test_weights_per_gpu() -> None:
    """Llama-3.1-70B: vLLM logs 33.88 GiB in fp8 on two GPUs (github.com/llm-d-incubation/llm-d-planner)."""
    model = load_model("Llama-3.1-70B")
    assert model.weight_bytes() == 2 * model.num_parameters
    assert model.weight_bytes("fp8", tp=2) / 2**30 == pytest.approx(33.88, rel=0.002)
    assert model.weight_bytes(tp=8) * 8 == pytest.approx(model.weight_bytes(), rel=1e-3)


def test_kv_bytes_per_token() -> None:
    model = load_model("Llama-3.1-70B")
    assert model.kv_bytes_per_token() == 80 * 2 * 8 * 128 * 2
    assert model.kv_bytes_per_token("fp8", tp=4) == 80 * 2 * 2 * 128
    assert model.kv_bytes_per_token(tp=8) == model.kv_bytes_per_token(tp=16)


def test_vocabulary_is_padded_before_it_is_sharded() -> None:
    model = model_from_config(_config(vocab_size=32001), name="odd")
    assert model.padded_vocab_size == 32064
    assert model.weight_bytes() - 2 * model.num_parameters == 2 * 2 * 63 * 512


def test_tensor_parallel_must_divide() -> None:
    model = load_model("Qwen2.5-7B")  # 28 heads, 4 KV heads
    for fine in (1, 2, 4):
        model.check_tensor_parallel(fine)
    with pytest.raises(InputError, match=r"28 attention heads .* do not divide by tensor_parallel_size 8"):
        model.check_tensor_parallel(8)
    with pytest.raises(InputError, match="at least 1"):
        model.check_tensor_parallel(0)
    three = model_from_config(
        _config(num_attention_heads=12, num_key_value_heads=3, hidden_size=1536, intermediate_size=1536),
        name="x",
    )
    assert three.tensor_parallel_obstacle(6) is not None  # 6 does not divide the padded vocabulary
    assert "neither divide" in str(three.tensor_parallel_obstacle(2))


@given(
    layers=st.integers(1, 8),
    groups=st.integers(1, 4),
    kv_heads=st.sampled_from([1, 2, 4, 8]),
    tp=st.sampled_from([1, 2, 4, 8]),
    tied=st.booleans(),
    bias=st.booleans(),
)
def test_shards_hold_at_least_the_whole(
    layers: int, groups: int, kv_heads: int, tp: int, tied: bool, bias: bool
) -> None:
    """``tp`` GPUs together hold the model plus what is replicated: never less, at most ``tp`` times it."""
    config = _config(
        num_hidden_layers=layers,
        num_attention_heads=8 * groups,
        num_key_value_heads=kv_heads,
        head_dim=64,
        tie_word_embeddings=tied,
        attention_bias=bias,
    )
    model = model_from_config(config, name="x")
    one, each = model.weight_bytes(), model.weight_bytes(tp=tp)
    assert one <= tp * each <= tp * one
    assert model.weight_bytes("fp8", tp) < each
    assert tp * model.kv_bytes_per_token(tp=tp) >= model.kv_bytes_per_token()


def _mixer(model: ModelSpec) -> Attention:
    mixer = model.layers[0].mixer
    assert isinstance(mixer, Attention)
    return mixer


def test_defaults_of_a_config() -> None:
    mha = _mixer(model_from_config(_config(num_key_value_heads=...), name="mha"))
    assert (mha.num_kv_heads, mha.head_dim) == (8, 64)
    with_bias = _mixer(model_from_config(_config(attention_bias=True), name="bias"))
    assert (with_bias.qkv_bias, with_bias.o_bias) == (True, True)
    qwen2 = _mixer(load_model("Qwen2.5-7B"))
    assert (qwen2.qkv_bias, qwen2.o_bias, qwen2.qk_norm) == (True, False, None)
    assert _mixer(load_model("Qwen3-8B")).qk_norm == "head"


def _counts(name: str) -> dict[tuple[str, str], int]:
    """Layers by what they are made of."""
    found: Counter[tuple[str, str]] = Counter()
    for layer in load_model(name).layers:
        mixer = layer.mixer.kind if layer.mixer is not None else ""
        sees = f" {layer.mixer.window}" if layer.mixer is not None and layer.mixer.window else ""
        found[mixer + sees, layer.mlp.kind if layer.mlp is not None else ""] += layer.count
    return dict(found)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("gpt-oss-120b", {("attention 128", "experts"): 18, ("attention", "experts"): 18}),
        ("gemma-3-27b-it", {("attention 1024", "mlp"): 52, ("attention", "mlp"): 10}),
        ("DeepSeek-V3", {("latent", "mlp"): 3, ("latent", "experts"): 58}),
        (
            "Llama-4-Maverick-17B-128E",
            {("attention 8192", "mlp"): 24, ("attention 8192", "experts"): 12, ("attention", "experts"): 12},
        ),
        ("Qwen3.5-35B-A3B", {("linear", "experts"): 30, ("attention", "experts"): 10}),
        ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", {("mamba", ""): 23, ("attention", ""): 6, ("", "experts"): 23}),
        ("Mistral-7B-v0.1", {("attention 4096", "mlp"): 32}),
        ("Qwen2.5-7B", {("attention", "mlp"): 28}),
    ],
)
def test_layers_of_each_kind(name: str, counts: dict[tuple[str, str], int]) -> None:
    assert _counts(name) == counts


def test_layers_stand_in_their_order() -> None:
    model = load_model("gemma-3-4b-it")
    full = [index for index, layer in enumerate(model.in_order) if layer.mixer is not None and not layer.mixer.window]
    assert full == [5, 11, 17, 23, 29]


def test_stages_hold_the_whole_model_once() -> None:
    for name in ("gemma-3-4b-it", "DeepSeek-V3", "Llama-3.1-8B"):
        model, stages = load_model(name), 3
        parts = [model.stage(stage, stages) for stage in range(stages)]
        assert tuple(kind.mixer for part in parts for kind in part.in_order) == tuple(k.mixer for k in model.in_order)
        held: Counter[str] = Counter()
        for stage, part in enumerate(parts):
            held += part.weights(embedding=stage == 0, head=stage == stages - 1)
        tied = model.hidden_size * model.padded_vocab_size * model.tie_word_embeddings  # stands on both ends
        held["embedding"] -= tied
        assert held == model.weights()


def test_left_out_is_said() -> None:
    assert load_model("Qwen3.5-35B-A3B").left_out == ("vision tower", "drafting layers (MTP): 1")
    assert load_model("DeepSeek-R1").left_out == ("drafting layers (MTP): 1",)
    assert load_model("Qwen3-8B").left_out == ()


def test_overrides_replace_fields() -> None:
    windowed = load_model("Qwen3-32B", {"sliding_window": 2048})
    assert {layer.mixer.window for layer in windowed.layers if layer.mixer} == {2048}
    assert windowed.num_parameters == load_model("Qwen3-32B").num_parameters
    assert load_model("gemma-3-4b-it", {"text_config": {"num_hidden_layers": 6}}).num_hidden_layers == 6
    with pytest.raises(InputError, match=r"unknown field 'sliding_windw'.*'sliding_window'"):
        load_model("Qwen3-32B", {"sliding_windw": 2048})
    with pytest.raises(InputError, match="'sliding_window' is 'wide'"):
        load_model("Qwen3-32B", {"sliding_window": "wide"})


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (None, None),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "awq", "bits": 4}, "w4a16"),
        ({"quant_method": "gptq", "bits": 4}, "w4a16"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int"}, "input_activations": {}}},
            },
            "int8",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}, "input_activations": None}},
            },
            "w4a16",
        ),
    ],
)
def test_formats_of_checkpoints(config: dict[str, Any] | None, name: str | None) -> None:
    model = model_from_config(_config(quantization_config=config), name="x")
    assert model.quantization == name
    weight_format(model.quantization)


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        (None, 8192),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        ({"type": "linear", "factor": 2.0}, 16384),
        ({"rope_type": "dynamic", "factor": 2}, 16384),
        ({"rope_type": "default", "rope_theta": 1e6}, 8192),
    ],
)
def test_context_as_vllm_derives_it(rope: object, context: int) -> None:
    assert model_from_config(_config(rope_scaling=rope), name="x").max_position_embeddings == context
    assert model_from_config(_config(rope_parameters=rope), name="x").max_position_embeddings == context


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM is not modelled.*one of: Llama, "),
        ({"architectures": []}, "no architecture"),
        ({"architectures": ["MixtralForCausalLM"]}, "'num_local_experts' is missing"),
        ({"sliding_window": 64, "layer_types": ["full_attention", "x", "x", "x"]}, "'x' are not modelled"),
        ({"sliding_window": 64, "layer_types": ["full_attention"]}, "an entry for each layer"),
        ({"quantization_config": {"quant_method": "hqq"}}, "quantised by 'hqq' are not modelled"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "'gptq' are not modelled"),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        model_from_config(_config(**change), name="x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": ...}, "'hidden_size' is missing"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' is 0"),
        ({"vocab_size": "big"}, "'vocab_size' is 'big'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "two"}}, "rope_scaling"),
        ({"rope_scaling": ["yarn"]}, "rope_scaling"),
        ({"num_attention_heads": 1024}, "'head_dim' is 0"),
    ],
)
def test_broken_configs_say_which_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        model_from_config(_config(**change), name="x")


def test_a_local_config(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    assert load_model(folder).name == "mine"
    assert load_model(str(folder / "config.json")) == load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_model(folder)
    with pytest.raises(InputError, match="No such file"):
        load_model(tmp_path / "none.json")


def test_precisions_that_a_gpu_is_modelled_with() -> None:
    h100, a100 = load_profile("h100_sxm"), load_profile("a100_sxm")
    check_precision(h100, quantization="fp8", kv_cache_dtype="fp8")
    check_precision(a100, quantization=None, kv_cache_dtype="auto")
    check_precision(a100, quantization="fp8", kv_cache_dtype="auto")  # as weights alone
    with pytest.raises(InputError, match="int8 products stop"):
        check_precision(load_profile("b200_sxm"), quantization="int8", kv_cache_dtype="auto")
    assert precision_obstacle(a100, quantization=None, kv_cache_dtype="fp8") is not None
    with pytest.raises(InputError, match="unknown quantization 'awk'"):
        check_precision(h100, quantization="awk", kv_cache_dtype="auto")
    with pytest.raises(InputError, match="unknown kv_cache_dtype 'fp4'"):
        check_precision(h100, quantization=None, kv_cache_dtype="fp4")
