"""Timings of single requests that a vLLM server served: checked, as a table in SI, and as means per run.

They come from ``vllm bench serve --save-result --save-detailed`` (client clock) or from a CSV of engine stamps (engine
clock; what was run stands beside it in ``<name>_runs.csv``). The clocks differ by what the API and the network add, so every
row says which one it is.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from twin.base import InputError
from twin.spec.hardware import profile_names

Floats = NDArray[np.float64]
Facts = dict[str, Any]

REQUESTS = ("run", "arrival_s", "input_tokens", "output_tokens", "ttft_s", "tpot_s", "e2el_s", "queue_s", "clock")
STAMPS = ("queued_s", "scheduled_s", "first_token_s", "last_token_s")
LENGTHS = {"input_toks": "input_tokens", "output_toks": "output_tokens"}
DETAILS = ("input_lens", "output_lens", "ttfts", "itls")


@dataclass(frozen=True)
class RequestLog:
    """``requests``: one row per finished request, columns :data:`REQUESTS`. ``facts``: per run, what is known of it.

    ``tpot_s`` is NaN for one output token; ``queue_s`` (engine queue) and ``arrival_s`` where they are not known.
    ``left_out``: requests that failed.
    """

    requests: pd.DataFrame
    facts: dict[str, Facts]
    left_out: int = 0


def read_requests(path: Path) -> RequestLog:
    """Requests of a JSON result of ``vllm bench serve`` or of a CSV of engine stamps, told apart by content.

    Raises :class:`InputError` with the line or the request for other columns, lists of different lengths, times that are
    not finite, run backwards or are zero, and a file without a finished request.
    """
    text = _text(path)
    log = _bench(path, text) if text.lstrip().startswith("{") else _stamps(path, text)
    if log.requests.empty:
        raise InputError("no finished request", where=path.name)
    return log


def summary(log: RequestLog, **known: object) -> pd.DataFrame:
    """One row per run, in the words of a table of runs: mean lengths in tokens, mean TTFT and TPOT in ms.

    For reading and comparing; ``fit --runs`` replays closed loops with nominal lengths, see :mod:`calibrate.server_logs`.
    ``known`` (system, model, precision, tp_size, vllm_version, concurrency, request_rate) fills what the log does not say
    and overrides what it does; what nobody says is empty. ``request_rate`` is what was asked for, else what arrived per
    second. ``clock`` says whose TTFT it is: an engine's lacks what the API adds.
    """
    rows = []
    for run, part in log.requests.groupby("run", sort=False):
        spread = float(part["arrival_s"].max() - part["arrival_s"].min())
        rate = (len(part) - 1) / spread if spread > 0 else math.inf
        facts = {"request_rate": rate} | log.facts.get(str(run), {}) | known
        rows.append(
            {name: facts.get(name, "") for name in ("system", "model", "precision")}
            | {"isl": round(part["input_tokens"].mean()), "osl": round(part["output_tokens"].mean())}
            | {name: facts.get(name, "") for name in ("concurrency", "tp_size", "vllm_version", "request_rate")}
            | {"mean_ttft_ms": 1e3 * part["ttft_s"].mean(), "mean_tpot_ms": 1e3 * part["tpot_s"].mean()}
            | {"requests": len(part), "clock": part["clock"].iloc[0], "run": run}
        )
    return pd.DataFrame(rows)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = (error.strerror or "cannot be read") if isinstance(error, OSError) else "not text"
        raise InputError(said, where=path.name) from None


def _bench(path: Path, text: str) -> RequestLog:
    """vLLM ``benchmarks/serve.py``: per request lists; one that failed has no output or an error.

    0.19 writes no ``latencies``: the last chunk comes after the first by the sum of the gaps.
    """
    try:
        result = json.loads(text)
    except ValueError:
        raise InputError("not one whole JSON object; was it cut short?", where=path.name) from None
    for name in DETAILS:
        if not isinstance(result.get(name), list):
            what = f"{name!r} is missing: run vllm bench serve with --save-result --save-detailed"
            raise InputError(what, where=path.name)
    count = len(result["input_lens"])
    lists = {name: result[name] for name in DETAILS}
    lists |= {name: result.get(name) or [None] * count for name in ("latencies", "start_times", "errors")}
    if any(len(values) != count for values in lists.values()):
        raise InputError(f"{', '.join(lists)} differ in length", where=path.name)
    first = _numbers(lists["ttfts"])
    gaps = np.array([_numbers(gap).sum() if isinstance(gap, list) else math.nan for gap in lists["itls"]])
    last = _numbers(lists["latencies"])
    start = _numbers(lists["start_times"])
    outputs = _numbers(lists["output_lens"])
    table = pd.DataFrame(
        {
            "run": path.stem,
            "arrival_s": start,
            "input_tokens": _numbers(lists["input_lens"]),
            "output_tokens": outputs,
            "ttft_s": first,
            "e2el_s": np.where(np.isnan(last), first + gaps, last),
            "queue_s": math.nan,
            "clock": "client",
        }
    )
    done = (outputs > 0) & np.array([not error for error in lists["errors"]], dtype=bool)
    table = table[done].assign(arrival_s=lambda rows: rows["arrival_s"] - rows["arrival_s"].min())
    where = [f"{path.name}, request {i}" for i in np.flatnonzero(done)]
    return RequestLog(_finished(table, where), {path.stem: _bench_facts(result)}, count - len(table))


def _numbers(values: list[Any]) -> Floats:
    """NaN for what is no number."""
    return np.asarray([value if isinstance(value, int | float) else math.nan for value in values], dtype=np.float64)


def _bench_facts(result: Mapping[str, Any]) -> Facts:
    """What the client knew; ``--metadata system=h200_sxm tp_size=2`` may say the rest."""
    facts = {name: result[name] for name in ("system", "precision", "tp_size", "vllm_version") if name in result}
    facts["model"] = result.get("model_id", "")
    if result.get("max_concurrency") is not None:
        facts["concurrency"] = result["max_concurrency"]
    rate = result.get("request_rate")
    if isinstance(rate, int | float) or rate == "inf":
        facts["request_rate"] = float(rate)
    return facts


def _stamps(path: Path, text: str) -> RequestLog:
    try:
        table = pd.read_csv(io.StringIO(text))
    except ValueError:  # pandas' own parser errors are ValueErrors
        raise InputError("neither a result of vllm bench serve nor a CSV table", where=path.name) from None
    table = table.rename(columns=LENGTHS)
    needed = ("run", *LENGTHS.values(), *STAMPS)
    for name in needed:
        if name not in table:
            raise InputError(f"column {name!r} is missing", where=f"{path.name}:1", allowed=needed)
    where = [f"{path.name}:{line}" for line in range(2, len(table) + 2)]
    _require(table["run"].notna().to_numpy(), where, "the run has no name")
    stamps = table[[*STAMPS]].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    _require(np.isfinite(stamps).all(axis=1), where, "a stamp is missing or not a number")
    _require((np.diff(stamps, axis=1) >= 0).all(axis=1), where, f"stamps run backwards: {' ≤ '.join(STAMPS)} is meant")
    queued, scheduled, first, last = stamps.T
    times = {"arrival_s": queued, "ttft_s": first - queued, "e2el_s": last - queued, "queue_s": scheduled - queued}
    return RequestLog(_finished(table.assign(**times, clock="engine"), where), _runs_beside(path))


def _finished(table: pd.DataFrame, where: list[str]) -> pd.DataFrame:
    """With ``tpot_s`` and in the order of :data:`REQUESTS`, once every row has been found sound."""
    numbers = table[["input_tokens", "output_tokens", "ttft_s", "e2el_s"]].apply(pd.to_numeric, errors="coerce")
    inputs, outputs, ttft, e2el = numbers.to_numpy(dtype=np.float64).T
    _require((inputs >= 1) & (outputs >= 1), where, "a request has at least one input and one output token")
    _require(np.isfinite(ttft) & (ttft > 0), where, "the time to the first token is not a positive number")
    _require(np.isfinite(e2el) & (e2el >= ttft), where, "the last token comes before the first")
    bundled = table["clock"].to_numpy() == "client"  # a slow client gets several tokens in one chunk
    _require((outputs == 1) | (e2el > ttft) | bundled, where, "several tokens at one time: no time passes between them")
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = np.where(outputs > 1, (e2el - ttft) / (outputs - 1), math.nan)
    return table.assign(input_tokens=inputs.astype(np.int64), output_tokens=outputs.astype(np.int64), tpot_s=tpot)[
        [*REQUESTS]
    ].reset_index(drop=True)


def _require(good: NDArray[np.bool_], where: list[str], what: str) -> None:
    if not good.all():
        raise InputError(what, where=where[int(np.argmin(good))])


def _runs_beside(path: Path) -> dict[str, Facts]:
    """Facts from ``<name>_runs.csv``, if it is there: columns run, model, hardware, engine_version, tp, dtype and others."""
    beside = path.with_name(f"{path.stem}_runs.csv")
    if not beside.exists():
        return {}
    names = {"model": "model", "engine_version": "vllm_version", "tp": "tp_size"}
    found: dict[str, Facts] = {}
    table = pd.read_csv(io.StringIO(_text(beside)), dtype=str, keep_default_na=False)
    if "run" not in table:
        raise InputError("column 'run' is missing", where=f"{beside.name}:1")
    for row in table.to_dict("records"):
        facts: Facts = {new: row[old] for old, new in names.items() if row.get(old)}
        facts["system"] = profile_name(row.get("hardware", ""))
        facts["precision"] = PRECISIONS.get(row.get("dtype", ""), row.get("dtype", ""))
        found[row["run"]] = facts
    return found


PRECISIONS = {"bfloat16": "bf16", "float16": "fp16"}


def profile_name(hardware: str) -> str:
    """The hardware profile that a name such as ``RTXPRO6000`` or ``H200`` begins, or the name itself if no one does."""
    folded = re.sub(r"[^a-z0-9]", "", hardware.lower())
    alike = {name: name.replace("_", "") for name in profile_names() if folded}
    exact = [name for name, other in alike.items() if other == folded]
    begun = exact or [name for name, other in alike.items() if other.startswith(folded)]
    return begun[0] if len(begun) == 1 else hardware
