"""Timings of single requests that a vLLM server served: checked, as a table in SI, and as means per run.

They come from ``vllm bench serve --save-result --save-detailed`` (client clock) or from a CSV of engine stamps (engine
clock; what was run stands beside it in ``<name>_runs.csv``). The clocks differ by what the API and the network add, so every
row says which one it is.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from twin.base import InputError
from twin.trust.run_facts import Facts, facts_of_bench, facts_of_runs

Floats = NDArray[np.float64]

INPUTS = ("run", "request_id", "arrival_s", "input_tokens", "output_tokens", "clock")
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


def read_inputs(path: Path) -> RequestLog:
    """What :func:`read_requests` reads, without one measured time: columns :data:`INPUTS`, the same requests in the same order.

    When requests arrived and how long they are is what a replay is given; ``arrival_s`` is NaN where the log does not say.
    Raises :class:`InputError` for a file or a row without them.
    """
    text = _text(path)
    if text.lstrip().startswith("{"):
        result = _result(path, text, ("input_lens", "output_lens"))
        done = _done(result)
        start = _numbers(result.get("start_times") or [None] * len(done))
        table = pd.DataFrame(
            {
                "run": path.stem,
                "request_id": np.arange(len(done)),
                "arrival_s": start - (np.nanmin(start[done]) if np.isfinite(start[done]).any() else 0.0),
                "input_tokens": _numbers(result["input_lens"]),
                "output_tokens": _numbers(result["output_lens"]),
                "clock": "client",
            }
        )[done]
        log = RequestLog(table, {path.stem: facts_of_bench(result)}, int((~done).sum()))
        where = [f"{path.name}, request {i}" for i in np.flatnonzero(done)]
    else:
        table = _stamp_table(path, text, ("run", *LENGTHS.values(), "queued_s")).assign(clock="engine")
        if "request_id" not in table:
            table = table.assign(request_id=np.arange(len(table)))
        where = [f"{path.name}:{line}" for line in range(2, len(table) + 2)]
        queued = pd.to_numeric(table["queued_s"], errors="coerce").to_numpy(dtype=np.float64)
        _require(np.isfinite(queued), where, "queued_s is missing or not a number")
        log = RequestLog(table.assign(arrival_s=queued), _runs_beside(path))
    if log.requests.empty:
        raise InputError("no finished request", where=path.name)
    sizes = _lengths(log.requests, where)
    requests = log.requests.assign(**sizes)[[*INPUTS]].reset_index(drop=True)
    return RequestLog(requests, log.facts, log.left_out)


def is_request_log(path: Path) -> bool:
    """Whether a file is one of single requests (JSON, or a CSV with a stamp in its head) and no table of runs."""
    start = _text(path).lstrip()
    return start.startswith("{") or bool({*STAMPS} & set(start.split("\n", 1)[0].strip().split(",")))


def summary(log: RequestLog, **known: object) -> pd.DataFrame:
    """One row per run, in the words of a table of runs: mean lengths in tokens, mean TTFT and TPOT in ms.

    For reading and comparing; ``fit --runs`` replays closed loops with nominal lengths.
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
    result = _result(path, text, DETAILS)
    done = _done(result)
    lists = {name: result[name] for name in DETAILS}
    lists |= {name: result.get(name) or [None] * len(done) for name in ("latencies", "start_times")}
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
    table = table[done].assign(arrival_s=lambda rows: rows["arrival_s"] - rows["arrival_s"].min())
    where = [f"{path.name}, request {i}" for i in np.flatnonzero(done)]
    return RequestLog(_finished(table, where), {path.stem: facts_of_bench(result)}, len(done) - len(table))


def _result(path: Path, text: str, needed: tuple[str, ...]) -> dict[str, Any]:
    """The JSON object, its lists (those that are there) of one length."""
    try:
        result = json.loads(text)
    except ValueError:
        raise InputError("not one whole JSON object; was it cut short?", where=path.name) from None
    for name in needed:
        if not isinstance(result.get(name), list):
            what = f"{name!r} is missing: run vllm bench serve with --save-result --save-detailed"
            raise InputError(what, where=path.name)
    names = (*needed, "latencies", "start_times", "errors")
    if len({len(result[name]) for name in names if result.get(name)}) > 1:
        raise InputError(f"{', '.join(names)} differ in length", where=path.name)
    return dict(result)


def _done(result: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Which requests were answered."""
    outputs = _numbers(result["output_lens"])
    failed = np.array([bool(error) for error in result.get("errors") or [None] * len(outputs)], dtype=bool)
    return np.asarray((outputs > 0) & ~failed, dtype=bool)


def _numbers(values: list[Any]) -> Floats:
    """NaN for what is no number."""
    return np.asarray([value if isinstance(value, int | float) else math.nan for value in values], dtype=np.float64)


def _stamp_table(path: Path, text: str, needed: tuple[str, ...]) -> pd.DataFrame:
    """A CSV with the columns ``needed``, lengths under this module's names, and a run in every row."""
    try:
        table = pd.read_csv(io.StringIO(text))
    except ValueError:  # pandas' own parser errors are ValueErrors
        raise InputError("neither a result of vllm bench serve nor a CSV table", where=path.name) from None
    table = table.rename(columns=LENGTHS)
    for name in needed:
        if name not in table:
            raise InputError(f"column {name!r} is missing", where=f"{path.name}:1", allowed=needed)
    where = [f"{path.name}:{line}" for line in range(2, len(table) + 2)]
    _require(table["run"].notna().to_numpy(), where, "the run has no name")
    return table


def _stamps(path: Path, text: str) -> RequestLog:
    table = _stamp_table(path, text, ("run", *LENGTHS.values(), *STAMPS))
    where = [f"{path.name}:{line}" for line in range(2, len(table) + 2)]
    stamps = table[[*STAMPS]].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    _require(np.isfinite(stamps).all(axis=1), where, "a stamp is missing or not a number")
    _require((np.diff(stamps, axis=1) >= 0).all(axis=1), where, f"stamps run backwards: {' ≤ '.join(STAMPS)} is meant")
    queued, scheduled, first, last = stamps.T
    times = {"arrival_s": queued, "ttft_s": first - queued, "e2el_s": last - queued, "queue_s": scheduled - queued}
    return RequestLog(_finished(table.assign(**times, clock="engine"), where), _runs_beside(path))


def _finished(table: pd.DataFrame, where: list[str]) -> pd.DataFrame:
    """With ``tpot_s`` and in the order of :data:`REQUESTS`, once every row has been found sound."""
    ttft, e2el = table[["ttft_s", "e2el_s"]].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64).T
    sizes = _lengths(table, where)
    outputs = sizes["output_tokens"]
    _require(np.isfinite(ttft) & (ttft > 0), where, "the time to the first token is not a positive number")
    _require(np.isfinite(e2el) & (e2el >= ttft), where, "the last token comes before the first")
    bundled = table["clock"].to_numpy() == "client"  # a slow client gets several tokens in one chunk
    _require((outputs == 1) | (e2el > ttft) | bundled, where, "several tokens at one time: no time passes between them")
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = np.where(outputs > 1, (e2el - ttft) / (outputs - 1), math.nan)
    return table.assign(**sizes, tpot_s=tpot)[[*REQUESTS]].reset_index(drop=True)


def _lengths(table: pd.DataFrame, where: list[str]) -> dict[str, NDArray[np.int64]]:
    numbers = table[[*LENGTHS.values()]].apply(pd.to_numeric, errors="coerce")
    good = (numbers >= 1).all(axis=1).to_numpy()
    _require(good, where, "a request has at least one input and one output token")
    return {name: numbers[name].to_numpy().astype(np.int64) for name in numbers}


def _require(good: NDArray[np.bool_], where: list[str], what: str) -> None:
    if not good.all():
        raise InputError(what, where=where[int(np.argmin(good))])


def _runs_beside(path: Path) -> dict[str, Facts]:
    """Facts from ``<name>_runs.csv``, if it is there."""
    beside = path.with_name(f"{path.stem}_runs.csv")
    return facts_of_runs(_text(beside), beside.name) if beside.exists() else {}
