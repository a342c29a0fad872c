"""What a log says of the run behind it: hardware, model, release and the flags of its server."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from twin.base import InputError
from twin.spec.engine import EngineSettings
from twin.spec.hardware import profile_names

Facts = dict[str, Any]
PARALLEL = ("data_parallel_size", "pipeline_parallel_size")
ENGINE = (*sorted(EngineSettings.model_fields.keys() - {"vllm_version"}), "kv_cache_dtype", "quantization", *PARALLEL)
"""Flags of ``vllm serve`` that a log may state and a replay takes."""


def facts_of_bench(result: Mapping[str, Any]) -> Facts:
    """What the client knew; ``--metadata system=h200_sxm tp_size=2`` may say the rest."""
    facts = {name: result[name] for name in ("system", "precision", "tp_size", "vllm_version") if name in result}
    facts["engine"] = {name: result[name] for name in ENGINE if result.get(name) not in (None, "")}
    facts["model"] = result.get("model_id", "")
    if result.get("max_concurrency") is not None:
        facts["concurrency"] = result["max_concurrency"]
    rate = result.get("request_rate")
    if isinstance(rate, int | float) or rate == "inf":
        facts["request_rate"] = float(rate)
    return facts


def facts_of_runs(text: str, name: str) -> dict[str, Facts]:
    """Facts by run from a table with the columns run, model, hardware, engine_version, tp, dtype and others.

    Raises :class:`InputError`, with the file's ``name``, for a table without runs or flags that are not JSON.
    """
    names = {"model": "model", "engine_version": "vllm_version", "tp": "tp_size"}
    found: dict[str, Facts] = {}
    table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    if "run" not in table:
        raise InputError("column 'run' is missing", where=f"{name}:1")
    for row in table.to_dict("records"):
        facts: Facts = {new: row[old] for old, new in names.items() if row.get(old)}
        facts["system"] = profile_name(row.get("hardware", ""))
        facts["precision"] = PRECISIONS.get(row.get("dtype", ""), row.get("dtype", ""))
        facts["engine"] = _engine_flags(row, name)
        found[row["run"]] = facts
    return found


def _engine_flags(row: Mapping[Any, str], name: str) -> Facts:
    """The flags that a run states, in columns of their own or as JSON in ``engine_kwargs``."""
    try:
        stated = json.loads(row.get("engine_kwargs") or "{}")
    except ValueError:
        raise InputError(f"engine_kwargs of {row['run']} is not JSON", where=name) from None
    stated |= {new: row[old] for old, new in {"gpu_mem_util": "gpu_memory_utilization"}.items() if row.get(old)}
    stated |= {name: row[name] for name in ENGINE if row.get(name)}
    return {name: value for name, value in stated.items() if name in ENGINE and value is not None}


PRECISIONS = {"bfloat16": "bf16", "float16": "fp16"}


def profile_name(hardware: str) -> str:
    """The hardware profile that a name such as ``RTXPRO6000`` or ``H200`` begins, or the name itself if no one does."""
    folded = re.sub(r"[^a-z0-9]", "", hardware.lower())
    alike = {name: name.replace("_", "") for name in profile_names() if folded}
    exact = [name for name, other in alike.items() if other == folded]
    begun = exact or [name for name, other in alike.items() if other.startswith(folded)]
    return begun[0] if len(begun) == 1 else hardware
