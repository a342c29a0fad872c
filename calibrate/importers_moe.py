"""Fused mixture-of-experts kernels of the measured-kernel database, with the loads that each row put on its GPU.

A row is vLLM's fused-experts module on one GPU (what it includes: :mod:`twin.cost.moe`): ``num_tokens`` tokens of all ranks,
``inter_size / moe_tp_size`` of each of ``num_experts / moe_ep_size`` experts. Tokens reach experts as the database's collector
dealt them: ``balanced`` in turn, ``power_law_a`` by counts drawn from a truncated power law, the busiest rank being the one
that was timed (mean over five draws; here over :data:`DRAWS` others).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calibrate import importers
from twin.cost.moe import TILE_ROWS, Loads
from twin.spec.kernels import Precision

FILE = "moe_perf.parquet"
DTYPES: dict[str, Precision] = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "int4_wo": "w4a16",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4",
    "nvfp4": "nvfp4",
}
BACKENDS = {
    "mxfp4_mxfp8": "flashinfer_trtllm_mxfp8",  # quantises activations to 8 bits
    "oaitriton": "oai_triton",
    "marlin": "marlin",
    "flashinfer_cutlass": "flashinfer_cutlass",
    "expertsmodular": "flashinfer_trtllm_modular",  # routing in a kernel of its own
    "trtllm": "flashinfer_trtllm",
    "triton": "triton",
    "vllm_fused_moe": "triton",
}
"""Part of ``kernel_source``: name of the backend; the first that fits. ``vllm_mxfp4_moe`` (0.19) is left out: the same point
was timed twice, up to three times apart."""

UNGATED = {(2688, 1856, 6, 128), (2048, 5120, 22, 512), (1024, 2688, 22, 512)}
"""(hidden, inner, experts per token, experts) of Nemotron 3, whose experts have no gate (``mlp_hidden_act: relu2``)."""

SHAPE = ["hidden", "inner", "per_token", "num_experts"]
DRAWS = 8


def has_experts(systems: Path, gpu: str, release: str = "") -> bool:
    """Whether vLLM's fused experts were measured on this GPU, of this release."""
    return any((systems / "data" / gpu / "moe" / "vllm").glob(f"{release}*/{FILE}"))


def read_experts(systems: Path, gpu: str, release: str = "") -> pd.DataFrame:
    """``dtype``, ``backend``, ``tokens``, :data:`SHAPE`, ``matrices``, ``tp``, ``ep``, ``distribution``, the fields of
    :class:`twin.cost.moe.Loads`, ``seconds``.
    """
    path = importers._newest(systems, gpu, "moe", "vllm", FILE, f"{release}*")
    columns = {
        "moe_dtype": "dtype",
        "kernel_source": "source",
        "num_tokens": "tokens",
        "hidden_size": "hidden",
        "inter_size": "inner",
        "topk": "per_token",
        "num_experts": "num_experts",
        "moe_tp_size": "tp",
        "moe_ep_size": "ep",
        "distribution": "distribution",
    }
    table = importers._read(systems, path, columns)
    table["backend"] = table.pop("source").map(_backend)
    table["dtype"] = table["dtype"].map(DTYPES)
    table = table.dropna(subset=["dtype", "backend"])
    table = importers._median(table[table["num_experts"] % table["ep"] == 0])
    shapes = zip(*(table[name] for name in SHAPE), strict=True)
    table["matrices"] = [2 if shape in UNGATED else 3 for shape in shapes]
    names = ["tokens", "num_experts", "per_token", "ep", "distribution"]
    loads = np.array([_loads(*row) for row in table[names].itertuples(index=False)])
    return importers._nonempty(table.assign(**dict(zip(Loads._fields, loads.T, strict=True))), "fused experts")


def _backend(source: str) -> str | None:
    return next((name for part, name in BACKENDS.items() if part in source), None)


@lru_cache(maxsize=200_000)
def _loads(tokens: int, num_experts: int, per_token: int, ep: int, distribution: str) -> tuple[float, ...]:
    """:class:`twin.cost.moe.Loads` of the GPU that was timed: the first ``num_experts / ep`` experts."""
    if distribution == "balanced":
        draws = [balanced(tokens, num_experts, per_token)]
    else:
        rng, alpha = np.random.default_rng(0), float(distribution.rpartition("_")[2])
        draws = [power_law(tokens, num_experts, per_token, ep, alpha, rng) for _ in range(DRAWS)]
    found = np.mean([_one(rows[: num_experts // ep], tokens * per_token) for rows in draws], axis=0)
    return tuple(found.tolist())


def _one(rows: NDArray[np.int64], total: int) -> Loads:
    hit = rows[rows > 0]
    tiled = (-(-hit // TILE_ROWS) * TILE_ROWS).sum()
    skew = float((hit * hit).sum()) * len(hit) / float(hit.sum()) ** 2
    return Loads(*(np.float64(x) for x in (len(hit), hit.sum(), tiled, total, skew)))  # type: ignore[arg-type]


def balanced(tokens: int, num_experts: int, per_token: int) -> NDArray[np.int64]:
    """Rows of each expert where tokens take them in turn."""
    stride = ceil(num_experts / per_token)
    step = 1.0 if tokens >= stride else stride / tokens
    chosen = np.arange(tokens)[:, None] * step + np.arange(per_token) * stride
    experts = chosen.astype(np.int64).ravel() % num_experts
    return np.asarray(np.bincount(experts, minlength=num_experts), dtype=np.int64)


def power_law(
    tokens: int, num_experts: int, per_token: int, ep: int, alpha: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows of each expert drawn from a power law, the busiest of ``ep`` ranks first; no expert has more than ``tokens``."""
    low, high = (1.0, tokens * 0.8) if tokens * per_token > num_experts else (0.01, 2.0)
    least, most = low ** (1 - alpha), high ** (1 - alpha)
    weight = ((most - least) * rng.random(num_experts) + least) ** (1 / (1 - alpha))
    wanted = np.rint(weight / weight.sum() * tokens * per_token).astype(np.int64)
    ranks = np.minimum(wanted, tokens).reshape(ep, -1)
    _deal(ranks, int((wanted - tokens).clip(min=0).sum()), tokens)
    _deal(ranks, tokens * per_token - int(ranks.sum()), tokens)
    busiest = int(ranks.sum(axis=1).argmax())
    ranks[[0, busiest]] = ranks[[busiest, 0]]
    return np.asarray(ranks.ravel(), dtype=np.int64)


def _deal(ranks: NDArray[np.int64], left: int, most: int) -> None:
    """Gives one row after the other (or takes them, ``left`` < 0), rank by rank, to its least (from its most) loaded expert."""
    step, left = (1 if left > 0 else -1), abs(left)
    pick: Callable[[NDArray[np.int64]], np.intp] = np.argmin if step > 0 else np.argmax
    while left:
        before = left
        for rank in ranks:
            expert = pick(rank)
            if left and 0 <= rank[expert] + step <= most:
                rank[expert] += step
                left -= 1
        if left == before:
            return
