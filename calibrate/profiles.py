"""Hardware profiles from tables of kernel timings: the measured-kernel database's, or our own log's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from calibrate import checks, datasheet, families, importers
from calibrate.averages import LEAST_DONORS
from calibrate.exchanges import fit_exchanges
from calibrate.facts import DEVICE, facts_of
from calibrate.families_attention import fit_mixers
from calibrate.families_moe import fit_experts
from calibrate.fit import Observations, Peaks, bound_note, fit_kernel
from calibrate.formats import fit_formats
from calibrate.grid import Candidate
from calibrate.judge import Judged
from calibrate.small import FUSED_TO_BYTES, copy_observations, fit_all_reduce, fit_copy
from twin.base import InputError, Provenance, unknown_name
from twin.spec.hardware import Facts, HardwareProfile, load_profile
from twin.spec.kernels import Attention, Collective, Copy, Kernel, Kernels, Precision
from twin.spec.versions import MODELLED_VLLM, VERSIONS

Note = Callable[[str], None]
Tables = Mapping[str, pd.DataFrame]

FORMULA = (
    "Times are (launch + p-norm(FLOPs/rate, bytes/bandwidth)) * exp(table). Held out: (n, k) pairs, head configurations, "
    "inner message sizes of an algorithm; interval90 holds measured / predicted, its coverage is that of intervals set by "
    "the other folds (all-reduce: one interval for all numbers of GPUs)."
)
DATABASE_NOTES = (
    FORMULA,
    "Fits weigh relative errors, and shapes that serving does not use by 0.3. Serving shapes: GEMM m <= 8192 with one side "
    "a hidden size of 3584..16384 and the other >= 512; attention with 4..64 heads, context 128..32k and <= 512 sequences, "
    "prompts >= 128 and <= 32k tokens; messages of 7 KiB..256 MiB.",
    "Attention was measured at one length per batch, prefill with an empty cache; the rest is extrapolated.",
    "Derived from kernel measurements of NVIDIA aiconfigurator-core (Apache-2.0).",
)
CPU_HEADROOM = 8.0  # what a CPU's caches are faster than its memory
ANOTHER_KERNEL = 0.1  # median relative difference from which an older release counts as running something else
FEW = 20  # serving shapes of a GPU's log
REQUIRED = ("gemm", "decode", "prefill", "elementwise")


@dataclass(frozen=True)
class Job:
    """What is fitted alike for every family of one device.

    With fewer serving shapes than ``few`` all that was measured counts as serving. ``judged`` collects held-out predictions.
    """

    gpu: str
    facts: Facts
    date: str
    gemm: Sequence[Candidate] = families.GEMM
    decode: Sequence[Candidate] = families.DECODE
    prefill: Sequence[Candidate] = families.PREFILL
    headroom: float = 1.3
    few: float = 0
    note: Note = lambda _: None
    judged: list[Judged] | None = None
    stopped: list[str] = field(default_factory=list)
    """Notes on coefficients at the bounds of the fit."""

    def peaks(self, dtype: Precision = "bf16") -> Peaks:
        return Peaks.of(self.facts, dtype, self.headroom)

    def kernel(
        self,
        obs: Observations,
        candidates: Sequence[Candidate],
        dtype: Precision = "bf16",
        peaks: Peaks | None = None,
    ) -> Kernel:
        peaks = peaks or self.peaks(dtype)
        if obs.serving.sum() < self.few:
            obs = replace(obs, serving=np.ones(len(obs.seconds), dtype=bool))
        kernel = fit_kernel(obs, peaks, candidates, self.gpu, self.judged)
        if said := bound_note(obs.name, kernel, peaks):
            self.stopped.append(said)
        return kernel

    def notes(self) -> tuple[str, ...]:
        """One line on what the bounds stopped or the data did not decide."""
        if not self.stopped:
            return ()
        return (
            f"Without standard error, as the fit stopped at a bound or the data do not feel it: {'; '.join(self.stopped)}.",
        )


def importable(systems: Path) -> list[str]:
    """GPUs that the database measured and whose device facts are known, then those assumed from them."""
    measured = datasheet.measured(systems)
    return measured + [name for name in datasheet.assumable(systems) if len(measured) >= LEAST_DONORS]


def _provenance(table: pd.DataFrame, date: str) -> Provenance:
    return Provenance(origin="fitted", source=table.attrs.get("source", "own measurements"), date=date)


def _attention(
    job: Job, table: pd.DataFrame, observe: Callable[..., Observations], candidates: Sequence[Candidate]
) -> tuple[Attention, ...]:
    kinds = table[["kv", "head_dim"]].drop_duplicates().sort_values(["kv", "head_dim"])
    provenance = _provenance(table, job.date)
    return tuple(
        Attention(
            kv=kv,
            head_dim=int(head_dim),
            kernel=job.kernel(observe(table, kv, int(head_dim), provenance), candidates),
        )
        for kv, head_dim in kinds.itertuples(index=False)
    )


def _gemm(job: Job, table: pd.DataFrame) -> dict[Precision, Kernel]:
    provenance = _provenance(table, job.date)
    measured = set(table["dtype"])
    dtypes: tuple[Precision, ...] = ("bf16", "fp8", "int8")
    return {
        dtype: job.kernel(families.gemm(table, dtype, provenance), job.gemm, dtype)
        for dtype in dtypes
        if dtype in measured and getattr(job.facts.flops, dtype) is not None
    }


def _kernels(job: Job, tables: Tables, elementwise: Copy, all_reduce: Sequence[Any]) -> Kernels:
    job.note(f"{job.gpu}: matrix multiplications")
    gemm = _gemm(job, tables["gemm"])
    job.note(f"{job.gpu}: decode attention")
    decode = _attention(job, tables["decode"], families.decode, job.decode)
    job.note(f"{job.gpu}: prefill attention")
    prefill = _attention(job, tables["prefill"], families.prefill, job.prefill)
    return Kernels(
        gemm=gemm,
        decode_attention=decode,
        prefill_attention=prefill,
        all_reduce=tuple(all_reduce),
        elementwise=elementwise,
    )


def build_profile(
    systems: Path,
    gpu: str,
    date: str,
    note: Note = lambda _: None,
    judged: list[Judged] | None = None,
) -> HardwareProfile:
    """Fit every family of ``gpu`` to the database; one that it did not measure is assumed from the shipped profiles.

    ``judged`` takes the held-out predictions, for a report. Raises :class:`InputError` for an unknown GPU, unusable
    data, or times in another unit.
    """
    if gpu not in importable(systems):
        raise unknown_name("GPU", gpu, importable(systems))
    if gpu not in importers.gpu_names(systems):
        return datasheet.assumed_profile(systems, gpu, date, note)
    sheet = importers.read_datasheet(systems, gpu)
    facts = facts_of(gpu, sheet, f"{importers.database_label(systems)}, {gpu}.yaml", date)
    job = Job(gpu, facts, date, note=note, judged=judged)
    tables = {
        "gemm": importers.read_gemm(systems, gpu),
        "decode": importers.read_decode(systems, gpu),
        "prefill": importers.read_prefill(systems, gpu),
    }
    note(f"{gpu}: element-wise kernels and all-reduce")
    if importers.has_elementwise(systems, gpu):
        rows = importers.read_elementwise(systems, gpu)
        elementwise = fit_copy(copy_observations(rows, _provenance(rows, date)), job.peaks(), gpu, judged)
    else:
        elementwise = datasheet.assumed_copy(systems, gpu, facts, date)
    kernels = _kernels(job, tables, elementwise, _all_reduce(systems, job, sheet))
    gemm = fit_formats(job, systems, kernels.gemm, tables["gemm"], int(sheet["gpu"].get("sm_version", 0)))
    update = {"gemm": gemm, **fit_mixers(job, systems)}
    update |= {"experts": fit_experts(job, systems), "exchanges": fit_exchanges(job, systems)}
    kernels = kernels.model_copy(update=update)
    notes = (*DATABASE_NOTES, *job.notes())
    return HardwareProfile(name=gpu, label=DEVICE[gpu][0], facts=facts, kernels=kernels, fit_notes=notes)


def _all_reduce(systems: Path, job: Job, sheet: dict[str, dict[str, Any]]) -> list[Collective]:
    """What the newest vLLM runs; beside it what an older modelled release runs otherwise, and the fused kernel."""
    gpu, capability = job.gpu, int(sheet["gpu"].get("sm_version", 0))
    fast, link_bytes_per_s = datasheet.fast_links(sheet), float(sheet["node"]["intra_node_bw"])

    def fit(table: pd.DataFrame, judged: list[Judged] | None = None) -> list[Collective]:
        inside = table[table["num_gpus"] <= job.facts.num_gpus_per_node]
        return fit_all_reduce(inside, _provenance(table, job.date), capability, fast, link_bytes_per_s, gpu, judged)

    newest = importers.read_all_reduce(systems, gpu)
    found = fit(newest, job.judged)
    for release in (name for name in VERSIONS if name != MODELLED_VLLM):
        if importers.has_reduce(systems, gpu, "vllm", release):
            older = importers.read_all_reduce(systems, gpu, release)
            ratio = older.merge(newest, on=["num_gpus", "message_bytes"], suffixes=("", "_new"))
            moved = (ratio["seconds"] / ratio["seconds_new"] - 1.0).abs().groupby(ratio["num_gpus"]).median()
            kept = older[older["num_gpus"].isin(moved[moved > ANOTHER_KERNEL].index)]
            found += [one.model_copy(update={"vllm_version": release}) for one in fit(kept)] if len(kept) else []
    if (limits := FUSED_TO_BYTES.get(capability)) and importers.has_reduce(systems, gpu, "trtllm"):
        table = importers.read_fused_reduce(systems, gpu)
        inside = table[table["message_bytes"] <= table["num_gpus"].map(limits).fillna(0.0)]
        found += [one.model_copy(update={"fused": True}) for one in fit(inside)]
    return found


def profile_from_tables(
    name: str,
    facts: Facts,
    tables: Tables,
    date: str,
    device: Literal["gpu", "cpu"] = "gpu",
    label: str = "",
    judged: list[Judged] | None = None,
    note: Note = lambda _: None,
) -> HardwareProfile:
    """The same fits on a few hundred points per family, from a measurement log.

    ``tables``: frames ``gemm``, ``decode``, ``prefill``, ``elementwise`` and, where several devices were measured,
    ``all_reduce``, with the columns of :mod:`calibrate.importers` in SI (``prefill`` also with ``context``; ``attrs`` may
    hold ``source``). Candidate tables are coarse and may be absent; on a CPU all that was measured counts as serving.

    Raises :class:`InputError` for a family, a column or points that are lacking, numbers that are not positive, and times
    that the device cannot have reached.
    """
    if missing := [family for family in REQUIRED if family not in tables or tables[family].empty]:
        raise InputError(f"no measurements of {', '.join(missing)}: a profile needs {', '.join(REQUIRED)}")
    tables = {family: table for family, table in tables.items() if family in checks.COLUMNS and not table.empty}
    for family, table in tables.items():
        checks.usable(family, table)
    cpu = device == "cpu"
    job = Job(
        name,
        facts,
        date,
        gemm=families.LOG_GEMM,
        decode=families.LOG_DECODE,
        prefill=families.LOG_PREFILL,
        headroom=CPU_HEADROOM if cpu else 1.3,
        few=float("inf") if cpu else FEW,
        note=note,
        judged=judged,
    )
    if "bf16" not in set(tables["gemm"]["dtype"]):
        raise InputError(
            "no bf16 matrix multiplications: a profile needs them", where=tables["gemm"].attrs.get("source")
        )
    rows = tables["elementwise"]
    elementwise = fit_copy(copy_observations(rows, _provenance(rows, date), True), job.peaks(), name, judged)
    reduce = []
    if "all_reduce" in tables:
        points = tables["all_reduce"]
        link = facts.intra_node_link_bytes_per_s
        reduce = fit_all_reduce(
            points, _provenance(points, date), 0, not cpu, None if link is None else link.value, name, judged
        )
    kernels = _kernels(job, tables, elementwise, reduce)
    absent = () if reduce else ("All-reduce was not measured: one device only.",)
    everything = ("Serving shapes are all that was measured.",) if cpu else ()
    notes = (FORMULA, *everything, *absent, *job.notes())
    return HardwareProfile(name=name, label=label or name, device=device, facts=facts, kernels=kernels, fit_notes=notes)


def keep_host(profile: HardwareProfile, path: Path) -> HardwareProfile:
    """The profile with the host section of the one at ``path``, if there is one.

    Host times were fitted on top of the kernels of that time: fit them again when kernels have changed.
    """
    if not path.is_file():
        return profile
    kept = load_profile(path)
    return profile.model_copy(update={"host": kept.host, "older_host": kept.older_host})
