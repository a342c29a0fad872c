"""One possible world from a profile's uncertainty: what risk is estimated over.

Kernels: each coefficient is lognormal around its value with its relative standard error (one that the data did not see
stays, as nothing that was measured hangs on it); on top, one factor per family
moves all its kernels alike, as what a fit gets wrong for one model's shapes it gets wrong in every step. Host times are
normal with their standard errors and correlation, cut at their physical bounds as the fit that found them was.
Datasheet facts are not drawn, nor single table entries, whose errors average out over the sizes of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log, sqrt
from types import MappingProxyType
from typing import Any, TypeVar, get_args

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from twin.base import Estimate
from twin.cost.parts import LABELLED, Z90, Family, Part, dense, interval90, parts, relative_stderr
from twin.spec.hardware import HardwareProfile, HostFit
from twin.spec.kernels import Attention, Collective, Copy, Errors, ExpertKernel, Kernel, Latent, Recurrent, Segment

SHAPES_OF_A_MODEL = {"gemm": 4}
"""How many independent shapes a model has of a family: four projections; one head layout, one message size.
The bias that a deployment sees is the mean error over so few, not over the thousands that were measured."""

LEAST = {"compute_stretch": 1.0, "kernel_overlap_s": -np.inf}
"""Physical bounds of host coefficients where they are not 0."""
LEAST_STRETCH = 0.1

FIRST: tuple[Family, ...] = ("gemm", "decode_attention", "prefill_attention", "all_reduce", "elementwise")
"""Families drawn before the host, in this order; later ones follow it, so that they do not change a dense model's draws."""

ATTENTION: tuple[Family, ...] = ("decode_attention", "prefill_attention")
EXCHANGED: tuple[Family, ...] = ("all_reduce", "exchanges")
POWER = {"flops_per_s": -1, "bytes_per_s": -1, "launch_s": 1, "p": 0}
"""How a kernel's coefficients enter its time."""

OF_A_STEP = ("step_s", "sequence_s", "token_s", "launch_s", "kernel_overlap_s", "reduce_skew_s")
"""Host figures that are part of a step, not of a request."""

Fit = TypeVar("Fit", Kernel, Copy)
Member = TypeVar("Member", Attention, Latent, Recurrent, ExpertKernel)
Reduce = TypeVar("Reduce", bound=Collective)


def draw(profile: HardwareProfile, rng: Generator) -> HardwareProfile:
    """One world: the profile with every uncertain figure drawn. The same state of ``rng`` gives the same world."""
    kernels, spread = profile.kernels, family_spread(profile)
    shift = {family: exp(spread[family] * rng.standard_normal()) for family in FIRST}
    known = {dtype: _kernel(kernels.gemm[dtype], shift["gemm"], rng) for dtype in dense(kernels)}
    update: dict[str, object] = {
        "decode_attention": _members(kernels.decode_attention, shift["decode_attention"], rng),
        "prefill_attention": _members(kernels.prefill_attention, shift["prefill_attention"], rng),
        "all_reduce": tuple(_collective(fit, shift["all_reduce"]) for fit in kernels.all_reduce),
        "elementwise": _kernel(kernels.elementwise, shift["elementwise"], rng),
    }
    host = None if profile.host is None else _host(profile.host, rng)
    shift |= {family: exp(sigma * rng.standard_normal()) for family, sigma in spread.items() if family not in shift}
    others = {k: _kernel(fit, shift["formats"], rng) for k, fit in kernels.gemm.items() if k not in known}
    update |= {family: _members(getattr(kernels, family), shift[family], rng) for family in LABELLED}
    update["exchanges"] = tuple(_collective(fit, shift["exchanges"]) for fit in kernels.exchanges)
    update["gemm"] = {dtype: (known | others)[dtype] for dtype in kernels.gemm}
    return profile.model_copy(update={"kernels": kernels.model_copy(update=update), "host": host})


NOTHING: Mapping[Any, float] = MappingProxyType({})


def stretched(
    profile: HardwareProfile, families: Mapping[Family, float] = NOTHING, host: Mapping[str, float] = NOTHING
) -> HardwareProfile:
    """The profile with every kernel of a family and every host figure that is named so many times as long; exact."""
    kernels, by = profile.kernels, {family: 1.0 for family in get_args(Family)} | dict(families)
    update: dict[str, object] = {
        name: tuple(
            fit.model_copy(update={"kernel": _stretched(fit.kernel, by[name])}) for fit in getattr(kernels, name)
        )
        for name in (*ATTENTION, *LABELLED)
    }
    update |= {name: tuple(_collective(fit, by[name]) for fit in getattr(kernels, name)) for name in EXCHANGED}
    known = dense(kernels)
    update["gemm"] = {k: _stretched(fit, by["gemm" if k in known else "formats"]) for k, fit in kernels.gemm.items()}
    update["elementwise"] = _stretched(kernels.elementwise, by["elementwise"])
    figures: dict[str, Estimate] = {} if profile.host is None else dict(profile.host)
    moved = {
        name: figure.model_copy(update={"value": figure.value * factor})
        for name, factor in host.items()
        if isinstance(figure := figures.get(name), Estimate)
    }
    drawn = None if profile.host is None else profile.host.model_copy(update=moved)
    return profile.model_copy(update={"kernels": kernels.model_copy(update=update), "host": drawn})


def slower(profile: HardwareProfile, factor: float) -> HardwareProfile:
    """The profile on which every engine step takes ``factor`` times as long: kernels and what the host adds to a step."""
    return stretched(profile, dict.fromkeys(get_args(Family), factor), dict.fromkeys(OF_A_STEP, factor))


def _stretched(fit: Fit, factor: float) -> Fit:
    """Every time ``factor`` times as long: rates divided, launch multiplied."""
    update = {
        name: found.model_copy(update={"value": found.value * factor**sign})
        for name, sign in POWER.items()
        if (found := getattr(fit, name, None)) is not None
    }
    return fit.model_copy(update=update)


def _members(fits: tuple[Member, ...], slower: float, rng: Generator) -> tuple[Member, ...]:
    return tuple(fit.model_copy(update={"kernel": _kernel(fit.kernel, slower, rng)}) for fit in fits)


def family_spread(profile: HardwareProfile) -> dict[Family, float]:
    """Standard deviation of each family's common log factor: root mean square over its kernels."""
    variances: dict[Family, list[float]] = {family: [] for family in get_args(Family)}
    for part in parts(profile):
        variances[part.family].append(_variance(part))
    return {family: sqrt(float(np.mean(found))) if found else 0.0 for family, found in variances.items()}


def _variance(part: Part) -> float:
    """Of the log of the bias that one model sees, beyond what the kernel's own coefficients already spread.

    The error of a shape was seen on held-out shapes. On a measured GPU a model's few shapes are independent; a profile
    assumed from other GPUs is off alike everywhere.
    """
    if part.held_out is None:
        return 0.0
    errors = part.held_out.serving
    alike = 1 if part.assumed else SHAPES_OF_A_MODEL.get(part.family, 1)
    known = [
        relative
        for name in ("flops_per_s", "bytes_per_s")
        if (relative := relative_stderr(getattr(part.fit, name, None))) is not None
    ]
    return max(errors.bias**2 + shape_spread(errors) ** 2 / alike - min(known, default=0.0) ** 2, 0.0)


def shape_spread(errors: Errors) -> float:
    """Standard deviation of log(measured / predicted) over shapes, as of a normal distribution."""
    low, high = interval90(errors)
    return log(high / low) / (2 * Z90)


def _lognormal(figure: Estimate, rng: Generator, least: float = 0.0) -> Estimate:
    """Drawn around its value as the median: the fits find the logarithms of coefficients.

    Always takes one number from ``rng``, so that a figure becoming known does not change the draws of the others.
    """
    z, sigma = rng.standard_normal(), relative_stderr(figure)
    value = figure.value if sigma is None else max(figure.value * exp(sigma * z), least)
    return figure.model_copy(update={"value": value})


def _kernel(fit: Fit, slower: float, rng: Generator) -> Fit:
    """Coefficients drawn, then every time ``slower`` times as long: rates divided, launch multiplied."""
    update: dict[str, Estimate] = {}
    for name, sign in POWER.items():
        if hasattr(fit, name):
            found = _lognormal(getattr(fit, name), rng, least=1.0 if name == "p" else 0.0)
            update[name] = found.model_copy(update={"value": found.value * slower**sign})
    return fit.model_copy(update=update)


def _collective(fit: Reduce, slower: float) -> Reduce:
    segments = tuple(
        Segment.model_construct(
            algorithm=part.algorithm, message_bytes=part.message_bytes, us=tuple(us * slower for us in part.us)
        )
        for part in fit.segments
    )
    return fit.model_copy(update={"segments": segments})


def _host(host: HostFit, rng: Generator) -> HostFit:
    """Normal with the fit's correlation, then cut at the bounds (as the fit is: its errors pile up there too)."""
    figures = {name: figure for name in HostFit.model_fields if isinstance(figure := getattr(host, name), Estimate)}
    names = list(figures)
    root = _root(_correlation(host, names))
    moves = root @ rng.standard_normal(len(names))
    update = {}
    for (name, figure), move in zip(figures.items(), moves.tolist(), strict=True):
        least = LEAST.get(name, LEAST_STRETCH if name.endswith("_stretch") else 0.0)
        value = max(figure.value + (figure.stderr or 0.0) * move, min(least, figure.value))
        update[name] = figure.model_copy(update={"value": value})
    return host.model_copy(update=update)


def _correlation(host: HostFit, names: list[str]) -> NDArray[np.float64]:
    """Among ``names``; those that the fit does not tie together are independent."""
    full = np.eye(len(names))
    tied = [names.index(name) for name in host.correlated or () if name in names]
    if tied and host.correlation is not None:
        known = [i for i, name in enumerate(host.correlated or ()) if name in names]
        full[np.ix_(tied, tied)] = np.asarray(host.correlation, dtype=np.float64)[np.ix_(known, known)]
    return full


def _root(correlation: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric square root; what rounding made slightly negative counts as 0."""
    values, vectors = np.linalg.eigh(correlation)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T, dtype=np.float64)
