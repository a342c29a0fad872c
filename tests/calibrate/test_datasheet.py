"""Averages for GPUs that nobody measured: shares of peak, judged on measured GPUs left out, and marked assumed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calibrate import datasheet, families
from calibrate.averages import Donor, Ring, assumed, assumed_all_reduce, average, hold_one_out
from calibrate.facts import DEVICE, facts_of
from calibrate.fit import Peaks, fit_kernel
from calibrate.grid import FLAT, within
from twin.base import InputError, Provenance
from twin.cost.collectives import all_reduce_s
from twin.cost.operators import decode_attention_s, decode_in_range, gemm_in_range, gemm_s, roofline_s
from twin.cost.parts import parts
from twin.spec.hardware import load_profile
from twin.spec.kernels import Kernel

SOURCE = Provenance(origin="fitted", source="made up", date="2026-01-01")
PEAK = Peaks(1e15, 4e12)


def donor(gpu: str, rate: float, bandwidth: float, size: float = 1.0, bump: float = 1.0) -> Donor:
    """A GPU ``size`` times as large as ``PEAK`` that reaches these shares of it; ``bump`` slows m = 64 down."""
    peaks = Peaks(size * PEAK.flops_per_s, size * PEAK.bytes_per_s)
    m, n, k = np.array(list(product([1, 16, 64, 512, 4096, 8192], [4096, 8192, 16384], [4096, 8192]))).T
    work = np.maximum(
        2.0 * m * n * k / (rate * peaks.flops_per_s),
        (2.0 * (m + n) * k + 2.0 * m * n) / (bandwidth * peaks.bytes_per_s),
    )
    seconds = (4e-6 + work) * np.where(m == 64, bump, 1.0)
    rows = families.gemm(pd.DataFrame({"dtype": "bf16", "m": m, "n": n, "k": k, "seconds": seconds}), "bf16", SOURCE)
    candidate = ({"m": (1, 16, 64, 512, 8192), "n": (4096, 16384), "k": (4096, 8192)}, FLAT if bump == 1.0 else 1e-3)
    return Donor(gpu, fit_kernel(rows, peaks, [candidate]), peaks, rows)


def pool(donor: str) -> str:
    return "small" if donor.startswith("s") else "large"


def axes_of(donors: Sequence[Donor]) -> dict[str, Sequence[float]]:
    return within({"m": (1, 16, 64, 512, 8192), "n": (), "k": ()}, donors[0].rows.coords)


def test_gpus_that_reach_the_same_shares_predict_each_other() -> None:
    donors = [donor("l1", 0.7, 0.8), donor("l2", 0.7, 0.8, size=2), donor("l3", 0.7, 0.8, size=5)]
    way, held_out = hold_one_out(donors, axes_of(donors), pool)
    assert held_out.overall.mape < 0.01
    assert held_out.overall.n == sum(len(one.rows.seconds) for one in donors)
    kernel = assumed(donors, "l9", Peaks(3e15, 1e12), axes_of(donors), pool, "2026-01-01")
    assert isinstance(kernel, Kernel)
    assert kernel.flops_per_s.value == pytest.approx(0.7 * 3e15, rel=0.02)
    assert kernel.bytes_per_s.value == pytest.approx(0.8 * 1e12, rel=0.02)
    assert kernel.provenance.origin == kernel.launch_s.origin == "assumed"
    assert "l1, l2, l3" in kernel.provenance.source
    assert str(way) in kernel.provenance.source


def test_standard_errors_are_the_spread_over_the_donors() -> None:
    shares = (0.5, 0.6, 0.72)
    donors = [donor(f"l{i}", share, 0.8, size=i + 1) for i, share in enumerate(shares)]
    mean = average(donors, axes_of(donors), False)
    assert mean.figures(PEAK)["flops_per_s"] == pytest.approx(0.6e15, rel=0.02)  # the geometric mean
    assert mean.spread[0] == pytest.approx(np.std(np.log(shares), ddof=1), rel=0.05)
    kernel = assumed(donors, "l9", PEAK, axes_of(donors), pool, "2026-01-01")
    assert kernel.bytes_per_s.n == 3
    assert kernel.held_out is not None
    low, high = kernel.held_out.serving.interval90 or (1.0, 1.0)
    assert high / low > 1.3  # as wide as GPUs left out were off


def test_its_own_class_counts_where_classes_differ() -> None:
    small = [donor(f"s{i}", 0.8, 0.9, size=1 + i) for i in range(2)]
    large = [donor(f"l{i}", 0.4, 0.5, size=1 + i) for i in range(3)]
    way, _ = hold_one_out([*small, *large], axes_of(small), pool)
    assert way.own_class
    kernel = assumed([*small, *large], "s9", PEAK, axes_of(small), pool, "2026-01-01")
    assert isinstance(kernel, Kernel)
    assert kernel.flops_per_s.value == pytest.approx(0.8e15, rel=0.03)


def test_a_table_that_donors_share_is_averaged() -> None:
    donors = [donor(f"l{i}", 0.7, 0.8, size=1 + i, bump=1.5) for i in range(3)]
    way, held_out = hold_one_out(donors, axes_of(donors), pool)
    assert way.with_table
    assert held_out.serving.mape < 0.05
    kernel = assumed(donors, "l9", PEAK, axes_of(donors), pool, "2026-01-01")
    assert isinstance(kernel, Kernel)
    assert kernel.table is not None
    # measured nowhere: a table of averages does not make a size a measured one
    assert not kernel.covers(m=64, n=4096, k=4096).any()


def test_two_gpus_are_too_few_to_judge_an_average() -> None:
    with pytest.raises(InputError, match="2 measured GPUs are too few for an average: 1 more"):
        hold_one_out([donor("l1", 0.7, 0.8), donor("l2", 0.7, 0.8)], {}, pool)


def ring(gpu: str, link: float, fast: bool, latency: float = 5e-6) -> Ring:
    size = 2.0 ** np.arange(8, 28)
    return Ring(gpu, size, latency + 1.6 * (size - size[0]) / link, link, fast)


def test_all_reduce_scales_with_the_link_and_keeps_the_latency() -> None:
    rings = [ring("l1", 400e9, True), ring("l2", 900e9, True), ring("s1", 30e9, False, 20e-6)]
    found = assumed_all_reduce(rings, 8, 200e9, True, (7e3, 3e8), "2026-01-01")
    (segment,) = found.segments
    assert segment.us[0] == pytest.approx(5.0)
    assert segment.us[-1] == pytest.approx(5 + 1.6e6 * 2.0**27 / 200e9, rel=1e-3)
    assert found.held_out.overall.mape < 1e-3  # the third has no other of its kind to be judged by
    assert found.held_out.overall.n == 40
    assert "l1, l2, scaled" in found.provenance.source
    with pytest.raises(InputError, match="among 8 GPUs was measured on 0 of this kind"):
        assumed_all_reduce(rings[2:], 8, 200e9, True, (7e3, 3e8), "2026-01-01")


def test_a_mesh_gives_two_gpus_one_link() -> None:
    sheet, _ = datasheet.read_sheet(Path(), "mi300x")
    assert datasheet._link(sheet, 2) == pytest.approx(64e9)
    assert datasheet._link(sheet, 8) == pytest.approx(448e9)
    card, source = datasheet.read_sheet(Path(), "rtx4090")
    assert datasheet._link(card, 8) == datasheet._link(card, 2) == 32e9
    assert "whitepaper" in source


def test_sheets_give_facts_with_their_source() -> None:
    facts = facts_of("rtx4090", *datasheet.read_sheet(Path(), "rtx4090"), "2026-01-01")
    assert facts.flops.fp8 is not None
    assert facts.flops.fp8.value == pytest.approx(2 * facts.flops.bf16.value, rel=1e-3)
    assert facts.flops.bf16.origin == "datasheet"
    assert facts.memory_bytes.value / 2**30 == pytest.approx(23.64, abs=0.01)


def test_every_known_gpu_has_a_class() -> None:
    assert {datasheet.class_of(name) for name in DEVICE} == {"hbm", "gddr"}
    with pytest.raises(InputError, match="tpu is in no class"):
        datasheet.class_of("tpu")


@pytest.mark.parametrize("name", datasheet.NAMES)
def test_a_shipped_average_is_assumed_throughout_and_wide(name: str) -> None:
    profile = load_profile(name)
    measured = load_profile("h100_sxm")
    assert profile.facts.mem_bw_bytes_per_s.origin == "datasheet"
    for part in parts(profile):
        assert part.assumed, part.name
        assert part.span == {}
        assert part.held_out is not None
        assert part.held_out.serving.n > 20
    width = {part.family: part.held_out.serving.mape for part in parts(profile) if part.held_out is not None}
    sharp = {part.family: part.held_out.serving.mape for part in parts(measured) if part.held_out is not None}
    assert all(width[family] > sharp[family] for family in ("gemm", "decode_attention", "all_reduce"))
    assert not gemm_in_range(profile, "bf16", np.array([1.0, 64.0]), 4096, 4096).any()
    assert not decode_in_range(profile, "bf16", 8, 1000, 32, 8, 128).any()
    assert ("fp8" in profile.kernels.gemm) == (profile.facts.flops.fp8 is not None)


@pytest.mark.parametrize("name", datasheet.NAMES)
def test_a_shipped_average_obeys_its_datasheet(name: str) -> None:
    """No time beats the peaks, and large work comes near them."""
    profile = load_profile(name)
    facts, kernel = profile.facts, profile.kernels.gemm["bf16"]
    least = 2 * 8192.0 * 8192 * 8192 / facts.flops.bf16.value
    assert least < float(gemm_s(profile, "bf16", 8192, 8192, 8192)) < 4 * least
    moved = 2.0 * 8192 * 8192
    assert moved / facts.mem_bw_bytes_per_s.value < 1.3 * float(gemm_s(profile, "bf16", 1, 8192, 8192))
    assert float(roofline_s(kernel, 0.0, 1.0)) == pytest.approx(kernel.launch_s.value, rel=0.1)
    cache = 4.0 * 64 * 8192 * 8 * 128
    least = cache / facts.mem_bw_bytes_per_s.value
    assert 0.9 * least < float(decode_attention_s(profile, "bf16", 64, 8192, 32, 8, 128)) < 3 * least
    assert (
        float(all_reduce_s(profile, 2, 2.0**28)) > 2.0**28 / (facts.intra_node_link_bytes_per_s or facts.num_sms).value
    )
