"""Kernel times: the physics, the table on top of it, and what happens beyond what was measured."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from twin.base import InputError
from twin.cost import operators as ops
from twin.cost.parts import dense
from twin.cost.tables import interpolate, p_norm
from twin.spec.hardware import HardwareProfile, load_profile, profile_names

H200 = load_profile("h200_sxm")
GPUS = [name for name in profile_names() if load_profile(name).device == "gpu"]
HEADS = (32, 8, 128)


def without_tables(profile: HardwareProfile) -> HardwareProfile:
    """The same profile with every GEMM correction at zero: the bare roofline."""
    kernels = profile.kernels
    gemm = {}
    for dtype, kernel in kernels.gemm.items():
        zeros = tuple(" ".join("0" for _ in row.split()) for row in kernel.table.milli_log)
        table = kernel.table.model_copy(update={"milli_log": zeros})
        table = type(table).model_validate(table.model_dump())
        gemm[dtype] = kernel.model_copy(update={"table": table})
    return profile.model_copy(update={"kernels": kernels.model_copy(update={"gemm": gemm})})


@pytest.mark.parametrize("axes", [(4,), (5, 2), (4, 3, 2), (6, 5)])
def test_interpolation_agrees_with_an_independent_implementation(axes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    nodes = [np.sort(rng.uniform(0.0, 9.0, size)) for size in axes]
    values = rng.normal(size=axes)
    points = [rng.uniform(axis[0], axis[-1], 50) for axis in nodes]
    reference = RegularGridInterpolator(nodes, values)(np.stack(points, axis=1))
    assert interpolate(nodes, values, [np.exp(x) for x in points]) == pytest.approx(reference, abs=1e-9)


def test_scalar_coordinates_give_the_same_as_arrays() -> None:
    m = np.array([1, 7, 64, 65, 300, 8192])
    for dtype in ("bf16", "fp8"):
        swept = ops.gemm_s(H200, dtype, m, 5120, 3584)
        assert [float(ops.gemm_s(H200, dtype, x, 5120, 3584)) for x in m] == pytest.approx(swept)
    contexts = np.array([1.0, 100.0, 70_000.0])
    swept = ops.decode_attention_s(H200, "bf16", 33, contexts, *HEADS)
    single = [float(ops.decode_attention_s(H200, "bf16", 33, c, *HEADS)) for c in contexts]
    assert single == pytest.approx(swept)


def test_p_norm_lies_between_max_and_sum_without_overflow() -> None:
    assert p_norm(3.0, 4.0, 2.0) == pytest.approx(5.0)
    assert p_norm(1e-300, 1e300, 16.0) == pytest.approx(1e300)


def test_a_zero_table_leaves_the_roofline() -> None:
    """By hand: launch + ((2mnk/rate)^p + ((m+n)k·2 + 2mn)/bandwidth)^p)^(1/p) for bf16."""
    bare = without_tables(H200)
    kernel = bare.kernels.gemm["bf16"]
    m, n, k = 100.0, 4096.0, 8192.0
    compute = 2 * m * n * k / kernel.flops_per_s.value
    memory = (2 * (m * k + n * k) + 2 * m * n) / kernel.bytes_per_s.value
    p = kernel.p.value
    by_hand = kernel.launch_s.value + (compute**p + memory**p) ** (1 / p)
    assert float(ops.gemm_s(bare, "bf16", m, n, k)) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("name", GPUS)
@given(
    m=st.integers(1, 16384),
    n=st.sampled_from([512, 3584, 4096, 5120, 14336, 16032, 18944, 28672, 65536, 151936]),
    k=st.sampled_from([512, 1792, 3584, 5120, 7168, 8192, 16384, 28672]),
)
def test_no_gemm_beats_the_datasheet_nor_falls_far_below(name: str, m: int, n: int, k: int) -> None:
    profile = load_profile(name)
    for dtype in dense(profile.kernels):
        peak = profile.facts.flops.bf16 if dtype == "bf16" else profile.facts.flops.fp8
        assert peak is not None
        flops, moved = ops.gemm_work(dtype, m, n, k)
        ideal = max(float(flops) / peak.value, float(moved) / profile.facts.mem_bw_bytes_per_s.value)
        seconds = float(ops.gemm_s(profile, dtype, m, n, k))
        # Weights of small layers stay in the cache between timed runs, so reading can beat the memory's peak;
        # fp8 is slow on narrow layers (measured on B200: n = k = 512, m = 8192 takes 59 µs, bf16 6 µs).
        assert 0.6 * ideal < seconds < (100e-6 if min(n, k) == 512 else 40e-6) + 12 * ideal


@pytest.mark.parametrize("name", GPUS)
def test_four_times_the_tokens_take_longer_once_compute_bound(name: str) -> None:
    profile = load_profile(name)
    for dtype in dense(profile.kernels):
        m = np.array([1024, 4096, 16384])
        for n, k in ((4096, 4096), (3584, 8192), (18944, 3584), (28672, 8192)):
            ratio = ops.gemm_s(profile, dtype, 4 * m, n, k) / ops.gemm_s(profile, dtype, m, n, k)
            assert np.all((ratio > 2.2) & (ratio < 6.5))


@pytest.mark.parametrize("name", GPUS)
def test_attention_grows_with_what_it_reads_and_computes(name: str) -> None:
    profile = load_profile(name)
    contexts = 2.0 ** np.arange(7, 17)
    batches = 2.0 ** np.arange(0, 9)
    for fit in profile.kernels.decode_attention:
        by_context = ops.decode_attention_s(profile, fit.kv, 64, contexts, 16, 2, fit.head_dim)
        by_batch = ops.decode_attention_s(profile, fit.kv, batches, 4096.0, 16, 2, fit.head_dim)
        assert np.all(np.diff(by_context) > -0.05 * by_context[:-1])  # flat while launch-bound
        assert np.all(np.diff(by_batch) > -0.1 * by_batch[:-1])
        assert by_batch[-1] > 20 * by_batch[0] / len(batches)
    for fit in profile.kernels.prefill_attention:
        chunk = ops.prefill_attention_s(profile, fit.kv, contexts, 0, 16, 2, fit.head_dim)
        assert np.all(np.diff(chunk) > -0.01 * chunk[:-1])  # flat while launch-bound
        after = ops.prefill_attention_s(profile, fit.kv, 1024, 2.0 ** np.arange(10, 17), 16, 2, fit.head_dim)
        assert np.all(np.diff(after) > 0)


@given(st.lists(st.integers(1, 4096), min_size=2, max_size=6))
def test_chunks_of_one_prompt_see_every_pair_once(chunks: list[int]) -> None:
    done, pairs = 0, 0.0
    for chunk in chunks:
        pairs += float(ops.prefill_pairs(chunk, done))
        done += chunk
    assert pairs == pytest.approx(float(ops.prefill_pairs(done, 0)))


def test_prompts_that_share_a_step_cost_less_than_one_by_one() -> None:
    chunks, contexts = np.array([100.0, 700.0, 300.0]), np.array([0.0, 2000.0, 50.0])
    pairs = ops.prefill_pairs(chunks, contexts)
    together = ops.prefill_batch_s(H200, "bf16", chunks.sum(), pairs.sum(), (chunks + contexts).sum(), *HEADS)
    alone = ops.prefill_attention_s(H200, "bf16", chunks, contexts, *HEADS)
    assert alone.max() < float(together) < alone.sum()


def test_a_batch_of_equal_prompts_is_the_same_either_way() -> None:
    batch = ops.prefill_attention_s(H200, "fp8", 512, 0, *HEADS, batch=8)
    summed = ops.prefill_batch_s(H200, "fp8", 8 * 512, 8 * 512 * 512 / 2, 8 * 512, *HEADS)
    assert float(batch) == pytest.approx(float(summed))


def test_ranges_are_those_of_the_measurements() -> None:
    assert ops.gemm_in_range(H200, "bf16", np.array([1, 32768, 32769]), 4096, 4096).tolist() == [
        True,
        True,
        False,
    ]
    assert not ops.gemm_in_range(H200, "bf16", 1, 151936, 4096)
    assert ops.decode_in_range(H200, "bf16", 8, np.array([1.0, 1000.0, 131073.0]), *HEADS).tolist() == [
        False,
        True,
        False,
    ]
    assert not ops.decode_in_range(H200, "bf16", 8, 1000, 32, 8, 96)
    assert ops.prefill_in_range(H200, "bf16", 512, ops.prefill_pairs(512, 0), *HEADS)
    assert not ops.prefill_in_range(H200, "bf16", 512, ops.prefill_pairs(512, 60_000), *HEADS)


def test_beyond_the_range_the_physics_extrapolates() -> None:
    once, twice = ops.gemm_s(H200, "bf16", np.array([65536, 131072]), 8192, 8192)
    assert twice / once == pytest.approx(2.0, rel=0.01)
    short, long = ops.decode_attention_s(H200, "bf16", 64, np.array([262144, 524288]), *HEADS)
    assert long / short == pytest.approx(2.0, rel=0.01)


def test_a_head_size_that_was_not_measured_takes_the_nearest_kernel_and_its_own_bytes() -> None:
    near, wide = (float(ops.decode_attention_s(H200, "bf16", 256, 8192, 32, 8, d)) for d in (128, 256))
    assert wide / near == pytest.approx(2.0, rel=0.1)


def test_what_was_never_measured_is_refused() -> None:
    a100 = load_profile("a100_sxm")
    with pytest.raises(InputError, match="no measured fp8 matrix multiplication"):
        ops.gemm_s(a100, "fp8", 1, 4096, 4096)
    with pytest.raises(InputError, match="no measured decode attention over a fp8 KV cache"):
        ops.decode_attention_s(a100, "fp8", 1, 100, *HEADS)


def test_element_wise_kernels_have_a_floor_and_a_bandwidth() -> None:
    for name in profile_names():
        profile = load_profile(name)
        tiny, large, larger = ops.elementwise_s(profile, np.array([0.0, 2e9, 4e9]))
        assert 1e-6 < tiny < 6e-6
        assert larger / large == pytest.approx(2.0, rel=0.3)
        assert 4e9 / larger < 1.3 * profile.facts.mem_bw_bytes_per_s.value
    assert float(ops.fp8_quant_s(H200, 4096, 8192)) == pytest.approx(float(ops.elementwise_s(H200, 3 * 4096 * 8192)))


def test_a_whole_sweep_over_tokens_is_quick() -> None:
    m = np.arange(1, 16385)
    for name in ("h200_sxm", "a100_sxm"):
        profile = load_profile(name)
        for dtype in dense(profile.kernels):
            ops.gemm_s(profile, dtype, m, 4096, 4096)
            times = []
            for _ in range(5):
                start = time.perf_counter()
                ops.gemm_s(profile, dtype, m, 4096, 4096)
                times.append(time.perf_counter() - start)
            assert min(times) < 0.01
