"""Collectives beside all-reduce: NCCL's gathers, scatters and all-to-alls, and DeepEP's kernels for experts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from calibrate import importers
from calibrate.families import _ids
from calibrate.judge import Judged, errors, round_to, rounded
from calibrate.small import SERVING_MESSAGE_BYTES, Segments, _collectives, segments
from twin.base import Provenance
from twin.cost.collectives import line_s
from twin.spec.kernels import Exchange, HeldOut, Operation, Segment

if TYPE_CHECKING:
    from calibrate.profiles import Job

NCCL: dict[str, Operation] = {
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
}
DEEPEP: dict[tuple[str, str], Operation] = {
    ("deepep_ht", "dispatch"): "ht_dispatch",
    ("deepep_ht", "combine"): "ht_combine",
    ("deepep_ll", "dispatch"): "ll_dispatch",
    ("deepep_ll", "combine"): "ll_combine",
}
REFERENCE = {"hidden": 7168, "per_token": 8, "num_experts": 256}
"""DeepSeek-V3: its points are kept; those of the other models judge how far bytes alone carry."""


def _has(systems: Path, gpu: str, backend: str, file: str) -> bool:
    return any((systems / "data" / gpu / "comm" / backend).glob(f"*/{file}"))


def read_nccl(systems: Path, gpu: str) -> pd.DataFrame:
    """``operation``, ``num_gpus``, ``message_bytes`` (of bf16, as half: the database counts elements), ``seconds``."""
    path = importers._newest(systems, gpu, "comm", "nccl", "nccl_perf.parquet")
    columns = {"op_name": "operation", "nccl_dtype": "dtype", "num_gpus": "num_gpus", "message_size": "elements"}
    table = importers._read(systems, path, columns)
    table["operation"] = table["operation"].map(NCCL)
    table = table[table["dtype"] == "half"].dropna(subset="operation").drop(columns="dtype")
    table["message_bytes"] = table.pop("elements") * importers.BF16_BYTES
    return importers._nonempty(importers._median(table), "NCCL's collectives")


def read_deepep(systems: Path, gpu: str) -> pd.DataFrame:
    """``operation``, ``num_gpus``, :data:`REFERENCE`'s columns, ``message_bytes`` of one rank's tokens in bf16, ``seconds``."""
    path = importers._newest(systems, gpu, "comm", "vllm", "moe_a2a_perf.parquet")
    columns = {
        "comm_backend": "backend",
        "phase": "phase",
        "ep_size": "num_gpus",
        "hidden_size": "hidden",
        "topk": "per_token",
        "num_experts": "num_experts",
        "num_tokens": "tokens",
        "node_num": "nodes",
    }
    table = importers._read(systems, path, columns)
    table = table[table["nodes"] == 1]
    table["operation"] = [DEEPEP.get(pair) for pair in zip(table.pop("backend"), table.pop("phase"), strict=True)]
    table["message_bytes"] = table.pop("tokens") * table["hidden"] * importers.BF16_BYTES
    table["seconds"] *= 1e-3  # this file alone is in microseconds, as its column transmit_us says
    return importers._nonempty(importers._median(table.dropna(subset="operation")), "DeepEP's kernels")


def _nccl(job: Job, systems: Path) -> Iterator[Exchange]:
    table = read_nccl(systems, job.gpu)
    provenance = Provenance(origin="fitted", source=table.attrs["source"], date=job.date)
    table = table[table["num_gpus"] <= job.facts.num_gpus_per_node]
    for operation in sorted(set(table["operation"])):
        fits: dict[int, Segments] = {}
        rows = table[table["operation"] == operation].sort_values("message_bytes")
        for num_gpus in sorted(set(rows["num_gpus"])):
            points = rows[rows["num_gpus"] == num_gpus]
            sizes, seconds = points["message_bytes"].to_numpy(float), points["seconds"].to_numpy(float)
            fits[int(num_gpus)] = segments(sizes, seconds, (("nccl", 0.0),))
        for one in _collectives(fits, provenance):
            yield Exchange(operation=operation, **one.model_dump(exclude_none=True))


def _deepep(job: Job, systems: Path) -> Iterator[Exchange]:
    """Judged on the other models' sizes."""
    table = read_deepep(systems, job.gpu)
    provenance = Provenance(origin="fitted", source=table.attrs["source"], date=job.date)
    own = np.logical_and.reduce([table[name] == value for name, value in REFERENCE.items()])
    for operation, num_gpus in sorted(set(zip(table["operation"], table["num_gpus"], strict=True))):
        rows = table[(table["operation"] == operation) & (table["num_gpus"] == num_gpus)]
        kept, others = rows[own[rows.index]].sort_values("message_bytes"), rows[~own[rows.index]]
        sizes, seconds = kept["message_bytes"].to_numpy(float), kept["seconds"].to_numpy(float)
        size, measured = others["message_bytes"].to_numpy(float), others["seconds"].to_numpy(float)
        predicted, models = line_s(sizes, seconds, size), _ids(*(others[name] for name in REFERENCE))
        serving = (size >= SERVING_MESSAGE_BYTES[0]) & (size <= SERVING_MESSAGE_BYTES[1])
        name = f"{operation.replace('_', '-')} {num_gpus} GPUs"
        if job.judged is not None:
            job.judged.append(Judged(job.gpu, name, size, measured, predicted, serving))
        us = tuple(round_to(value * 1e6) for value in seconds)
        yield Exchange(
            operation=operation,
            num_gpus=int(num_gpus),
            segments=(Segment(algorithm="deepep", message_bytes=tuple(sizes.tolist()), us=us),),
            held_out=rounded(
                HeldOut(
                    overall=errors(predicted, measured, models),
                    serving=errors(predicted[serving], measured[serving], models[serving]),
                )
            ),
            provenance=provenance,
        )


def fit_exchanges(job: Job, systems: Path) -> tuple[Exchange, ...]:
    """What of them was measured on this GPU."""
    found: list[Exchange] = []
    if _has(systems, job.gpu, "nccl", "nccl_perf.parquet"):
        found += _nccl(job, systems)
    if _has(systems, job.gpu, "vllm", "moe_a2a_perf.parquet"):
        found += _deepep(job, systems)
    return tuple(found)
