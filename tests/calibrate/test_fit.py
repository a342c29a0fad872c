"""Fits: known kernels are found again, strays do not bend them, and held-out shapes are really unseen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import BANDWIDTH, LAUNCH, RATE, gemm_seconds

from calibrate import checks, families, importers
from calibrate.fit import (
    Observations,
    Peaks,
    bound_note,
    fit_kernel,
    fit_roofline,
    held_out_seconds,
    predict,
)
from calibrate.grid import FLAT, fit_table, text_rows, within
from calibrate.judge import Judged, coverage90, errors, interval90
from calibrate.small import algorithms, fit_all_reduce, without_strays
from twin.base import InputError, Provenance

PEAKS = Peaks(989e12, 3.35e12)
SOURCE = Provenance(origin="fitted", source="made up", date="2026-01-01")


@pytest.fixture
def gemm(database: Path) -> Observations:
    return families.gemm(importers.read_gemm(database, "h100_sxm"), "bf16", SOURCE)


def test_the_roofline_of_a_roofline_is_itself(gemm: Observations) -> None:
    found = fit_roofline(gemm, PEAKS)
    rate, bandwidth, launch, p = np.exp(found.log_params)
    assert (rate, bandwidth, launch) == pytest.approx((RATE, BANDWIDTH, LAUNCH), rel=0.02)
    assert p > 8  # a sharp knee
    assert np.all(found.stderr[:3] < 0.05)


def test_a_coefficient_at_its_bound_has_no_error_and_is_named(gemm: Observations) -> None:
    """Work that adds up where the roofline takes the larger: p stops at 1, the least that makes sense."""
    compute, memory = gemm.flops / RATE, gemm.bytes_moved / BANDWIDTH
    slow = replace(gemm, seconds=LAUNCH + (np.sqrt(compute) + np.sqrt(memory)) ** 2)
    axes = {"m": (1, 8192), "n": (512, 16384), "k": (512, 16384)}
    kernel = fit_kernel(slow, PEAKS, [(axes, 0.1)])
    assert kernel.p.value == pytest.approx(1.0, rel=0.01)
    assert kernel.p.stderr is None
    assert bound_note("gemm bf16", kernel, PEAKS) == "gemm bf16: p at its lower bound 1"
    sharp = fit_kernel(gemm, Peaks(989e12, 3.35e12, headroom=2.0), [(axes, 0.1)])
    assert sharp.flops_per_s.stderr is not None
    assert "flops_per_s" not in (bound_note("gemm bf16", sharp, PEAKS) or "")


def test_what_the_data_do_not_feel_has_no_error(gemm: Observations) -> None:
    """Without FLOPs no time hangs on the rate."""
    idle = replace(gemm, flops=np.zeros_like(gemm.flops), seconds=LAUNCH + gemm.bytes_moved / BANDWIDTH)
    axes = {"m": (1, 8192), "n": (512, 16384), "k": (512, 16384)}
    kernel = fit_kernel(idle, PEAKS, [(axes, FLAT)])
    assert kernel.flops_per_s.stderr is None
    assert kernel.bytes_per_s.stderr is not None
    assert "flops_per_s not felt" in (bound_note("gemm bf16", kernel, PEAKS) or "")
    assert kernel.table is not None
    assert set(kernel.table.values.ravel()) == {0.0}  # the roofline alone, over the measured range


def test_the_interval_holds_nine_in_ten_of_shapes_it_has_not_seen() -> None:
    rng = np.random.default_rng(1)
    measured, groups = np.exp(rng.normal(0, 0.1, 4000)), np.arange(4000) % 5
    found = errors(np.ones(4000), measured, groups)
    assert found.interval90 == pytest.approx((np.exp(-0.1645), np.exp(0.1645)), rel=0.02)
    assert found.coverage90 == pytest.approx(0.9, abs=0.02)
    apart = np.where(groups == 0, 3.0, measured)  # a group that the others know nothing of is not covered
    assert coverage90(apart, groups) == pytest.approx(0.8 * 0.9, abs=0.03)
    assert coverage90(measured, np.zeros(4000)) is None


def test_few_values_widen_the_interval_to_keep_its_promise() -> None:
    """With 19 values the ranks 1 and 19 of 20 hold 90 %; with fewer the extremes are all there is."""
    values = np.arange(1.0, 20.0)
    assert interval90(values) == (1.0, 19.0)
    assert interval90(values[:5]) == (1.0, 5.0)


def test_held_out_predictions_are_kept_for_the_report(gemm: Observations) -> None:
    judged: list[Judged] = []
    axes = {"m": (1, 64, 8192), "n": (512, 4096, 16384), "k": (512, 4096, 16384)}
    kernel = fit_kernel(gemm, PEAKS, [(axes, 0.1)], "h100_sxm", judged)
    (kept,) = judged
    assert (kept.gpu, kept.kernel) == ("h100_sxm", "gemm bf16")
    assert kept.size is gemm.flops
    off = np.abs(kept.predicted_s / kept.measured_s - 1)
    assert kernel.held_out.serving.mape == pytest.approx(off[kept.serving].mean(), rel=0.01)
    assert kernel.held_out.overall.n == len(kept.measured_s)


@pytest.mark.parametrize(
    ("factor", "said"),
    [(1e-3, r"gemm bf16: the larger .* \d+ times faster than the device's peak rates allow"), (1e3, "times slower")],
)
def test_times_in_another_unit_are_refused(gemm: Observations, factor: float, said: str) -> None:
    spoilt = replace(gemm, seconds=gemm.seconds * factor)
    with pytest.raises(InputError, match=said):
        fit_kernel(spoilt, PEAKS, families.LOG_GEMM)


def test_too_few_points_and_shapes_say_how_many_more(gemm: Observations) -> None:
    few = gemm.part(np.arange(len(gemm.seconds)) < 12)
    with pytest.raises(InputError, match="gemm bf16: 12 points are too few for 4 coefficients: 8 more are needed"):
        fit_kernel(few, PEAKS, families.LOG_GEMM)
    one_shape = gemm.part(np.repeat(gemm.shape == 0, 1))
    many = replace(
        one_shape,
        **{
            name: np.tile(getattr(one_shape, name), 4)
            for name in ("flops", "bytes_moved", "seconds", "shape", "serving")
        },
        coords={name: np.tile(x, 4) for name, x in one_shape.coords.items()},
    )
    with pytest.raises(InputError, match="all points are of 1 shape: 2 more are needed"):
        fit_kernel(many, PEAKS, families.LOG_GEMM)
    with pytest.raises(InputError, match="are of 2 shapes: 1 more"):
        checks.enough("x", 100, 2, 4, "here")


def test_a_table_takes_up_what_the_roofline_cannot(gemm: Observations) -> None:
    """log m · 0.05 is linear on the table's axis, so it must come back everywhere, also between nodes."""
    axes = within({"m": (1, 64, 8192), "n": (512, 16384), "k": (512, 16384)}, gemm.coords)
    wanted = 0.05 * np.log(gemm.coords["m"])
    table = fit_table(gemm.coords, gemm.weight, wanted, axes, 0.01)
    roofline = fit_roofline(gemm, PEAKS)
    ratio = np.log(predict(roofline, axes, table, gemm) / roofline.seconds(gemm))
    assert ratio == pytest.approx(wanted, abs=0.005)


def test_stray_timings_do_not_bend_the_fit(gemm: Observations) -> None:
    stray = np.random.default_rng(5).random(len(gemm.seconds)) < 0.1
    spoilt = replace(gemm, seconds=np.where(stray, 2.5 * gemm.seconds, gemm.seconds))
    axes = within({"m": (1, 64, 1024, 8192), "n": (512, 4096, 16384), "k": (512, 4096, 16384)}, gemm.coords)
    roofline = fit_roofline(spoilt, PEAKS)
    log_ratio = np.log(spoilt.seconds / roofline.seconds(spoilt))
    table = fit_table(spoilt.coords, spoilt.weight, log_ratio, axes, 0.1)
    error = np.abs(predict(roofline, axes, table, gemm) / gemm.seconds - 1)
    assert np.median(error) < 0.02
    assert error.mean() < 0.04


def test_a_held_out_shape_is_predicted_without_its_own_rows(gemm: Observations) -> None:
    """One (n, k) pair made twice as slow cannot be known by fits that did not see it."""
    odd = gemm.shape == 7
    spoilt = replace(gemm, seconds=np.where(odd, 2.0 * gemm.seconds, gemm.seconds))
    axes = within({"m": (1, 64, 8192), "n": (512, 1024, 4096, 16384), "k": (512, 1024, 4096, 16384)}, gemm.coords)
    (predicted,) = held_out_seconds(spoilt, PEAKS, [(axes, 0.1)])
    assert np.median(predicted[odd] / spoilt.seconds[odd]) == pytest.approx(0.5, abs=0.06)


def test_a_larger_table_must_earn_its_place(gemm: Observations) -> None:
    small, large = (
        {"m": (1, 8192), "n": (512, 16384), "k": (512, 16384)},
        {"m": (1, 8192), "n": (512, 1024, 4096, 8192, 16384), "k": (512, 16384)},
    )
    noise = np.exp(np.random.default_rng(2).normal(scale=0.05, size=len(gemm.seconds)))
    noisy = replace(gemm, seconds=gemm.seconds * noise)
    assert fit_kernel(noisy, PEAKS, [(small, 0.1), (large, 0.1)]).table.axes["n"] == (512, 16384)
    bumpy = replace(noisy, seconds=noisy.seconds * np.where(gemm.coords["n"] == 4096, 1.5, 1.0))
    assert len(fit_kernel(bumpy, PEAKS, [(small, 0.1), (large, 0.1)]).table.axes["n"]) > 2


def test_axes_are_cut_to_what_was_measured(gemm: Observations) -> None:
    cut = within({"m": (1, 5, 8192, 32768), "n": (32, 600), "k": (32, 65536)}, gemm.coords)
    assert cut == {"m": (1, 5, 8192), "n": (512, 600, 16384), "k": (512, 16384)}


def test_serving_shapes_are_those_of_dense_models(gemm: Observations) -> None:
    n, k, m = (gemm.coords[name] for name in ("n", "k", "m"))
    assert gemm.serving[(n == 8192) & (k == 512) & (m == 64)].all()
    assert not gemm.serving[(n == 1024) & (k == 1024)].any()


def test_work_is_counted_as_the_cost_room_counts_it(database: Path) -> None:
    table = importers.read_prefill(database, "h100_sxm")
    seen = families.prefill(table, "bf16", 128, SOURCE)
    row = int(np.flatnonzero((table["batch"] == 8) & (table["chunk"] == 1024) & (table["num_heads"] == 16))[0])
    assert seen.flops[row] == 4 * 8 * 1024 * 512 * 16 * 128
    assert seen.coords["rows"][row] == 8 * 1024 * 16
    assert seen.coords["span"][row] == 1024


def test_all_reduce_is_split_where_vllm_changes_the_algorithm(database: Path) -> None:
    table = importers.read_all_reduce(database, "h100_sxm")
    fits = {fit.num_gpus: fit for fit in fit_all_reduce(table, SOURCE, 80, True)}
    assert [segment.message_bytes[0] for segment in fits[8].segments] == [256, 256 * 1024, 8 * 2**20]
    assert [segment.algorithm for segment in fits[2].segments] == ["one_stage", "nccl"]
    assert fits[4].held_out.overall.mape < 1e-3  # the made-up kernels are straight lines


def test_symmetric_memory_is_seen_in_the_points() -> None:
    """A step down at 1 MiB on 8 GPUs, as vLLM's own kernel hands over there on compute capability 10.0."""
    sizes = 2.0 ** np.arange(8, 30)
    own = np.where(sizes < 2**18, 7e-6 + sizes * 2e-11, 25e-6 + sizes * 2e-12)
    symmetric, nccl = 14e-6 + sizes * 3e-12, 40e-6 + sizes * 2.4e-12

    def fit(seconds: np.ndarray) -> list[str]:
        table = pd.DataFrame({"num_gpus": 8, "message_bytes": sizes, "seconds": seconds})
        (found,) = fit_all_reduce(table, SOURCE, 100, True)
        return [segment.algorithm for segment in found.segments]

    with_it = np.where(sizes < 2**20, own, np.where(sizes <= 128 * 2**20, symmetric, nccl))
    assert fit(with_it) == ["one_stage", "two_stage", "symmetric", "nccl"]
    assert fit(np.where(sizes < 2**23, own, nccl)) == ["one_stage", "two_stage", "nccl"]


def test_over_pcie_more_than_two_gpus_leave_all_to_nccl() -> None:
    assert algorithms(8, 89, False) == [(("nccl", 0.0),)]
    assert [name for name, _ in algorithms(2, 89, False)[0]] == ["one_stage", "nccl"]
    starts = [low for _, low in algorithms(2, 103, True)[1]]
    assert starts == sorted(starts)


def test_one_stray_message_is_dropped_but_a_plateau_is_kept() -> None:
    assert without_strays(np.array([5.0, 15.0, 6.0])) == pytest.approx([5.0, 5.5, 6.0])
    plateau = np.array([9.0, 26.0, 26.0, 17.0])
    assert without_strays(plateau) == pytest.approx(plateau)


def test_nothing_to_hold_out_is_said(gemm: Observations) -> None:
    empty = replace(gemm, serving=np.zeros(len(gemm.seconds), dtype=bool))
    with pytest.raises(InputError, match="no measurement left"):
        fit_kernel(empty, PEAKS, [({"m": (1, 8192), "n": (512, 16384), "k": (512, 16384)}, 0.1)])


def test_table_rows_are_thousandths() -> None:
    assert text_rows(np.array([0.0123, -0.5, 1.0, 0.0]), 2) == ("12 -500", "1000 0")


def test_the_made_up_kernel_is_what_the_formula_says() -> None:
    one = gemm_seconds(np.array([8192.0]), np.array([8192.0]), np.array([8192.0]), False)
    assert one[0] == pytest.approx(LAUNCH + 2 * 8192.0**3 / RATE)
