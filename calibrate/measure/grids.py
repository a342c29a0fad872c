"""Which points are timed, as data: per device and family the values of each key, how many combinations of them, and limits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from calibrate.measure.log import Point

# hidden, heads, KV heads, head size, intermediate, vocabulary (rows of the head timed) of dense decoders.
Decoder = tuple[int, int, int, int, int, int]
SMALL_DECODERS: tuple[Decoder, ...] = (
    (256, 4, 2, 64, 768, 32000),
    (512, 8, 4, 64, 1408, 32000),
    (768, 12, 4, 64, 2048, 32000),
    (1024, 16, 4, 64, 2816, 32000),
    (1024, 16, 8, 128, 3072, 32000),
    (1536, 12, 2, 128, 8192, 32000),
    (2048, 32, 8, 64, 5632, 32000),
)
# Llama 3.2 1B and 3B, 3.1 8B and 70B; Qwen3 4B, 14B and 32B; Qwen2.5 7B and 72B; Mistral Small 24B (their config.json).
DECODERS: tuple[Decoder, ...] = (
    (2048, 32, 8, 64, 8192, 128256),
    (3072, 24, 8, 128, 8192, 128256),
    (4096, 32, 8, 128, 14336, 128256),
    (8192, 64, 8, 128, 28672, 128256),
    (2560, 32, 8, 128, 9728, 151936),
    (5120, 40, 8, 128, 17408, 151936),
    (5120, 64, 8, 128, 25600, 151936),
    (3584, 28, 4, 128, 18944, 152064),
    (8192, 64, 8, 128, 29568, 152064),
    (5120, 32, 8, 128, 32768, 131072),
)
TENSOR_PARALLEL = (1, 2, 4, 8)


def projections(decoders: Iterable[Decoder], tensor_parallel: Sequence[int] = (1,)) -> list[tuple[int, int]]:
    """(n, k) of query-key-value, output, gate-up, down and head, each shard's, without repetition.

    fp8 wants multiples of 16: a shard that is not is left out.
    """
    found = {}
    for hidden, heads, kv_heads, head_dim, inter, vocabulary in decoders:
        for tp in tensor_parallel:
            own, own_kv = heads // tp, max(1, kv_heads // tp)
            shapes = [
                ((own + 2 * own_kv) * head_dim, hidden),
                (hidden, own * head_dim),
                (2 * inter // tp, hidden),
                (hidden, inter // tp),
                (vocabulary // tp, hidden),
            ]
            found.update(dict.fromkeys(shape for shape in shapes if shape[0] % 16 == shape[1] % 16 == 0))
    return list(found)


@dataclass(frozen=True)
class Grid:
    """Combinations of ``axes`` (a name may stand for several keys, separated by commas), of which ``full`` are timed.

    ``quick`` of them with ``--quick``. ``most``: limits on sizes computed from a combination.
    """

    family: str
    fixed: dict[str, Any]
    axes: dict[str, Sequence[Any]]
    full: int
    quick: int
    limits: tuple[tuple[Callable[[Point], float], float], ...] = ()


def flops(point: Point) -> float:
    """Of a matrix product."""
    return float(2 * point["m"] * point["n"] * point["k"])


def weight_values(point: Point) -> float:
    return float(point["n"] * point["k"])


def cache_bytes(point: Point) -> float:
    """Keys and values of attention in bf16."""
    tokens = point["context"] + point.get("chunk", 0)
    return float(4 * point["batch"] * tokens * point["num_kv_heads"] * point["head_dim"])


def tokens(point: Point) -> float:
    return float(point["batch"] * point["chunk"])


def scores(point: Point) -> float:
    """Query-key pairs over all heads."""
    return float(point["num_heads"] * tokens(point) * (point["context"] + point["chunk"]))


def moved(point: Point) -> float:
    return float(point["bytes_moved"])


def few_rows(point: Point) -> float:
    """Negative number of rows: CUDA's int8 product takes more than 16."""
    return -float(point["m"])


MI, GI = 2**20, 2**30
M_CPU = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    12,
    16,
    20,
    24,
    32,
    40,
    48,
    64,
    80,
    96,
    128,
    160,
    192,
    256,
    320,
    384,
    512,
    768,
    1024,
    2048,
)
M_CUDA = (*M_CPU[:-1], 1536, 2048, 2560, 3072, 4096, 5120, 6144, 8192, 12288, 16384)
SIDES = tuple(2**i for i in range(6, 17)) + tuple(3 * 2**i for i in range(6, 15))
HEADS_CPU = ((4, 2), (8, 2), (8, 4), (8, 8), (16, 4))
HEADS_CUDA = ((4, 1), (8, 1), (8, 8), (16, 2), (16, 4), (28, 4), (32, 8), (32, 32), (40, 8), (64, 8))
BATCH = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
CONTEXT = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 16384, 32768)
CHUNK = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
CHUNK_CUDA = (*CHUNK, 1536, 2048, 3072, 4096, 6144, 8192)
BEFORE = (128, 256, 512, 1024, 2048)
BEFORE_CUDA = (*BEFORE, 4096, 8192, 16384, 32768)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
ROWS_CUDA = (*ROWS, 2048, 4096, 8192)
WIDTHS = (256, 512, 768, 1024, 1408, 2048, 2816, 5632)
WIDTHS_CUDA = (1024, 2048, 3584, 4096, 5120, 6144, 7168, 8192, 12288, 14336, 16384, 28672)
COPIES = tuple(2**i for i in range(20, 28))
COPIES_CUDA = tuple(2**i for i in range(20, 33))
LINK_CUDA = tuple(2**i for i in range(12, 31))
MESSAGES = tuple(2**i for i in range(10, 24))
MESSAGES_CUDA = tuple(2**i for i in range(10, 30))
MOVED_PER_VALUE = {"rms_norm": 4, "silu_and_mul": 6, "fp8_quant": 3}
"""Bytes that each fused kernel reads and writes per value of its output."""

KV_HEADS = "num_heads,num_kv_heads"
BF16 = {"dtype": "bf16"}
CACHE = {"kv": "bf16"}  # torch's attention reads no fp8 cache
SMALL, REAL = projections(SMALL_DECODERS), projections(DECODERS, TENSOR_PARALLEL)
SQUARES = tuple(itertools.product(SIDES, SIDES))
GRIDS: dict[str, tuple[Grid, ...]] = {
    "cpu": (
        Grid("copy", {"direction": "device"}, {"bytes_moved": COPIES}, 8, 4),
        Grid("gemm", BF16, {"n,k": SMALL, "m": M_CPU}, 620, 100, ((flops, 4e10),)),
        Grid("gemm", {"dtype": "int8"}, {"n,k": SMALL, "m": M_CPU}, 160, 25, ((flops, 4e10),)),
        Grid(
            "decode",
            CACHE,
            {KV_HEADS: HEADS_CPU, "head_dim": (64, 128), "batch": BATCH, "context": CONTEXT},
            300,
            55,
            ((cache_bytes, 128 * MI),),
        ),
        Grid(
            "prefill",
            CACHE,
            {KV_HEADS: HEADS_CPU, "head_dim": (64, 128), "batch": (1, 2, 4, 8), "chunk": CHUNK, "context": (0,)},
            150,
            30,
            ((tokens, 4096), (scores, 2**26)),
        ),
        Grid(
            "prefill",
            CACHE,
            {KV_HEADS: HEADS_CPU, "head_dim": (64, 128), "batch": (1, 2, 4), "chunk": CHUNK, "context": BEFORE},
            130,
            25,
            ((tokens, 2048), (scores, 2**26), (cache_bytes, 128 * MI)),
        ),
        Grid("elementwise", {}, {"op": ("rms_norm", "silu_and_mul"), "m": ROWS, "k": WIDTHS}, 130, 30),
        Grid("all_reduce", {"backend": "gloo"}, {"num_gpus": (2,), "message_bytes": MESSAGES}, 14, 14),
    ),
    "cuda": (
        Grid("copy", {"direction": "device"}, {"bytes_moved": COPIES_CUDA}, 13, 6),
        Grid("copy", {}, {"direction": ("h2d", "d2h"), "bytes_moved": LINK_CUDA}, 38, 12),
        Grid("gemm", BF16, {"n,k": REAL, "m": M_CUDA}, 1300, 220),
        Grid("gemm", BF16, {"n,k": SQUARES, "m": M_CUDA}, 500, 60, ((flops, 1e13), (weight_values, GI))),
        Grid("gemm", {"dtype": "fp8"}, {"n,k": REAL, "m": M_CUDA}, 900, 120),
        Grid("gemm", {"dtype": "fp8"}, {"n,k": SQUARES, "m": M_CUDA}, 300, 40, ((flops, 1e13), (weight_values, GI))),
        Grid("gemm", {"dtype": "int8"}, {"n,k": REAL, "m": M_CUDA}, 300, 50, ((few_rows, -17),)),
        Grid(
            "decode",
            CACHE,
            {KV_HEADS: HEADS_CUDA, "head_dim": (64, 128), "batch": BATCH, "context": CONTEXT},
            800,
            110,
            ((cache_bytes, 8 * GI),),
        ),
        Grid(
            "prefill",
            CACHE,
            {KV_HEADS: HEADS_CUDA, "head_dim": (64, 128), "batch": (1, 2, 4, 8), "chunk": CHUNK_CUDA, "context": (0,)},
            400,
            60,
            ((tokens, 32768),),
        ),
        Grid(
            "prefill",
            CACHE,
            {
                KV_HEADS: HEADS_CUDA,
                "head_dim": (64, 128),
                "batch": (1, 2, 4),
                "chunk": CHUNK_CUDA,
                "context": BEFORE_CUDA,
            },
            300,
            50,
            ((tokens, 16384), (cache_bytes, 8 * GI)),
        ),
        Grid("elementwise", {}, {"op": tuple(MOVED_PER_VALUE), "m": ROWS_CUDA, "k": WIDTHS_CUDA}, 250, 50),
        Grid("all_reduce", {"backend": "nccl"}, {"num_gpus": (2, 4, 8), "message_bytes": MESSAGES_CUDA}, 60, 30),
    ),
}
