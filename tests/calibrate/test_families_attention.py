"""Reading and fitting windows, latent and linear attention, on made-up tables that follow known formulas."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import BANDWIDTH, FACTS, LAUNCH, RATE

from calibrate import families_attention as families
from calibrate import importers_attention as read
from calibrate.profiles import Job
from twin.cost.latent import latent_decode_work, latent_prefill_work
from twin.cost.linear import delta_decode_work, delta_prefill_work

BATCHES, HEADS = [1, 4, 16, 64, 256], [4, 8, 16, 32, 64, 128]


def seconds(work: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return LAUNCH + np.maximum(work[0] / RATE, work[1] / BANDWIDTH)


def _latent_table(decode: bool) -> pd.DataFrame:
    lengths = [3, 128, 1024, 4096, 32768] if decode else [128, 512, 2048, 8192]
    batch, heads, length = np.array(list(product(BATCHES, HEADS, lengths))).T
    if decode:
        work = latent_decode_work("bf16", "bf16", batch, length, heads)
    else:
        work = latent_prefill_work("bf16", "bf16", batch * length, batch * length**2 / 2, batch * length, heads)
    table = pd.DataFrame({"batch_size": batch, "num_heads": heads, "latency": 1e3 * seconds(work)})
    table["isl"], table["step"] = (1, length - 1) if decode else (length, 0)
    table = table.assign(kv_cache_dtype="bfloat16", gemm_type="bfloat16", model=read.LATENT_MODEL)
    table["kernel_source"] = "FLASH_ATTN"
    slow = table.assign(latency=9 * table["latency"])
    others = [slow.assign(model="another/Model"), slow.assign(kernel_source="TRTLLM_RAGGED")]
    return pd.concat([table, *others, slow.assign(kv_cache_dtype="int3")], ignore_index=True)


def _recurrent_table() -> pd.DataFrame:
    tables = []
    for phase, lengths in (("generation", [1]), ("context", [1, 64, 512, 4096])):
        batch, heads, length = np.array(list(product(BATCHES, HEADS[:5], lengths))).T
        rule = (
            delta_decode_work(batch, heads / 2, heads)
            if phase == "generation"
            else delta_prefill_work(batch * length, batch, heads / 2, heads)
        )
        common = {
            "phase": phase,
            "batch_size": batch,
            "seq_len": length,
            "num_k_heads": heads // 2,
            "num_v_heads": heads,
        }
        values = batch * length * heads * 256
        conv = LAUNCH + 4.0 * values * (4 if phase == "generation" else 1) / BANDWIDTH
        names = {"generation": ("causal_conv1d_update", "fused_recurrent_gated_delta_rule_packed_decode")}
        names["context"] = ("causal_conv1d_fn", "chunk_gated_delta_rule_triton")
        for name, took in zip(names[phase], (conv, seconds(rule)), strict=True):
            tables.append(pd.DataFrame({**common, "kernel_source": name, "latency": 1e3 * took}))
    return pd.concat(tables, ignore_index=True).assign(head_k_dim=128, head_v_dim=128, d_conv=4)


@pytest.fixture
def mixers(database: Path) -> Path:
    tables = {
        "mla/vllm/0.24.0/mla_generation_module_perf.parquet": _latent_table(True),
        "mla/vllm/0.24.0/mla_context_module_perf.parquet": _latent_table(False),
        "linear_attention/vllm/0.24.0/gdn_perf.parquet": _recurrent_table(),
    }
    for name, table in tables.items():
        path = database / "data/h100_sxm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path)
    return database


def test_all_windows_and_heads_are_read(mixers: Path) -> None:
    table = read.read_attention(mixers, "h100_sxm", "decode")
    assert set(table["window"]) == {0, 128}
    assert set(table["context"]) == {2, 64, 512, 4096, 32768}  # the new token counts
    beyond = read.beyond_window(table)
    assert set(beyond["context"]) == {512, 4096, 32768}
    assert read.other_heads(table).empty
    without = mixers / "data/h100_sxm/attention/vllm/0.24.0/generation_attention_perf.parquet"
    pd.read_parquet(without).drop(columns="window_size").to_parquet(without)
    assert set(read.read_attention(mixers, "h100_sxm", "decode")["window"]) == {0}


def test_the_module_that_vllm_runs_by_default_is_read(mixers: Path) -> None:
    table = read.read_latent(mixers, "h100_sxm", "prefill")
    assert set(table["gemm"]) == {"bf16"}
    assert set(table["kv"]) == {"bf16"}
    assert not table.duplicated(["batch", "chunk", "num_heads"]).any()
    one = table[(table["batch"] == 1) & (table["chunk"] == 2048) & (table["num_heads"] == 16)]
    work = latent_prefill_work("bf16", "bf16", 2048, 2048**2 / 2, 2048, 16)
    assert one["seconds"].item() == pytest.approx(float(seconds(work)))


def test_known_formulas_are_found_again(mixers: Path) -> None:
    job = Job("h100_sxm", FACTS, "2026-01-01")
    found = families.fit_mixers(job, mixers)
    assert [fit.label for fit in found["latent"]] == [
        "latent decode bf16 cache bf16 weights",
        "latent prefill bf16 cache bf16 weights",
    ]
    assert [fit.label for fit in found["recurrent"]] == [
        f"recurrent {phase} {part}" for phase in ("decode", "prefill") for part in ("conv", "rule")
    ]
    assert {fit.label for fit in found["attention_variants"]} == {
        "windowed decode attention bf16 d128",
        "windowed prefill attention bf16 d128",
    }
    for fit in (*found["latent"], *found["recurrent"]):
        assert fit.kernel.held_out.serving.mape < 0.05, fit.label
        assert fit.kernel.bytes_per_s.value == pytest.approx(BANDWIDTH, rel=0.1), fit.label


def test_what_was_not_measured_is_absent(database: Path) -> None:
    found = families.fit_mixers(Job("h100_sxm", FACTS, "2026-01-01"), database)
    assert found["latent"] == found["recurrent"] == ()
