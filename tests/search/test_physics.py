"""Each decision moved alone changes the simulated metric and the cost in the direction that physics says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planning import MODEL, workload

from twin.cost.memory import memory_budget
from twin.cost.step import StepModel
from twin.engine.config import EngineConfig
from twin.search.evaluate import Deployment, Outcome, evaluate
from twin.search.space import Candidate
from twin.search.workload import Workload
from twin.spec.hardware import load_profile
from twin.spec.model import load_model
from twin.spec.prices import load_price_book

BASE = Candidate("h100_sxm", 1, 1, None, "auto", 128, 4096)


@pytest.fixture(scope="module")
def busy() -> Workload:
    return workload(rate=14.0)


def run(load: Workload, candidate: Candidate, *, blocks: int | None = None) -> Outcome:
    model, profile = load_model(MODEL), load_profile(candidate.gpu)
    budget = memory_budget(
        model,
        profile,
        candidate.layout,
        max_num_batched_tokens=candidate.max_num_batched_tokens,
        max_num_seqs=candidate.max_num_seqs,
    )
    config = EngineConfig(
        num_gpu_blocks=blocks or budget.num_gpu_blocks,
        max_num_seqs=candidate.max_num_seqs,
        max_num_batched_tokens=candidate.max_num_batched_tokens,
        max_model_len=load.max_model_len,
    )
    step = StepModel(model, profile, candidate.layout, max_tokens=16384)
    usd = candidate.num_gpus * load_price_book().price(candidate.gpu, "on_demand").value
    return evaluate(Deployment(candidate, config, step, usd, 0.5), load.trace, (), headroom=0.2, full=True)


def metric(outcome: Outcome, name: str) -> float:
    return float(str(outcome.summary[name]))


def test_more_replicas_are_faster_and_dearer(busy: Workload) -> None:
    one, two = run(busy, BASE), run(busy, replace(BASE, replicas=2))
    assert metric(two, "mean_tpot_ms") < metric(one, "mean_tpot_ms")
    assert metric(two, "p99_ttft_ms") < metric(one, "p99_ttft_ms")
    assert two.usd_per_hour == pytest.approx(2 * one.usd_per_hour)


def test_more_tensor_parallelism_is_faster_and_dearer(busy: Workload) -> None:
    one, four = run(busy, BASE), run(busy, replace(BASE, tensor_parallel_size=4))
    assert metric(four, "mean_tpot_ms") < metric(one, "mean_tpot_ms")
    assert metric(four, "mean_ttft_ms") < metric(one, "mean_ttft_ms")
    assert four.usd_per_hour == pytest.approx(4 * one.usd_per_hour)


def test_more_memory_bandwidth_decodes_faster(busy: Workload) -> None:
    h100, h200 = run(busy, BASE), run(busy, replace(BASE, gpu="h200_sxm"))
    assert metric(h200, "mean_tpot_ms") < metric(h100, "mean_tpot_ms")
    assert h200.deployment.config.num_gpu_blocks > h100.deployment.config.num_gpu_blocks
    assert h200.usd_per_hour > h100.usd_per_hour


def test_fp8_weights_decode_faster_and_leave_more_cache_at_equal_cost(busy: Workload) -> None:
    bf16, fp8 = run(busy, BASE), run(busy, replace(BASE, quantization="fp8"))
    assert metric(fp8, "mean_tpot_ms") < metric(bf16, "mean_tpot_ms")
    assert fp8.deployment.config.num_gpu_blocks > bf16.deployment.config.num_gpu_blocks
    assert fp8.usd_per_hour == bf16.usd_per_hour


def test_an_fp8_cache_holds_twice_the_tokens_at_equal_cost(busy: Workload) -> None:
    auto, fp8 = run(busy, BASE), run(busy, replace(BASE, kv_cache_dtype="fp8"))
    ratio = fp8.deployment.config.num_gpu_blocks / auto.deployment.config.num_gpu_blocks
    assert ratio == pytest.approx(2.0, rel=1e-3)
    assert metric(fp8, "peak_kv_cache_usage") < metric(auto, "peak_kv_cache_usage")
    assert fp8.usd_per_hour == auto.usd_per_hour


def test_fewer_seats_queue_more_and_decode_faster(busy: Workload) -> None:
    few, many = run(busy, replace(BASE, max_num_seqs=8)), run(busy, BASE)
    assert metric(few, "mean_queue_ms") > metric(many, "mean_queue_ms")
    assert metric(few, "mean_tpot_ms") < metric(many, "mean_tpot_ms")
    assert metric(few, "mean_ttft_ms") > metric(many, "mean_ttft_ms")
    assert few.usd_per_hour == many.usd_per_hour


def test_a_larger_token_budget_stretches_the_longest_gaps(busy: Workload) -> None:
    small = run(busy, replace(BASE, max_num_batched_tokens=512))
    large = run(busy, replace(BASE, max_num_batched_tokens=16384))
    assert metric(large, "max_itl_ms") > 2 * metric(small, "max_itl_ms")


def test_fewer_kv_blocks_preempt_or_queue(busy: Workload) -> None:
    starved, roomy = run(busy, BASE, blocks=600), run(busy, BASE)
    assert metric(starved, "peak_kv_cache_usage") > metric(roomy, "peak_kv_cache_usage")
    assert metric(starved, "mean_queue_ms") + metric(starved, "num_preemptions") > metric(roomy, "mean_queue_ms")
    assert metric(starved, "p99_ttft_ms") > metric(roomy, "p99_ttft_ms")


def test_more_traffic_is_slower_and_cheaper_per_token(busy: Workload) -> None:
    slow = run(busy, BASE)
    fast = run(replace(busy, trace=busy.trace.scaled(2.0)), BASE)
    assert metric(fast, "mean_tpot_ms") > metric(slow, "mean_tpot_ms")
    assert metric(fast, "output_throughput") > metric(slow, "output_throughput")


def test_less_traffic_approaches_a_request_alone(busy: Workload) -> None:
    rates = (0.02, 0.2, 1.0)
    tpot = [metric(run(replace(busy, trace=busy.trace.scaled(rate)), BASE), "mean_tpot_ms") for rate in rates]
    assert np.all(np.diff(tpot) > 0)
