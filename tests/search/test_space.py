"""What can start, and why the rest cannot."""

from __future__ import annotations

import numpy as np
import pytest

from twin.base import InputError
from twin.cost.memory import memory_budget
from twin.search.limits import NOT_WHOLE_NODES, OVER_BUDGET, OVER_MAX_GPUS, Limits
from twin.search.precisions import KV_CACHE_DTYPES, QUANTIZATIONS, Precisions
from twin.search.space import (
    MAX_NUM_BATCHED_TOKENS,
    MAX_NUM_SEQS,
    TENSOR_PARALLEL_SIZES,
    Candidate,
    ReplicaKind,
    layouts,
    replica_kinds,
)
from twin.search.workload import cached_tokens, make_workload
from twin.spec.hardware import load_profile
from twin.spec.model import load_model
from twin.traffic.trace import Trace

SETTINGS = len(MAX_NUM_SEQS) * len(MAX_NUM_BATCHED_TOKENS)
PRECISIONS = len(QUANTIZATIONS) * len(KV_CACHE_DTYPES)


def layouts_tried(kinds: list[ReplicaKind], gpu: str) -> list[tuple[int, int]]:
    """(TP, PP) of what was tried on one GPU, told by what starts there."""
    profile = load_profile(gpu)
    plain = {
        k.layout.tensor_parallel_size for k in kinds if k.profile.name == gpu and k.layout.pipeline_parallel_size == 1
    }
    model = kinds[0].model
    return [(x.tensor_parallel_size, x.pipeline_parallel_size) for x in layouts(model, profile, plain)]


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "meta-llama/Llama-3.1-70B", "Qwen/Qwen2.5-7B"])
def test_every_setting_is_startable_or_refused_with_a_reason(model: str) -> None:
    names = ("a100_sxm", "l40s", "h200_sxm")
    gpus = [load_profile(name) for name in names]
    kinds, refused = replica_kinds(load_model(model), gpus, max_model_len=8192, gpu_memory_utilization=0.92)
    startable = sum(int((kind.num_gpu_blocks > 0).sum()) for kind in kinds)
    tried = sum(len(layouts_tried(kinds, name)) for name in names)
    assert startable + sum(refused.values()) == tried * PRECISIONS * SETTINGS
    assert all(reason for reason in refused)


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "meta-llama/Llama-3.1-70B"])
def test_pipeline_stages_are_not_tried_where_tensor_parallelism_starts(model: str) -> None:
    gpus = [load_profile(name) for name in ("a100_sxm", "l40s")]
    kinds, _ = replica_kinds(load_model(model), gpus, max_model_len=8192, gpu_memory_utilization=0.92)
    assert all(layouts_tried(kinds, gpu.name) == [(tp, 1) for tp in TENSOR_PARALLEL_SIZES] for gpu in gpus)


def test_a_model_larger_than_a_node_gets_stages_on_several() -> None:
    kinds, _ = replica_kinds(
        load_model("meta-llama/Llama-3.1-405B"),
        [load_profile("a100_sxm")],
        max_model_len=8192,
        gpu_memory_utilization=0.92,
        precisions=Precisions(quantizations=(None,), kv_cache_dtypes=("auto",)),
    )
    found = {(k.layout.tensor_parallel_size, k.layout.pipeline_parallel_size) for k in kinds}
    assert found == {(4, 4), (8, 2), (8, 4)}
    candidate = next(k for k in kinds if k.num_gpus == 16 and k.layout.tensor_parallel_size == 8).candidate(0, 0, 2)
    assert candidate.id.startswith("a100_sxm-tp8pp2x2-bf16")
    assert candidate.num_gpus == 32


def test_a_mixture_of_experts_gets_ranks_over_one_set_of_experts() -> None:
    model = load_model("Qwen/Qwen3-30B-A3B")
    tried = [
        (x.tensor_parallel_size, x.data_parallel_size, x.enable_expert_parallel)
        for x in layouts(model, load_profile("h100_sxm"), {1})
    ]
    assert tried[:4] == [(tp, 1, False) for tp in TENSOR_PARALLEL_SIZES]
    assert (1, 8, True) in tried
    assert (4, 2, True) in tried
    assert all(tp * dp <= 8 for tp, dp, _ in tried)
    candidate = Candidate("h100_sxm", 2, 3, None, "auto", 256, 8192, 1, 4, True)
    assert candidate.num_gpus == 24
    assert candidate.id == "h100_sxm-tp2dp4epx3-bf16-kvauto-s256-b8192"


def test_refusals_name_heads_precision_and_memory() -> None:
    gpus = [load_profile("a100_sxm"), load_profile("l40s")]
    _, refused = replica_kinds(load_model("Qwen/Qwen2.5-7B"), gpus, max_model_len=8192, gpu_memory_utilization=0.92)
    assert any("28 attention heads" in reason and "8" in reason for reason in refused)
    assert any(reason.startswith("a100_sxm has no ") and "fp8 tensor cores" in reason for reason in refused)
    _, refused = replica_kinds(
        load_model("meta-llama/Llama-3.1-70B"), gpus, max_model_len=100_000, gpu_memory_utilization=0.92
    )
    assert refused["the weights do not fit in GPU memory"] > 0
    assert refused["the KV cache is smaller than one sequence of max_model_len"] > 0


def test_blocks_are_those_of_the_memory_model() -> None:
    model, gpu = load_model("Qwen/Qwen3-8B"), load_profile("h100_sxm")
    kinds, _ = replica_kinds(model, [gpu], max_model_len=4096, gpu_memory_utilization=0.9)
    kind = next(k for k in kinds if k.layout.tensor_parallel_size == 2 and k.layout.quantization == "fp8")
    expected = memory_budget(
        model,
        gpu,
        kind.layout,
        gpu_memory_utilization=0.9,
        max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS[2],
        max_num_seqs=MAX_NUM_SEQS[1],
    )
    assert kind.num_gpu_blocks[1, 2] == expected.num_gpu_blocks
    assert kind.candidate(1, 2, 3).num_gpus == 6


def test_limits() -> None:
    limits = Limits({"g": 2.0}, {"g": 500.0}, usd_per_hour=10.0, max_gpus=4, node_size=2)
    assert limits.violation("g", 4) is None
    assert limits.violation("g", 3) == NOT_WHOLE_NODES
    assert limits.violation("g", 5) == OVER_MAX_GPUS
    assert limits.violation("g", 6) == OVER_BUDGET
    assert Limits({"g": 2.0}, {"g": 500.0}, watts=1000.0).violation("g", 3) == OVER_BUDGET
    assert Limits({"g": 2.0}, {"g": 500.0}, num_gpus=2).violation("g", 3) == OVER_BUDGET
    assert Limits({"g": 2.0}, {"g": 500.0}).violation("g", 10_000) is None


def test_context_is_the_longest_request_rounded_up_and_never_beyond_the_model() -> None:
    model = load_model("Qwen/Qwen3-8B")
    trace = Trace(np.array([0.0, 5.0]), np.array([3000, 10]), np.array([200, 10]))
    assert make_workload(trace, model).max_model_len == 4096
    assert make_workload(trace, model, max_model_len=3200).max_model_len == 3200
    with pytest.raises(InputError, match="1 of 2 requests exceed"):
        make_workload(trace, model, max_model_len=3199)
    with pytest.raises(InputError, match="outside"):
        make_workload(trace, model, max_model_len=10**7)
    with pytest.raises(InputError, match="one instant"):
        make_workload(Trace(np.zeros(3), np.ones(3, int), np.ones(3, int)), model)


def test_cached_tokens_are_the_leading_blocks_seen_before() -> None:
    hashes = ((1, 2, 3), (1, 2, 4), (5, 2), (1, 2, 3))
    trace = Trace(np.arange(4.0), np.array([1500, 1500, 700, 1300]), np.ones(4, int), prefix_hashes=hashes)
    assert cached_tokens(trace).tolist() == [0, 1024, 0, 1299]


def refusals(model: str, *gpus: str, **limits: object) -> tuple[set[str | None], dict[str, int]]:
    """Formats of weights that start, and what was refused."""
    kinds, refused = replica_kinds(
        load_model(model),
        [load_profile(gpu) for gpu in gpus],
        max_model_len=4096,
        gpu_memory_utilization=0.92,
        precisions=Precisions(**limits),  # type: ignore[arg-type]
    )
    return {kind.layout.quantization for kind in kinds}, refused


def test_formats_asked_for_take_the_place_of_the_usual_ones() -> None:
    started, _ = refusals("Qwen/Qwen3-8B", "h100_sxm", quantizations=("fp8", "ffn_fp8"), kv_cache_dtypes=("auto",))
    assert started == {"fp8", "ffn_fp8"}
    _, refused = refusals("Qwen/Qwen3-8B", "b200_sxm", quantizations=("int8",), kv_cache_dtypes=("auto",))
    assert any("int8 products stop at compute capability 9.0" in reason for reason in refused)
    _, refused = refusals("Qwen/Qwen3-8B", "h100_sxm", quantizations=("mxfp4",), kv_cache_dtypes=("auto",))
    assert set(refused) == {"mxfp4 is a format of experts, of which Qwen/Qwen3-8B has none"}


def test_limits_on_loss_and_bits_are_obeyed_and_counted() -> None:
    started, refused = refusals("Qwen/Qwen3-8B", "h100_sxm", min_bits=16)
    assert started == {None}
    assert (
        refused["fp8 weights with auto KV cache: 8 bits, below --min-bits 16"] == len(TENSOR_PARALLEL_SIZES) * SETTINGS
    )
    started, refused = refusals("Qwen/Qwen3-8B", "h100_sxm", max_accuracy_loss=0.003)
    assert started == {None}
    assert any("an expected accuracy loss of 0.4%, above --max-accuracy-loss 0.003" in reason for reason in refused)
    started, _ = refusals("Qwen/Qwen3-8B", "h100_sxm", max_accuracy_loss=0.01)
    assert started == {None, "fp8"}
    started, refused = refusals("Qwen/Qwen3-8B", "h100_sxm", quantizations=("ffn_fp8",), max_accuracy_loss=0.5)
    assert started == set()
    assert any("no published figure of the accuracy lost" in reason for reason in refused)
