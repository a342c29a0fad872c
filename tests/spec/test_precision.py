"""The table of number formats: figures have sources, sizes are those of published checkpoints, GPUs refuse what they must."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from twin.base import InputError
from twin.spec.hardware import HardwareProfile, load_profile, profile_names
from twin.spec.judged import Evaluation, Judged
from twin.spec.model import load_model
from twin.spec.precision import (
    expected_loss,
    generation_of,
    kv_bytes_each,
    kv_cache_name,
    precision_obstacle,
    precision_table,
    quantization_name,
    resolved_format,
    resolved_kv,
    weight_format,
)
from twin.spec.precision_page import page
from twin.spec.scenario import Deployment

TABLE = precision_table()
JUDGED: dict[str, Judged] = {**TABLE.formats, **{f"kv {name}": item for name, item in TABLE.kv_cache.items()}}


def with_kernels(gpu: str, *precisions: str) -> HardwareProfile:
    """The profile as if its bf16 products had been timed in these precisions too."""
    profile = load_profile(gpu)
    gemm = {**profile.kernels.gemm, **dict.fromkeys(precisions, profile.kernels.gemm["bf16"])}
    kernels = profile.kernels.model_copy(update={"gemm": gemm})
    return profile.model_copy(update={"kernels": kernels})


@pytest.mark.parametrize("name", JUDGED)
def test_what_is_said_of_a_loss_has_a_source_or_says_that_there_is_none(name: str) -> None:
    item = JUDGED[name]
    assert sum(bool(said) for said in (item.evaluations, item.lossless, item.unknown)) == 1
    for found in item.evaluations:
        assert found.source
        assert found.date
        assert -0.02 < found.loss < 0.2
        assert len(found.reference) == len(found.reached)
    assert (item.loss is None) == bool(item.unknown)
    assert item.loss_source


def test_every_name_leads_to_one_entry() -> None:
    names = [name for key, item in TABLE.formats.items() for name in (key, *item.aliases)]
    assert len(names) == len(set(names))
    used = {precision for item in TABLE.formats.values() for precision in item.roles.values()}
    fallbacks = {fact.fallback for fact in TABLE.precisions.values() if fact.fallback}
    assert used <= TABLE.precisions.keys()
    assert fallbacks == TABLE.emulations.keys()
    placed = [gpu for generation in TABLE.generations.values() for gpu in generation.gpus]
    assert sorted(placed) == profile_names()


# Sums of the safetensors files as Hugging Face lists them, decimal GB: neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8,
# hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4, and that of pavan01729/Meta-Llama-3.1-8B-Instruct-AWQ.
@pytest.mark.parametrize(
    ("model", "quantization", "gigabytes"),
    [
        ("meta-llama/Llama-3.1-70B", None, 141.1),
        ("meta-llama/Llama-3.1-70B", "fp8", 72.7),
        ("meta-llama/Llama-3.1-70B", "awq", 39.77),
        ("meta-llama/Llama-3.1-8B", "w4a16", 5.73),
    ],
)
def test_bytes_are_those_of_published_checkpoints(model: str, quantization: str | None, gigabytes: float) -> None:
    assert load_model(model).weight_bytes(quantization) / 1e9 == pytest.approx(gigabytes, rel=1e-3)


def test_a_format_narrows_only_the_roles_it_names() -> None:
    mixed = weight_format("ffn_int8")
    assert (mixed.dtype("mlp"), mixed.dtype("attention"), mixed.dtype("embedding")) == ("int8", "bf16", "bf16")
    assert (mixed.bytes_each("mlp"), mixed.bytes_each("attention")) == (1.0, 2.0)
    assert weight_format("fp32").bytes_each("embedding") == 4.0
    assert weight_format("mxfp4").bytes_each("experts") == 4.25 / 8
    assert weight_format("sparse_2of4").bytes_each("mlp") == 9 / 8  # half of the weights, 2 bits to say which each was
    assert [weight_format(name).bits for name in (None, "w4a16", "fp8", "fp32")] == [16, 4, 8, 32]


def test_bytes_of_the_cache() -> None:
    assert (kv_bytes_each("auto"), kv_bytes_each("fp8")) == (2.0, 1.0)
    assert kv_bytes_each("int8_per_token_head", head_dim=128) == (128 + 4) / 128  # an fp32 scale per head and token
    assert kv_bytes_each("auto", "fp32") == 4.0
    assert kv_bytes_each("fp8", "fp32") == 1.0


@pytest.mark.parametrize(
    ("gpu", "quantization", "computes"),
    [("a100_sxm", "fp8", "w8a16"), ("l40s", "fp8_block", "w8a16"), ("h100_sxm", "nvfp4", "w4a16")],
)
def test_what_a_gpu_lacks_is_emulated_as_vllm_does_it(gpu: str, quantization: str, computes: str) -> None:
    profile = with_kernels(gpu, computes)
    found = resolved_format(profile, quantization)
    assert found.dtype("mlp") == computes
    assert found.bytes_each("mlp") == weight_format(quantization).bytes_each("mlp")
    assert "computes in 16" in str(found.emulated)
    assert precision_obstacle(profile, quantization=quantization, kv_cache_dtype="auto") is None
    bare = with_kernels(gpu)
    if computes not in bare.kernels.gemm:
        said = precision_obstacle(bare, quantization=quantization, kv_cache_dtype="auto")
        assert f"no {computes} matrix multiplication" in str(said)


@pytest.mark.parametrize(
    ("gpu", "quantization", "said"),
    [
        ("b200_sxm", "int8", "int8 products stop at compute capability 9.0"),
        ("rtx_pro_6000_server", "ffn_int8", "int8 products stop at compute capability 9.0"),
        ("epyc_zen5_1c", "fp8", "no fp8 tensor cores"),
        ("mi300x", "nvfp4", "no fp4 tensor cores"),
        ("a100_sxm", "sparse_2of4_fp8", "no sparse fp8 tensor cores"),
    ],
)
def test_what_vllm_has_no_kernel_for_is_refused(gpu: str, quantization: str, said: str) -> None:
    profile = with_kernels(gpu, *TABLE.precisions)
    assert said in str(precision_obstacle(profile, quantization=quantization, kv_cache_dtype="auto"))


def test_native_formats_compute_as_they_are_stored() -> None:
    for gpu, quantization in (("h100_sxm", "fp8"), ("b200_sxm", "nvfp4"), ("a100_sxm", "int8"), ("l40s", "w4a16")):
        found = resolved_format(load_profile(gpu), quantization)
        assert found == weight_format(quantization)


def test_a_gpu_of_ones_own_has_what_its_facts_say() -> None:
    hopper, ampere = (load_profile(gpu).model_copy(update={"name": "mine"}) for gpu in ("h100_sxm", "a100_sxm"))
    assert (generation_of(hopper)[0], generation_of(ampere)[0]) == ("hopper", "ampere")
    assert generation_of(load_profile("epyc_zen5_1c").model_copy(update={"name": "mine"}))[0] == "cpu"


def test_attention_over_an_8_bit_cache() -> None:
    h100, a100 = load_profile("h100_sxm"), load_profile("a100_sxm")
    assert [resolved_kv(h100, name) for name in ("auto", "fp8", "int8_per_token_head")] == ["bf16", "fp8", "fp8"]
    with pytest.raises(InputError, match="a100_sxm has no measured attention over an fp8 KV cache"):
        resolved_kv(a100, "int8_per_token_head")


def test_losses_are_those_of_the_evaluations_and_add_up() -> None:
    one = Evaluation(model="m", benchmark="b", reference=(80.0, 100.0), reached=(76.0, 104.0), source="s", date="d")
    assert one.loss == 0.0
    half = Evaluation(model="m", benchmark="b", reference=(50.0,), reached=(49.0,), source="s", date="d")
    assert Judged(evaluations=(one, half)).loss == pytest.approx(0.01)
    weights, cache = weight_format("fp8").loss, TABLE.kv_cache["fp8"].loss
    assert weights is not None
    assert cache is not None
    assert expected_loss("fp8", "fp8").value == pytest.approx(weights + cache)
    assert expected_loss(None, "auto").value == 0.0
    assert expected_loss("ffn_int8", "auto").value is None
    assert expected_loss(None, "auto", checkpoint="mxfp4").value == 0.0  # it was published so
    assert expected_loss("nvfp4", "auto", checkpoint="fp8_block").value == weight_format("nvfp4").loss


def test_names() -> None:
    assert [quantization_name(name) for name in (None, "none", "auto", "gptq", "fp8")] == [
        None,
        None,
        None,
        "w4a16",
        "fp8",
    ]
    assert kv_cache_name("fp8_e4m3") == "fp8"
    where = Deployment(gpu="h100_sxm", quantization="awq", kv_cache_dtype="fp8_e4m3")
    assert (where.quantization, where.kv_cache_dtype) == ("w4a16", "fp8")
    with pytest.raises(InputError, match=r"unknown quantization 'nvpf4'; did you mean 'nvfp4'"):
        quantization_name("nvpf4")
    with pytest.raises(ValidationError, match="unknown kv_cache_dtype 'fp4'"):
        Deployment(gpu="h100_sxm", kv_cache_dtype="fp4")


def test_the_page_is_made_from_the_table() -> None:
    shown = Path(__file__).resolve().parents[2] / "docs" / "precisions.md"
    assert shown.read_text(encoding="utf-8") == page(), "python -m twin.spec.precision_page writes it anew"
