"""A request log, replayed: the arrivals and lengths that were recorded, through the deployment that the log states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from twin.base import InfeasibleError, InputError, TwinError
from twin.cluster.deploy import fleet_of
from twin.cluster.requests import RequestTable
from twin.cluster.simulation import Fleet, simulate, simulate_closed_loop
from twin.spec.engine import EngineSettings
from twin.spec.scenario import Deployment, Scenario, Traffic
from twin.traffic.trace import Trace
from twin.trust.closed_loop import modelled_version
from twin.trust.errors import ks_distance, relative, thousand_times
from twin.trust.request_log import RequestLog
from twin.trust.run_facts import PARALLEL, Facts, profile_name

Floats = NDArray[np.float64]

NEEDED = {"system": "--system", "model": "--model", "precision": "--precision", "tp_size": "--tensor-parallel-size"}
"""What must be known of a run, and the flag that says it where the log does not."""
TIMES = ("queue", "ttft", "tpot", "e2el")
STATISTICS = {"mean": None, "p50": 50, "p90": 90, "p99": 99}
UNQUANTIZED = ("bf16", "fp16", "bfloat16", "float16")


@dataclass(frozen=True)
class Replay:
    """One run of a log, predicted. ``requests``: the log's inputs, and predicted seconds beside them.

    ``closed``: by a client with so many requests in flight; otherwise (0) as they arrived.
    """

    run: str
    scenario: Scenario
    stated_version: str
    clock: str
    closed: int
    requests: pd.DataFrame


@dataclass(frozen=True)
class NotReplayed:
    """A run that cannot be predicted, and why."""

    run: str
    requests: pd.DataFrame
    error: TwinError


def replay(log: RequestLog, known: Mapping[str, object]) -> tuple[list[Replay], list[NotReplayed]]:
    """Predict every run of a log that was read without its measured times (:func:`twin.trust.request_log.read_inputs`).

    ``known`` fills what the log does not say and overrides what it does: system, model, precision, tp_size, vllm_version,
    concurrency, and engine settings by vLLM's names. An engine's clock starts when a request is queued, a client's when it is
    sent. Raises, where no run can be predicted, the first one's :class:`InputError` (what is missing or not modelled) or
    :class:`twin.base.InfeasibleError` (the model does not fit).
    """
    runs: list[Replay] = []
    missing: list[NotReplayed] = []
    for name, rows in log.requests.groupby("run", sort=False):
        facts = log.facts.get(str(name), {}) | {key: value for key, value in known.items() if value is not None}
        part = rows.reset_index(drop=True)
        try:
            runs.append(_replay_run(str(name), part, facts))
        except (InputError, InfeasibleError) as error:
            missing.append(NotReplayed(str(name), part, error))
    if not runs:
        raise missing[0].error
    return runs, missing


def _replay_run(run: str, part: pd.DataFrame, facts: Facts) -> Replay:
    scenario = scenario_of(run, facts)
    clock = str(part["clock"].iloc[0])
    closed = 0 if clock == "engine" else _clients(facts, part)
    times = _simulated(part, fleet_of(scenario), clock, closed)
    return Replay(run, scenario, str(facts.get("vllm_version") or ""), clock, closed, part.assign(**times))


def scenario_of(run: str, facts: Facts) -> Scenario:
    """The deployment that ``facts`` describe, resolved; its traffic is only named. Raises :class:`InputError`."""
    missing = [name for name in NEEDED if not str(facts.get(name) or "")]
    if missing:
        flags = ", ".join(NEEDED[name] for name in missing)
        raise InputError(f"the log does not say its {', '.join(missing)}: give {flags}", where=f"run {run}")
    engine = dict(facts.get("engine", {})) | {k: v for k, v in facts.items() if k in EngineSettings.model_fields}
    for name in PARALLEL:
        if str(engine.pop(name, 1)) != "1":
            raise InputError(f"{name} above 1 is not modelled here", where=f"run {run}")
    precision = str(facts["precision"])
    quantization = engine.pop("quantization", None) or (None if precision in UNQUANTIZED else precision)
    kv_cache_dtype = facts.get("kv_cache_dtype") or engine.pop("kv_cache_dtype", "auto")
    engine.pop("kv_cache_dtype", None)
    engine["vllm_version"] = modelled_version(str(facts.get("vllm_version") or ""))
    try:
        return Scenario(
            model=str(facts["model"]),
            traffic=Traffic(trace=run),
            deployment=Deployment(
                gpu=profile_name(str(facts["system"])),
                tensor_parallel_size=facts["tp_size"],
                quantization=quantization,
                kv_cache_dtype=kv_cache_dtype,
            ),
            engine=EngineSettings(**engine),
        ).resolved()
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{field} {first['input']!r}: {first['msg']}", where=f"run {run}") from None


def _clients(facts: Facts, part: pd.DataFrame) -> int:
    """Requests in flight of a client that sends the next when one is done; 0 for one that sends as time goes by.

    Raises :class:`InputError` where the log says neither how many nor when.
    """
    rate, limit = facts.get("request_rate"), facts.get("concurrency")
    if limit and (rate is None or float(rate) == inf):
        return int(limit)
    if np.isfinite(part["arrival_s"]).all():
        return 0
    if rate is not None and float(rate) == inf:
        return len(part)  # all at once
    what = "the log has no start_times and no max_concurrency, so nobody knows when its requests were sent"
    raise InputError(what, where=str(part["run"].iloc[0]), allowed=["--concurrency N"])


def _simulated(part: pd.DataFrame, fleet: Fleet, clock: str, closed: int) -> dict[str, Floats]:
    """Predicted seconds per request, in the order of ``part``."""
    inputs, outputs = part["input_tokens"].to_numpy(), part["output_tokens"].to_numpy()
    if closed:
        table = simulate_closed_loop(inputs.tolist(), outputs.tolist(), closed, fleet).table
        return _times(table, clock, np.arange(len(part)))
    sent = part["arrival_s"].to_numpy(dtype=np.float64)
    if clock == "engine":  # it was queued when the host had prepared it
        sent = sent - fleet.host.request_s - fleet.host.input_token_s * inputs
    order = np.argsort(sent, kind="stable")
    trace = Trace(sent[order], inputs[order], outputs[order])
    table = simulate(trace, fleet).table
    return _times(table, clock, np.argsort(order, kind="stable"), float(sent.min()))


def _times(table: RequestTable, clock: str, order: NDArray[np.int64], since: float = 0.0) -> dict[str, Floats]:
    """``order``: the row of the simulation for each row of the log. ``since``: the simulation's 0 on the log's clock."""
    start = table["queued_s"] if clock == "engine" else table["arrival_s"]
    found = {
        "start": start + since,
        "queue": table.queue_s,
        "ttft": table["first_token_s"] - start,
        "tpot": table.tpot_s,
        "e2el": table["finished_s"] - start,
    }
    return {f"predicted_{name}_s": values[order] for name, values in found.items()}


def compare_run(predicted: Replay, measured: pd.DataFrame) -> list[dict[str, object]]:
    """Rows (run, metric, statistic, unit, measured, predicted, error) for one run; ``measured`` as ``read_requests`` gives it.

    ``error`` is relative; of the statistic ``ks`` it is the Kolmogorov–Smirnov distance between the two distributions.
    What the log does not have (the queue, on a client's clock) is not compared.
    """
    rows: list[dict[str, object]] = []

    def add(metric: str, statistic: str, unit: str, was: float | None, said: float | None, error: float | None) -> None:
        row: dict[str, object] = {"run": predicted.run, "metric": metric, "statistic": statistic, "unit": unit}
        rows.append({**row, "measured": was, "predicted": said, "error": error})

    ours = predicted.requests
    _check_unit(predicted.run, measured["e2el_s"], ours["predicted_e2el_s"])
    for name in TIMES:
        was, said = (_known(values) for values in (measured[f"{name}_s"], ours[f"predicted_{name}_s"]))
        if not was.size or not said.size:
            continue
        for statistic, level in STATISTICS.items():
            one, other = (_statistic(values, level) * 1e3 for values in (was, said))
            add(name, statistic, "ms", one, other, relative(one, other))
        add(name, "ks", "", None, None, ks_distance(was, said))
    spans = (
        _makespan(measured["arrival_s"], measured["e2el_s"]),
        _makespan(ours["predicted_start_s"], ours["predicted_e2el_s"]),
    )
    tokens = float(ours["output_tokens"].sum())
    if isfinite(spans[0]):
        add("makespan", "total", "s", *spans, relative(*spans))
        for name, unit, amount in (
            ("request_throughput", "requests/s", float(len(ours))),
            ("output_throughput", "tokens/s", tokens),
        ):
            one, other = (amount / span for span in spans)
            add(name, "mean", unit, one, other, relative(one, other))
    return rows


def _check_unit(run: str, measured: Any, predicted: Any) -> None:
    """Raises :class:`InputError` for times that are about a thousand times too long or short all over."""
    was, said = np.median(_known(measured)), np.median(_known(predicted))
    if was > 0 and said > 0 and (sign := thousand_times(np.array([was]), np.array([said]))):
        unit = {1: "milliseconds", -1: "kiloseconds"}[sign]
        what = f"a request took {was:g} s in the median, {said:.3g} s are predicted: are these times {unit}?"
        raise InputError(what, where=f"run {run}")


def _known(values: Any) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def _statistic(values: Floats, level: int | None) -> float:
    return float(values.mean() if level is None else np.percentile(values, level))


def _makespan(start: Any, length: Any) -> float:
    begun, took = np.asarray(start, dtype=np.float64), np.asarray(length, dtype=np.float64)
    return float((begun + took).max() - begun.min())


def predictions_csv(runs: Sequence[Replay], missing: Sequence[NotReplayed] = ()) -> str:
    """One line per request: the log's inputs, what is predicted (seconds), or the reason why nothing is."""
    columns = ["run", "request_id", "arrival_s", "input_tokens", "output_tokens"]
    columns += [*(f"predicted_{name}_s" for name in TIMES), "reason"]
    parts = [item.requests.assign(reason="") for item in runs]
    parts += [item.requests.assign(reason=str(item.error)) for item in missing]
    table = pd.concat([part.reindex(columns=columns) for part in parts])
    return str(table.to_csv(index=False, float_format="%.9g", lineterminator="\n"))


def errors_over_runs(rows: list[dict[str, object]]) -> dict[str, float]:
    """``ttft_mape`` and so on: mean over runs of the absolute error of each metric's mean."""
    sizes: dict[str, list[float]] = {}
    for row in rows:
        if row["statistic"] == "mean" and isinstance(row["error"], float):
            sizes.setdefault(f"{row['metric']}_mape", []).append(abs(row["error"]))
    return {name: float(np.mean(values)) for name, values in sizes.items()}
