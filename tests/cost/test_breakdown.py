"""The pieces of a step add up to it, and its resources are what a change of the hardware says they are."""

from dataclasses import replace
from functools import cache
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.cost.breakdown import RESOURCES, Breakdown, breakdown, slower
from twin.cost.collectives import all_reduce_s
from twin.cost.layout import HostCosts, Layout
from twin.cost.levered import step_model
from twin.cost.levers import Levers
from twin.cost.spread import spread_step_model
from twin.cost.step import StepModel
from twin.spec.hardware import load_profile
from twin.spec.model import load_model

BUDGET = 2048
LLAMA, QWEN = "meta-llama/Llama-3.1-70B", "Qwen/Qwen3-8B"
STEPS = {
    "dense": ("h100_sxm", QWEN, Layout()),
    "dense over 4": ("h100_sxm", LLAMA, Layout(4, "fp8", "fp8")),
    "fused all-reduces": ("b200_sxm", LLAMA, Layout(8)),
    "experts": ("h200_sxm", "openai/gpt-oss-120b", Layout(1)),
    "experts over 8": ("h200_sxm", "Qwen/Qwen3-235B-A22B", Layout(8, "fp8")),
    "latent attention": ("h200_sxm", "deepseek-ai/DeepSeek-R1", Layout(8)),
    "hybrid": ("h200_sxm", "Qwen/Qwen3.5-35B-A3B", Layout(2)),
    "windows": ("l40s", "google/gemma-3-12b-it", Layout(2)),
    "stages": ("l40s", LLAMA, Layout(2, "fp8", pipeline_parallel_size=2)),
    "ranks": ("h200_sxm", "openai/gpt-oss-120b", Layout(2, data_parallel_size=4, enable_expert_parallel=True)),
    "a CPU": ("epyc_zen5_1c", QWEN, Layout()),
}


@cache
def priced(name: str) -> StepModel:
    gpu, model, layout = STEPS[name]
    return spread_step_model(load_model(model), load_profile(gpu), layout, max_tokens=BUDGET)


chunks = st.lists(st.tuples(st.none(), st.integers(1, 600), st.integers(0, 30_000)), max_size=3)


@pytest.mark.parametrize("name", STEPS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(prefills=chunks, decodes=st.integers(0, 240), mean=st.integers(1, 40_000))
def test_pieces_add_up_to_the_step(name: str, prefills: list[tuple[None, int, int]], decodes: int, mean: int) -> None:
    if not prefills and not decodes:
        return
    step = priced(name)
    found = breakdown(step, prefills, decodes, decodes * mean)
    wanted = step.step_s(prefills, decodes, decodes * mean)
    assert found.seconds == pytest.approx(wanted, rel=1e-9)
    assert sum(found.by_resource.values()) == pytest.approx(wanted, rel=1e-9)
    assert all(seconds >= 0.0 for part in found.parts.values() for seconds in part.values())


@pytest.mark.parametrize(
    ("resource", "coefficient"),
    [("compute", "flops_per_s"), ("memory_bandwidth", "bytes_per_s"), ("latency", "launch_s")],
)
@pytest.mark.parametrize("name", ["dense", "dense over 4", "experts", "latent attention", "hybrid", "windows"])
def test_a_resource_that_gets_slower_slows_the_step_by_its_share(name: str, resource: str, coefficient: str) -> None:
    gpu, model, layout = STEPS[name]
    by, host = 1e-3, HostCosts(step_s=1e-3)  # no overlap, which would hide some of the launches
    profiles = load_profile(gpu), slower(load_profile(gpu), coefficient, by)
    now, then = (spread_step_model(load_model(model), p, layout, max_tokens=BUDGET, host=host) for p in profiles)
    for work in (([], 4, 4 * 900), ([], 128, 128 * 1500), ([(None, 2000, 0)], 0, 0)):
        more = (then.step_s(*work) - now.step_s(*work)) / by
        found = breakdown(now, *work)
        assert found.by_resource[resource] == pytest.approx(more, rel=0.02, abs=0.01 * found.seconds)  # type: ignore[index]


def test_slower_links_slow_the_step_by_the_share_of_the_network() -> None:
    gpu, model, layout = STEPS["dense over 4"]
    profile, by = load_profile(gpu), 1e-3
    links = tuple(
        one.model_copy(
            update={
                "segments": tuple(
                    part.model_copy(update={"us": tuple(us * (1 + by) for us in part.us)}) for part in one.segments
                )
            }
        )
        for one in profile.kernels.all_reduce
    )
    slow = profile.model_copy(update={"kernels": profile.kernels.model_copy(update={"all_reduce": links})})
    host = HostCosts()
    now, then = (StepModel(load_model(model), p, layout, max_tokens=BUDGET, host=host) for p in (profile, slow))
    for work in (([], 64, 64 * 900), ([(None, 2000, 0)], 0, 0)):
        more = (then.step_s(*work) - now.step_s(*work)) / by
        assert breakdown(now, *work).by_resource["network"] == pytest.approx(more, rel=1e-4)


def test_exchanges_of_a_dense_model_are_its_all_reduces_and_their_skew() -> None:
    gpu, name, layout = STEPS["dense over 4"]
    model, profile, layout = load_model(name), load_profile(gpu), replace(layout, fuse_allreduce_rms=False)
    step = StepModel(model, profile, layout, max_tokens=64)
    skew = step.host.reduce_skew_s * log2(4)
    message = np.array(2.0 * 64 * model.hidden_size)
    each = float(all_reduce_s(profile, 4, message, layout.vllm_version)) + skew
    found = breakdown(step, [], 64, 64 * 900)
    assert found.by_piece["exchanges"] == pytest.approx(2 * model.num_hidden_layers * each, rel=1e-9)
    assert "exchanges" not in breakdown(priced("dense"), [], 64, 64 * 900).parts


def test_what_binds_is_what_physics_says() -> None:
    def share(name: str, resource: str, *work: object) -> float:
        return breakdown(priced(name), *work).share(resource)  # type: ignore[arg-type]

    alone, prompt = ([], 1, 1000), ([(None, 2000, 0)], 0, 0)
    assert breakdown(priced("dense"), *alone).binding == "memory_bandwidth"  # type: ignore[arg-type]
    assert breakdown(priced("dense"), *prompt).binding == "compute"  # type: ignore[arg-type]
    few, many = (share("dense", "compute", [], n, n * 100) for n in (4, 240))
    assert few < 0.05 < many
    short, long = (breakdown(priced("dense"), [], 64, 64 * size) for size in (200, 8000))
    assert long.by_piece["attention"] > 10 * short.by_piece["attention"]
    assert long.by_piece["gemm"] == short.by_piece["gemm"]
    assert share("dense", "latency", *alone) < share("fused all-reduces", "latency", *alone)
    memory = load_profile("h100_sxm").facts.mem_bw_bytes_per_s.value
    weights = load_model(QWEN).weight_bytes() / memory
    streamed = breakdown(priced("dense"), *alone).by_resource["memory_bandwidth"]  # type: ignore[arg-type]
    assert weights < streamed < 1.5 * weights


def test_every_stage_has_a_host_and_the_messages_between_are_network() -> None:
    step = priced("stages")
    found = breakdown(step, [], 16, 16 * 500)
    assert found.by_piece["host"] == pytest.approx(
        2 * step.host.step_s + 16 * step.host.sequence_s + 16 * step.host.token_s
    )
    gpu, model, layout = STEPS["stages"]
    whole = StepModel(load_model(model), load_profile(gpu), replace(layout, pipeline_parallel_size=1), max_tokens=64)
    assert found.by_piece["exchanges"] > breakdown(whole, [], 16, 16 * 500).by_piece["exchanges"]


def test_levers_count_apart() -> None:
    model, profile, host = load_model(QWEN), load_profile("l40s"), HostCosts(step_s=1e-3)
    for levers in (Levers(cpu_offload_bytes=2 * 2**30), Levers(enforce_eager=True)):
        step = step_model(model, profile, Layout(), levers, max_tokens=BUDGET, host=host)
        for work in (([], 3, 3000), ([(None, 1500, 0)], 5, 5000)):
            found = breakdown(step, *work)
            assert found.seconds == pytest.approx(step.step_s(*work), rel=1e-9)
    offloaded = step_model(model, profile, Layout(), Levers(cpu_offload_bytes=2 * 2**30), max_tokens=64, host=host)
    plain = StepModel(model, profile, Layout(), max_tokens=64, host=host)
    extra = offloaded.step_s([], 3, 3000) - plain.step_s([], 3, 3000)
    assert extra > 0.01
    assert breakdown(offloaded, [], 3, 3000).by_piece["levers"] == pytest.approx(extra, rel=1e-9)


def test_several_steps_add_up() -> None:
    one, other = breakdown(priced("dense"), [], 8, 8000), breakdown(priced("dense"), [(None, 500, 0)], 0, 0)
    both = Breakdown.total([one, other], 2.0)
    assert both.seconds == pytest.approx(2 * (one.seconds + other.seconds))
    assert sum(both.share(name) for name in RESOURCES) == pytest.approx(1.0)
