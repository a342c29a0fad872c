"""The log of an engine's steps that ``twin calibrate engine`` writes: checked, as tables in SI."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calibrate.json_lines import json_lines
from twin.base import InputError

ENGINE = (
    "schema_version",
    "device",
    "name",
    "threads",
    "mode",
    "model",
    "vllm_version",
    "async_scheduling",
    "cuda_graphs",
)
RUN = ("run", "name", "kind", "load", "order")
STEP = ("step", "start", "scheduled", "end", "seconds", "prefills", "decodes", "context", "waiting", "preempted")
REQUEST = ("request", "sent", "first_token", "last_token", "input_tokens", "output_tokens")
REQUEST_COLUMNS = ("run", "kind", "load", "input_tokens", "output_tokens", "ttft_s", "e2el_s", "outside_s")
KINDS = ("fit", "test", "sentinel", "repeat")


@dataclass(frozen=True)
class StepLog:
    """``engine``: what ran where. ``steps``: one row per step. ``requests``: one row per request.

    Columns of ``steps``: run, name, kind, load, order, step, start_s, seconds, schedule_s, prefills ([tokens, context] of
    each chunk), prefill_tokens, num_prefills, decodes, context, waiting, preempted. Of ``requests``: run, kind, load,
    input_tokens, output_tokens, ttft_s (client send to first chunk), e2el_s, and ``outside_s``, the part of the time to the
    first token that passed neither in the engine's queue nor in its steps; known of requests that found the engine idle, as a
    busy one takes up what has come only once its step is done.
    """

    path: Path
    engine: dict[str, Any]
    steps: pd.DataFrame
    requests: pd.DataFrame


def read_steps(path: Path) -> StepLog:
    """The log at ``path`` (``.gz`` too); a last line torn by an interruption is left out.

    Raises :class:`InputError` with file and line for a file that is no step log, a missing key, a time that is not positive
    and finite, an unknown kind of run, or steps of two engines.
    """
    engine: dict[str, Any] | None = None
    run: dict[str, Any] | None = None
    steps: list[dict[str, Any]] = []
    requests: list[dict[str, Any]] = []
    for where, row in json_lines(path, "the step log"):
        if "engine" in row:
            found = _with(row["engine"], ENGINE, "engine", where)
            if engine is not None and any(found[name] != engine[name] for name in ENGINE):
                raise InputError("steps of two engines or machines in one file: give each its own", where=where)
            engine = found
        elif "kind" in row:
            run = _with(row, RUN, "run", where)
            if run["kind"] not in KINDS:
                raise InputError(f"unknown kind of run {run['kind']!r}", where=where, allowed=KINDS)
        elif engine is None or run is None:
            raise InputError("a step log begins with its engine and a run", where=where)
        elif "request" in row:
            requests.append(_request(run, row, where))
        else:
            steps.append(_step(run, row, where))
    if engine is None or not steps:
        raise InputError("no steps", where=path.name)
    table = pd.DataFrame(steps)
    asked = pd.DataFrame(requests, columns=[*REQUEST_COLUMNS, "sent_s", "arrived_s"])
    asked["outside_s"] = asked["outside_s"].where(_idle(table, asked))
    return StepLog(path, engine, table, asked[[*REQUEST_COLUMNS]])


def _idle(steps: pd.DataFrame, requests: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether no step ran between a request's sending and its arrival in the engine's queue."""
    start = np.sort(steps["start_s"].to_numpy(dtype=np.float64))
    end = np.sort((steps["start_s"] + steps["seconds"]).to_numpy(dtype=np.float64))
    sent, arrived = (requests[name].to_numpy(dtype=np.float64) for name in ("sent_s", "arrived_s"))
    return np.asarray(np.searchsorted(start, arrived) == np.searchsorted(end, sent), dtype=np.bool_)


def _with(row: Any, names: tuple[str, ...], what: str, where: str) -> dict[str, Any]:
    missing = [name for name in names if not isinstance(row, dict) or name not in row]
    if missing:
        raise InputError(f"{what}: {missing[0]!r} is missing", where=where)
    return dict(row)


def _step(run: dict[str, Any], row: dict[str, Any], where: str) -> dict[str, Any]:
    _with(row, STEP, "step", where)
    seconds = row["seconds"]
    if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds <= 0:
        raise InputError(f"step: seconds is {seconds!r}, not a positive number", where=where)
    prefills = [(int(tokens), int(context)) for tokens, context in row["prefills"]]
    return {
        **{name: run[name] for name in RUN},
        "load": math.nan if run["load"] is None else float(run["load"]),
        "step": row["step"],
        "start_s": row["start"],
        "seconds": seconds,
        "schedule_s": row["scheduled"] - row["start"],
        "prefills": prefills,
        "prefill_tokens": sum(tokens for tokens, _ in prefills),
        "num_prefills": len(prefills),
        "decodes": row["decodes"],
        "context": row["context"],
        "waiting": row["waiting"],
        "preempted": row["preempted"],
    }


def _request(run: dict[str, Any], row: dict[str, Any], where: str) -> dict[str, Any]:
    _with(row, REQUEST, "request", where)
    arrived, first = row.get("arrived"), row.get("first_step_end")
    known = arrived is not None and first is not None
    return {
        "run": run["run"],
        "kind": run["kind"],
        "load": math.nan if run["load"] is None else float(run["load"]),
        "input_tokens": row["input_tokens"],
        "output_tokens": row["output_tokens"],
        "ttft_s": row["first_token"] - row["sent"],
        "e2el_s": row["last_token"] - row["sent"],
        "outside_s": (arrived - row["sent"]) + (row["first_token"] - first) if known else np.nan,
        "sent_s": row["sent"],
        "arrived_s": arrived if known else np.nan,
    }
