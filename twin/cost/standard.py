"""A few operations that people know, priced on a profile: what one device does better than another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twin.base import InputError
from twin.cost import operators as ops
from twin.cost.collectives import all_reduce_in_range, all_reduce_s
from twin.cost.parts import Part, interval90, parts
from twin.spec.hardware import HardwareProfile
from twin.spec.kernels import Precision

SIDE = 8192  # a square projection, as in a 70B decoder
HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128  # an 8B decoder
TOKENS = (1, 64, 4096)
BATCH, CONTEXT, PROMPT = 64, 4096, 4096
MESSAGE_BYTES = 16 * 2**20
PRECISIONS: tuple[Precision, ...] = ("bf16", "fp8", "int8")

Pricing = Callable[[HardwareProfile], tuple[float, bool]]


@dataclass(frozen=True)
class Operation:
    """``price`` gives seconds and whether they lie inside the measured range; raises where a device lacks it."""

    name: str
    part: str
    price: Pricing


@dataclass(frozen=True)
class Priced:
    """Seconds with the interval that 90 % of held-out measurements would leave around them (``None``: not known)."""

    seconds: float
    low90_s: float | None
    high90_s: float | None
    inside: bool
    origin: str


def _gemm(dtype: Precision, m: int) -> Operation:
    def price(profile: HardwareProfile) -> tuple[float, bool]:
        seconds = ops.gemm_s(profile, dtype, m, SIDE, SIDE)
        return float(seconds), bool(ops.gemm_in_range(profile, dtype, m, SIDE, SIDE))

    return Operation(f"GEMM {dtype} {m}×{SIDE}×{SIDE}", f"gemm {dtype}", price)


def _decode(kv: Precision) -> Operation:
    def price(profile: HardwareProfile) -> tuple[float, bool]:
        size = (profile, kv, BATCH, CONTEXT, HEADS, KV_HEADS, HEAD_DIM)
        return float(ops.decode_attention_s(*size)), bool(ops.decode_in_range(*size))

    name = f"decode attention {kv} {BATCH}×{CONTEXT}"
    return Operation(name, f"decode attention {kv} d{HEAD_DIM}", price)


def _prefill(kv: Precision) -> Operation:
    def price(profile: HardwareProfile) -> tuple[float, bool]:
        pairs = ops.prefill_pairs(PROMPT, 0)
        seconds = ops.prefill_attention_s(profile, kv, PROMPT, 0, HEADS, KV_HEADS, HEAD_DIM)
        inside = ops.prefill_in_range(profile, kv, PROMPT, pairs, HEADS, KV_HEADS, HEAD_DIM)
        return float(seconds), bool(inside)

    return Operation(f"prefill attention {kv} {PROMPT}", f"prefill attention {kv} d{HEAD_DIM}", price)


def _all_reduce(num_gpus: int) -> Operation:
    def price(profile: HardwareProfile) -> tuple[float, bool]:
        seconds = all_reduce_s(profile, num_gpus, MESSAGE_BYTES)
        return float(seconds), bool(all_reduce_in_range(profile, num_gpus, MESSAGE_BYTES))

    return Operation(f"all-reduce {num_gpus} GPUs {MESSAGE_BYTES // 2**20} MiB", f"all-reduce {num_gpus} GPUs", price)


OPERATIONS: tuple[Operation, ...] = (
    *(_gemm(dtype, m) for dtype in PRECISIONS for m in TOKENS),
    *(_decode(kv) for kv in PRECISIONS[:2]),
    *(_prefill(kv) for kv in PRECISIONS[:2]),
    *(_all_reduce(num_gpus) for num_gpus in (2, 4, 8)),
)


def priced(profile: HardwareProfile) -> dict[str, Priced | None]:
    """Every standard operation by name; ``None`` where the device (or its profile) lacks it."""
    known = {part.name: part for part in parts(profile)}
    return {operation.name: _priced(profile, operation, known) for operation in OPERATIONS}


def _priced(profile: HardwareProfile, operation: Operation, known: dict[str, Part]) -> Priced | None:
    try:
        seconds, inside = operation.price(profile)
    except InputError:  # the device lacks the precision or so many links
        return None
    part = known.get(operation.part) or _nearest(known, operation.part)
    bounds = interval90(part.held_out.serving) if part.held_out else None
    return Priced(
        seconds=seconds,
        low90_s=bounds and seconds * bounds[0],
        high90_s=bounds and seconds * bounds[1],
        inside=inside and not part.assumed,
        origin=part.provenance.origin,
    )


def _nearest(known: dict[str, Part], name: str) -> Part:
    """Another head size of the same cache, as :mod:`twin.cost.operators` takes it."""
    return next(part for other, part in known.items() if other.startswith(name.rpartition(" ")[0]))
