"""What is fitted for fused mixture-of-experts kernels, and which of them vLLM picks.

The work is that of :mod:`twin.cost.moe`, so that fit and prediction cannot drift.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from calibrate import importers_moe as read
from calibrate.families import SERVING_MAX_TOKENS, _f, _ids
from calibrate.fit import FOLDS, Observations, Peaks
from calibrate.grid import Candidate
from twin.base import Provenance
from twin.cost.moe import Loads, moe_coords, moe_work
from twin.spec.kernels import ExpertKernel, Precision
from twin.spec.versions import MODELLED_VLLM, VERSIONS, VersionName

if TYPE_CHECKING:
    from calibrate.profiles import Job

SKEW, SHARE, HITS = (1, 4), (1, 4), (1, 8, 64, 512)
EACH = (1, 2, 4, 8, 16, 32, 64, 96, 128, 256, 512, 1024, 16384)
EXPERTS: tuple[Candidate, ...] = (
    ({"skew": SKEW, "share": SHARE, "hits": HITS, "inter": (64, 256, 512, 1024, 2048, 16384), "each": EACH}, 0.1),
)
ONE_VALUE = 1.01  # an axis shorter than this factor says nothing: the kernel runs only without expert parallelism

PEAK: dict[Precision, Precision] = {"fp8_block": "fp8", "w4a16": "bf16", "mxfp4": "bf16", "nvfp4": "fp8"}
"""Whose datasheet rate bounds the fit; twice fp8's where activations are in 4 bits."""
SERVING_MAX_GPUS, SERVING_LEAST_INNER = 16, 128

MARLIN_BEFORE: tuple[str, ...] = ("h100_sxm", "h200_sxm")
"""GPUs on which vLLM 0.16 to 0.18 run gpt-oss with Marlin, as their logs say ("Using Marlin backend"): its package does not
bring Triton's kernels for mxfp4 along."""
SLOWER = 1.2
UNTUNED = (
    "the timings of fp8 experts with a scale per block: those with one scale per matrix ran FlashInfer's CUTLASS kernel, "
    "on Hopper 2.2 to 2.5 times slower than bf16's and so surely not in the tactic that vLLM's start-up tuning picks"
)
"""Experts in fewer bits that took so many times as long as bf16's, in the median, were not timed as they run."""
MARLIN_SOURCE = (
    "Marlin's timings of Kimi-K2's int4 experts (384, 8 per token): nearer to gpt-oss's 128, 4 per token, than Kimi-K3's "
    "mxfp4 ones (896, 16 per token), which take 20 us and 14 to 29 % longer; gpt-oss's recorded runs on H100 agree (decode 3 % "
    "off, with the other 17 %)"
)


def experts(table: pd.DataFrame, dtype: Precision, backend: str, provenance: Provenance) -> Observations:
    """Held out by model shape (hidden, inner, experts per token, experts), all its layouts and loads at once; a kernel that
    was timed on fewer than five, by number of experts and layout. Serving: up to 16 GPUs and 8192 tokens, 128 inner channels.
    """
    rows = table[(table["dtype"] == dtype) & (table["backend"] == backend)]
    loads = Loads(*(_f(rows[name]) for name in Loads._fields))
    hidden, inner, gpus = _f(rows["hidden"]), _f(rows["inner"]) / _f(rows["tp"]), _f(rows["tp"] * rows["ep"])
    flops, moved = moe_work(dtype, loads, hidden, inner, _f(rows["matrices"]))
    shape = _ids(*(rows[name] for name in read.SHAPE))
    if len(np.unique(shape)) < FOLDS:
        shape = _ids(rows["num_experts"], rows["tp"], rows["ep"])
    serving = (gpus <= SERVING_MAX_GPUS) & (inner >= SERVING_LEAST_INNER) & (_f(rows["tokens"]) <= SERVING_MAX_TOKENS)
    return Observations(
        name=f"experts {dtype} {backend}",
        coords={name: np.asarray(x, dtype=np.float64) for name, x in moe_coords(loads, hidden, inner).items()},
        flops=flops,
        bytes_moved=moved,
        seconds=_f(rows["seconds"]),
        shape=shape,
        serving=serving,
        provenance=provenance,
    )


def _candidates(seen: Observations) -> list[Candidate]:
    """Without the axes along which nothing varies."""
    short = {name for name, x in seen.coords.items() if x.max() < ONE_VALUE * x.min()}
    return [({name: nodes for name, nodes in axes.items() if name not in short}, bend) for axes, bend in EXPERTS]


def _peaks(job: Job, dtype: Precision, backend: str) -> Peaks:
    found = job.peaks("fp8" if "mxfp8" in backend else PEAK.get(dtype, dtype))
    return Peaks(2 * found.flops_per_s, found.bytes_per_s, found.headroom) if dtype == "nvfp4" else found


def _fit(job: Job, table: pd.DataFrame, release: VersionName | None = None) -> Iterator[ExpertKernel]:
    """One kernel per precision and backend, that of most rows (which vLLM picks for most shapes) first."""
    provenance = Provenance(origin="fitted", source=table.attrs["source"], date=job.date)
    counts = table.groupby(["dtype", "backend"]).size().sort_values(ascending=False, kind="stable")
    for dtype, backend in counts.index.to_list():
        rows = table[(table["dtype"] == dtype) & (table["backend"] == backend)]
        spread = None if rows["ep"].min() < 2 < rows["ep"].max() else bool(rows["ep"].min() > 1)
        name = ExpertKernel.named(dtype, backend, spread, release)
        seen = replace(experts(rows, dtype, backend, provenance), name=name)
        kernel = job.kernel(seen, _candidates(seen), peaks=_peaks(job, dtype, backend))
        yield ExpertKernel(dtype=dtype, backend=backend, spread=spread, vllm_version=release, kernel=kernel)


KEYS = ["dtype", "tokens", *read.SHAPE, "tp", "ep", "distribution"]
ANOTHER = 0.1
"""Median relative difference from which an older release counts as running something else."""


def _moved(older: pd.DataFrame, newest: pd.DataFrame) -> pd.DataFrame:
    """The older release's rows of the precisions and backends whose times have changed."""
    both = older.merge(newest, on=KEYS, suffixes=("", "_new"))
    change = (both["seconds"] / both["seconds_new"] - 1).abs().groupby([both["dtype"], both["backend"]]).median()
    changed = set(change[change > ANOTHER].index)
    kept = older[[pair in changed for pair in zip(older["dtype"], older["backend"], strict=True)]]
    kept.attrs = dict(older.attrs)
    return kept


def fit_experts(job: Job, systems: Path) -> tuple[ExpertKernel, ...]:
    """Of the newest measured release, and what an older modelled release runs otherwise."""
    if not read.has_experts(systems, job.gpu):
        return ()
    job.note(f"{job.gpu}: mixture-of-experts kernels")
    newest = read.read_experts(systems, job.gpu)
    found = list(_fit(job, newest))
    for release in (version.name for version in VERSIONS.values() if version.name != MODELLED_VLLM):
        if read.has_experts(systems, job.gpu, release):
            kept = _moved(read.read_experts(systems, job.gpu, release), newest)
            found += _fit(job, kept, release)
        if job.gpu in MARLIN_BEFORE:
            int4 = next(one for one in found if (one.dtype, one.backend) == ("w4a16", "marlin"))
            found.append(marlin_mxfp4(int4, release))
    if slower_than_bf16(newest, "fp8"):
        found = [one for one in found if one.dtype != "fp8" or one.vllm_version is not None]
        found += [tuned_fp8(one) for one in found if one.dtype == "fp8_block" and one.vllm_version is None]
    return tuple(found)


def slower_than_bf16(table: pd.DataFrame, dtype: Precision) -> bool:
    """Whether experts in fewer bits took longer than 16-bit ones of the same shape and load, in the median."""
    keys = [name for name in KEYS if name != "dtype"]
    best = {name: rows.groupby(keys)["seconds"].min() for name, rows in table.groupby("dtype")}
    ratio = (best[dtype] / best["bf16"]).dropna() if {dtype, "bf16"} <= best.keys() else pd.Series(dtype=float)
    return len(ratio) > 0 and float(ratio.median()) > SLOWER


def tuned_fp8(block: ExpertKernel) -> ExpertKernel:
    """fp8 experts with one scale, assumed to take as long as those with a scale per block."""
    assumed = Provenance(origin="assumed", source=UNTUNED, date=block.kernel.provenance.date)
    return block.model_copy(update={"dtype": "fp8", "kernel": block.kernel.model_copy(update={"provenance": assumed})})


def marlin_mxfp4(int4: ExpertKernel, release: VersionName) -> ExpertKernel:
    """The mxfp4 experts of an older release, assumed to take as long as Marlin's int4 ones."""
    known = int4.kernel.provenance
    assumed = Provenance(origin="assumed", source=MARLIN_SOURCE, date=known.date)
    kernel = int4.kernel.model_copy(update={"provenance": assumed})
    return int4.model_copy(update={"dtype": "mxfp4", "vllm_version": release, "kernel": kernel})
