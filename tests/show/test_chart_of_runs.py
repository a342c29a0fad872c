"""Charts say what the run says: every value drawn is one of its JSON, and what it lacks is an empty chart."""

from __future__ import annotations

from copy import deepcopy
from itertools import accumulate
from typing import Any

import pytest

from twin.show import charts
from twin.show.chart import Chart
from twin.show.words import words

BOUND = {"metric": "ttft", "quantile": 0.99, "seconds": 2.0, "planned_s": 0.4, "p5_s": 0.3, "p50_s": 0.5, "p95_s": 3.2}
HELD = {"value": 0.75, "stderr": 0.05}
OPTION: dict[str, Any] = {
    "id": "one",
    "names": ["cheapest", "best_latency"],
    "usd_per_month": 5000.0,
    "calibrated": "outside",
    "metrics": {"p99_ttft_ms": 400.0, "p99_tpot_ms": 30.0},
    "bounds": [
        {"metric": "ttft", "quantile": 0.99, "seconds": 2.0},
        {"metric": "tpot", "quantile": 0.9, "seconds": 0.05},
    ],
    "risk": {
        "worlds": 64,
        "probability_held": HELD,
        "bounds": [{**BOUND, "probability_held": HELD}],
        "usd_per_month": {"value": 5000.0, "p5": 4000.0, "p50": 5100.0, "p95": 9000.0, "how": "prices spread"},
        "growth": {
            "per_month": 0.05,
            "stderr": 0.02,
            "breaks_in_month": 2,
            "breaks_in_month_p5": 0,
            "probability_held_by_month": [0.75, 0.5, 0.25],
        },
    },
    "money": {
        "kind": "on_demand",
        "ways": {
            "on_demand": {"lines": [{"name": "rent", "usd_per_month": 5000.0}], "usd_by_month": [5000.0] * 36},
            "owned": {
                "lines": [
                    {"name": "depreciation", "usd_per_month": 900.0},
                    {"name": "electricity", "usd_per_month": 100.0},
                ],
                "usd_by_month": [1000.0 + month for month in range(36)],
            },
        },
        "crossover": [
            {
                "against": "on_demand",
                "month": 13.4,
                "month_as_it_grows": 14.0,
                "upfront_usd": 56_000.0,
                "cash_by_month": [57_000.0, *[1000.0] * 35],
            },
            {"against": "spot", "month": None, "month_as_it_grows": None, "upfront_usd": None, "cash_by_month": []},
        ],
    },
}
MISSED: dict[str, Any] = {
    "id": "two",
    "usd_per_month": 900.0,
    "calibrated": "inside",
    "metrics": {"p99_ttft_ms": 9000.0, "p99_tpot_ms": None},
    "bounds": [],
}
PLAN: dict[str, Any] = {
    "options": [OPTION],
    "near_misses": [MISSED],
    "front": [
        {"id": "one", "usd_per_month": 5000.0, "p99_ttft_ms": 400.0, "p99_tpot_ms": 30.0},
        {"id": "three", "usd_per_month": 9000.0, "p99_ttft_ms": 90.0, "p99_tpot_ms": 9.0, "probability_held": 1.0},
    ],
    "simulated_on_whole_trace": 3,
    "risk": {
        "sensitivity": {
            "cost": [
                {"input": "price", "effect": 1.1, "error": 0.2, "direction": "raises"},
                {"input": "all-reduce", "effect": 0.0, "error": 0.0, "direction": "none"},
            ],
            "simulations": 78,
            "assumed": "output length",
        }
    },
}


def p99(value: float, low: float, high: float | None) -> dict[str, float | None]:
    return {"p99_ttft_ms": value, "p99_ttft_ms_lo90": low, "p99_ttft_ms_hi90": high}


POINT = {"load": "stable", "calibrated": "inside", "p50_ttft_ms": 20.0}
CURVE: dict[str, Any] = {
    "id": "one",
    "fidelity": "busiest 10 minutes, 1,532 requests",
    "promises": [
        {"metric": "ttft", "quantile": 0.99, "seconds": 2.0},
        {"metric": "tpot", "quantile": 0.99, "seconds": 0.05},
    ],
    "points": [
        {**POINT, "factor": 0.5, "request_rate_per_s": 4.0, **p99(50.0, 40.0, 70.0)},
        {**POINT, "factor": 1, "request_rate_per_s": 8.0, **p99(90.0, 60.0, 200.0)},
        {
            **POINT,
            "factor": 2,
            "request_rate_per_s": 16.0,
            **p99(9e3, 1e3, None),
            "load": "overloaded",
            "calibrated": "outside",
        },
    ],
}


def series(chart: Chart) -> dict[str, Any]:
    return {one.name: one for one in chart.series}


def test_the_front_has_each_configuration_once_and_its_interval() -> None:
    found = series(charts.front(PLAN))
    assert {name: one.keys for name, one in found.items()} == {
        "on the front": ("three",),
        "named options": ("one",),
        "near misses": ("two",),
    }
    named = found["named options"]
    assert (named.x, named.y, named.low, named.high) == ((5000.0,), (400.0,), (300.0,), (3200.0,))
    assert named.outside == (True,)
    assert named.labels == ("cheapest, best latency",)
    assert found["on the front"].labels == ("three, holds in 100% of the possible worlds",)
    (rule,) = charts.front(PLAN).rules
    assert (rule.axis, rule.at) == ("y", 2000.0)


def test_the_front_of_another_latency_and_without_risk() -> None:
    chart = charts.front(PLAN, metric="tpot")
    assert series(chart)["named options"].y == (30.0,)
    assert "near misses" not in series(chart), "it has no p99 TPOT"
    assert not chart.rules, "p90 was promised, and p99 is drawn"
    bare = deepcopy(PLAN)
    del bare["options"][0]["risk"]
    assert "without --risk" in charts.front(bare).note
    assert charts.front({"options": [], "near_misses": [], "front": []}).empty


def test_latency_against_load() -> None:
    chart = charts.load_curve(CURVE, "ttft", baseline=CURVE)
    p99, p50, before = chart.series
    assert p99.x == p50.x == (4.0, 8.0, 16.0)
    assert (p99.y, p99.low, p99.high) == ((50.0, 90.0, 9e3), (40.0, 60.0, 1e3), (70.0, 200.0, None))
    assert p50.y == (20.0,) * 3
    assert p99.outside == (False, False, True)
    assert p99.labels == ("", "", "overloaded")
    assert before.baseline
    assert before.y == p99.y
    assert {(rule.axis, rule.at) for rule in chart.rules} == {("x", 8.0), ("y", 2000.0)}
    assert "busiest 10 minutes, 1,532 requests" in chart.note
    assert "Hollow" in chart.note
    assert charts.load_curve(None).empty
    assert charts.load_curve(CURVE, "tpot").empty, "the points have none"


def test_what_happened_over_time() -> None:
    names = (
        "num_waiting",
        "num_waiting_max",
        "num_running",
        "kv_cache_usage",
        "output_tokens_per_s",
        "prefill_tokens_per_s",
    )
    happened = {
        "bin_s": 60.0,
        "start_s": [0.0, 60.0, 1200.0],
        **{name: [float(at), 2.0, 3.0] for at, name in enumerate(names)},
    }
    found = charts.timeline(happened)
    drawn = [one for chart in found for one in chart.series]
    assert [one.y for one in drawn] == [tuple(happened[name]) for name in names]
    assert {one.x for one in drawn} == {(0.0, 1.0, 20.0)}, "minutes"
    assert {one.kind for one in drawn} == {"steps"}
    assert len({chart.key for chart in found}) == 4
    assert charts.timeline(None) == []


def test_load_by_hour() -> None:
    heat = {"rows": ["Mon"], "columns": ["00", "01"], "values": [[1.0, None]], "unit": "requests per second"}
    found = charts.load_by_hour(heat).heat
    assert found is not None
    assert found.values == ((1.0, None),)
    assert charts.load_by_hour(None).empty


def test_where_the_time_goes() -> None:
    phases = {
        "prefill": {"resources": {"compute": 0.7, "host": 0.3}},
        "peak": {"resources": {"compute": 0.2, "network": 0.8}},
    }
    chart = charts.bottleneck({"id": "one", "phases": phases})
    assert {one.name: one.y for one in chart.series} == {
        "compute": (0.7, 0.2),
        "host": (0.3, 0.0),
        "network": (0.0, 0.8),
    }
    assert chart.stacked
    assert charts.bottleneck(None).empty


def test_risk_as_shares_of_the_promise() -> None:
    median, planned = charts.risk_bands(OPTION).series
    assert median.x == ("p99 TTFT ≤ 2,000 ms",)
    assert (median.y, median.low, median.high, planned.y) == ((0.25,), (0.15,), (1.6,), (0.2,))
    assert median.labels == ("held in 75% of worlds",)
    assert charts.risk_bands(MISSED).empty


def test_growth_has_a_monte_carlo_band_that_shrinks_with_worlds() -> None:
    chart = charts.growth(OPTION)
    (held,) = chart.series
    assert held.y == (0.75, 0.5, 0.25)
    assert all(low < y < high for low, y, high in zip(held.low, held.y, held.high, strict=True))
    assert [(rule.at, rule.name) for rule in chart.rules] == [(2, "breaks as planned")]
    more = deepcopy(OPTION)
    more["risk"]["worlds"] = 1024
    (narrow,) = charts.growth(more).series
    assert narrow.high[0] - narrow.low[0] < (held.high[0] - held.low[0]) / 3
    assert charts.growth(MISSED).empty


def test_money_adds_up() -> None:
    chart = charts.cumulative_cost(OPTION)
    ways = series(chart)
    assert ways["owned"].y == (0.0, *accumulate(OPTION["money"]["ways"]["owned"]["usd_by_month"]))
    assert ways["on demand"].y[-1] == 180_000.0
    assert ways["on demand"].high[-1] == pytest.approx(180_000 * 9 / 5), "of the way that the bill is paid by"
    assert ways["owned"].high == ()
    assert [rule.at for rule in chart.rules] == [14.0]
    bought = ways["owned, as spent"]
    assert bought.baseline
    assert bought.y[:2] == (56_000.0, 57_000.0)
    assert bought.y[14] == ways["on demand"].y[14], "the mark is where its own curves cross"
    assert "in month 14.0 as the fleet grows" in chart.note
    older = charts.cumulative_cost(
        {**OPTION, "money": {**OPTION["money"], "crossover": [{"against": "spot", "month": 1}]}}
    )
    assert (older.rules, len(older.series)) == ((), 2), "no mark without the curve that it is on"
    assert charts.cumulative_cost(OPTION, start="January 2027").x.title == "months from the start of January 2027 on"
    tree = series(charts.cost_tree(OPTION))
    assert {name: tree[name].y for name in ("rent", "depreciation", "electricity")} == {
        "rent": (5000.0,), "depreciation": (900.0,), "electricity": (100.0,),
    }  # fmt: skip
    assert (tree["over the possible worlds"].low, tree["over the possible worlds"].high) == ((4000.0,), (9000.0,))
    assert charts.cumulative_cost(MISSED).empty
    assert charts.cost_tree(MISSED).empty


def test_sensitivity_leaves_out_what_moves_nothing() -> None:
    (effect,) = charts.sensitivity(PLAN["risk"], "cost").series
    assert (effect.x, effect.y) == (("price",), (1.1,))
    assert (effect.low[0], effect.high[0]) == pytest.approx((0.9, 1.3))
    assert charts.sensitivity(PLAN["risk"], "tail").empty
    assert charts.sensitivity(None).empty


def every() -> list[Chart]:
    say = words("zh")
    return [
        charts.front(PLAN, say),
        charts.load_curve(CURVE, "ttft", None, say),
        charts.risk_bands(OPTION, say),
        charts.growth(OPTION, say),
        charts.cumulative_cost(OPTION, say),
        charts.cost_tree(OPTION, say),
        charts.sensitivity(PLAN["risk"], "cost", say),
    ]


def test_each_has_a_key_a_title_and_units_and_fills_its_blanks() -> None:
    found = every()
    assert len({chart.key for chart in found}) == len(found)
    for chart in found:
        assert chart.title
        assert chart.y.title
        assert chart.note, chart.key
        assert "{" not in chart.note + chart.title
