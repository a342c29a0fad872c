"""Logs of a vLLM server's own benchmark as rows of the table that ``fit --runs`` and ``twin validate`` take.

For whoever has a server and no profiler: ``vllm bench serve --max-concurrency N --save-result --save-detailed`` writes one
JSON per run, and a dozen runs over loads and layouts are enough to fit what that engine adds to its kernels.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from twin.base import InputError
from twin.trust.closed_loop import LEAST_SHARE, PROMPTS_PER_CLIENT

COLUMNS = (
    "system", "model", "precision", "isl", "osl", "concurrency", "tp_size", "vllm_version", "kv_cache_dtype",
    "mean_ttft_ms", "mean_tpot_ms", "source",
)  # fmt: skip
NEEDED = ("input_lens", "output_lens", "ttfts", "mean_ttft_ms", "mean_tpot_ms", "max_concurrency", "completed")
SLACK = 0.05  # a few tokens of a chat template, or a draw that missed the ends of its range


def closed_loop_row(
    path: Path, *, system: str, model: str | None, precision: str, tp_size: int, vllm_version: str, kv_cache_dtype: str
) -> dict[str, Any]:
    """One run as a row of :data:`COLUMNS`; TTFT is on the client's clock, times in ms.

    Raises :class:`InputError` for a file that is no detailed result, failed requests, numbers that are not positive, or a
    run that the closed-loop replay is not: an open loop, lengths that spread wider than 80–100 %, too few prompts.
    """
    result = _read(path)
    inputs, outputs = np.array(result["input_lens"], dtype=float), np.array(result["output_lens"], dtype=float)
    ttfts = np.array(result["ttfts"], dtype=float)
    clients = result["max_concurrency"]
    where = path.name
    if not clients or str(result.get("request_rate", "inf")) != "inf":
        raise InputError(
            "an open loop (no --max-concurrency, or a --request-rate): host times are fitted to closed loops",
            where=where,
        )
    if not len(inputs) == len(outputs) == len(ttfts) == result["completed"]:
        raise InputError(f"{len(inputs) - result['completed']} of {len(inputs)} requests failed", where=where)
    if not (np.isfinite(ttfts).all() and (ttfts > 0).all() and (inputs > 0).all() and (outputs > 0).all()):
        raise InputError("a length or a time to the first token is not a positive number", where=where)
    for name, lengths in (("input", inputs), ("output", outputs)):
        if lengths.min() < (LEAST_SHARE - SLACK) * lengths.max():
            raise InputError(
                f"{name} lengths from {lengths.min():.0f} to {lengths.max():.0f}: the replay draws them from 80–100 %"
                " of nominal (--random-range-ratio)",
                where=where,
            )
    if len(inputs) < (PROMPTS_PER_CLIENT - 1) * clients:
        few = f"{len(inputs)} prompts for {clients} clients: the replay sends {PROMPTS_PER_CLIENT} for each"
        raise InputError(few, where=where)
    for name in ("mean_ttft_ms", "mean_tpot_ms"):
        if not isinstance(result[name], int | float) or not math.isfinite(result[name]) or result[name] <= 0:
            raise InputError(f"{name} is {result[name]!r}, not a positive number", where=where)
    return {
        "system": system,
        "model": model or result.get("model_id", ""),
        "precision": precision,
        "isl": int(inputs.max()),
        "osl": int(outputs.max()),
        "concurrency": int(clients),
        "tp_size": tp_size,
        "vllm_version": vllm_version,
        "kv_cache_dtype": kv_cache_dtype,
        "mean_ttft_ms": result["mean_ttft_ms"],
        "mean_tpot_ms": result["mean_tpot_ms"],
        "source": path.name,
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the result: {error.strerror}", where=path.name) from None
    except ValueError:
        raise InputError("not JSON", where=path.name) from None
    missing = [name for name in NEEDED if not isinstance(result, dict) or name not in result]
    if missing:
        raise InputError(
            f"{missing[0]!r} is missing: vllm bench serve writes it with --save-result --save-detailed", where=path.name
        )
    return dict(result)
