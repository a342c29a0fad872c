"""Number formats of weights and KV cache, under vLLM's names: what they store, where they run, what they are said to lose.

The facts stand in ``precisions.yaml``. A *precision* is how one matrix is stored and multiplied; a *format* says which
parts of a model are in which. On a GPU without products of its own in a precision, vLLM keeps the weights in it and computes
in 16 bits, or refuses: :func:`resolved_format` and :func:`precision_obstacle` follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from twin.base import Frozen, InputError, unknown_name
from twin.spec.hardware import HardwareProfile
from twin.spec.judged import Judged
from twin.spec.kernels import Precision
from twin.spec.layers import Role
from twin.spec.yaml import check, read_yaml

PRODUCTS: tuple[Role, ...] = ("attention", "mlp")
"""Roles whose weights are multiplied by :attr:`twin.spec.kernels.Kernels.gemm`; experts have kernels of their own."""


class Stored(Frozen):
    """A precision: ``kept`` is the share of weights that is stored; ``scale_bits`` come on top for every weight."""

    bits: int
    scale_bits: float = 0.0
    kept: float = 1.0
    activation_bits: int
    lacks: str
    fallback: Precision | None = None

    @property
    def bytes_each(self) -> float:
        """Bytes of one weight, with its share of scales."""
        return (self.bits * self.kept + self.scale_bits) / 8


class Generation(Frozen):
    """GPUs with the same products in vLLM's releases; ``refused`` says why, where there is more to say than that."""

    gpus: tuple[str, ...]
    capability: int | None = None
    native: tuple[Precision, ...]
    refused: dict[Precision, str] = Field(default_factory=dict)
    source: str


class WeightFormat(Judged):
    """Precision by role, as stored; roles not named are in 16 bits.

    ``flags`` make vLLM quantise a 16-bit checkpoint as it loads; ``checkpoint`` is what it needs where no flag does.
    ``absent``: why vLLM cannot run it at all, which leaves it a what-if. ``computed`` and ``emulated`` are of one GPU:
    the precisions of the kernels where they differ, and what vLLM does there.
    """

    name: str = ""
    roles: dict[Role, Precision] = Field(default_factory=dict)
    scale_bytes_per_layer: int = 0
    flags: tuple[str, ...] = ()
    checkpoint: str | None = None
    absent: str | None = None
    computed: dict[Role, Precision] = Field(default_factory=dict)
    emulated: str | None = None

    def dtype(self, role: Role) -> Precision:
        """Of the kernel that multiplies these weights."""
        return self.computed.get(role, self.roles.get(role, "bf16"))

    def bytes_each(self, role: Role) -> float:
        """Of one weight in memory, with its share of scales."""
        return precision_table().precisions[self.roles.get(role, "bf16")].bytes_each

    @property
    def bits(self) -> int:
        """Of the narrowest weights."""
        precisions = precision_table().precisions
        return min((precisions[precision].bits for precision in self.roles.values()), default=16)


class KvFormat(Judged):
    """``kernel``: precision of the attention kernel that prices it; ``scale_bytes`` per head and token of K and of V."""

    bits: int
    kernel: Precision
    scale_bytes: int = 0
    stands_in: str | None = None


class PrecisionTable(Frozen):
    """All of ``precisions.yaml``."""

    vllm: str
    precisions: dict[Precision, Stored]
    emulations: dict[Precision, str]
    generations: dict[str, Generation]
    formats: dict[str, WeightFormat]
    kv_cache: dict[str, KvFormat]


class ExpectedLoss(Frozen):
    """Share of the average benchmark score that weights and cache together are expected to lose; ``None``: unknown."""

    value: float | None
    source: str


@lru_cache(maxsize=1)
def precision_table() -> PrecisionTable:
    document = read_yaml(Path(__file__).with_name("precisions.yaml"))
    for name, entry in document.data["formats"].items():
        entry["name"] = name
    return check(document, PrecisionTable)


@lru_cache(maxsize=64)
def weight_format(quantization: str | None) -> WeightFormat:
    """As stored; ``None`` is bf16. Raises :class:`InputError` for a format that is not in the table."""
    formats = precision_table().formats
    name = _named(quantization or "bf16", formats)
    if name is None:
        raise unknown_name("quantization", str(quantization), ["none", *formats])
    return formats[name]


@lru_cache(maxsize=16)
def kv_format(kv_cache_dtype: str) -> KvFormat:
    """Raises :class:`InputError` for a KV cache dtype that is not in the table."""
    formats = precision_table().kv_cache
    name = _named(kv_cache_dtype, formats)
    if name is None:
        raise unknown_name("kv_cache_dtype", kv_cache_dtype, formats)
    return formats[name]


def _named(asked: str, formats: Mapping[str, Judged]) -> str | None:
    return next((name for name, item in formats.items() if asked == name or asked in item.aliases), None)


def quantization_name(asked: str | None) -> str | None:
    """The table's name of a format, ``None`` for ``none`` or ``auto``: as the checkpoint is.

    Raises :class:`InputError` for a format that is not in the table.
    """
    return None if asked in (None, "none", "auto") else weight_format(asked).name


def kv_cache_name(asked: str) -> str:
    """The table's name. Raises :class:`InputError` for a KV cache dtype that is not in it."""
    return next(name for name, item in precision_table().kv_cache.items() if item is kv_format(asked))


def _checked(naming: Callable[[Any], Any]) -> AfterValidator:
    """Errors of ``naming`` as pydantic wants them."""

    def check_name(asked: Any) -> Any:
        try:
            return naming(asked)
        except InputError as error:
            raise ValueError(str(error)) from None

    return AfterValidator(check_name)


Quantization = Annotated[str | None, _checked(quantization_name)]
KvCacheDtype = Annotated[str, _checked(kv_cache_name)]


def kv_bytes_each(kv_cache_dtype: str, quantization: str | None = None, head_dim: int = 128) -> float:
    """Bytes of one number in the KV cache, with its share of scales; ``auto`` is the model's own dtype.

    Raises :class:`InputError` for a name that is not in the table.
    """
    found = kv_format(kv_cache_dtype)
    if kv_cache_dtype == "auto" and quantization is not None and weight_format(quantization).dtype("other") == "fp32":
        return 4.0
    return found.bits / 8 + found.scale_bytes / head_dim


def generation_of(profile: HardwareProfile) -> tuple[str, Generation]:
    """Of a GPU in the table; of another, the oldest that has what its facts say it has."""
    generations = precision_table().generations
    for name, generation in generations.items():
        if profile.name in generation.gpus:
            return name, generation
    name = "cpu" if profile.device == "cpu" else "hopper" if profile.facts.flops.fp8 is not None else "ampere"
    return name, generations[name]


def resolved_format(profile: HardwareProfile, quantization: str | None) -> WeightFormat:
    """The format with the precisions that its weights are multiplied in on this GPU.

    Raises :class:`InputError` where vLLM has no kernel, and for a name that is no format.
    """
    stored, (_, generation) = weight_format(quantization), generation_of(profile)
    computed: dict[Role, Precision] = {}
    said: dict[str, None] = {}
    for role, precision in stored.roles.items():
        if precision in generation.native:
            continue
        fact = precision_table().precisions[precision]
        if fact.fallback is None or fact.fallback not in generation.native or generation.capability is None:
            raise InputError(f"{profile.name} has no {fact.lacks}{_refused(generation, precision)}")
        said[f"{profile.name} has no {fact.lacks}: {precision_table().emulations[fact.fallback]}"] = None
        if not (role == "experts" and _has_experts(profile, precision)):
            computed[role] = fact.fallback
    return stored.model_copy(update={"computed": computed, "emulated": "; ".join(said) or None})


def _refused(generation: Generation, precision: Precision) -> str:
    why = generation.refused.get(precision)
    return f": {why}" if why else f", and vLLM {precision_table().vllm} nothing in their place"


def _has_experts(profile: HardwareProfile, precision: Precision) -> bool:
    """Whether experts stored so were timed on it: vLLM's stand-in then has figures of its own."""
    return any(item.dtype == precision for item in profile.kernels.experts)


def resolved_kv(profile: HardwareProfile, kv_cache_dtype: str) -> Precision:
    """The precision of the attention kernels that price this cache.

    Raises :class:`InputError` where none was measured, and for a name that is no format.
    """
    kernel = kv_format(kv_cache_dtype).kernel
    for kernels in (profile.kernels.prefill_attention, profile.kernels.decode_attention):
        if kernel != "bf16" and not any(item.kv == kernel for item in kernels):
            raise InputError(f"{profile.name} has no measured attention over an {kernel} KV cache")
    return kernel


def precision_obstacle(profile: HardwareProfile, *, quantization: str | None, kv_cache_dtype: str) -> str | None:
    """Why this GPU cannot be modelled at these precisions, in one clause; ``None`` if it can.

    Raises :class:`InputError` for a name that is no precision at all.
    """
    weight_format(quantization)
    kv_format(kv_cache_dtype)
    try:
        resolved = resolved_format(profile, quantization)
        resolved_kv(profile, kv_cache_dtype)
    except InputError as error:
        return error.what
    missing = {resolved.dtype(role) for role in PRODUCTS if role in resolved.roles} - profile.kernels.gemm.keys()
    if missing:
        if resolved.emulated is None:
            return f"{profile.name} has no {min(missing)} matrix multiplication, measured or assumed"
        return f"{resolved.emulated}; no {min(missing)} matrix multiplication was measured or assumed on it"
    return None


def precision_notes(profile: HardwareProfile, *, quantization: str | None, kv_cache_dtype: str) -> list[str]:
    """What must be said beside figures at these precisions: an emulation, a stand-in, or that vLLM cannot do it.

    Raises :class:`InputError` as :func:`resolved_format`.
    """
    resolved, cache = resolved_format(profile, quantization), kv_format(kv_cache_dtype)
    return [text for text in (resolved.emulated, resolved.absent, cache.stands_in) if text]


def check_precision(profile: HardwareProfile, *, quantization: str | None, kv_cache_dtype: str) -> None:
    """Raises :class:`InputError` when this GPU cannot be modelled at these precisions."""
    obstacle = precision_obstacle(profile, quantization=quantization, kv_cache_dtype=kv_cache_dtype)
    if obstacle:
        raise InputError(obstacle)


def expected_loss(quantization: str | None, kv_cache_dtype: str, *, checkpoint: str | None = None) -> ExpectedLoss:
    """What a model published in the format ``checkpoint`` (``None``: 16 bits) is expected to lose.

    Losses of weights and cache are added up. Raises :class:`InputError` for a name that is no format.
    """
    weights, cache = weight_format(quantization or checkpoint), kv_format(kv_cache_dtype)
    own = checkpoint is not None and weights.name == weight_format(checkpoint).name
    parts = [(0.0, "as published") if own else (weights.loss, weights.loss_source), (cache.loss, cache.loss_source)]
    known = [value for value, _ in parts if value is not None]
    said = f"weights: {parts[0][1]}. KV cache: {parts[1][1]}"
    return ExpectedLoss(value=sum(known) if len(known) == len(parts) else None, source=said)
