"""The kernels that are timed, built with torch from a point: for each program that can do the work, calls on rotating inputs.

Weights and KV caches rotate through buffers that together exceed the last cache, as an engine reads each of them once per
step; activations stay where the operator before has just written them. All on one device, in inference mode.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from calibrate.measure.log import Point
from calibrate.measure.timing import Call

Tensor = Any
Programs = dict[str, list[Call]]
"""Programs for the same work by name; each a list of calls that differ in their inputs only."""

SPILL = 2.0  # rotating buffers are together this many times the last cache
MOST_BUFFERS = 256
BLOCK = 2**20  # random values that fill larger buffers by repetition
PACK_FOR_TOKENS = 32  # the batch for which an engine on CPUs has oneDNN lay out its weights, once
PACKED_BYTES = 4 * 2**30
SCALED_MM_FROM = (8, 9)  # first compute capability with fp8 tensor cores
TENSOR_CORES_FROM = (8, 0)  # with bf16 and int8 matrix multiplication


def precisions(torch: Any, device: str) -> tuple[str, ...]:
    """Precisions of matrix multiplication that the device has; a CPU only emulates fp8."""
    if device == "cpu":
        return ("bf16", "int8")
    capability = tuple(torch.cuda.get_device_capability())
    have = ("bf16", "int8") if capability >= TENSOR_CORES_FROM else ()
    return (*have, "fp8") if capability >= SCALED_MM_FROM else have


class Bench:
    """Builds kernels on one device. ``cache_bytes``: its last cache. The random values are the same in every run."""

    def __init__(self, torch: Any, device: str, cache_bytes: int) -> None:
        self.torch, self.device, self.cache_bytes = torch, device, cache_bytes
        self._where = device
        self._random = torch.Generator(device=device).manual_seed(0)
        self._stores: dict[object, Tensor] = {}
        self._packed: dict[tuple[int, int], list[Tensor]] = {}
        families: dict[str, Callable[[Point], Programs]] = {
            "gemm": self._gemm,
            "decode": self._decode,
            "prefill": self._prefill,
            "elementwise": self._elementwise,
            "copy": self._copy,
        }
        self._families = families

    def programs(self, point: Point) -> Programs:
        """Every program for ``point``; building may already raise ``RuntimeError`` where the device lacks memory."""
        return self._families[point["family"]](point)

    def let_go(self) -> None:
        """Frees the buffers, after the device refused more memory."""
        self._stores.clear()
        self._packed.clear()
        if self.device == "cuda":
            self.torch.cuda.empty_cache()

    def fresh(self, *shape: int) -> Tensor:
        """New bf16 values of one size, as an operator before leaves them."""
        return self.torch.randn(shape, generator=self._random, device=self._where).to(self.torch.bfloat16)

    def rotating(self, dtype: Any, *shape: int) -> list[Tensor]:
        """Views of one large buffer, as many as exceed the cache; one where one does."""
        numel, size = math.prod(shape), math.prod(shape) * dtype.itemsize
        stride = math.ceil(numel / 64) * 64  # keeps every view on a cache line
        count = min(MOST_BUFFERS, max(1, math.ceil(SPILL * self.cache_bytes / size)))
        store = self._store(dtype, count * stride)
        return [store[i * stride : i * stride + numel].view(shape) for i in range(count)]

    def _store(self, dtype: Any, numel: int) -> Tensor:
        store = self._stores.get(dtype)
        if store is None or store.numel() < numel:
            self._stores.pop(dtype, None)
            block = self.fresh(BLOCK)
            block = (block * 64).to(dtype) if dtype is self.torch.int8 else block.to(dtype)
            store = self._stores[dtype] = block.repeat(math.ceil(numel / BLOCK))
        return store

    def _gemm(self, point: Point) -> Programs:
        torch, m, n, k = self.torch, point["m"], point["n"], point["k"]
        x = self.fresh(m, k)
        if point["dtype"] == "int8":
            x8 = (x * 64).to(torch.int8)
            return {"int_mm": [partial(torch._int_mm, x8, w.t()) for w in self.rotating(torch.int8, n, k)]}
        if point["dtype"] == "fp8":
            x8, one = x.to(torch.float8_e4m3fn), torch.ones((), device=self._where)
            multiply = partial(
                torch._scaled_mm, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
            )
            return {"scaled_mm": [partial(multiply, x8, w.t()) for w in self.rotating(torch.float8_e4m3fn, n, k)]}
        if self.device == "cpu" and torch.backends.mkldnn.is_available():
            linear = torch.ops.mkldnn._linear_pointwise
            return {"onednn_packed": [partial(linear, x, w, None, "none", [], "") for w in self._pack(n, k)]}
        return {"linear": [partial(torch.nn.functional.linear, x, w) for w in self.rotating(torch.bfloat16, n, k)]}

    def _pack(self, n: int, k: int) -> list[Tensor]:
        """Weights as oneDNN wants them, kept for the next point of this shape."""
        if (n, k) not in self._packed:
            weights = self.rotating(self.torch.bfloat16, n, k)
            while self._packed and sum(_size(kept) for kept in self._packed.values()) + _size(weights) > PACKED_BYTES:
                self._packed.pop(next(iter(self._packed)))
            pack = self.torch.ops.mkldnn._reorder_linear_weight
            self._packed[n, k] = [pack(weight, PACK_FOR_TOKENS) for weight in weights]
        return self._packed[n, k]

    def _caches(self, point: Point, tokens: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values, (batch, kv heads, tokens, head size) each."""
        pairs = self.rotating(self.torch.bfloat16, 2, point["batch"], point["num_kv_heads"], tokens, point["head_dim"])
        return [(pair[0], pair[1]) for pair in pairs]

    def _decode(self, point: Point) -> Programs:
        """One query row per sequence and head; the rows that share a KV head are its block of queries (no mask)."""
        batch, kv_heads = point["batch"], point["num_kv_heads"]
        q = self.fresh(batch, kv_heads, point["num_heads"] // kv_heads, point["head_dim"])
        caches = self._caches(point, point["context"])
        return self._attention(q, caches, {}, None)

    def _prefill(self, point: Point) -> Programs:
        """Causal from the bottom right: the chunk's last token sees every key."""
        torch, chunk, context = self.torch, point["chunk"], point["context"]
        q = self.fresh(point["batch"], point["num_heads"], chunk, point["head_dim"])
        caches = self._caches(point, context + chunk)
        seen = torch.ones(chunk, context + chunk, dtype=torch.bool, device=self._where).tril(context)
        if context == 0:
            masked: dict[str, Any] = {"is_causal": True}
        elif self.device == "cuda":
            bias = importlib.import_module("torch.nn.attention.bias")
            masked = {"attn_mask": bias.causal_lower_right(chunk, context + chunk)}
        else:
            masked = {"attn_mask": seen}
        return self._attention(q, caches, {**masked, "enable_gqa": True}, seen if self.device == "cpu" else None)

    def _attention(
        self, q: Tensor, caches: list[tuple[Tensor, Tensor]], options: dict[str, Any], seen: Any
    ) -> Programs:
        """The fused kernels of the device; on a CPU also plain products, which are often the faster there."""
        torch = self.torch
        fused = partial(torch.nn.functional.scaled_dot_product_attention, **options)
        if self.device == "cpu":
            return {
                "sdpa": [partial(fused, q, keys, values) for keys, values in caches],
                "matmul": self._products(q, caches, seen),
            }
        attention = importlib.import_module("torch.nn.attention")
        backends = attention.SDPBackend
        kinds = {"flash": backends.FLASH_ATTENTION, "cudnn": backends.CUDNN_ATTENTION}
        if "attn_mask" in options:
            del kinds["cudnn"]  # it has no bottom-right mask, and torch would fall back to another program
        select = attention.sdpa_kernel
        return {
            name: [partial(_within, partial(select, kind), partial(fused, q, keys, values)) for keys, values in caches]
            for name, kind in kinds.items()
        }

    def _products(self, q: Tensor, caches: list[tuple[Tensor, Tensor]], seen: Tensor | None) -> list[Call]:
        """softmax(q kᵀ + mask) v as two batched products, the query rows of a KV head together."""
        batch, kv_heads, tokens, head_dim = caches[0][0].shape
        rows = q.reshape(batch * kv_heads, -1, head_dim) * head_dim**-0.5  # once: an engine has it in its weights
        mask = self.torch.zeros((), dtype=rows.dtype)
        if seen is not None:
            hidden = self.torch.zeros(seen.shape, dtype=rows.dtype).masked_fill_(~seen, -math.inf)
            mask = hidden.repeat(rows.shape[1] // seen.shape[0], 1)
        flat = [[x.view(batch * kv_heads, tokens, head_dim) for x in pair] for pair in caches]
        return [partial(self._attend, mask, rows, keys.transpose(1, 2), values) for keys, values in flat]

    def _attend(self, mask: Tensor, rows: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        scores = self.torch.baddbmm(mask, rows, keys) if mask.dim() else self.torch.bmm(rows, keys)
        return self.torch.bmm(self.torch.softmax(scores, -1), values)

    def _elementwise(self, point: Point) -> Programs:
        """Torch has not every one as a single kernel: layer_norm and glu move the same bytes as rms_norm and silu_and_mul."""
        torch, m, k = self.torch, point["m"], point["k"]
        functional = torch.nn.functional
        width = 2 * k if point["op"] == "silu_and_mul" else k
        inputs, weight = self.rotating(torch.bfloat16, m, width), self.fresh(k)
        if point["op"] == "fp8_quant":
            return {"to_fp8": [partial(x.to, torch.float8_e4m3fn) for x in inputs]}
        if point["op"] == "silu_and_mul":
            return {
                "glu": [partial(functional.glu, x) for x in inputs],
                "silu_mul": [partial(_silu_and_mul, functional.silu, x, k) for x in inputs],
            }
        norms: Programs = {"layer_norm": [partial(functional.layer_norm, x, (k,), weight) for x in inputs]}
        if hasattr(functional, "rms_norm"):
            norms["rms_norm"] = [partial(functional.rms_norm, x, (k,), weight) for x in inputs]
        return norms

    def _copy(self, point: Point) -> Programs:
        """Within the device each byte is read and written; across the link it moves once, from or to pinned memory."""
        torch, direction = self.torch, point["direction"]
        if direction == "device":
            size = point["bytes_moved"] // 2
            pairs = self.rotating(torch.int8, 2, size)
            return {"copy": [partial(pair[0].copy_, pair[1]) for pair in pairs]}
        here = self.rotating(torch.int8, point["bytes_moved"])[0]
        host = torch.empty(point["bytes_moved"], dtype=torch.int8, pin_memory=True)
        target, source = (here, host) if direction == "h2d" else (host, here)
        return {"copy": [partial(target.copy_, source, non_blocking=True)]}


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(int(tensor.numel()) for tensor in tensors) * 2  # bf16


def _within(context: Callable[[], AbstractContextManager[object]], call: Call) -> object:
    with context():
        return call()


def _silu_and_mul(silu: Callable[[Tensor], Tensor], x: Tensor, k: int) -> Tensor:
    return silu(x[:, :k]) * x[:, k:]
