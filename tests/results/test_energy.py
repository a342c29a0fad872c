"""What boards draw: against a simulation whose steps are added up by hand, and at the ends."""

from __future__ import annotations

import numpy as np
import pytest

from twin.cluster.simulation import Fleet, Simulated, simulate
from twin.cost.layout import Layout
from twin.cost.step import RESTING_POWER, StepModel
from twin.engine.config import EngineConfig
from twin.engine.core import LOG_COLUMNS
from twin.results.energy import IDLE_POWER, Power, kwh_per_month, power, wh_per_1k_tokens
from twin.results.metrics import summarize
from twin.spec.hardware import load_profile
from twin.spec.model import load_model
from twin.traffic.trace import Trace


@pytest.fixture(scope="module")
def step() -> StepModel:
    return StepModel(load_model("Qwen/Qwen3-8B"), load_profile("h100_sxm"), Layout(1), max_tokens=2048)


def run(step: StepModel, gap_s: float, tokens_in: int, tokens_out: int, replicas: int = 1) -> Simulated:
    n = 40
    trace = Trace(np.arange(n) * gap_s, np.full(n, tokens_in), np.full(n, tokens_out))
    config = EngineConfig(num_gpu_blocks=20_000, max_num_seqs=64, max_num_batched_tokens=2048, max_model_len=4096)
    return simulate(trace, Fleet(config, step, replicas))


def test_the_share_of_time_busy_is_the_metric_s(step: StepModel) -> None:
    for sim in (run(step, 0.5, 300, 20), run(step, 0.02, 300, 20, replicas=2)):
        assert power(sim, step).busy == pytest.approx(summarize(sim)["busy"])


def test_an_idle_fleet_draws_its_idle_share_and_a_busy_one_between_waiting_and_all(step: StepModel) -> None:
    assert Power(0.0, 0.0).share == IDLE_POWER.value
    assert Power(1.0, 0.0).share == RESTING_POWER
    assert Power(1.0, 1.0).share == 1.0
    idle, busy = power(run(step, 60.0, 100, 2), step), power(run(step, 0.001, 2000, 100), step)
    assert idle.share == pytest.approx(IDLE_POWER.value, abs=0.01)
    assert RESTING_POWER < busy.share < 1.0


def test_prefills_compute_and_decodes_wait(step: StepModel) -> None:
    prefill, decode = power(run(step, 0.05, 2000, 1), step), power(run(step, 0.05, 16, 200), step)
    assert prefill.computing > 0.5 > decode.computing


def test_spans_add_up_to_the_whole(step: StepModel) -> None:
    sim = run(step, 0.1, 300, 50)
    end = float(sim.table["finished_s"].max())
    parts = [(0.0, end / 3), (end / 3, end)]
    weighted = sum(power(sim, step, [span]).share * (span[1] - span[0]) for span in parts) / end
    assert weighted == pytest.approx(power(sim, step).share)
    assert power(sim, step, parts).share == pytest.approx(power(sim, step).share)


def test_energy_is_the_steps_power_added_up_by_hand(step: StepModel) -> None:
    sim = run(step, 0.05, 500, 30)
    (log,) = sim.logs
    column = dict(zip(LOG_COLUMNS, log.T, strict=True))
    end, joules_of_limit = float(sim.table["finished_s"].max()), 0.0
    for row in range(len(log)):
        seconds = column["end_s"][row] - column["start_s"][row]
        tokens = int(column["num_decodes"][row] + column["prefill_tokens"][row])
        computing = min(float(step.computing_s(np.array([tokens]))[0]) * column["steps"][row] / seconds, 1.0)
        joules_of_limit += seconds * (RESTING_POWER + (1 - RESTING_POWER) * computing)
    idle = end - float((column["end_s"] - column["start_s"]).sum())
    expected = (joules_of_limit + idle * IDLE_POWER.value) / end
    assert power(sim, step).share == pytest.approx(expected)


def test_units() -> None:
    assert kwh_per_month(1, 1000.0, 1.0) == 730.0
    per_hour = kwh_per_month(8, 700.0, 0.6) / 730.0 * 1e3
    assert wh_per_1k_tokens(8, 700.0, 0.6, 2000.0) == pytest.approx(per_hour / (2000.0 * 3600 / 1e3))
    assert IDLE_POWER.origin == "assumed"
    assert "arXiv" in IDLE_POWER.source
