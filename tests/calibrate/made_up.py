"""A small made-up database in the layout of the real one, whose kernels follow known formulas."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from twin.base import Estimate
from twin.cost.operators import decode_work, prefill_pairs, prefill_work
from twin.spec.hardware import Facts, Flops

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
    "gpu": {"mem_bw": 3.35e12, "bfloat16_tc_flops": 989e12, "fp8_tc_flops": 1978e12, "power": 700, "sm_version": 90},
    "node": {"num_gpus_per_node": 8, "intra_node_bw": 450e9, "pcie_bw": 64e9},
}


FACTS = Facts(
    memory_bytes=Estimate(value=80e9, origin="measured", source="made up", date="2026-01-01"),
    mem_bw_bytes_per_s=Estimate(value=3.35e12, origin="measured", source="made up", date="2026-01-01"),
    flops=Flops(
        bf16=Estimate(value=989e12, origin="measured", source="made up", date="2026-01-01"),
        fp8=Estimate(value=1978e12, origin="measured", source="made up", date="2026-01-01"),
    ),
    num_sms=Estimate(value=132, origin="measured", source="made up", date="2026-01-01"),
    num_gpus_per_node=8,
)


def log_tables(seed: int = 0, noise: float = 0.03) -> dict[str, pd.DataFrame]:
    """A measurement log's frames: a few hundred noisy points per family, prefill also after a context."""
    rng = np.random.default_rng(seed)

    def frame(family: str, seconds: np.ndarray, **columns: object) -> pd.DataFrame:
        table = pd.DataFrame({**columns, "seconds": seconds * np.exp(rng.normal(0, noise, len(seconds)))})
        table.attrs["source"] = f"log.jsonl, {family}"
        return table

    m, n, k = np.exp(rng.uniform(np.log([1, 256, 256]), np.log([4096, 8192, 8192]), (300, 3))).astype(int).T
    shapes = list(product([1, 8, 32], [64, 512, 4096], [(4, 2), (8, 2), (8, 4), (8, 8), (16, 4)]))
    batch, length = np.array([(b, s) for b, s, _ in shapes]).T
    heads, kv = np.array([pair for *_, pair in shapes]).T
    past = rng.choice([0, 0, 256, 2048], len(batch))
    attention = {"head_dim": 64, "kv": "bf16", "num_heads": heads, "num_kv_heads": kv, "batch": batch}
    decode = decode_work("bf16", batch, length, heads, kv, 64)
    pairs = batch * prefill_pairs(length, past)
    prefill = prefill_work("bf16", batch * length, pairs, batch * (length + past), heads, kv, 64)
    rows, width = np.array(list(product([1, 64, 1024, 8192], [512, 1024, 2048, 4096, 8192]))).T
    sizes = 2.0 ** np.arange(10, 28)
    return {
        "gemm": frame("gemm", gemm_seconds(m, n, k, False), dtype="bf16", m=m, n=n, k=k),
        "decode": frame("decode", _roofline(*decode), context=length, **attention),
        "prefill": frame("prefill", _roofline(*prefill), chunk=length, context=past, **attention),
        "elementwise": frame(
            "elementwise",
            np.maximum(2e-6, 4.0 * rows * width / BANDWIDTH),
            m=rows,
            k=width,
            bytes_moved=4.0 * rows * width,
        ),
        "all_reduce": frame("all_reduce", 1e-5 + sizes / 100e9, num_gpus=2, message_bytes=sizes, backend="nccl"),
    }


def _roofline(flops: np.ndarray, moved: np.ndarray) -> np.ndarray:
    return LAUNCH + np.maximum(flops / RATE, moved / BANDWIDTH)


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
