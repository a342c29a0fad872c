"""The fitted parts of a profile under the names that reports use, and how far each has been off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, pi, sqrt
from typing import Literal

from twin.base import Estimate, Provenance
from twin.spec.hardware import HardwareProfile
from twin.spec.kernels import Collective, Copy, Errors, HeldOut, Kernel, Kernels, Precision

Family = Literal[
    "gemm",
    "decode_attention",
    "prefill_attention",
    "all_reduce",
    "elementwise",
    "formats",
    "attention_variants",
    "latent",
    "recurrent",
    "experts",
    "exchanges",
]
"""``formats``: matrix products beyond those of :func:`dense`."""

LABELLED: tuple[Family, ...] = ("attention_variants", "latent", "recurrent", "experts")
"""Families of :class:`twin.spec.kernels.Kernels` whose members have a ``label`` and a ``kernel``."""

Z90 = 1.645
"""Standard deviations on either side that hold 90 % of a normal distribution."""

UNSEEN = 1.0
"""A coefficient whose relative standard error is larger was not seen by the data: no measured time hangs on it (the FLOP
rate of decode attention, which bytes decide)."""


@dataclass(frozen=True)
class Part:
    """One fit of a profile. ``span``: the sizes it was measured over, (least, most) by axis; empty where it was not."""

    family: Family
    name: str
    fit: Kernel | Copy | Collective
    held_out: HeldOut | None
    provenance: Provenance
    span: dict[str, tuple[float, float]]

    @property
    def assumed(self) -> bool:
        return self.provenance.origin == "assumed"


def dense(kernels: Kernels) -> list[Precision]:
    """Precisions of the matrix products that share one factor of uncertainty: those known as well as bf16's. Others are
    guesses from them, or formats of their own.
    """
    origin = kernels.gemm["bf16"].provenance.origin
    names: tuple[Precision, ...] = ("bf16", "fp8") if origin == "assumed" else ("bf16", "fp8", "int8")
    return [dtype for dtype in names if dtype in kernels.gemm and kernels.gemm[dtype].provenance.origin == origin]


def parts(profile: HardwareProfile) -> Iterator[Part]:
    """Every fitted part: matrix products, attention, other mixers, experts, collectives, element-wise."""
    kernels = profile.kernels
    for dtype, kernel in kernels.gemm.items():
        yield _kernel("gemm" if dtype in dense(kernels) else "formats", f"gemm {dtype}", kernel)
    for decode in kernels.decode_attention:
        yield _kernel("decode_attention", f"decode attention {decode.kv} d{decode.head_dim}", decode.kernel)
    for prefill in kernels.prefill_attention:
        yield _kernel("prefill_attention", f"prefill attention {prefill.kv} d{prefill.head_dim}", prefill.kernel)
    for family in LABELLED:
        for member in getattr(kernels, family):
            yield _kernel(family, member.label, member.kernel)
    for reduce in kernels.all_reduce:
        kind = " fused" if reduce.fused else f" (vLLM {reduce.vllm_version})" if reduce.vllm_version else ""
        yield _collective("all_reduce", f"all-reduce {reduce.num_gpus} GPUs{kind}", reduce)
    for exchange in kernels.exchanges:
        yield _collective("exchanges", f"{exchange.operation.replace('_', '-')} {exchange.num_gpus} GPUs", exchange)
    copy = kernels.elementwise
    known = Provenance(origin=copy.bytes_per_s.origin, source=copy.bytes_per_s.source, date=copy.bytes_per_s.date)
    yield Part("elementwise", "element-wise", copy, copy.held_out, known, _span(copy, known))


def _collective(family: Family, name: str, fit: Collective) -> Part:
    sizes = (fit.segments[0].message_bytes[0], fit.segments[-1].message_bytes[-1])
    span = {} if fit.provenance.origin == "assumed" else {"bytes": sizes}
    return Part(family, name, fit, fit.held_out, fit.provenance, span)


def _kernel(family: Family, name: str, kernel: Kernel) -> Part:
    return Part(family, name, kernel, kernel.held_out, kernel.provenance, _span(kernel, kernel.provenance))


def _span(fit: Kernel | Copy, provenance: Provenance) -> dict[str, tuple[float, float]]:
    if fit.table is None or provenance.origin == "assumed":
        return {}
    return {name: (nodes[0], nodes[-1]) for name, nodes in fit.table.axes.items()}


def relative_stderr(figure: Estimate | None) -> float | None:
    """Standard error as a share of the figure; ``None`` for one that is absent, exact, or :data:`UNSEEN`."""
    if figure is None or not figure.stderr or figure.value <= 0 or figure.stderr > UNSEEN * figure.value:
        return None
    return figure.stderr / figure.value


def unseen(figure: Estimate) -> bool:
    """Whether a fit left the figure open: no standard error, as at a bound, or one as large as itself."""
    return (figure.stderr is None and figure.origin == "fitted") or (figure.stderr or 0.0) > UNSEEN * abs(figure.value)


def interval90(errors: Errors) -> tuple[float, float]:
    """Factors on a prediction between which 90 % of measurements lie: those kept, or of a normal error of that mean
    size in the logarithm (its standard deviation is √(π/2) times its mean absolute value).
    """
    if errors.interval90 is not None:
        return errors.interval90
    half = Z90 * sqrt(pi / 2) * errors.mape
    return exp(-half), exp(half)
