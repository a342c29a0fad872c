"""Measurements of one's own on the Accuracy page: predicted first, compared then, as ``twin validate`` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from twin.base import TwinError
from twin.show import accuracy_charts, shell, store
from twin.show.chart import Chart
from twin.show.formats import share
from twin.spec.hardware import profile_names

STATED = ("system", "model", "precision", "tp_size", "vllm_version", "concurrency")
"""What a request log may leave out, and the page asks for."""
METRICS = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "e2el": "E2EL",
    "request_throughput": "requests/s",
    "output_throughput": "tokens/s",
}


@dataclass(frozen=True)
class Judged:
    """``rows``: of the table of errors; ``predictions``: the CSV that ``--out`` writes; ``notes``: plain sentences."""

    title: str
    rows: list[dict[str, object]]
    charts: list[Chart]
    predictions: str
    notes: list[str]


def judge_upload() -> None:
    """Raises :class:`InputError` with the sentence of ``twin validate``."""
    st.markdown(
        "A table of closed-loop runs (CSV: `system, model, precision, isl, osl, concurrency, tp_size`, and what was measured:"
        " `mean_ttft_ms`, `mean_tpot_ms`), or a request log (CSV of an engine's stamps, or the JSON of `vllm bench serve"
        " --save-result --save-detailed`). Predictions are made before the measured columns are read."
    )
    uploaded = st.file_uploader("Measurements", key="measurements")
    stated = _stated()
    if uploaded is None:
        shell.nothing(
            "No measurements yet", "Upload a file: each run is predicted, then compared with what was measured."
        )
        return
    path = store.keep_upload(uploaded.name, uploaded, "measurements")
    key = (str(path), tuple(stated.items()))
    if st.session_state.get("judged_key") != key:
        bar = st.progress(0.0, "Predicting…")

        def progress(part: float) -> None:
            bar.progress(part, "Predicting…")

        try:
            found = judge(path, stated, progress)
        except TwinError:
            path.unlink(missing_ok=True)
            raise
        finally:
            bar.empty()
        st.session_state["judged"], st.session_state["judged_key"] = found, key
    _show(st.session_state["judged"], path)


def _stated() -> dict[str, object]:
    """What a log does not say of itself; nothing unless it is given."""
    with st.expander("What a request log does not say (a table of runs says it in its columns)"):
        columns = st.columns(3)
        system = columns[0].selectbox("GPU", profile_names(), None, key="system")
        model = columns[1].text_input("Model", key="judged_model")
        precision = columns[2].text_input("Precision", key="judged_precision", placeholder="bf16 or fp8")
        tp_size = columns[0].number_input("Tensor-parallel size", 1, None, None, key="tp_size")
        version = columns[1].text_input("vLLM version", key="vllm_version")
        clients = columns[2].number_input("Concurrency", 1, None, None, key="concurrency")
    values = (system, model or None, precision or None, tp_size, version or None, clients)
    return dict(zip(STATED, values, strict=True))


def judge(path: Path, stated: Mapping[str, object], progress: Callable[[float], None]) -> Judged:
    """``progress`` gets the share that is predicted. Raises :class:`InputError` as ``twin validate`` does."""
    from twin.trust.request_log import is_request_log

    return _log(path, stated) if is_request_log(path) else _table(path, progress)


def _table(path: Path, progress: Callable[[float], None]) -> Judged:
    from twin.trust import table as t
    from twin.trust.payloads import table_payload
    from twin.trust.plot import points_of
    from twin.trust.validate import predict_rows

    columns, rows = t.read_table(path)
    predictions = predict_rows(rows, lambda done: progress(done / len(rows)))
    measured = t.measured_values(rows, predictions)
    payload = table_payload(columns, rows, predictions, measured)
    drawn = {metric: found for metric in t.METRICS if (found := points_of(metric, rows, predictions, measured))}
    notes = [f"{row['count']} rows not predicted: {row['reason']}" for row in payload["not_predicted"]]
    if not drawn:
        notes.append("Nothing was measured in it: no mean_ttft_ms, no mean_tpot_ms.")
    elif payload["e2el"] == "derived":
        notes.append("Measured E2EL is TTFT + TPOT × (mean output length − 1), as the table does not have it.")
    return Judged(
        f"{payload['predicted']} of {payload['rows']} rows predicted, as vLLM {payload['vllm_version_modelled'] or '–'}",
        error_rows(payload),
        [accuracy_charts.scatter(metric, points) for metric, points in drawn.items()],
        t.as_csv(columns, rows, predictions),
        notes,
    )


def error_rows(payload: Mapping[str, Any]) -> list[dict[str, object]]:
    """The errors of ``twin validate`` by GPU and model, in words; saturated points apart."""
    rows: list[dict[str, object]] = []
    for item in payload["errors"]:
        row: dict[str, object] = {"GPU": item["system"], "model": item["model"]}
        row |= {"": "saturated" if item["saturated"] else "", "rows": item["rows"]}
        for name, title in METRICS.items():
            if f"{name}_mape" in item:
                row |= {
                    f"{title} MAPE": share(item[f"{name}_mape"], 1),
                    f"{title} bias": f"{item[f'{name}_bias']:+.1%}",
                }
                row[f"{title} in 90%"] = share(item[f"{name}_inside_90"])
        rows.append(row)
    return rows


def _log(path: Path, stated: Mapping[str, object]) -> Judged:
    from twin.trust.replay import TIMES, compare_run, predictions_csv, replay
    from twin.trust.request_log import read_inputs, read_requests

    runs, missing = replay(read_inputs(path), stated)
    requests = read_requests(path).requests
    measured = {run.run: requests[requests["run"] == run.run] for run in runs}
    errors = [row for run in runs for row in compare_run(run, measured[run.run])]
    drawn = {
        name: {
            run.run: (_known(measured[run.run][f"{name}_s"]), _known(run.requests[f"predicted_{name}_s"]))
            for run in runs
        }
        for name in TIMES
    }
    return Judged(
        f"{sum(len(run.requests) for run in runs):,} requests replayed",
        [_log_row(row) for row in errors],
        [accuracy_charts.distributions(name, found) for name, found in drawn.items() if _complete(found)],
        predictions_csv(runs, missing),
        [f"{run.run} is not predicted: {run.error}" for run in missing],
    )


def _log_row(row: Mapping[str, Any]) -> dict[str, object]:
    ks = row["statistic"] == "ks"
    values = {
        name: "" if row[name] is None else f"{row[name]:,.4g} {row['unit']}" for name in ("measured", "predicted")
    }
    error = "" if row["error"] is None else f"{row['error']:.2f}" if ks else f"{row['error']:+.1%}"
    return {"run": row["run"], "metric": row["metric"], "statistic": row["statistic"], **values, "error": error}


def _known(values: Any) -> Any:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def _complete(found: Mapping[str, tuple[Any, Any]]) -> bool:
    return all(one.size and other.size for one, other in found.values())


def _show(found: Judged, path: Path) -> None:
    st.subheader(shell.plain(found.title), anchor=False)
    for text in found.notes:
        st.info(shell.plain(text))
    if found.rows:
        st.dataframe(found.rows, hide_index=True)
        st.caption(
            "MAPE: mean absolute error; bias: + where too much is predicted; in 90%: how many lie inside the bounds."
        )
    columns = st.columns(2)
    for place, drawn in enumerate(found.charts):
        with columns[place % 2]:
            shell.chart(drawn)
    shell.downloads([shell.Download("Predictions (CSV)", f"{path.stem}_predicted.csv", found.predictions, "text/csv")])
    with st.expander("The same on the command line"):
        st.code(f"twin validate {path.name} --out {path.stem}_predicted.csv", language="bash")
