"""What a validation says, as plain data: the JSON of ``twin validate``, and what the dashboard shows of an upload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twin.trust import table as t
from twin.trust import validate as v
from twin.trust.replay import NotReplayed, Replay


def table_payload(
    columns: Sequence[str],
    rows: Sequence[t.Row],
    predictions: Sequence[t.Row],
    measured: Sequence[Mapping[str, float]],
) -> dict[str, Any]:
    """Of a table of runs: how many were predicted, errors by GPU and model (``errors``) and by all else, and what was not.

    ``measured`` as :func:`twin.trust.table.measured_values` gives it.
    """
    grouped: dict[str, list[dict[str, object]]] = {
        name: v.compare(rows, predictions, name, measured) for name in v.GROUPS
    }
    derived = any("e2el" in values for values in measured) and t.derives_e2el(columns)
    versions = v.versions(rows, predictions)
    return {
        "rows": len(rows),
        "vllm_version_modelled": ", ".join(sorted({str(found["modelled"]) for found in versions})),
        "vllm_versions": versions,
        "predicted": sum(1 for prediction in predictions if not prediction["reason"]),
        "e2el": "derived" if derived else "measured",
        "errors": grouped["gpu_model"],
        "errors_by": {name: found for name, found in grouped.items() if name != "gpu_model"},
        "not_predicted": v.not_predicted(predictions),
    }


def log_payload(
    runs: Sequence[Replay],
    missing: Sequence[NotReplayed],
    rows: list[dict[str, object]],
    over_runs: Mapping[str, float],
    left_out: int,
) -> dict[str, Any]:
    """Of a request log: what was replayed as what, every error, and the means over runs."""
    return {
        "requests": sum(len(run.requests) for run in runs),
        "left_out": left_out,
        "vllm_version_modelled": ", ".join(sorted({run.scenario.engine.vllm_version for run in runs})),
        "runs": [
            {
                "run": run.run,
                "requests": len(run.requests),
                "clock": run.clock,
                "client": f"closed loop of {run.closed}" if run.closed else "recorded arrivals",
                "vllm_version_stated": run.stated_version,
                "system": run.scenario.deployment.gpu,
                "model": run.scenario.model,
                "tensor_parallel_size": run.scenario.deployment.tensor_parallel_size,
                "quantization": run.scenario.deployment.quantization,
                "kv_cache_dtype": run.scenario.deployment.kv_cache_dtype,
                "engine": run.scenario.engine,
            }
            for run in runs
        ],
        "not_predicted": [{"run": run.run, "requests": len(run.requests), "reason": str(run.error)} for run in missing],
        "errors": rows,
        "errors_over_runs": dict(over_runs),
    }
