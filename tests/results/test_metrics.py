"""Metrics against cases small enough to work out by hand."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.cluster.requests import RequestTable
from twin.cluster.simulation import Fleet, Simulated, simulate
from twin.cost.layout import HostCosts
from twin.engine.config import EngineConfig
from twin.engine.core import LOG_COLUMNS
from twin.results import metrics
from twin.traffic.trace import Trace


def table(*rows: tuple[float, float, float, int]) -> RequestTable:
    """From (arrival, first token, finished, output tokens); 100 input tokens, scheduled 0.1 s after arrival."""
    return RequestTable.of(
        [array("d", [v for i, (a, f, e, n) in enumerate(rows) for v in (i, a, a, a + 0.1, f, e, 100, n, 0, 0, 0)])]
    )


def log(*steps: dict[str, float]) -> np.ndarray:
    return np.array([[step.get(name, 0.0) for name in LOG_COLUMNS] for step in steps])


def simulated(requests: RequestTable, steps: np.ndarray, gaps: tuple[float, ...] = (), **counts: int) -> Simulated:
    zero = dict.fromkeys(("num_preemptions", "evictions", "hit_tokens", "queried_tokens"), 0)
    return Simulated(requests, (steps,), np.array(gaps), usable_blocks=10, **(zero | counts))


def test_tpot_leaves_out_the_first_token_and_is_undefined_for_one() -> None:
    requests = table((0.0, 1.0, 3.0, 5), (1.0, 2.0, 2.0, 1))
    assert requests.tpot_s[0] == pytest.approx(0.5)
    assert np.isnan(requests.tpot_s[1])
    assert metrics.quantiles_ms("tpot", requests.tpot_s)["mean_tpot_ms"] == pytest.approx(500)
    assert metrics.meets(requests, {"tpot": 0.1}).tolist() == [False, True], "one token meets every TPOT"


def test_rows_come_back_in_the_order_of_arrival_whatever_finished_first() -> None:
    late_first = [array("d", [1, 5.0, 5, 5, 6, 7, 10, 2, 0, 0, 0, 0, 1.0, 1, 1, 2, 9, 20, 3, 0, 0, 0])]
    assert RequestTable.of(late_first)["arrival_s"].tolist() == [1.0, 5.0]


def test_summary_has_the_benchmark_clients_names_and_values() -> None:
    steps = log(
        {
            "start_s": 0,
            "end_s": 1,
            "steps": 1,
            "prefill_tokens": 200,
            "num_running": 2,
            "free_blocks": 4,
            "first_free_blocks": 4,
        },
        {
            "start_s": 1,
            "end_s": 3,
            "steps": 4,
            "num_decodes": 2,
            "num_running": 2,
            "free_blocks": 2,
            "first_free_blocks": 2,
            "first_step_s": 0.5,
        },
    )
    summary = metrics.summarize(simulated(table((0.0, 1.0, 3.0, 5), (0.0, 1.0, 3.0, 5)), steps), {"ttft": 0.9})
    assert summary["completed"] == 2
    assert summary["request_throughput"] == pytest.approx(2 / 3)
    assert summary["output_throughput"] == pytest.approx(10 / 3)
    assert summary["request_goodput"] == 0
    assert summary["mean_ttft_ms"] == pytest.approx(1000)
    assert summary["mean_tpot_ms"] == summary["mean_itl_ms"] == pytest.approx(500)
    assert summary["busy"] == pytest.approx(1.0)
    assert summary["peak_kv_cache_usage"] == pytest.approx(0.8)
    assert summary["mean_kv_cache_usage"] == pytest.approx((0.6 * 1 + 0.8 * 2) / 3)


@given(st.integers(2, 400), st.floats(0.001, 0.1), st.floats(0.0, 1e-3), st.integers(1, 50))
def test_gaps_of_a_leap_are_within_the_stated_bound_of_its_steps(steps: int, first: float, rise: float, n: int) -> None:
    every = first + rise * np.arange(steps)
    leap = log({"end_s": every.sum(), "steps": steps, "num_decodes": n, "first_step_s": first})
    value, weight = metrics.gap_weights([leap], np.array([]))
    assert weight.sum() == pytest.approx(steps * n)
    assert (value * weight).sum() == pytest.approx(every.sum() * n)
    order = np.argsort(value)
    reach = np.cumsum(weight[order])
    for q in (0.1, 0.5, 0.9):
        ours = value[order][np.searchsorted(reach, q * reach[-1])]
        spread = max(0.01 * every.mean(), (every[-1] - every[0]) / 16)
        assert abs(ours - np.quantile(every, q)) <= spread + rise


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [([0, 1, 2, 0], "stable"), ([20, 30, 5, 0], "backlogged"), ([5, 20, 60, 120], "overloaded")],
)
def test_load_state(waiting: list[int], expected: str) -> None:
    quarters = [{"start_s": i, "end_s": i + 0.999, "steps": 1, "num_waiting": w} for i, w in enumerate(waiting)]
    requests = table((0.0, 1.0, 4.0, 5), (4.0, 5.0, 6.0, 5))
    assert metrics.load_state(simulated(requests, log(*quarters))) == expected


def test_saturated_counts_steps_after_the_first_admissions() -> None:
    requests = table(*((float(i), i + 1.0, i + 2.0, 5) for i in range(4)))
    blocked_early = log(*({"start_s": i, "end_s": i + 1, "steps": 10, "blocked": i < 1} for i in range(6)))
    blocked_late = log(*({"start_s": i, "end_s": i + 1, "steps": 10, "blocked": i == 5} for i in range(6)))
    assert not metrics.is_saturated(simulated(requests, blocked_early), 2)
    assert metrics.is_saturated(simulated(requests, blocked_late), 2)
    assert metrics.is_saturated(simulated(requests, blocked_early, num_preemptions=1), 2)


def test_every_metric_of_the_table_is_in_the_summary() -> None:
    steps = log({"end_s": 1, "steps": 1, "num_decodes": 1})
    summary = metrics.summarize(simulated(table((0.0, 1.0, 3.0, 5)), steps))
    for metric in metrics.METRICS:
        assert metric.name in summary or f"p99_{metric.name}_ms" in summary


class RisingCost:
    """A decode step takes longer with every token of context, so that a leap's steps are far from equal."""

    host = HostCosts()

    def decode_segment(self, num_decodes: int, context: int) -> tuple[float, float, float]:
        return 0.01 + 2e-5 * context, 2e-5, 1e18

    def step_s(self, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: int) -> float:
        return 0.01 + 2e-5 * context + 1e-4 * sum(tokens for _, tokens, _ in chunks)


def test_quantiles_of_gaps_after_leaps_are_those_of_every_single_gap() -> None:
    """Leaps keep 16 values of a leap; step by step every gap is there. They differ by at most a sixteenth of the rise."""
    rng = np.random.default_rng(4)
    trace = Trace(np.cumsum(rng.exponential(2.0, 60)), rng.integers(1, 200, 60), rng.integers(1, 300, 60))
    config = EngineConfig(num_gpu_blocks=500, max_num_seqs=8, max_num_batched_tokens=256, max_model_len=600)
    leap, step = (simulate(trace, Fleet(config, RisingCost(), leaps=leaps)) for leaps in (True, False))
    assert len(leap.logs[0]) < len(step.logs[0]) / 10
    columns = dict(zip(LOG_COLUMNS, step.logs[0].T, strict=True))
    every = np.repeat(columns["end_s"] - columns["start_s"], columns["num_decodes"].astype(int)) * 1e3
    assert len(every) == (trace.output_tokens - 1).sum(), "nothing was preempted"
    ours = metrics.itl_ms(leap.logs, leap.gaps)
    log = dict(zip(LOG_COLUMNS, leap.logs[0].T, strict=True))
    mean = (log["end_s"] - log["start_s"]) / log["steps"]
    bound = 1e3 * np.max(np.maximum(2 * (mean - log["first_step_s"]) / 16, 0.01 * mean)[log["steps"] > 1])
    assert ours["mean_itl_ms"] == pytest.approx(every.mean(), rel=1e-9)
    for q in metrics.QUANTILES:
        assert abs(ours[f"p{q}_itl_ms"] - np.percentile(every, q)) <= bound, q
