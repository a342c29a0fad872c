"""Fused experts of the database: the loads of its rows, what is fitted, and what is assumed of other formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calibrate.families_moe import experts
from calibrate.fit import Peaks, fit_kernel
from calibrate.formats import Guess, doubling, guessed, guesses
from calibrate.importers_moe import _loads, balanced, power_law, read_experts
from twin.base import Provenance
from twin.cost.moe import Loads, moe_work
from twin.spec.hardware import load_profile


def test_balanced_tokens_take_experts_in_turn() -> None:
    assert balanced(1, 128, 4).nonzero()[0].tolist() == [0, 32, 64, 96]
    assert balanced(32, 128, 4).tolist() == [1] * 128
    assert balanced(64, 128, 4).tolist() == [2] * 128


@pytest.mark.parametrize(("tokens", "ep"), [(1, 1), (5, 8), (64, 4), (3000, 8)])
def test_power_law_rows_add_up_and_the_first_rank_is_the_busiest(tokens: int, ep: int) -> None:
    rows = power_law(tokens, 128, 4, ep, 1.2, np.random.default_rng(0))
    assert rows.sum() == 4 * tokens
    assert 0 <= rows.min() <= rows.max() <= tokens
    ranks = rows.reshape(ep, -1).sum(axis=1)
    assert ranks[0] == ranks.max()


def test_loads_count_what_one_gpu_sees() -> None:
    loads = Loads(*_loads(64, 128, 4, 4, "balanced"))
    assert (loads.hits, loads.rows, loads.tiled, loads.total, loads.skew) == (32, 64, 32 * 16, 256, 1.0)


def database(tmp_path: Path) -> Path:
    """Five model shapes whose experts take exactly launch + bytes / bandwidth."""
    rows = []
    for hidden, inner, per_token, num_experts in (
        (2048, 768, 8, 128),
        (4096, 1536, 8, 128),
        (2880, 2880, 4, 128),
        (6144, 2048, 8, 256),
        (4096, 14336, 2, 8),
    ):
        for tp, ep in ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4)):
            for tokens in (1, 4, 16, 64, 256):
                loads = Loads(*(np.float64(x) for x in _loads(tokens, num_experts, per_token, ep, "balanced")))  # type: ignore[arg-type]
                _, moved = moe_work("bf16", loads, hidden, inner / tp)
                ms = 1e3 * (20e-6 + float(moved) / 3e12)
                rows.append(["x_tritonexperts", tokens, hidden, inner, per_token, num_experts, tp, ep, ms])
    names = ["kernel_source", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts"]
    table = pd.DataFrame(rows, columns=[*names, "moe_tp_size", "moe_ep_size", "latency"])
    folder = tmp_path / "systems" / "data" / "h200_sxm"
    for family in ("gemm", "moe"):
        (folder / family / "vllm" / "0.24.0").mkdir(parents=True)
    table.assign(moe_dtype="bfloat16", distribution="balanced").to_parquet(
        folder / "moe" / "vllm" / "0.24.0" / "moe_perf.parquet"
    )
    return tmp_path / "systems"


def test_a_fit_finds_the_bandwidth_and_predicts_a_model_it_has_not_seen(tmp_path: Path) -> None:
    table = read_experts(database(tmp_path), "h200_sxm")
    assert set(table["backend"]) == {"triton"}
    seen = experts(table, "bf16", "triton", Provenance(origin="fitted", source="made up", date="2026"))
    assert len(np.unique(seen.shape)) == 5  # a model shape is held out whole
    kernel = fit_kernel(seen, Peaks(989e12, 4.8e12), [({"hits": (), "each": ()}, 0.1)])
    assert kernel.bytes_per_s.value == pytest.approx(3e12, rel=0.05)
    assert kernel.launch_s.value == pytest.approx(20e-6, rel=0.1)
    assert kernel.held_out.overall.mape < 0.05


def test_what_nobody_measured_is_marked_assumed() -> None:
    profile = load_profile("h200_sxm")
    base = profile.kernels.gemm["bf16"]
    kernel = guessed(base, Guess("bf16", 0.5, "because"), base.held_out, "2026-11-21")
    assert kernel.provenance.origin == "assumed"
    assert "because" in kernel.flops_per_s.source
    assert kernel.flops_per_s.value == pytest.approx(base.flops_per_s.value / 2, rel=1e-3)
    assert 1.2 < doubling("h200_sxm") < 2.0
    named = guesses(profile.facts, 67e12, 90, {"bf16", "fp8"}, 1.4)
    assert set(named) == {"int8", "w8a16", "w4a16", "bf16_2of4", "fp8_2of4", "fp8_block", "fp32"}
    assert "nvfp4" not in named, "Hopper has no fp4"
