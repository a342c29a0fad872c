"""Matrix products in formats beyond the dense decoders': measured where their tables can be used, else assumed from others.

vLLM's own table of fp8 in blocks was timed without a CUDA graph, launch gaps and all, so SGLang's of the same kernel
(DeepGEMM) stands for it. Nothing was measured of int8, of weight-only formats, of fp32 and of 2:4 sparsity: they take the
rates of a measured precision times a factor (for twice the datasheet's peak what fp8 reaches over bf16 elsewhere), the bytes
of their own (:data:`twin.cost.operators.WEIGHT_BYTES`), and of the table only how it goes with the number of tokens. What
that way of guessing is worth is tried on fp8, guessed from bf16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from calibrate import families, importers
from calibrate.fit import Observations, Peaks, judge
from calibrate.grid import Candidate, TableFit, as_table
from calibrate.judge import round_to, rounded
from twin.base import Estimate, Provenance
from twin.cost.operators import kernel_s
from twin.cost.tables import interpolate
from twin.spec.hardware import Facts, load_profile, profile_names
from twin.spec.kernels import HeldOut, Kernel, Precision, Table

if TYPE_CHECKING:
    from calibrate.profiles import Job

TABLES: dict[Precision, tuple[str, str, Precision]] = {
    "nvfp4": ("vllm", "nvfp4", "nvfp4"),
    "fp8_block": ("sglang", "fp8_block", "fp8"),
}
"""Backend whose table is used, its name there, and whose datasheet rate bounds the fit."""
CANDIDATES: tuple[Candidate, ...] = (({"m": families.TOKENS, "n": families.SIDE, "k": families.SIDE}, 0.1),)

FP32_FLOPS = {
    "a100_sxm": 19.5e12,
    "a30": 10.3e12,
    "b200_sxm": 75e12,
    "b300_sxm": 75e12,
    "gb200": 80e12,
    "gb300": 80e12,
    "h100_sxm": 67e12,
    "h200_sxm": 67e12,
    "l4": 30.3e12,
    "l40s": 91.6e12,
    "mi300x": 163.4e12,
    "rtx4090": 82.6e12,
    "rtx_pro_6000_server": 120e12,
}
"""Outside tensor cores, as torch multiplies fp32 unless TF32 is allowed: data sheets of NVIDIA and AMD, 2026-11."""


@dataclass(frozen=True)
class Guess:
    """``like``: the precision whose kernel is taken; ``rate``: factor on its FLOP rate; ``why``: where the factor is from."""

    like: Precision
    rate: float
    why: str


def doubling(gpu: str) -> float:
    """How much faster products become where the datasheet says twice: fp8's fitted rate over bf16's, on all other GPUs."""
    profiles = [load_profile(name) for name in profile_names() if name != gpu]
    pairs = [p.kernels.gemm for p in profiles if p.origin == "fitted" and "fp8" in p.kernels.gemm]
    return float(np.exp(np.mean([np.log(g["fp8"].flops_per_s.value / g["bf16"].flops_per_s.value) for g in pairs])))


def guesses(
    facts: Facts, fp32_flops: float | None, capability: int, known: set[Precision], twice: float
) -> dict[Precision, Guess]:
    """What can be assumed on a device where ``known`` were fitted. ``capability``: 90 for 9.0; 0 for another maker's;
    ``twice``: :func:`doubling`.
    """
    # Marlin multiplies by mma.sync, which reaches 62.9 % of Hopper's peak in the mean (arXiv 2402.13499).
    marlin = (
        (0.629, "Marlin: mma.sync at 62.9 % of the tensor cores' peak")
        if capability >= 90
        else (0.85, "Marlin: dequantising takes a sixth")
    )
    eight: Precision = "fp8" if "fp8" in known else "bf16"
    found: dict[Precision, Guess] = {
        "int8": Guess(
            eight, 1.0 if eight == "fp8" else twice, "the datasheet's int8 rate is that of fp8, twice bf16's"
        ),
        "w8a16": Guess("bf16", *marlin),
        "w4a16": Guess("bf16", *marlin),
        "bf16_2of4": Guess("bf16", twice, "the datasheet's factor of 2:4 sparsity"),
    }
    if "fp8" in known:
        found["fp8_2of4"] = Guess("fp8", twice, "the datasheet's factor of 2:4 sparsity")
        found["fp8_block"] = Guess("fp8", 1.0, "the same tensor cores, scales applied outside them")
    if "nvfp4" in known:
        found["mxfp4"] = Guess("nvfp4", 1.0, "the same tensor cores, a scale per 32 instead of 16")
    elif facts.flops.nvfp4 is not None and "fp8" in known:
        four = Guess("fp8", facts.flops.nvfp4.value / _peak(facts, "fp8"), "the datasheet's fp4 rate")
        found |= {"nvfp4": four, "mxfp4": four}
    if fp32_flops is not None:
        found["fp32"] = Guess("bf16", fp32_flops / facts.flops.bf16.value, "the datasheet's fp32 rate")
    return {dtype: guess for dtype, guess in found.items() if dtype not in known}


def _peak(facts: Facts, dtype: Precision) -> float:
    return (getattr(facts.flops, dtype, None) or facts.flops.bf16).value


def guessed(base: Kernel, guess: Guess, held_out: HeldOut, date: str) -> Kernel:
    source = f"as {guess.like}: {guess.why}"

    def figure(value: float) -> Estimate:
        return Estimate(value=round_to(value), origin="assumed", source=source, date=date)

    return Kernel(
        flops_per_s=figure(base.flops_per_s.value * guess.rate),
        bytes_per_s=figure(base.bytes_per_s.value),
        launch_s=figure(base.launch_s.value),
        p=figure(base.p.value),
        table=None if base.table is None else _by_tokens(base.table),
        held_out=held_out,
        provenance=Provenance(origin="assumed", source=source, date=date),
    )


def _by_tokens(table: Table) -> Table:
    """The table over tokens alone: its mean over the sides of decoders' projections."""
    m = np.array(table.axes.get("m", families.TOKENS))
    sides = [float(side) for side in families.HIDDEN_SIZES]
    at = np.array([(one, n, k) for one in m for n in sides for k in sides]).T
    coords = {"m": at[0], "n": at[1], "k": at[2], "area": at[0] * at[1], "fill": np.ones(at.shape[1])}
    values = interpolate(table.log_axes, table.values, [coords[name] for name in table.axes])
    mean = values.reshape(len(m), -1).mean(axis=1)
    return as_table(TableFit(mean, table.stderr), {"m": m.tolist()}, table.n)


def tried(base: Kernel, rows: Observations, guess: Guess, date: str) -> HeldOut:
    """How far off a guess is on a precision that was measured: ``rows``."""
    errors = base.held_out
    kernel = guessed(base, guess, errors, date)
    predicted = kernel_s(kernel, rows.flops, rows.bytes_moved, m=rows.coords["m"])
    return rounded(judge(rows, predicted))


def _fitted(job: Job, systems: Path) -> Iterator[tuple[Precision, Kernel]]:
    for dtype, (backend, name, peak) in TABLES.items():
        table = importers.read_products(systems, job.gpu, backend, name, dtype)
        if table is None or (dtype == "nvfp4" and job.facts.flops.nvfp4 is None):
            continue
        provenance = Provenance(origin="fitted", source=table.attrs["source"], date=job.date)
        yield dtype, job.kernel(families.gemm(table, dtype, provenance), CANDIDATES, peaks=Peaks.of(job.facts, peak))


def fit_formats(
    job: Job, systems: Path, gemm: dict[Precision, Kernel], table: pd.DataFrame, capability: int
) -> dict[Precision, Kernel]:
    """``gemm`` with what else was measured or can be assumed; ``table``, of :func:`calibrate.importers.read_gemm`, judges the
    guesses by its fp8 rows.
    """
    job.note(f"{job.gpu}: matrix products in other formats")
    found = dict(gemm) | dict(_fitted(job, systems))
    held_out = worst_guess(gemm)
    if "fp8" in gemm:
        rows = families.gemm(table, "fp8", gemm["fp8"].provenance)
        held_out = tried(gemm["bf16"], rows, Guess("bf16", doubling(job.gpu), ""), job.date)
    return _with_guesses(job.gpu, job.facts, found, capability, held_out, job.date)


def _with_guesses(
    gpu: str, facts: Facts, known: dict[Precision, Kernel], capability: int, held_out: HeldOut, date: str
) -> dict[Precision, Kernel]:
    more = guesses(facts, FP32_FLOPS.get(gpu), capability, set(known), doubling(gpu))
    return known | {dtype: guessed(known[guess.like], guess, held_out, date) for dtype, guess in more.items()}


def assumed_formats(
    gpu: str, facts: Facts, gemm: dict[Precision, Kernel], capability: int, date: str
) -> dict[Precision, Kernel]:
    """The same for a device that nobody measured."""
    return _with_guesses(gpu, facts, gemm, capability, worst_guess(gemm), date)


def worst_guess(gemm: dict[Precision, Kernel]) -> HeldOut:
    """Of a device without fp8 of its own to try guesses on: the largest error that they had on one with it."""
    tried_on = [
        profile.kernels.gemm["w4a16"].held_out
        for name in profile_names()
        if (profile := load_profile(name)).origin == "fitted" and {"w4a16", "fp8"} <= profile.kernels.gemm.keys()
    ]
    return max([gemm["bf16"].held_out, *tried_on], key=lambda found: found.serving.mape)
