"""Levers: offloaded weights, kernels launched one by one, fusions off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from twin.base import InputError
from twin.cost.layout import HostCosts, Layout
from twin.cost.levered import LeveredStepModel, step_model
from twin.cost.levers import (
    EAGER_LAUNCH_S,
    PCIE_SHARE,
    Levers,
    eager_s,
    floored_segment,
    layer_parameter_bytes,
    offload_s,
    offloaded_weight_bytes,
    unfused_quant_s,
)
from twin.cost.memory import memory_budget
from twin.cost.operators import fp8_quant_s
from twin.cost.step import StepModel
from twin.spec.hardware import load_profile
from twin.spec.model import load_model

MODEL, H100 = load_model("Qwen/Qwen3-8B"), load_profile("h100_sxm")
GIB = 2**30


def priced(levers: Levers, layout: Layout | None = None) -> StepModel:
    return step_model(MODEL, H100, layout or Layout(), levers, max_tokens=2048, host=HostCosts.of(H100))


def test_without_a_lever_the_step_model_is_the_plain_one() -> None:
    assert type(priced(Levers())) is StepModel


def test_whole_parameters_are_offloaded_until_the_limit_is_reached() -> None:
    assert offloaded_weight_bytes([3, 5, 7], 0) == 0
    assert offloaded_weight_bytes([3, 5, 7], 4) == 8, "the one that crosses the limit goes too"
    assert offloaded_weight_bytes([3, 5, 7], 99) == 15
    layers = sum(layer_parameter_bytes(MODEL))
    ends = 2 * 2 * MODEL.padded_vocab_size * MODEL.hidden_size
    assert layers + ends == pytest.approx(MODEL.weight_bytes(), rel=1e-3), "all but the ends and the norms"


def test_offloaded_weights_cross_the_link_in_every_step_and_leave_room_for_kv() -> None:
    link = H100.facts.pcie_bytes_per_s
    assert link is not None
    plain, offloaded = priced(Levers()), priced(Levers(cpu_offload_bytes=4 * GIB))
    crossing = 4 * GIB / (link.value * PCIE_SHARE.value)
    for tokens in (1, 64):
        more = offloaded.step_s([], tokens, 1000 * tokens) - plain.step_s([], tokens, 1000 * tokens)
        assert 0.9 * crossing < more < 1.1 * crossing, "the parameter that crosses the limit goes too"
    long = [(None, 2048, 0)]
    more = offloaded.step_s(long, 0, 0) - plain.step_s(long, 0, 0)
    assert 0 < more < 0.9 * crossing, "products of a long prompt take a while themselves"
    assert offload_s(H100, 8e9, [0.0, 1e9]).tolist() == [8e9 / (link.value * PCIE_SHARE.value), 0.0]
    rooms = [memory_budget(MODEL, H100, cpu_offload_bytes=size).kv_bytes for size in (0, 4 * GIB)]
    assert 4 * GIB <= rooms[1] - rooms[0] < 4.3 * GIB


def test_a_device_without_the_link_cannot_offload() -> None:
    facts = H100.facts.model_copy(update={"pcie_bytes_per_s": None})
    with pytest.raises(InputError, match="no PCIe link"):
        offload_s(H100.model_copy(update={"facts": facts}), 1.0, 0.0)


def test_eager_steps_are_bound_by_launches_or_by_kernels() -> None:
    eager, plain = priced(Levers(enforce_eager=True)), priced(Levers())
    assert isinstance(eager, LeveredStepModel)
    few, many = eager.step_s([], 1, 100), eager.step_s([], 1, 101)
    kernels_a_layer = (eager.launch_s / EAGER_LAUNCH_S.value) / MODEL.num_hidden_layers
    assert 10 < kernels_a_layer < 14, "4 products, 2 norms, 2 on q and k, attention, cache write, activation"
    assert few == many == pytest.approx(eager.launch_s + eager.host.step_s + eager.host.sequence_s)
    assert few > 1.3 * plain.step_s([], 1, 100)
    prompt = [(None, 2048, 0)]
    assert eager.step_s(prompt, 0, 0) == pytest.approx(plain.step_s(prompt, 0, 0), rel=0.02), (
        "long kernels hide launches"
    )
    assert eager_s([1e-3, 1e-6], 10).tolist() == [1e-3, 10 * EAGER_LAUNCH_S.value]
    graphs = [memory_budget(MODEL, H100, enforce_eager=off).cuda_graph_bytes for off in (False, True)]
    assert graphs[0] > graphs[1] == 0


@pytest.mark.parametrize("n", [1, 16, 200])
def test_segments_of_an_eager_decode_are_its_steps(n: int) -> None:
    eager = priced(Levers(enforce_eager=True))
    for context in np.geomspace(n, 60_000 * n, 60).astype(int).tolist():
        first, slope, end = eager.decode_segment(n, context)
        assert first == pytest.approx(eager.step_s([], n, context), rel=1e-9)
        if context + 1 <= end:
            assert first + slope == pytest.approx(eager.step_s([], n, context + 1), rel=1e-9)


def test_a_floored_segment_is_flat_until_its_line_meets_the_floor() -> None:
    assert floored_segment(5.0, 0.1, 10, 99, 4.0) == (5.0, 0.1, 99)
    assert floored_segment(5.0, 0.0, 10, 99, 6.0) == (6.0, 0.0, 99)
    assert floored_segment(5.0, 0.1, 10, 99, 6.0) == (6.0, 0.0, pytest.approx(20))


def test_quantisation_on_its_own_is_three_kernels_a_layer() -> None:
    off = Levers(fuse_norm_quant=False, fuse_act_quant=False)
    seconds, kernels = unfused_quant_s(H100, off, 64.0, 4096, 14336)
    alone = 2 * fp8_quant_s(H100, 64.0, 4096) + fp8_quant_s(H100, 64.0, 14336)
    assert (float(seconds), kernels) == (pytest.approx(float(alone)), 3)
    assert unfused_quant_s(H100, replace(off, fuse_norm_quant=True), 64.0, 4096, 14336)[1] == 1
    assert unfused_quant_s(H100, Levers(enforce_eager=True), 64.0, 4096, 14336)[1] == 3, "the compiler fuses"
    fp8 = Layout(quantization="fp8")
    more = priced(off, fp8).step_s([], 64, 64_000) - priced(Levers(), fp8).step_s([], 64, 64_000)
    one = float(unfused_quant_s(H100, off, 64.0, MODEL.hidden_size, MODEL.mlp_width)[0])
    assert more == pytest.approx(MODEL.num_hidden_layers * one, rel=1e-6)
    assert priced(off).step_s([], 64, 64_000) == priced(Levers()).step_s([], 64, 64_000), "16 bits are not quantised"


def test_levers_and_pipeline_stages_are_not_mixed() -> None:
    with pytest.raises(InputError, match="one pipeline stage"):
        priced(Levers(enforce_eager=True), Layout(pipeline_parallel_size=2))


def test_the_cost_of_a_launch_is_what_was_measured() -> None:
    pd = pytest.importorskip("pandas")
    importers = pytest.importorskip("calibrate.importers")
    try:
        systems = importers.find_database()
    except InputError as error:
        pytest.skip(str(error))
    seconds = []
    for gpu in ("h100_sxm", "h200_sxm"):
        rows = pd.read_parquet(systems / "data" / gpu / "gemm" / "vllm" / "0.24.0" / "gemm_perf.parquet")
        small = rows[(rows.gemm_dtype == "fp8_block") & (rows.m <= 64) & (rows.n <= 4096) & (rows.k <= 4096)]
        seconds.append(small.latency.to_numpy() * 1e-3)
    both = np.concatenate(seconds)
    assert EAGER_LAUNCH_S.n == len(both)
    assert EAGER_LAUNCH_S.value == pytest.approx(np.median(both) / 2, rel=5e-3)


def test_the_cost_of_a_launch_fits_an_engine_without_graphs() -> None:
    host = load_profile("epyc_zen5_1c").host
    assert host is not None
    assert EAGER_LAUNCH_S.stderr is not None
    assert abs(-host.kernel_overlap_s.value - EAGER_LAUNCH_S.value) < 1.1 * EAGER_LAUNCH_S.stderr
