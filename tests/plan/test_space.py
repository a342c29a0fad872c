"""What can start, and why the rest cannot."""

from __future__ import annotations

import numpy as np
import pytest

from twin.base import InputError
from twin.cost.memory import memory_budget
from twin.plan.space import (
    KV_CACHE_DTYPES,
    MAX_NUM_BATCHED_TOKENS,
    MAX_NUM_SEQS,
    NOT_WHOLE_NODES,
    OVER_BUDGET,
    OVER_MAX_GPUS,
    QUANTIZATIONS,
    TENSOR_PARALLEL_SIZES,
    Limits,
    replica_kinds,
)
from twin.plan.workload import cached_tokens, make_workload
from twin.spec.hardware import load_profile
from twin.spec.model import load_model
from twin.traffic.trace import Trace

SETTINGS = len(MAX_NUM_SEQS) * len(MAX_NUM_BATCHED_TOKENS)
LAYOUTS = len(TENSOR_PARALLEL_SIZES) * len(QUANTIZATIONS) * len(KV_CACHE_DTYPES)


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "meta-llama/Llama-3.1-70B", "Qwen/Qwen2.5-7B"])
def test_every_setting_is_startable_or_refused_with_a_reason(model: str) -> None:
    gpus = [load_profile(name) for name in ("a100_sxm", "l40s", "h200_sxm")]
    kinds, refused = replica_kinds(load_model(model), gpus, max_model_len=8192, gpu_memory_utilization=0.92)
    startable = sum(int((kind.num_gpu_blocks > 0).sum()) for kind in kinds)
    assert startable + sum(refused.values()) == len(gpus) * LAYOUTS * SETTINGS
    assert all(reason for reason in refused)


def test_refusals_name_heads_precision_and_memory() -> None:
    gpus = [load_profile("a100_sxm"), load_profile("l40s")]
    _, refused = replica_kinds(load_model("Qwen/Qwen2.5-7B"), gpus, max_model_len=8192, gpu_memory_utilization=0.92)
    assert any("28 attention heads" in reason and "8" in reason for reason in refused)
    assert refused["a100_sxm has no fp8 tensor cores: fp8 weights wait until their emulation is modelled"] > 0
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
        tensor_parallel_size=2,
        quantization="fp8",
        kv_cache_dtype=kind.layout.kv_cache_dtype,
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
