"""From the measured-kernel database to hardware profiles, and their YAML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from calibrate import families, importers
from calibrate.facts import DEVICE, facts_of
from calibrate.fit import Candidate, Observations, fit_kernel
from calibrate.small import assumed_copy, fit_all_reduce, fit_copy
from twin.base import Estimate, InputError, Provenance, unknown_name
from twin.spec.hardware import (
    Attention,
    Copy,
    Facts,
    HardwareProfile,
    Kernel,
    Kernels,
    Precision,
    load_profile,
)

NOTES = (
    "Times are (launch + p-norm(FLOPs/rate, bytes/bandwidth)) * exp(table). Fits weigh relative errors, and "
    "shapes that serving does not use by 0.3. Held out: (n, k) pairs, head configurations, message sizes.",
    "Serving shapes: GEMM m <= 8192 with one side a hidden size of 3584..16384 and the other >= 512; "
    "attention with 4..64 heads, context 128..32k and <= 512 sequences, prompts >= 128 and <= 32k tokens; "
    "messages of 7 KiB..256 MiB.",
    "Attention was measured at one length per batch, prefill with an empty cache; the rest is extrapolated.",
    "Derived from kernel measurements of NVIDIA aiconfigurator-core (Apache-2.0).",
)


def importable(systems: Path) -> list[str]:
    """GPUs that the database measured and whose device facts are known."""
    return [gpu for gpu in importers.gpu_names(systems) if gpu in DEVICE]


def _provenance(table: pd.DataFrame, date: str) -> Provenance:
    return Provenance(origin="fitted", source=table.attrs["source"], date=date)


def _attention(
    table: pd.DataFrame,
    observe: Callable[..., Observations],
    candidates: Sequence[Candidate],
    peaks: tuple[float, float],
    date: str,
) -> tuple[Attention, ...]:
    kinds = table[["kv", "head_dim"]].drop_duplicates().sort_values(["kv", "head_dim"])
    provenance = _provenance(table, date)
    return tuple(
        Attention(
            kv=kv,
            head_dim=int(head_dim),
            kernel=fit_kernel(observe(table, kv, head_dim, provenance), peaks, candidates),
        )
        for kv, head_dim in kinds.itertuples(index=False)
    )


def _gemm(table: pd.DataFrame, facts: Facts, date: str) -> dict[Precision, Kernel]:
    bandwidth = facts.mem_bw_bytes_per_s.value
    peaks: dict[Precision, Estimate | None] = {"bf16": facts.flops.bf16, "fp8": facts.flops.fp8}
    return {
        dtype: fit_kernel(families.gemm(table, dtype, _provenance(table, date)), (peak.value, bandwidth), families.GEMM)
        for dtype, peak in peaks.items()
        if peak is not None and (table["dtype"] == dtype).any()
    }


def _copy(systems: Path, gpu: str, date: str) -> Copy:
    """The element-wise fit; for a GPU without measurements the mean of those that have some, marked assumed."""

    def peak(name: str) -> float:
        return float(importers.read_datasheet(systems, name)["gpu"]["mem_bw"])

    def fitted(name: str) -> Copy:
        table = importers.read_elementwise(systems, name)
        return fit_copy(table, peak(name), _provenance(table, date))

    if importers.has_elementwise(systems, gpu):
        return fitted(gpu)
    others = [name for name in importable(systems) if importers.has_elementwise(systems, name)]
    if len(others) < 2:
        raise InputError(f"the database has no element-wise kernels of {gpu}, nor of two GPUs to take their mean")
    source = f"mean launch and share of peak bandwidth of {', '.join(others)}"
    return assumed_copy([(fitted(name), peak(name)) for name in others], peak(gpu), source, date)


def build_profile(systems: Path, gpu: str, date: str, note: Callable[[str], None] = lambda _: None) -> HardwareProfile:
    """Fit every family of ``gpu``.

    Raises :class:`InputError` for an unknown GPU or unusable data, before anything is fitted.
    """
    if gpu not in importable(systems):
        raise unknown_name("GPU", gpu, importable(systems))
    source = f"{importers.database_label(systems)}, {gpu}.yaml"
    facts = facts_of(gpu, importers.read_datasheet(systems, gpu), source, date)
    peaks = (facts.flops.bf16.value, facts.mem_bw_bytes_per_s.value)
    gemm, messages = importers.read_gemm(systems, gpu), importers.read_all_reduce(systems, gpu)
    decode, prefill = importers.read_decode(systems, gpu), importers.read_prefill(systems, gpu)
    note(f"{gpu}: element-wise kernels and all-reduce")
    elementwise = _copy(systems, gpu, date)
    all_reduce = tuple(fit_all_reduce(messages, _provenance(messages, date)))
    note(f"{gpu}: matrix multiplications")
    gemm_fits = _gemm(gemm, facts, date)
    note(f"{gpu}: decode attention")
    decode_fits = _attention(decode, families.decode, families.DECODE, peaks, date)
    note(f"{gpu}: prefill attention")
    prefill_fits = _attention(prefill, families.prefill, families.PREFILL, peaks, date)
    kernels = Kernels(
        gemm=gemm_fits,
        decode_attention=decode_fits,
        prefill_attention=prefill_fits,
        all_reduce=all_reduce,
        elementwise=elementwise,
    )
    return HardwareProfile(name=gpu, label=DEVICE[gpu][0], facts=facts, kernels=kernels, fit_notes=NOTES)


def keep_host(profile: HardwareProfile, path: Path) -> HardwareProfile:
    """The profile with the host section of the one at ``path``, if there is one.

    Host times were fitted on top of the kernels of that time: fit them again when kernels have changed.
    """
    if not path.is_file():
        return profile
    return profile.model_copy(update={"host": load_profile(path).host})


LINE = 600  # characters that a mapping may take on one line


class _Dumper(yaml.SafeDumper):
    """Blocks for structure; one line for a list of numbers and for a mapping of plain values."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _plain(value: Any) -> bool:
    return not isinstance(value, dict | list | tuple)


def _short(value: Any) -> bool:
    """A mapping of figures, or a list of numbers: what reads best on one line."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [[value]]
    return all(_plain(item) and (isinstance(value, dict) or not isinstance(item, str)) for item in items)


def _mapping(dumper: _Dumper, data: dict[str, Any]) -> yaml.Node:
    one_line = all(map(_plain, data.values())) or all(not _plain(value) and _short(value) for value in data.values())
    flow = bool(data) and one_line and len(str(data)) < LINE
    return dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=flow)


def _sequence(dumper: _Dumper, data: Sequence[Any]) -> yaml.Node:
    flow = all(_plain(value) and not isinstance(value, str) for value in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


def _float(dumper: _Dumper, value: float) -> yaml.Node:
    text = repr(int(value)) if value.is_integer() and abs(value) < 1e6 else f"{value:.12g}"
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float" if "." in text else "tag:yaml.org,2002:int", text)


def to_yaml(profile: HardwareProfile) -> str:
    """The profile as YAML: what is not given is left out."""
    _Dumper.add_representer(dict, _mapping)
    _Dumper.add_representer(list, _sequence)
    _Dumper.add_representer(float, _float)
    data = profile.model_dump(mode="json", exclude_none=True, exclude_defaults=False)
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=100_000, allow_unicode=True)
