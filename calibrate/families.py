"""What is fitted for each family of kernels: its work, the axes of its table, what is held out, what serving uses.

The work (FLOPs and bytes) is that of :mod:`twin.cost.operators`, so that fit and prediction cannot drift apart.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from calibrate.fit import Axes, Observations
from twin.base import Provenance
from twin.cost.operators import decode_work, gemm_fill, gemm_work, prefill_coords, prefill_pairs, prefill_work
from twin.spec.hardware import Precision

# Hidden sizes of dense decoders from 7B to 405B; the other side of a projection is 512 or more after TP 1 to 8.
HIDDEN_SIZES = (3584, 4096, 5120, 6144, 7168, 8192, 12288, 16384)
SERVING_MAX_TOKENS = 8192

SIDE = (32, 128, 512, 1024, 2048, 4096, 8192, 16384, 65536)
TOKENS = (1, 8, 16, 32, 64, 96, 128, 192, 256, 512, 768, 1024, 1536, 2048, 4096, 8192, 32768)
TOKENS_WITH_JUMPS = (1, 16, 17, 32, 64, 65, 128, 129, 192, 256, 512, 768, 1024, 1536, 2048, 4096, 8192, 32768)
GEMM_AXES: tuple[Axes, ...] = (
    {"m": TOKENS, "n": SIDE, "k": SIDE},
    {"m": TOKENS_WITH_JUMPS, "n": SIDE, "k": SIDE},
    {"m": TOKENS_WITH_JUMPS, "fill": (0.5, 1.0), "n": SIDE, "k": SIDE},
)
HEADS = {"heads": (1, 4, 16, 96), "kv_heads": (1, 2, 4, 8, 96)}
LANES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 16384)
CONTEXT = (2, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 32768, 131072)
ROWS = (16, 256, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 524288, 4194304)
SPAN = (1, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
DECODE_AXES: tuple[Axes, ...] = ({"lanes": LANES, "context": CONTEXT, **HEADS},)
PREFILL_AXES: tuple[Axes, ...] = ({"rows": ROWS, "span": SPAN, **HEADS},)


def _ids(*columns: pd.Series) -> np.ndarray:
    """A number per distinct combination."""
    return pd.MultiIndex.from_arrays(columns).factorize()[0].astype(np.intp)


def _f(column: pd.Series) -> np.ndarray:
    return column.to_numpy(dtype=np.float64)


def gemm(table: pd.DataFrame, dtype: Precision, provenance: Provenance) -> Observations:
    """Held out by (n, k). Serving: m ≤ 8192, one side a hidden size and the other 512 or more."""
    rows = table[table["dtype"] == dtype]
    m, n, k = _f(rows["m"]), _f(rows["n"]), _f(rows["k"])
    flops, bytes_moved = gemm_work(dtype, m, n, k)
    hidden = (np.isin(k, HIDDEN_SIZES) & (n >= 512)) | (np.isin(n, HIDDEN_SIZES) & (k >= 512))
    return Observations(
        coords={"m": m, "n": n, "k": k, "fill": gemm_fill(m)},
        flops=flops,
        bytes_moved=bytes_moved,
        seconds=_f(rows["seconds"]),
        shape=_ids(rows["n"], rows["k"]),
        serving=hidden & (m <= SERVING_MAX_TOKENS),
        provenance=provenance,
    )


def decode(table: pd.DataFrame, kv: Precision, head_dim: int, provenance: Provenance) -> Observations:
    """Held out by head configuration. Serving: 4 to 64 heads, context 128 to 32k, up to 512 sequences."""
    rows = table[(table["kv"] == kv) & (table["head_dim"] == head_dim)]
    batch, context = _f(rows["batch"]), _f(rows["context"])
    heads, kv_heads = _f(rows["num_heads"]), _f(rows["num_kv_heads"])
    flops, bytes_moved = decode_work(kv, batch, context, heads, kv_heads, head_dim)
    return Observations(
        coords={"lanes": batch * kv_heads, "context": context, "heads": heads, "kv_heads": kv_heads},
        flops=flops,
        bytes_moved=bytes_moved,
        seconds=_f(rows["seconds"]),
        shape=_ids(rows["num_heads"], rows["num_kv_heads"]),
        serving=_serving_heads(heads) & (context >= 128) & (context <= 32768) & (batch <= 512),
        provenance=provenance,
    )


def prefill(table: pd.DataFrame, kv: Precision, head_dim: int, provenance: Provenance) -> Observations:
    """Held out by head configuration. Serving: 4 to 64 heads, prompts of 128 or more, up to 32k tokens a step."""
    rows = table[(table["kv"] == kv) & (table["head_dim"] == head_dim)]
    batch, chunk = _f(rows["batch"]), _f(rows["chunk"])
    heads, kv_heads = _f(rows["num_heads"]), _f(rows["num_kv_heads"])
    tokens, pairs = batch * chunk, batch * prefill_pairs(chunk, 0.0)
    flops, bytes_moved = prefill_work(kv, tokens, pairs, tokens, heads, kv_heads, head_dim)
    query_rows, span = prefill_coords(tokens, pairs, heads)
    return Observations(
        coords={"rows": query_rows, "span": span, "heads": heads, "kv_heads": kv_heads},
        flops=flops,
        bytes_moved=bytes_moved,
        seconds=_f(rows["seconds"]),
        shape=_ids(rows["num_heads"], rows["num_kv_heads"]),
        serving=_serving_heads(heads) & (chunk >= 128) & (tokens <= 32768),
        provenance=provenance,
    )


def _serving_heads(heads: np.ndarray) -> np.ndarray:
    return np.asarray((heads >= 4) & (heads <= 64))
