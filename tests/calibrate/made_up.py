"""A small made-up database in the layout of the real one, whose kernels follow known formulas."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

RATE, BANDWIDTH, LAUNCH = 500e12, 2.5e12, 4e-6  # what the made-up H100 reaches
FIRST = {"framework": "VLLM", "version": "1.0.0", "device": "made up"}


def gemm_seconds(m: np.ndarray, n: np.ndarray, k: np.ndarray, fp8: bool) -> np.ndarray:
    size = 1 if fp8 else 2
    compute = 2.0 * m * n * k / (RATE * (2 if fp8 else 1))
    return LAUNCH + np.maximum(compute, (size * (m + n) * k + 2.0 * m * n) / BANDWIDTH)


def gemm_table() -> pd.DataFrame:
    m, n, k = np.array(
        list(
            product(
                [1, 16, 17, 64, 65, 128, 129, 256, 257, 1024, 4096, 8192],
                *[[512, 1024, 4096, 8192, 16384]] * 2,
            )
        )
    ).T
    tables = [
        pd.DataFrame({**FIRST, "gemm_dtype": name, "m": m, "n": n, "k": k, "latency": 1e3 * seconds})
        for name, seconds in (
            ("bfloat16", gemm_seconds(m, n, k, False)),
            ("fp8", gemm_seconds(m, n, k, True)),
            ("fp8_block", np.full(len(m), 84e-6)),
        )
    ]
    return pd.concat(tables, ignore_index=True)


def attention_table(lengths: list[int], decode: bool) -> pd.DataFrame:
    rows = []
    for batch, length, (heads, kv_heads), window in product(
        [1, 8, 64, 256], lengths, [(4, 1), (8, 1), (8, 2), (16, 2), (32, 4), (32, 8), (64, 8)], [0, 128]
    ):
        tokens = batch * length
        pairs = tokens if decode else tokens * length / 2
        moved = (4 * tokens * kv_heads * 128) + 4 * (batch if decode else tokens) * heads * 128
        seconds = LAUNCH + max(4 * pairs * heads * 128 / RATE, moved / BANDWIDTH)
        rows.append(
            (
                batch,
                1 if decode else length,
                length - 1 if decode else 0,
                heads,
                kv_heads,
                window,
                1e3 * seconds,
            )
        )
    columns = ["batch_size", "isl", "step", "num_heads", "num_key_value_heads", "window_size", "latency"]
    return pd.DataFrame(rows, columns=columns).assign(head_dim=128, kv_cache_dtype="bfloat16")


def all_reduce_table() -> pd.DataFrame:
    sizes = 2 ** np.arange(7, 30)
    tables = []
    for num_gpus, backend in product([2, 4, 8], ["vllm_graph", "vllm_eager"]):
        seconds = 5e-6 * num_gpus + sizes * 2 / 200e9 + (20e-6 if backend == "vllm_eager" else 0.0)
        tables.append(
            pd.DataFrame({"num_gpus": num_gpus, "message_size": sizes, "latency": 1e3 * seconds, "backend": backend})
        )
    return pd.concat(tables, ignore_index=True).assign(allreduce_dtype="bfloat16")


def quantize_table() -> pd.DataFrame:
    m, k = np.array(list(product([1, 16, 256, 1024, 8192], [512, 2048, 4096, 5120, 8192, 16384]))).T
    seconds = np.maximum(2e-6, 3.0 * m * k / BANDWIDTH)
    return pd.DataFrame({"m": m, "k": k, "latency": 1e3 * seconds, "kernel_source": "static_scaled_fp8_quant"})


DATASHEET = {
    "gpu": {"mem_bw": 3.35e12, "bfloat16_tc_flops": 989e12, "fp8_tc_flops": 1978e12, "power": 700},
    "node": {"num_gpus_per_node": 8, "intra_node_bw": 450e9, "pcie_bw": 64e9},
}


def write_database(folder: Path) -> Path:
    """``systems`` with one GPU that has every family, in an old and a new version of the GEMM table."""
    systems = folder / "aiconfigurator_core" / "systems"
    tables = {
        "gemm/vllm/0.9.0/gemm_perf": gemm_table().assign(latency=1.0),
        "gemm/vllm/0.24.0/gemm_perf": gemm_table(),
        "attention/vllm/0.24.0/generation_attention_perf": attention_table([2, 64, 512, 4096, 32768], decode=True),
        "attention/vllm/0.24.0/context_attention_perf": attention_table([16, 128, 1024, 8192], decode=False),
        "comm/vllm/0.24.0/custom_allreduce_perf": all_reduce_table(),
        "quantize/vllm/0.24.0/scale_matrix_perf": quantize_table(),
    }
    for name, table in tables.items():
        path = systems / "data" / "h100_sxm" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path)
    (systems / "h100_sxm.yaml").write_text(yaml.safe_dump(DATASHEET))
    return systems
