"""Latency against load, held against simulations that price the slower engine step by step."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import numpy as np
import pytest

from twin.base import InputError
from twin.cluster.simulation import simulate
from twin.cost.draws import slower
from twin.cost.spread import spread_step_model
from twin.plan.load_curve import Z90, at_load, busiest, load_curve, stretched
from twin.plan.plan import make_plan
from twin.plan.served import Served
from twin.search.figures import quantile_s
from twin.spec.engine_errors import engine_errors
from twin.spec.scenario import Scenario
from twin.traffic.trace import Trace

MODEL = "Qwen/Qwen3-8B"


def scenario(**changes: object) -> Scenario:
    recipe = {"request_rate": 6, "num_requests": 900, "input_len": 900, "output_len": {"median": 110, "p99": 400}}
    data = {
        "model": MODEL,
        "traffic": {"synthetic": recipe | changes.pop("recipe", {})},  # type: ignore[operator]
        "deployment": {"gpu": "h100_sxm"},
        "engine": {"max_num_seqs": 128, "max_num_batched_tokens": 4096, "max_model_len": 4096},
        "slo": {"ttft": "600ms", "tpot": "p90:30ms"},
    }
    return Scenario.model_validate(data | changes).resolved()


@pytest.fixture(scope="module")
def served() -> Served:
    return Served.of_scenario(scenario())


@pytest.fixture(scope="module")
def curve(served: Served) -> dict[str, object]:
    return load_curve(served)


def column(curve: dict[str, object], name: str) -> list[float]:
    return [point[name] for point in curve["points"]]  # type: ignore[attr-defined]


def test_rates_rise_past_the_capacity_and_hold_the_planned_one(curve: dict[str, object]) -> None:
    rates, factors = column(curve, "request_rate_per_s"), column(curve, "factor")
    assert rates == sorted(rates)
    assert 1.0 in factors
    assert min(factors) <= 0.25
    assert max(rates) > curve["capacity_per_s"]
    loads = column(curve, "load")
    assert loads[0] == "stable"
    assert loads[-1] == "overloaded"


def test_band_surrounds_and_widens_where_a_queue_forms(curve: dict[str, object]) -> None:
    for metric in ("ttft", "tpot"):
        low, mid, high = (np.array(column(curve, f"p99_{metric}_ms{end}")) for end in ("_lo90", "", "_hi90"))
        assert (low <= mid).all()
        assert (mid <= high).all()
        assert (high / mid).max() > 1.2 * (high / mid)[0]


def test_at_light_load_the_band_is_the_measured_error(served: Served) -> None:
    """There nothing queues and no step is shared, so TTFT is off by its own error, and TPOT by that of steps."""
    alone = replace(served, load=replace(served.load, trace=served.load.trace.scaled(0.01)))
    point, _ = at_load(alone, 1.0)
    errors = engine_errors(served.profile)
    for metric, error in (("ttft", errors.ttft), ("tpot", errors.tpot)):
        ratio = point[f"p99_{metric}_ms_hi90"] / point[f"p99_{metric}_ms"]  # type: ignore[operator]
        assert ratio == pytest.approx(exp(Z90 * error), rel=0.05)


def test_a_rate_on_a_slower_clock_is_a_slower_engine(served: Served) -> None:
    """The edges need no engine of their own: replaying one whose every step was priced slower says the same."""
    factor = exp(Z90 * engine_errors(served.profile).tpot)
    tokens = served.fleet.config.max_num_batched_tokens
    step = spread_step_model(served.model, slower(served.profile, factor), served.layout, max_tokens=tokens)
    trace = served.load.trace.scaled(1.5)
    truly = simulate(trace, replace(served.fleet, cost=step)).table
    again = stretched(simulate(trace.scaled(factor), served.fleet).table, factor)
    assert np.allclose(again["arrival_s"], truly["arrival_s"])
    for metric in ("ttft", "tpot"):
        for quantile in (0.5, 0.99):
            assert quantile_s(again, metric, quantile) == pytest.approx(quantile_s(truly, metric, quantile), rel=0.04)


def test_a_point_of_the_curve_is_the_point_asked_for_alone(served: Served, curve: dict[str, object]) -> None:
    point = curve["points"][-2]  # type: ignore[index]
    alone, _ = at_load(served, point["factor"])
    numbers = {name: value for name, value in point.items() if isinstance(value, float)}
    assert {name: alone[name] for name in numbers} == pytest.approx(numbers, rel=1e-6)
    assert all(alone[name] == point[name] for name in point.keys() - numbers.keys())


def test_holds_says_what_the_promises_say(curve: dict[str, object]) -> None:
    for point in curve["points"]:  # type: ignore[attr-defined]
        missed = point["p99_ttft_ms"] > 600 or point["load"] == "overloaded"
        assert not (point["holds"] and missed)
        assert point["holds"] == (not point["misses"])
    assert [promise["metric"] for promise in curve["promises"]] == ["ttft", "tpot"]  # type: ignore[attr-defined]


def test_says_which_minutes_are_shown() -> None:
    busy = Served.of_scenario(scenario(recipe={"request_rate": 20, "num_requests": 4000}))
    trace, start, span = busiest(busy, 500)
    assert 300 <= len(trace) <= 600
    assert span < 60
    inside = (busy.load.trace.arrival_s >= start) & (busy.load.trace.arrival_s < start + span)
    assert inside.sum() == len(trace)
    assert load_curve(busy, requests=500)["fidelity"] == f"busiest {span:.3g} s, {len(trace):,} requests"


def test_quiet_traffic_is_taken_from_a_longer_window() -> None:
    quiet = Served.of_scenario(scenario(recipe={"request_rate": 0.1, "num_requests": 900}))
    trace, _, span = busiest(quiet)
    assert len(trace) == pytest.approx(300, rel=0.1)
    assert span > 600


def test_prefixes_and_stages_are_more_work(served: Served) -> None:
    assert served.work == 1
    shared = Served.of_scenario(scenario(recipe={"shared_prefix_tokens": 2048}))
    assert shared.work > 2
    assert len(busiest(shared)[0]) < len(shared.load.trace) or len(shared.load.trace) <= 900


def test_a_closed_loop_has_no_rate() -> None:
    with pytest.raises(InputError, match="closed-loop client has no rate"):
        Served.of_scenario(scenario(client={"concurrency": 4, "num_prompts": 10}))


def test_calibrated_as_options_say_it() -> None:
    assumed = Served.of_scenario(scenario(deployment={"gpu": "rtx4090"}))
    assert {point["calibrated"] for point in load_curve(assumed, requests=300)["points"]} == {"outside"}  # type: ignore[attr-defined]


def test_one_arrival_at_a_time_is_no_division_by_zero() -> None:
    trace = Trace(np.array([0.0, 1.0]), np.array([100, 100]), np.array([1, 1]))
    base = Served.of_scenario(scenario())
    tiny = replace(base, load=replace(base.load, trace=trace))
    points = load_curve(tiny)["points"]
    assert all(point["p99_tpot_ms"] is None for point in points)  # type: ignore[attr-defined]


def test_a_plan_has_the_curve_of_what_it_recommends(ask) -> None:  # type: ignore[no-untyped-def]
    plan = make_plan(ask("h100_sxm"))
    curve = plan["load_curve"]
    assert curve["id"] == plan["recommended"]  # type: ignore[index]
    today = next(point for point in curve["points"] if point["factor"] == 1.0)  # type: ignore[index]
    assert today["holds"]
    assert today["calibrated"] == "inside"
