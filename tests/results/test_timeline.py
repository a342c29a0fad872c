"""The time line adds up to the simulation's own metrics, and a leap's tokens lie where its steps end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from twin.cluster.deploy import fleet_of, trace_of
from twin.cluster.simulation import Simulated, simulate
from twin.engine.core import LOG_COLUMNS
from twin.results.metrics import summarize
from twin.results.timeline import timeline
from twin.spec.scenario import Scenario


def scenario(**engine: object) -> Scenario:
    recipe = {"request_rate": 9, "num_requests": 400, "input_len": {"median": 900, "p99": 4000}, "output_len": 180}
    data = {
        "model": "Qwen/Qwen3-8B",
        "traffic": {"synthetic": recipe},
        "deployment": {"gpu": "l40s", "replicas": 2},
        "engine": {"max_model_len": 8192, **engine},
    }
    return Scenario.model_validate(data).resolved()


def happened(leaps: bool = True, pipeline: int = 1, **engine: object) -> Simulated:
    asked = scenario(**engine)
    if pipeline > 1:
        where = asked.deployment.model_copy(update={"pipeline_parallel_size": pipeline})
        asked = asked.model_copy(update={"deployment": where})
    return simulate(trace_of(asked), replace(fleet_of(asked), leaps=leaps))


CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "few blocks, preempting": {"num_gpu_blocks": 900},
    "few seats, waiting": {"max_num_seqs": 8},
    "whole batches": {"batching": "static", "max_num_seqs": 8, "enable_prefix_caching": False},
    "stages": {"pipeline": 2},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bins", [1, 7, 240])
def test_bins_add_up(case: str, bins: int) -> None:
    sim = happened(**CASES[case])
    found, summary = timeline(sim, bins), summarize(sim)
    width = float(str(found["bin_s"]))
    column = {name: np.array(values) for name, values in found.items() if isinstance(values, list)}
    assert {len(values) for values in column.values()} == {bins}
    assert column["output_tokens_per_s"].sum() * width == pytest.approx(summary["total_output_tokens"], rel=1e-9)
    prefilled = sum(log[:, LOG_COLUMNS.index("prefill_tokens")].sum() for log in sim.logs)
    assert column["prefill_tokens_per_s"].sum() * width == pytest.approx(prefilled, rel=1e-9)
    share = float(str(summary["duration"])) / (width * bins)
    for name, mean in (("num_running",) * 2, ("num_waiting",) * 2, ("kv_cache_usage", "mean_kv_cache_usage")):
        mean = mean if mean.startswith("mean") else f"mean_{name}"
        assert column[name].mean() == pytest.approx(float(str(summary[mean])) * share, rel=1e-9, abs=1e-12)
    assert column["num_waiting_max"].max() == summary["max_num_waiting"]


def test_preemption_was_met() -> None:
    assert happened(**CASES["few blocks, preempting"]).num_preemptions > 0


def test_leaps_say_the_same_as_single_steps() -> None:
    leaped, stepped = happened(), happened(leaps=False)
    assert sum(map(len, leaped.logs)) < 0.6 * sum(map(len, stepped.logs))
    once, twice = timeline(leaped), timeline(stepped)
    assert once["bin_s"] == pytest.approx(twice["bin_s"], rel=1e-9)
    for name in ("output_tokens_per_s", "prefill_tokens_per_s", "num_running", "num_waiting", "kv_cache_usage"):
        a, b = np.array(once[name]), np.array(twice[name])
        assert np.abs(a - b).max() <= 2e-3 * b.max(), name


def test_waiting_and_running_are_where_they_were() -> None:
    """Held against the table: who is between two stamps at the middle of a bin, no shorter than that of a step."""
    sim = happened(max_num_seqs=8)
    found = timeline(sim, 60)
    middle = np.array(found["start_s"]) + float(str(found["bin_s"])) / 2
    table = sim.table
    between = ((table["scheduled_s"] <= at) & (at < table["finished_s"]) for at in middle)
    running = np.array([mask.sum() for mask in between])
    assert np.corrcoef(running, np.array(found["num_running"]))[0, 1] > 0.98
    assert np.array(found["num_running"]).max() <= 16 + 1e-9
