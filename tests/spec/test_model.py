"""Sizes of models against what their authors published, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.base import InputError
from twin.spec.hardware import load_profile
from twin.spec.model import load_model, model_from_config, model_names
from twin.spec.precision import check_precision, precision_obstacle

# Parameters as the model cards state them
PUBLISHED = {
    "meta-llama/Llama-3.1-8B": 8.03e9,
    "meta-llama/Llama-3.1-70B": 70.55e9,
    "meta-llama/Llama-3.1-405B": 405.85e9,
    "Qwen/Qwen3-8B": 8.19e9,
    "Qwen/Qwen3-32B": 32.76e9,
    "mistralai/Mistral-7B-v0.3": 7.25e9,
    "Qwen/Qwen2.5-7B": 7.62e9,
    "Qwen/Qwen2.5-72B": 72.71e9,
}
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


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    assert load_model(name).num_parameters == pytest.approx(PUBLISHED[name], rel=0.005)


def test_every_shipped_model_loads_under_its_name() -> None:
    assert set(PUBLISHED) <= set(model_names())
    assert [load_model(name).name for name in model_names()] == model_names()


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
    [("Qwen/Qwen3-33B", "Qwen/Qwen3-32B"), ("mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.3")],
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


def test_defaults_of_a_config() -> None:
    model = model_from_config(_config(num_key_value_heads=...), name="mha")
    assert (model.num_key_value_heads, model.head_dim) == (8, 64)
    with_bias = model_from_config(_config(attention_bias=True), name="bias")
    assert (with_bias.qkv_bias, with_bias.o_bias) == (True, True)
    qwen2 = load_model("Qwen2.5-7B")
    assert (qwen2.qkv_bias, qwen2.o_bias, qwen2.qk_norm) == (True, False, False)
    assert load_model("Qwen3-8B").qk_norm


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
        (
            {"architectures": ["MixtralForCausalLM"], "num_local_experts": 8},
            "MixtralForCausalLM .a mixture of exp",
        ),
        ({"architectures": ["DeepseekV3ForCausalLM"], "kv_lora_rank": 512}, "multi-head latent attention"),
        ({"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {"a": 1}}, "vision tower"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 4096}, "sliding window of 4096"),
        ({"architectures": ["Qwen2ForCausalLM"], "layer_types": ["full_attention", "x"]}, "other than full"),
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM is not modelled"),
        ({"architectures": []}, "no architecture"),
        ({"quantization_config": {"quant_method": "awq"}}, "already quantised"),
    ],
)
def test_other_architectures_are_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        model_from_config(_config(**change), name="x")
    assert "give the config.json of a dense decoder" in str(caught.value)


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
    with pytest.raises(InputError, match="until their emulation is modelled"):
        check_precision(a100, quantization="fp8", kv_cache_dtype="auto")
    assert precision_obstacle(a100, quantization=None, kv_cache_dtype="fp8") is not None
    with pytest.raises(InputError, match="unknown quantization 'awq'"):
        check_precision(h100, quantization="awq", kv_cache_dtype="auto")
    with pytest.raises(InputError, match="unknown kv_cache_dtype 'fp4'"):
        check_precision(h100, quantization=None, kv_cache_dtype="fp4")
