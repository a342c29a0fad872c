"""The answer: its shape, its strictness, its repeatability, and what it says when nothing holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from planning import asked, workload

from twin.plan.choice import choose
from twin.plan.fixed import evaluate_fixed
from twin.plan.plan import Plan, make_plan, solve
from twin.plan.request import PlanRequest
from twin.search.screen import screen
from twin.search.search import rerun, search
from twin.search.simulator import Simulator
from twin.search.space import replica_kinds
from twin.search.workload import Workload
from twin.spec.scenario import load_scenario
from twin.spec.slo import parse_budget

Ask = Callable[..., PlanRequest]

OPTION_KEYS = {
    *("id", "gpu", "num_gpus", "tensor_parallel_size", "pipeline_parallel_size", "replicas", "quantization"),
    *("kv_cache_dtype", "max_num_seqs", "max_num_batched_tokens", "num_gpu_blocks", "usd_per_hour", "usd_per_month"),
    *("usd_per_mtok", "metrics", "slo_met", "calibrated", "vllm_command"),
}
PLAN_KEYS = {
    *(
        "schema_version",
        "options",
        "recommended",
        "near_misses",
        "rejected",
        "screened",
        "simulated",
        "binding",
        "seed",
    ),
}
STATISTICS = ("mean", "p50", "p90", "p95", "p99")


@pytest.fixture(scope="module")
def answer(ask: Ask) -> Plan:
    return solve(ask())


def fitted(request: PlanRequest) -> Simulator:
    kinds, _ = replica_kinds(
        request.model, request.profiles, max_model_len=request.load.max_model_len, gpu_memory_utilization=0.92
    )
    judged = screen(kinds, request.load, request.slo.bounds, request.limits, request.headroom)
    return Simulator(judged, request.load, request.slo.bounds, request.headroom)


def test_shape(answer: Plan) -> None:
    payload = answer.payload
    assert set(payload) >= PLAN_KEYS
    assert payload["options"]
    for option in payload["options"]:
        assert set(option) >= OPTION_KEYS
        assert option["num_gpus"] == option["tensor_parallel_size"] * option["replicas"]
        assert option["usd_per_month"] == pytest.approx(option["usd_per_hour"] * 730)
        assert option["metrics"].keys() >= {f"{s}_{m}_ms" for s in STATISTICS for m in ("ttft", "tpot", "itl", "e2el")}
        tokens_per_hour = option["metrics"]["output_throughput"] * 3600
        assert option["usd_per_mtok"] == pytest.approx(option["usd_per_hour"] / tokens_per_hour * 1e6)
        assert option["calibrated"] in ("inside", "outside")
        assert option["vllm_command"].startswith("vllm serve Qwen/Qwen3-8B --tensor-parallel-size ")
    assert all(set(miss) >= OPTION_KEYS | {"misses"} and miss["misses"] for miss in payload["near_misses"])
    assert all(item["count"] > 0 and item["reason"] for item in payload["rejected"])
    assert payload["binding"] is None
    json.dumps(payload, allow_nan=False)


def test_options_are_strict_distinct_and_named(answer: Plan) -> None:
    options = answer.payload["options"]
    ids = [option["id"] for option in options]
    assert len(set(ids)) == len(ids) <= 3
    assert sorted(name for option in options for name in option["names"]) == ["best_latency", "cheapest", "recommended"]
    for option in options:
        assert option["slo_met"]
        assert option["peak_utilisation"] <= 0.8
        assert option["load"] != "overloaded"
        assert option["usd_per_month"] <= 30_000
        assert all(bound["worst_s"] <= bound["seconds"] for bound in option["bounds"])
        assert all(bound["busiest_s"] <= bound["worst_s"] for bound in option["bounds"])
    cheapest = next(o for o in options if "cheapest" in o["names"])
    assert cheapest["usd_per_hour"] == min(o["usd_per_hour"] for o in options)


def test_three_gpus_reach_the_whole_trace(answer: Plan) -> None:
    assert answer.payload["gpus_on_whole_trace"] == ["a100_sxm", "h100_sxm", "l40s"]


def test_same_seed_same_bytes_on_any_number_of_processes(ask: Ask) -> None:
    short = asked(workload(num_requests=400), "l40s", "h100_sxm")
    first, again, parallel = (json.dumps(make_plan(replace(short, jobs=jobs))) for jobs in (1, 1, 2))
    assert first == again == parallel


def test_recommended_is_fastest_of_the_about_as_cheap(answer: Plan, ask: Ask) -> None:
    runs = fitted(ask())
    search(runs, runs.screen.alive(), seed=0)
    rerun(runs)
    holding = [outcome for outcome in runs.whole.values() if outcome.holds]
    named = {name: outcome for outcome, names in choose(holding) for name in names}
    least = min(outcome.usd_per_hour for outcome in holding)
    assert named["cheapest"].usd_per_hour == least
    assert named["recommended"].usd_per_hour <= 1.05 * least
    assert named["best_latency"].latency_score == min(outcome.latency_score for outcome in holding)
    assert answer.recommended is not None
    assert named["recommended"].candidate == answer.recommended.candidate
    assert choose([]) == []


@pytest.mark.parametrize(
    ("changes", "binding"),
    [
        ({"budget": parse_budget("500/month")}, "budget"),
        ({"budget": parse_budget("0.2kW")}, "budget"),
        ({"ttft": "2ms"}, "ttft"),
        ({"tpot": "1ms"}, "tpot"),
    ],
)
def test_nothing_holds(ask: Ask, changes: dict[str, object], binding: str) -> None:
    found = make_plan(ask("l40s", "a100_sxm", **changes))
    assert found["options"] == []
    assert found["recommended"] is None
    assert found["near_misses"]
    assert str(found["binding"]).startswith(f"{binding}:")
    assert all(miss["misses"] for miss in found["near_misses"])  # type: ignore[attr-defined]


def test_too_small_a_budget_says_what_the_cheapest_costs(ask: Ask, answer: Plan) -> None:
    cheapest = min(option["usd_per_month"] for option in answer.payload["options"])
    found = make_plan(ask(budget=parse_budget("500/month")))
    assert f"${cheapest:,.0f}/month" in str(found["binding"])


def test_a_model_that_fits_nowhere(load: Workload) -> None:
    from twin.spec.model import load_model

    model = load_model("meta-llama/Llama-3.1-405B")
    tall = model.model_copy(update={"layers": tuple(x.model_copy(update={"count": 4 * x.count}) for x in model.layers)})
    request = replace(asked(load, "l40s"), model=tall)
    found = make_plan(request)
    assert str(found["binding"]).startswith("memory:")
    assert found["screened"] == 0


def test_whole_nodes(ask: Ask) -> None:
    found = make_plan(ask("h100_sxm", node_size=8, budget=None))
    assert all(option["num_gpus"] % 8 == 0 for option in found["options"])  # type: ignore[attr-defined]
    assert any(item["reason"] == "leaves GPUs of a node unused" for item in found["rejected"])  # type: ignore[attr-defined]


def test_what_is_deployed_today(tmp_path: Path, load: Workload) -> None:
    file = tmp_path / "today.yaml"
    file.write_text(
        "model: Qwen/Qwen3-8B\n"
        "traffic: {synthetic: {request_rate: 6, num_requests: 1200, input_len: 700, output_len: 110}}\n"
        "deployment: {gpu: h100_sxm, replicas: 2, routing: least_loaded}\n"
        "engine: {max_model_len: 16384}\n"
    )
    request = asked(load, "h100_sxm")
    found = evaluate_fixed(request, load_scenario(file)).payload
    fixed = found["fixed"]
    assert fixed["holds"]
    assert fixed["highest_rate_factor"] > 1
    assert found["options"][0]["names"] == ["deployed"]
    busy = replace(load, trace=load.trace.scaled(fixed["highest_rate_factor"] * 1.5))
    later = evaluate_fixed(replace(request, load=busy), load_scenario(file)).payload
    assert not later["fixed"]["holds"]
    assert later["options"] == []
    assert later["near_misses"][0]["misses"] == later["fixed"]["misses"]
