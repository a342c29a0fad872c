"""Profiles of GPUs that nobody measured: facts from datasheets, kernels from class averages, marked assumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calibrate import families, importers
from calibrate.averages import LEAST_DONORS, Donor, Ring, assumed, assumed_all_reduce
from calibrate.facts import DEVICE, facts_of
from calibrate.fit import Observations, Peaks
from calibrate.formats import assumed_formats
from calibrate.grid import Axes, within
from calibrate.small import COPY_AXES, SERVING_MESSAGE_BYTES, copy_observations, fit_copy
from twin.base import InputError, Provenance
from twin.spec.hardware import Facts, HardwareProfile, load_profile, profile_names
from twin.spec.kernels import Attention, Collective, Copy, Kernel, Kernels, Precision

Sheet = dict[str, dict[str, Any]]

SHEETS: dict[str, tuple[Sheet, str, str]] = {
    "rtx4090": (
        {
            "gpu": {
                "mem_bw": 1008e9,
                "bfloat16_tc_flops": 165.2e12,  # dense, fp32 accumulate
                "fp8_tc_flops": 330.3e12,  # dense, fp32 accumulate (660.6 with fp16 accumulate, which vLLM does not use)
                "power": 450,
                "sm_version": 89,
            },
            "node": {"num_gpus_per_node": 8, "intra_node_bw": 32e9, "pcie_bw": 32e9},
        },
        "NVIDIA Ada GPU architecture whitepaper v2.1, GeForce RTX 4090 (PCIe 4.0 x16, no NVLink)",
        "2026-11",
    ),
    "mi300x": (
        {
            "gpu": {
                "mem_bw": 5.3e12,
                "bfloat16_tc_flops": 1307.4e12,
                "fp8_tc_flops": 2614.9e12,
                "power": 750,
                "sm_version": 0,
            },
            "node": {"num_gpus_per_node": 8, "intra_node_bw": 448e9, "pcie_bw": 64e9, "links_per_gpu": 7},
        },
        "AMD Instinct MI300X data sheet (7 Infinity Fabric links of 64 GB/s per direction, PCIe 5.0 x16)",
        "2026-11",
    ),
}
"""Datasheets that the database lacks, in its layout: content, source, date."""

NAMES = ("a30", "l4", "mi300x", "rtx4090")
MEMORY_CLASS = {
    "hbm": ("a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm", "b300_sxm", "gb200", "gb300", "a30", "mi300x"),
    "gddr": ("l40s", "rtx_pro_6000_server", "l4", "rtx4090"),
}
"""Data-centre modules with stacked memory, and PCIe cards with graphics memory (whose caches are larger beside it)."""

ROWS = 4000  # of each donor and kernel, enough to judge an average
KINDS: tuple[tuple[Precision, int], ...] = (("bf16", 64), ("bf16", 128), ("fp8", 64), ("fp8", 128))

NOTES = (
    "Nobody measured this device: every coefficient is an average over measured GPUs, as a share of datasheet peak, and its "
    "standard error the spread over them. held_out is the error of such averages on measured GPUs left out one at a time "
    "(n = rows judged); interval90 is what a purchase should be tested against.",
    "All-reduce is a mean over GPUs with the same kind of link (direct, or PCIe) scaled by link bandwidth. Real hosts differ "
    "more: without peer-to-peer access (GeForce) messages go through the host's memory.",
    "Averages come from kernel measurements of NVIDIA aiconfigurator-core (Apache-2.0).",
)


def class_of(gpu: str) -> str:
    """The memory class of a GPU; raises :class:`InputError` for one that is in none."""
    for name, members in MEMORY_CLASS.items():
        if gpu in members:
            return name
    raise InputError(
        f"{gpu} is in no class of GPUs", allowed=[gpu for members in MEMORY_CLASS.values() for gpu in members]
    )


def read_sheet(systems: Path, gpu: str) -> tuple[Sheet, str]:
    """Datasheet and its source: of the database, or of :data:`SHEETS`."""
    if gpu in SHEETS:
        sheet, source, date = SHEETS[gpu]
        return sheet, f"{source}, {date}"
    return importers.read_datasheet(systems, gpu), f"{importers.database_label(systems)}, {gpu}.yaml"


def assumable(systems: Path) -> list[str]:
    """GPUs of :data:`NAMES` whose datasheet is here."""
    return [name for name in NAMES if name in SHEETS or (systems / f"{name}.yaml").is_file()]


def measured(systems: Path) -> list[str]:
    """GPUs that the database measured and whose device facts are known."""
    return [gpu for gpu in importers.gpu_names(systems) if gpu in DEVICE]


def _some(rows: Observations) -> Observations:
    keep = np.zeros(len(rows.seconds), dtype=bool)
    keep[np.random.default_rng(2).permutation(len(keep))[:ROWS]] = True
    return rows.part(keep)


def _own(table: pd.DataFrame) -> Provenance:
    return Provenance(origin="fitted", source=table.attrs["source"], date="")


def assumed_copy(systems: Path, gpu: str, facts: Facts, date: str) -> Copy:
    """Element-wise kernels of a GPU from those of the measured ones, fitted afresh from the database."""
    donors = []
    for name in measured(systems):
        if name != gpu and importers.has_elementwise(systems, name):
            table = importers.read_elementwise(systems, name)
            rows = copy_observations(table, _own(table))
            peaks = Peaks(1.0, float(importers.read_datasheet(systems, name)["gpu"]["mem_bw"]))
            donors.append(Donor(name, fit_copy(rows, peaks), peaks, rows))
    if len(donors) < LEAST_DONORS:
        raise InputError(
            f"the database has no element-wise kernels of {gpu}, nor of {LEAST_DONORS} GPUs to take their mean"
        )
    found = assumed(donors, gpu, Peaks.of(facts), within(COPY_AXES, donors[0].rows.coords), class_of, date)
    assert isinstance(found, Copy)
    return found


def assumed_profile(
    systems: Path, gpu: str, date: str, note: Callable[[str], None] = lambda _: None
) -> HardwareProfile:
    """``gpu`` of :data:`NAMES` from its datasheet and the shipped profiles of the GPUs that the database measured.

    Raises :class:`InputError` for a datasheet that is absent, or too few measured GPUs.
    """
    sheet, source = read_sheet(systems, gpu)
    facts = facts_of(gpu, sheet, source, date)
    donors = {name: load_profile(name) for name in measured(systems) if name in profile_names()}
    note(f"{gpu}: averages over {', '.join(donors)}")
    gemm = dict(_gemm(systems, gpu, facts, donors, date))
    kernels = Kernels(
        gemm=assumed_formats(gpu, facts, gemm, int(sheet["gpu"].get("sm_version", 0)), date),
        decode_attention=tuple(_attention(systems, gpu, facts, donors, date, "decode")),
        prefill_attention=tuple(_attention(systems, gpu, facts, donors, date, "prefill")),
        all_reduce=tuple(_all_reduce(systems, gpu, sheet, donors, date)),
        elementwise=assumed_copy(systems, gpu, facts, date),
    )
    return HardwareProfile(name=gpu, label=DEVICE[gpu][0], facts=facts, kernels=kernels, fit_notes=NOTES)


def _has(facts: Facts, dtype: Precision) -> bool:
    return getattr(facts.flops, dtype) is not None


def _kernel(donors: Sequence[Donor], gpu: str, peaks: Peaks, axes: Axes, date: str) -> Kernel:
    common = {name: np.concatenate([donor.rows.coords[name] for donor in donors]) for name in axes}
    found = assumed(donors, gpu, peaks, within(axes, common), class_of, date)
    assert isinstance(found, Kernel)
    return found


def _gemm(
    systems: Path, gpu: str, facts: Facts, donors: dict[str, HardwareProfile], date: str
) -> Iterator[tuple[Precision, Kernel]]:
    for dtype in KINDS[0][0], KINDS[2][0]:
        if not _has(facts, dtype):
            continue
        found = []
        for name, donor in donors.items():
            if dtype in donor.kernels.gemm:
                table = importers.read_gemm(systems, name)
                rows = _some(families.gemm(table, dtype, _own(table)))
                found.append(Donor(name, donor.kernels.gemm[dtype], Peaks.of(donor.facts, dtype), rows))
        yield dtype, _kernel(found, gpu, Peaks.of(facts, dtype), families.GEMM[0][0], date)


def _attention(
    systems: Path, gpu: str, facts: Facts, donors: dict[str, HardwareProfile], date: str, family: str
) -> Iterator[Attention]:
    read, observe, axes = {
        "decode": (importers.read_decode, families.decode, families.DECODE[1][0]),
        "prefill": (importers.read_prefill, families.prefill, families.PREFILL[0][0]),
    }[family]
    tables = {name: read(systems, name) for name in donors}
    for kv, head_dim in KINDS:
        if not _has(facts, kv):
            continue
        found = []
        for name, donor in donors.items():
            fits: tuple[Attention, ...] = getattr(donor.kernels, f"{family}_attention")
            own = [fit.kernel for fit in fits if (fit.kv, fit.head_dim) == (kv, head_dim)]
            if own:
                rows = _some(observe(tables[name], kv, head_dim, _own(tables[name])))
                found.append(Donor(name, own[0], Peaks.of(donor.facts), rows))
        yield Attention(kv=kv, head_dim=head_dim, kernel=_kernel(found, gpu, Peaks.of(facts), axes, date))


def _link(sheet: Sheet, num_gpus: int) -> float:
    """Bytes/s in one direction that a GPU has towards ``num_gpus - 1`` others: in a mesh only their own links."""
    total, links = float(sheet["node"]["intra_node_bw"]), sheet["node"].get("links_per_gpu")
    return total if links is None else total * (num_gpus - 1) / links


def fast_links(sheet: Sheet) -> bool:
    """Whether GPUs of a node reach each other faster than over PCIe."""
    return bool(sheet["node"]["intra_node_bw"] > sheet["node"]["pcie_bw"])


def _all_reduce(
    systems: Path, gpu: str, sheet: Sheet, donors: dict[str, HardwareProfile], date: str
) -> Iterator[Collective]:
    build = partial(assumed_all_reduce, fast=fast_links(sheet), serving=SERVING_MESSAGE_BYTES, date=date)
    tables = {name: importers.read_all_reduce(systems, name) for name in donors}
    sheets = {name: importers.read_datasheet(systems, name) for name in donors}
    for num_gpus in (2, 4, 8):
        rings = []
        for name, table in tables.items():
            rows = table[table["num_gpus"] == num_gpus].sort_values("message_bytes")
            if len(rows) and num_gpus <= sheets[name]["node"]["num_gpus_per_node"]:
                size, seconds = rows["message_bytes"].to_numpy(float), rows["seconds"].to_numpy(float)
                rings.append(Ring(name, size, seconds, _link(sheets[name], num_gpus), fast_links(sheets[name])))
        yield build(rings, num_gpus, _link(sheet, num_gpus))
