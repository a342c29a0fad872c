"""What is fitted for each family of kernels: its work, its tables' axes, what is held out, what serving uses.

The work (FLOPs and bytes) is that of :mod:`twin.cost.operators`, so that fit and prediction cannot drift.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calibrate.fit import FOLDS, Observations
from calibrate.grid import FLAT, Candidate
from twin.base import Provenance
from twin.cost.operators import decode_work, gemm_fill, gemm_work, prefill_coords, prefill_pairs, prefill_work
from twin.cost.tables import Floats
from twin.spec.kernels import Precision

# Hidden sizes of dense decoders, 7B to 405B; a projection's other side is 512 or more after TP 1 to 8.
HIDDEN_SIZES = (3584, 4096, 5120, 6144, 7168, 8192, 12288, 16384)
SERVING_MAX_TOKENS = 8192

# Candidate tables, each with its smoothing; the held-out error chooses. Two nodes a token apart are a jump,
# where a kernel hands over to another. ``area`` = m·n: waves of tiles over the GPU show as steps in it.
SIDE = (32, 128, 512, 1024, 2048, 4096, 8192, 16384, 65536)
TOKENS = (1, 8, 16, 32, 64, 96, 128, 192, 256, 512, 768, 1024, 1536, 2048, 4096, 8192, 32768)
TOKENS_WITH_JUMPS = (1, 16, 17, 32, 64, 65, 128, 129, 192, 256, 512, 768, 1024, 1536, 2048, 4096, 8192, 32768)
TOKENS_FINE = (1, 16, 32, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192, 32768)
AREA = (
    *(2.0**i for i in range(5, 18)),
    *(round(2.0 ** (i / 4)) for i in range(72, 104)),
    2.0**26,
    2.0**28,
    2.0**31,
)
GEMM: tuple[Candidate, ...] = (
    ({"m": TOKENS, "n": SIDE, "k": SIDE}, 0.1),
    ({"m": TOKENS_WITH_JUMPS, "n": SIDE, "k": SIDE}, 0.1),
    ({"m": TOKENS_WITH_JUMPS, "fill": (0.5, 1.0), "n": SIDE, "k": SIDE}, 0.1),
    ({"m": TOKENS_FINE, "area": AREA, "k": SIDE}, 0.02),
)
GROUP = (1, 2, 4, 8, 16, 32, 96)
HEADS = {"heads": (1, 4, 16, 96), "kv_heads": (1, 2, 4, 8, 96)}
LANES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 16384)
CONTEXT = (2, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 32768, 131072)
DECODE: tuple[Candidate, ...] = (
    ({"lanes": LANES, "context": CONTEXT, "group": GROUP}, 0.1),
    ({"lanes": LANES, "context": CONTEXT, **HEADS}, 0.05),
)
ROWS = (16, 256, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 524288, 4194304)
SPAN = (1, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
PREFILL: tuple[Candidate, ...] = (({"rows": ROWS, "span": SPAN, **HEADS}, 0.05),)

# A few hundred points of our own log, on any device: from the roofline alone to coarse tables.
DOUBLING = tuple(2.0**i for i in range(0, 23))
FOURFOLD = DOUBLING[::2]
ANY: tuple[float, ...] = ()  # two nodes: the least and the most that was measured
LOG_GEMM: tuple[Candidate, ...] = (
    ({"m": ANY, "n": ANY, "k": ANY}, FLAT),
    ({"m": DOUBLING, "n": ANY, "k": ANY}, 0.3),
    ({"m": DOUBLING, "n": FOURFOLD, "k": FOURFOLD}, 0.3),
    ({"m": DOUBLING, "n": FOURFOLD, "k": FOURFOLD}, 0.1),
    ({"m": TOKENS_WITH_JUMPS, "n": SIDE, "k": SIDE}, 0.1),
)
HEADS_MEASURED = {"heads": ANY, "kv_heads": ANY}
LOG_DECODE: tuple[Candidate, ...] = (
    ({"lanes": ANY, "context": ANY, **HEADS_MEASURED}, FLAT),
    ({"lanes": FOURFOLD, "context": FOURFOLD, **HEADS_MEASURED}, 0.3),
    ({"lanes": DOUBLING, "context": DOUBLING, **HEADS_MEASURED}, 0.1),
)
LOG_PREFILL: tuple[Candidate, ...] = (
    ({"rows": ANY, "span": ANY, **HEADS_MEASURED}, FLAT),
    ({"rows": FOURFOLD, "span": FOURFOLD, **HEADS_MEASURED}, 0.3),
    ({"rows": FOURFOLD, "keys": FOURFOLD, **HEADS_MEASURED}, 0.3),
    ({"rows": DOUBLING, "span": DOUBLING, **HEADS_MEASURED}, 0.1),
    ({"rows": DOUBLING, "keys": DOUBLING, **HEADS_MEASURED}, 0.1),
)


def _ids(*columns: pd.Series[Any]) -> NDArray[np.intp]:
    """A number per distinct combination."""
    return pd.MultiIndex.from_arrays(columns).factorize()[0].astype(np.intp)


def _f(column: pd.Series[Any]) -> Floats:
    return column.to_numpy(dtype=np.float64)


def _configurations(rows: pd.DataFrame) -> NDArray[np.intp]:
    """Head configurations; with too few of them to fold, each batch of one."""
    heads = _ids(rows["num_heads"], rows["num_kv_heads"])
    if len(np.unique(heads)) >= FOLDS:
        return heads
    return _ids(rows["num_heads"], rows["num_kv_heads"], rows["batch"])


def gemm(table: pd.DataFrame, dtype: Precision, provenance: Provenance) -> Observations:
    """Held out by (n, k). Serving: m ≤ 8192, one side a hidden size and the other 512 or more."""
    rows = table[table["dtype"] == dtype]
    m, n, k = _f(rows["m"]), _f(rows["n"]), _f(rows["k"])
    flops, bytes_moved = gemm_work(dtype, m, n, k)
    hidden = (np.isin(k, HIDDEN_SIZES) & (n >= 512)) | (np.isin(n, HIDDEN_SIZES) & (k >= 512))
    return Observations(
        name=f"gemm {dtype}",
        coords={"m": m, "n": n, "k": k, "fill": gemm_fill(m), "area": m * n},
        flops=flops,
        bytes_moved=bytes_moved,
        seconds=_f(rows["seconds"]),
        shape=_ids(rows["n"], rows["k"]),
        serving=hidden & (m <= SERVING_MAX_TOKENS),
        provenance=provenance,
    )


def decode(table: pd.DataFrame, kv: Precision, head_dim: int, provenance: Provenance) -> Observations:
    """Held out by head configuration (and batch if those are few).

    Serving: 4 to 64 heads, context 128 to 32k, up to 512 sequences.
    """
    rows = table[(table["kv"] == kv) & (table["head_dim"] == head_dim)]
    batch, context = _f(rows["batch"]), _f(rows["context"])
    heads, kv_heads = _f(rows["num_heads"]), _f(rows["num_kv_heads"])
    flops, bytes_moved = decode_work(kv, batch, context, heads, kv_heads, head_dim)
    return Observations(
        name=f"decode attention {kv} d{head_dim}",
        coords={"lanes": batch * kv_heads, "context": context, **_heads(heads, kv_heads)},
        flops=flops,
        bytes_moved=bytes_moved,
        seconds=_f(rows["seconds"]),
        shape=_configurations(rows),
        serving=_serving_heads(heads) & (context >= 128) & (context <= 32768) & (batch <= 512),
        provenance=provenance,
    )


def prefill(table: pd.DataFrame, kv: Precision, head_dim: int, provenance: Provenance) -> Observations:
    """Held out by head configuration (and batch if those are few). ``context`` tokens were cached before (0 without it).

    Serving: 4 to 64 heads, prompts of 128 or more, 32k tokens.
    """
    rows = table[(table["kv"] == kv) & (table["head_dim"] == head_dim)]
    batch, chunk = _f(rows["batch"]), _f(rows["chunk"])
    context = _f(rows["context"]) if "context" in rows else np.zeros_like(chunk)
    heads, kv_heads = _f(rows["num_heads"]), _f(rows["num_kv_heads"])
    tokens, pairs = batch * chunk, batch * prefill_pairs(chunk, context)
    flops, bytes_moved = prefill_work(kv, tokens, pairs, batch * (chunk + context), heads, kv_heads, head_dim)
    return Observations(
        name=f"prefill attention {kv} d{head_dim}",
        coords={**prefill_coords(tokens, pairs, heads), **_heads(heads, kv_heads)},
        flops=flops,
        bytes_moved=bytes_moved,
        seconds=_f(rows["seconds"]),
        shape=_configurations(rows),
        serving=_serving_heads(heads) & (chunk >= 128) & (tokens <= 32768),
        provenance=provenance,
    )


def _heads(heads: Floats, kv_heads: Floats) -> dict[str, Floats]:
    return {"heads": heads, "kv_heads": kv_heads, "group": heads / kv_heads}


def _serving_heads(heads: Floats) -> NDArray[np.bool_]:
    return (heads >= 4) & (heads <= 64)
