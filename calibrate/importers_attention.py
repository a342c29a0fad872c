"""Attention of the measured-kernel database beyond the dense decoders': other head sizes, windows, MLA, linear attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from calibrate import importers
from twin.spec.kernels import Phase

DENSE_HEADS = (64, 128)
"""Head sizes of :func:`calibrate.importers.read_decode`, which are families of their own."""

FILES = {"decode": "generation", "prefill": "context"}


def has(systems: Path, gpu: str, family: str, file: str) -> bool:
    """Whether vLLM's kernels of this family were measured on the GPU."""
    return any((systems / "data" / gpu / family / "vllm").glob(f"*/{file}"))


def read_attention(systems: Path, gpu: str, phase: Phase) -> pd.DataFrame:
    """All head sizes and windows: ``batch``, ``chunk``, ``context`` (cached tokens, the new one too; 0 in prefill), heads,
    ``head_dim``, ``kv``, ``window`` (0 for none), ``seconds``.
    """
    path = importers._newest(systems, gpu, "attention", "vllm", f"{FILES[phase]}_attention_perf.parquet")
    columns = {
        "batch_size": "batch",
        "isl": "chunk",
        "step": "context",
        "num_heads": "num_heads",
        "num_key_value_heads": "num_kv_heads",
        "head_dim": "head_dim",
        "kv_cache_dtype": "kv",
        "window_size": "window",
    }
    table = importers._read(systems, path, columns, optional=("window_size",))
    if "window" not in table:
        table["window"] = 0
    table["context"] += phase == "decode"
    table = table.assign(kv=table["kv"].map(importers.KV)).dropna(subset="kv")
    return importers._median(table)


def other_heads(table: pd.DataFrame) -> pd.DataFrame:
    """Full attention with head sizes that no dense family has; inside a window it is full attention too."""
    full = table[~_beyond(table) & ~table["head_dim"].isin(DENSE_HEADS)]
    return importers._median(full.drop(columns="window"))


def beyond_window(table: pd.DataFrame) -> pd.DataFrame:
    """Rows whose window does not cover the context or prompt."""
    return table[_beyond(table)]


def _beyond(table: pd.DataFrame) -> pd.Series[bool]:
    return (table["window"] > 0) & (np.maximum(table["context"], table["chunk"]) > table["window"])


LATENT_MODEL = "deepseek-ai/DeepSeek-V3"
"""Whose sizes the MLA modules were timed at (Kimi-K2's are the same); the newest tables hold another model too."""

LATENT_GEMM = {"bfloat16": "bf16", "fp8_block": "fp8_block", "nvfp4": "nvfp4"}
NOT_DEFAULT = ("TRTLLM_RAGGED",)
"""Timed beside the backend that vLLM takes for prefill on its own (FlashAttention, ``vllm/platforms/cuda.py``)."""


def read_latent(systems: Path, gpu: str, phase: Phase) -> pd.DataFrame:
    """MLA modules: ``batch``, ``chunk``, ``context`` (as :func:`read_attention`), ``num_heads`` per GPU, ``kv``, ``gemm``,
    ``seconds``.
    """
    path = importers._newest(systems, gpu, "mla", "vllm", f"mla_{FILES[phase]}_module_perf.parquet")
    columns = {
        "batch_size": "batch",
        "isl": "chunk",
        "step": "context",
        "num_heads": "num_heads",
        "kv_cache_dtype": "kv",
        "gemm_type": "gemm",
        "model": "model",
        "kernel_source": "kernel",
    }
    table = importers._read(systems, path, columns)
    table = table[(table["model"] == LATENT_MODEL) & ~table["kernel"].isin(NOT_DEFAULT)]
    table = table.assign(kv=table["kv"].map(importers.KV), gemm=table["gemm"].map(LATENT_GEMM))
    return importers._median(table.dropna(subset=["kv", "gemm"]).drop(columns=["model", "kernel"]))


PARTS = {
    "causal_conv1d_fn": "conv",
    "causal_conv1d_update": "conv",
    "chunk_gated_delta_rule_flashinfer": "rule",
    "chunk_gated_delta_rule_triton": "rule",
    "fused_recurrent_gated_delta_rule_packed_decode": "rule",
}


def read_recurrent(systems: Path, gpu: str, phase: Phase) -> pd.DataFrame:
    """The gated delta net's kernels: ``part`` (conv, rule), ``batch``, ``chunk``, ``k_heads``, ``v_heads``, ``k_dim``,
    ``v_dim``, ``taps`` of the convolution, ``seconds``.
    """
    columns = {
        "kernel_source": "part",
        "phase": "phase",
        "batch_size": "batch",
        "seq_len": "chunk",
        "num_k_heads": "k_heads",
        "num_v_heads": "v_heads",
        "head_k_dim": "k_dim",
        "head_v_dim": "v_dim",
        "d_conv": "taps",
    }
    path = importers._newest(systems, gpu, "linear_attention", "vllm", "gdn_perf.parquet")
    table = importers._read(systems, path, columns)
    table = table[table["phase"] == FILES[phase]].drop(columns="phase")
    return importers._median(table.assign(part=table["part"].map(PARTS)).dropna(subset="part"))
