"""Fits: known kernels are found again, strays do not bend them, and held-out shapes are really unseen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up import BANDWIDTH, LAUNCH, RATE, gemm_seconds

from calibrate import families, importers
from calibrate.fit import (
    Observations,
    fit_kernel,
    fit_roofline,
    fit_table,
    held_out_seconds,
    predict,
    text_rows,
    within,
)
from calibrate.small import fit_all_reduce, without_strays
from twin.base import InputError, Provenance

PEAKS = (989e12, 3.35e12)
SOURCE = Provenance(origin="fitted", source="made up", date="2026-01-01")


@pytest.fixture
def gemm(database: Path) -> Observations:
    return families.gemm(importers.read_gemm(database, "h100_sxm"), "bf16", SOURCE)


def test_the_roofline_of_a_roofline_is_itself(gemm: Observations) -> None:
    found = fit_roofline(gemm, *PEAKS)
    rate, bandwidth, launch, p = np.exp(found.log_params)
    assert (rate, bandwidth, launch) == pytest.approx((RATE, BANDWIDTH, LAUNCH), rel=0.02)
    assert p > 8  # a sharp knee
    assert np.all(found.stderr[:3] < 0.05)


def test_a_table_takes_up_what_the_roofline_cannot(gemm: Observations) -> None:
    """log m · 0.05 is linear on the table's axis, so it must come back everywhere, also between nodes."""
    axes = within({"m": (1, 64, 8192), "n": (512, 16384), "k": (512, 16384)}, gemm)
    wanted = 0.05 * np.log(gemm.coords["m"])
    table = fit_table(gemm, wanted, axes, 0.01)
    roofline = fit_roofline(gemm, *PEAKS)
    ratio = np.log(predict(roofline, axes, table, gemm) / roofline.seconds(gemm))
    assert ratio == pytest.approx(wanted, abs=0.005)


def test_stray_timings_do_not_bend_the_fit(gemm: Observations) -> None:
    stray = np.random.default_rng(5).random(len(gemm.seconds)) < 0.1
    spoilt = replace(gemm, seconds=np.where(stray, 2.5 * gemm.seconds, gemm.seconds))
    axes = within({"m": (1, 64, 1024, 8192), "n": (512, 4096, 16384), "k": (512, 4096, 16384)}, gemm)
    roofline = fit_roofline(spoilt, *PEAKS)
    table = fit_table(spoilt, np.log(spoilt.seconds / roofline.seconds(spoilt)), axes, 0.1)
    error = np.abs(predict(roofline, axes, table, gemm) / gemm.seconds - 1)
    assert np.median(error) < 0.02
    assert error.mean() < 0.04


def test_a_held_out_shape_is_predicted_without_its_own_rows(gemm: Observations) -> None:
    """One (n, k) pair made twice as slow cannot be known by fits that did not see it."""
    odd = gemm.shape == 7
    spoilt = replace(gemm, seconds=np.where(odd, 2.0 * gemm.seconds, gemm.seconds))
    axes = within({"m": (1, 64, 8192), "n": (512, 1024, 4096, 16384), "k": (512, 1024, 4096, 16384)}, gemm)
    predicted = held_out_seconds(spoilt, PEAKS, axes, 0.1)
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
    cut = within({"m": (1, 5, 8192, 32768), "n": (32, 600), "k": (32, 65536)}, gemm)
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
    fits = {fit.num_gpus: fit for fit in fit_all_reduce(importers.read_all_reduce(database, "h100_sxm"), SOURCE)}
    assert [segment.message_bytes[0] for segment in fits[8].segments] == [256, 256 * 1024, 8 * 2**20]
    assert [segment.algorithm for segment in fits[2].segments] == ["one_stage", "nccl"]
    assert fits[4].held_out.overall.mape < 1e-3  # the made-up kernels are straight lines


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
