"""Hardware that nobody has measured: a profile with some of its figures changed, and marked so.

``{mem_bw: ×2, flops: ×1.5, decode_attention.mem_bw: ×8}`` asks what a deployment would do on such a device. A factor
scales the datasheet's fact and the rates that kernels reach of it; the tables stay, as they are ratios to the roofline.
What the device would really reach is a guess, so every changed figure is ``assumed``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import field_validator, model_serializer, model_validator

from twin.base import Estimate, Frozen, InputError, Provenance, parse_quantity, split_number
from twin.spec.hardware import Facts, Flops, HardwareProfile, HostFit
from twin.spec.kernels import Collective, Copy, Kernel, Kernels, Segment

UNITS = {"memory": "B", "mem_bw": "B/s", "flops": "FLOP/s", "link_bw": "B/s", "launch": ""}
"""What may change and the unit of an absolute value. ``launch`` has no datasheet value, so only a factor."""

EXAMPLES = {"memory": "282 GB", "mem_bw": "9.6 TB/s", "flops": "2 PFLOP/s", "link_bw": "900 GB/s"}

FAMILIES = {
    "decode_attention": "decode_attention",
    "prefill_attention": "prefill_attention",
    "attention_variants": "",
    "latent": "",
    "recurrent": "",
    "experts": "experts",
}
"""Families whose members have a kernel, and whose own changes apply to them (mixers: those of attention in their phase)."""

Fit = TypeVar("Fit", Kernel, Copy)
Reduce = TypeVar("Reduce", bound=Collective)


class KernelChanges(Frozen):
    """Changes to one family of kernels: a factor (``×2``, ``0.5x``) or a peak with its unit (``38 TB/s``).

    ``flops`` as a quantity is the dense bf16 peak; other precisions scale alike. ``launch``: the fixed time of a kernel.
    """

    mem_bw: str | None = None
    flops: str | None = None
    launch: str | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _text(cls, value: Any, info: Any) -> Any:
        name = str(info.field_name)
        if value is None or name not in UNITS:
            return value
        try:
            return str(parse_change(value, name))
        except InputError as error:
            raise ValueError(str(error).removeprefix(f"{name}: ")) from None

    @model_serializer
    def _given(self) -> dict[str, Any]:
        """Only what is changed."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {k: v.model_dump() if isinstance(v, Frozen) else v for k, v in values.items() if v is not None}


class Hypothetical(KernelChanges):
    """Changes to a device, and to single families of its kernels, which then take the place of the device's.

    ``decode_attention.mem_bw: ×8`` alone is attention executed beside the memory, at its internal bandwidth: the cache
    is read eight times faster, everything else as before. ``link_bw`` is what all-reduce sees. Memory changes how much
    fits, never a speed.
    """

    memory: str | None = None
    link_bw: str | None = None
    gemm: KernelChanges | None = None
    decode_attention: KernelChanges | None = None
    prefill_attention: KernelChanges | None = None
    elementwise: KernelChanges | None = None
    experts: KernelChanges | None = None

    @model_validator(mode="before")
    @classmethod
    def _nested(cls, data: Any) -> Any:
        """``decode_attention.mem_bw: ×8`` as ``decode_attention: {mem_bw: ×8}``."""
        if not isinstance(data, dict):
            return data
        nested = {key: value for key, value in data.items() if "." not in str(key)}
        for key in data.keys() - nested.keys():
            family, _, name = str(key).partition(".")
            if isinstance(inner := nested.get(family) or {}, dict):
                nested[family] = {name: data[key], **inner}
        return nested

    def flat(self) -> dict[str, Change]:
        """Changes by dotted key, in the order of the class."""
        found: dict[str, Change] = {}
        for name, value in self.model_dump().items():
            inner = {f"{name}.{key}": text for key, text in value.items()} if isinstance(value, dict) else {name: value}
            found |= {key: parse_change(text, key.rpartition(".")[2]) for key, text in inner.items()}
        return found


@dataclass(frozen=True)
class Change:
    """A factor, or with a ``unit`` the value in SI that a peak shall have; ``str`` is how it is written."""

    value: float
    text: str

    @property
    def is_factor(self) -> bool:
        return self.text.startswith("×")

    def __str__(self) -> str:
        return self.text


def parse_change(given: object, name: str) -> Change:
    """``×2``, ``x2``, ``2x`` or, where ``name`` has a unit, ``9.6 TB/s``.

    Raises :class:`InputError` for anything else: a bare number could mean either, and 0 or less means nothing.
    """
    unit, text = UNITS[name], str(given).strip() if isinstance(given, str | int | float) else ""
    bare = text.lstrip("×xX*")
    example = f" or a quantity such as {EXAMPLES[name]}" if unit else ""
    if not re.match(r"\s*[-+.\d]", bare):
        raise InputError(f"{name}: {given!r} is not a factor such as ×2{example}")
    value, rest = split_number(bare, what=name)
    marked = bare != text
    if (marked and not rest) or (not marked and rest in ("x", "X", "×")):
        change = Change(value, f"×{value!r}".removesuffix(".0"))
    elif marked or not rest or not unit:
        raise InputError(f"{name}: {given!r} is not a factor such as ×2{example}")
    else:
        change = Change(parse_quantity(_flops(text), unit=unit, what=name), text)
    if not change.value > 0:
        raise InputError(f"{name}: {given!r} is not above 0")
    return change


def _flops(text: str) -> str:
    return re.sub(r"FLOPS$", "FLOP/s", text)


def hypothetical(profile: HardwareProfile, changes: Hypothetical) -> HardwareProfile:
    """``profile`` with ``changes``; itself where every factor is 1.

    The name stays (prices and vLLM's defaults go by it), the label says what is changed. Raises :class:`InputError`
    when the device has no such figure to change.
    """
    flat = changes.flat()
    factors = {key: change.value / _peak(profile, key, change) for key, change in flat.items()}
    said = ", ".join(f"{key} {flat[key]}" for key, factor in factors.items() if factor != 1.0)
    if not said:
        return profile
    scaled = _Scaled(factors, f"{profile.name} with {said}")
    return profile.model_copy(
        update={
            "label": f"{profile.label} with {said}",
            "facts": scaled.facts(profile.facts),
            "kernels": scaled.kernels(profile.kernels),
            "host": scaled.host(profile.host),
            "fit_notes": (
                f"Hypothetical: {scaled.source}. Rates are scaled, tables and held-out errors are those of the real device.",
                *profile.fit_notes,
            ),
        }
    )


def _peak(profile: HardwareProfile, key: str, change: Change) -> float:
    """What 1 means for a change: 1 for a factor, the datasheet's figure for a quantity."""
    facts, name = profile.facts, key.rpartition(".")[2]
    figures = {
        "memory": facts.memory_bytes,
        "mem_bw": facts.mem_bw_bytes_per_s,
        "flops": facts.flops.bf16,
        "link_bw": facts.intra_node_link_bytes_per_s,
    }
    figure = figures.get(name)
    if figure is None and name in figures:
        raise InputError(f"{profile.name} has no links between devices: there is no {key} to change")
    return 1.0 if change.is_factor or figure is None else figure.value


@dataclass(frozen=True)
class _Scaled:
    """Figures times their factors; the ones that change carry ``source`` and are assumed."""

    factors: dict[str, float]
    source: str

    def factor(self, name: str, family: str = "") -> float:
        """Of a family's own change, else of the device's."""
        return self.factors.get(f"{family}.{name}", self.factors.get(name, 1.0))

    def estimate(self, figure: Estimate, factor: float) -> Estimate:
        if factor == 1.0:
            return figure
        stderr = None if figure.stderr is None else figure.stderr * factor
        return Estimate(
            value=figure.value * factor, stderr=stderr, origin="assumed", source=self.source, date=figure.date
        )

    def facts(self, facts: Facts) -> Facts:
        peaks = {name: self.optional(getattr(facts.flops, name), "flops") for name in Flops.model_fields}
        memory = self.estimate(facts.memory_bytes, self.factor("memory"))
        return facts.model_copy(
            update={
                "memory_bytes": memory.model_copy(update={"value": float(round(memory.value))}),
                "mem_bw_bytes_per_s": self.optional(facts.mem_bw_bytes_per_s, "mem_bw"),
                "flops": facts.flops.model_copy(update=peaks),
                "intra_node_link_bytes_per_s": self.optional(facts.intra_node_link_bytes_per_s, "link_bw"),
            }
        )

    def optional(self, figure: Estimate | None, name: str) -> Estimate | None:
        return None if figure is None else self.estimate(figure, self.factor(name))

    def kernels(self, kernels: Kernels) -> Kernels:
        members = {
            family: tuple(
                fit.model_copy(
                    update={"kernel": self.kernel(fit.kernel, own or f"{getattr(fit, 'phase', '')}_attention")}
                )
                for fit in getattr(kernels, family)
            )
            for family, own in FAMILIES.items()
        }
        return kernels.model_copy(
            update={
                "gemm": {dtype: self.kernel(kernel, "gemm") for dtype, kernel in kernels.gemm.items()},
                "elementwise": self.kernel(kernels.elementwise, "elementwise"),
                "all_reduce": tuple(map(self.collective, kernels.all_reduce)),
                "exchanges": tuple(map(self.collective, kernels.exchanges)),
                **members,
            }
        )

    def kernel(self, fit: Fit, family: str) -> Fit:
        """Rates up, launch time with its own factor."""
        by = {
            name: self.factor(key, family)
            for name, key in {"flops_per_s": "flops", "bytes_per_s": "mem_bw", "launch_s": "launch"}.items()
            if hasattr(fit, name)
        }
        if all(factor == 1.0 for factor in by.values()):
            return fit
        update: dict[str, object] = {name: self.estimate(getattr(fit, name), factor) for name, factor in by.items()}
        if isinstance(fit, Kernel):
            update["provenance"] = self.provenance(fit.provenance)
        return fit.model_copy(update=update)

    def provenance(self, real: Provenance) -> Provenance:
        return Provenance(origin="assumed", source=self.source, date=real.date)

    def collective(self, fit: Reduce) -> Reduce:
        """The time of the smallest message is latency and stays; what longer ones add goes over the links."""
        factor = self.factor("link_bw")
        if factor == 1.0:
            return fit
        floor = fit.segments[0].us[0]
        segments = tuple(
            Segment(
                algorithm=part.algorithm,
                message_bytes=part.message_bytes,
                us=tuple(min(us, floor) + max(us - floor, 0.0) / factor for us in part.us),
            )
            for part in fit.segments
        )
        return fit.model_copy(update={"segments": segments, "provenance": self.provenance(fit.provenance)})

    def host(self, host: HostFit | None) -> HostFit | None:
        """What is hidden of (or added to) each launch is a share of the launch."""
        factor = self.factor("launch")
        if host is None or factor == 1.0:
            return host
        return host.model_copy(update={"kernel_overlap_s": self.estimate(host.kernel_overlap_s, factor)})
