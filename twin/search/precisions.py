"""Which precisions a plan tries: those asked for, or the usual ones; less what loses too much or has too few bits."""

from __future__ import annotations

from dataclasses import dataclass

from twin.spec.hardware import HardwareProfile
from twin.spec.model import ModelSpec
from twin.spec.precision import (
    WeightFormat,
    expected_loss,
    kv_format,
    precision_obstacle,
    resolved_format,
    weight_format,
)

QUANTIZATIONS: tuple[str | None, ...] = (None, "fp8")
KV_CACHE_DTYPES = ("auto", "fp8")


@dataclass(frozen=True)
class Precisions:
    """Formats asked for (empty: the usual ones), the largest expected loss of average score, and the fewest bits.

    Formats that a GPU only emulates, or that vLLM lacks, are tried where they are asked for alone.
    """

    quantizations: tuple[str | None, ...] = ()
    kv_cache_dtypes: tuple[str, ...] = ()
    max_accuracy_loss: float | None = None
    min_bits: float | None = None

    def of(self, model: ModelSpec) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
        """Of weights and cache; a checkpoint that is quantised stays as it is unless a format is asked for."""
        usual = (None,) if model.quantization else QUANTIZATIONS
        return self.quantizations or usual, self.kv_cache_dtypes or KV_CACHE_DTYPES

    def obstacle(self, model: ModelSpec, profile: HardwareProfile, quantization: str | None, kv: str) -> str | None:
        """Why these precisions are not tried on this GPU, in one clause; ``None`` if they are."""
        stored = weight_format(quantization or model.quantization)
        return (
            self.refusal(model, quantization, kv)
            or model.format_obstacle(stored.name)
            or precision_obstacle(profile, quantization=stored.name, kv_cache_dtype=kv)
            or self._unasked(profile, stored, quantization)
        )

    def refusal(self, model: ModelSpec, quantization: str | None, kv: str) -> str | None:
        """Which limit these precisions break, whatever the GPU."""
        stored, cache = weight_format(quantization or model.quantization), kv_format(kv)
        shown = f"{stored.name} weights with {kv} KV cache"
        if self.min_bits is not None:
            bits = min(stored.bits, cache.bits)
            if bits < self.min_bits:
                return f"{shown}: {bits} bits, below --min-bits {self.min_bits:g}"
        if self.max_accuracy_loss is not None:
            loss = expected_loss(quantization, kv, checkpoint=model.quantization).value
            limit = f"--max-accuracy-loss {self.max_accuracy_loss:.3g}"
            if loss is None:
                return f"{shown}: no published figure of the accuracy lost, so {limit} rules it out"
            if loss > self.max_accuracy_loss:
                return f"{shown}: an expected accuracy loss of {loss:.1%}, above {limit}"
        return None

    def _unasked(self, profile: HardwareProfile, stored: WeightFormat, quantization: str | None) -> str | None:
        emulated = resolved_format(profile, stored.name).emulated
        if emulated and quantization is not None and not self.quantizations:
            return f"{emulated}; --quantization {quantization} tries it"
        return None


def limit_of(reason: str) -> str | None:
    """The name of the limit that a refusal speaks of."""
    return next((name for name in ("max_accuracy_loss", "min_bits") if f"--{name.replace('_', '-')}" in reason), None)
