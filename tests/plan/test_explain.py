"""What binds, what bounds the batch, and what the next step up buys: computed from the models that judged the option."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from planning import workload

from twin.base import InputError
from twin.cli.explain_table import explanation_table
from twin.plan.explain import explain
from twin.plan.next_steps import fleet_of
from twin.plan.promise import HEADROOM, Promise
from twin.plan.request import PlanRequest
from twin.search.evaluate import Outcome
from twin.search.screen import Screen, screen
from twin.search.simulator import Simulator
from twin.search.space import MAX_NUM_SEQS, ReplicaKind, replica_kinds
from twin.search.workload import bound_text

Asked = Callable[..., PlanRequest]


def screened(request: PlanRequest) -> Screen:
    kinds, _ = replica_kinds(
        request.model,
        request.profiles,
        max_model_len=request.load.max_model_len,
        gpu_memory_utilization=request.gpu_memory_utilization,
        precisions=request.precisions,
    )
    return screen(kinds, request.load, request.slo.bounds, request.limits, request.headroom)


def simulated(request: PlanRequest, judged: Screen, **wanted: Any) -> tuple[int, Outcome]:
    """The first row of the screen that is as ``wanted``, simulated on the whole trace."""
    runs = Simulator(judged, request.load, request.slo.bounds, request.headroom)
    row = next(
        row
        for row in range(len(judged))
        if all(getattr(judged.candidate(row), name) == value for name, value in wanted.items())
    )
    return row, runs.many([row], "whole")[0]


@pytest.fixture(scope="module")
def request_(ask: Asked) -> PlanRequest:
    return ask("l40s", "h100_sxm")


@pytest.fixture(scope="module")
def judged(request_: PlanRequest) -> Screen:
    return screened(request_)


SETTING = {
    "gpu": "l40s",
    "tensor_parallel_size": 1,
    "replicas": 3,
    "quantization": None,
    "kv_cache_dtype": "auto",
    "max_num_seqs": 128,
    "max_num_batched_tokens": 4096,
}


@pytest.fixture(scope="module")
def row_outcome(request_: PlanRequest, judged: Screen) -> tuple[int, Outcome]:
    return simulated(request_, judged, **SETTING)


@pytest.fixture(scope="module")
def found(request_: PlanRequest, judged: Screen, row_outcome: tuple[int, Outcome]) -> dict[str, Any]:
    return explain(row_outcome[1], request_, judged.kinds)


def step(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(item for item in found["next_steps"]["steps"] if item["step"].startswith(name))


def test_it_is_json_and_the_same_with_tables_that_were_known(
    request_: PlanRequest, found: dict[str, Any], row_outcome: tuple[int, Outcome]
) -> None:
    alone = explain(row_outcome[1], request_)
    assert json.dumps(alone, allow_nan=False) == json.dumps(found, allow_nan=False)


def test_a_bf16_model_on_an_l40s_decodes_at_memory_bandwidth_and_prefills_at_compute(found: dict[str, Any]) -> None:
    phases = found["phases"]
    assert phases["prefill"]["bound_by"] == "compute"
    assert phases["decode_at_peak"]["bound_by"] == phases["decode_over_day"]["bound_by"] == "memory_bandwidth"
    for phase in phases.values():
        assert sum(phase["resources"].values()) == pytest.approx(1.0)
        assert sum(phase["pieces"].values()) == pytest.approx(1.0)
        assert phase["resources"]["network"] == 0.0  # one GPU a replica
    low, high = sorted(phases[name]["resources"]["compute"] for name in ("prefill", "decode_at_peak"))
    assert low < phases["peak"]["resources"]["compute"] < high
    assert phases["decode_at_peak"]["running"] >= phases["decode_over_day"]["running"]


def test_phases_are_steps_of_the_model_that_was_simulated(
    found: dict[str, Any], row_outcome: tuple[int, Outcome]
) -> None:
    priced, decode = row_outcome[1].deployment.step, found["phases"]["decode_at_peak"]
    n = decode["running"]
    assert decode["seconds"] == pytest.approx(priced.step_s([], n, round(n * decode["mean_context"])), rel=1e-9)
    prompt = found["phases"]["prefill"]
    assert prompt["seconds"] == pytest.approx(priced.step_s([(None, prompt["prompt_tokens"], 0)], 0, 0), rel=1e-9)


def test_the_closed_form_is_the_screens(
    request_: PlanRequest, judged: Screen, row_outcome: tuple[int, Outcome]
) -> None:
    row, outcome = row_outcome
    fleet = fleet_of(outcome, request_, judged.kinds)
    rate = np.array([request_.load.peak_rate_per_s / 3])
    assert rate[0] / fleet.capacity_per_s == pytest.approx(float(judged.utilisation[row]), rel=1e-9)
    means = fleet.means_s(rate)
    assert float(means["ttft"][0]) == pytest.approx(float(judged.ttft_s[row]), rel=1e-9)
    assert float(means["tpot"][0]) == pytest.approx(float(judged.tpot_s[row]), rel=1e-9)
    assert fleet.candidate == outcome.candidate


def test_one_replica_more_buys_its_share_and_costs_it(found: dict[str, Any]) -> None:
    now, more = found["next_steps"], step(found, "one replica")
    assert more["requests_per_s"] == pytest.approx(now["requests_per_s"] * 4 / 3, rel=1e-6)
    assert more["usd_per_month_more"] == pytest.approx(now["usd_per_month"] / 3)
    assert more["num_gpus"] == 4


def test_what_holds_at_the_peak_sustains_at_least_the_peak(
    request_: PlanRequest, judged: Screen, row_outcome: tuple[int, Outcome]
) -> None:
    _, outcome = row_outcome
    fleet = fleet_of(outcome, request_, judged.kinds)
    promise = Promise.of(outcome, fleet)
    rate, limit = promise.most(fleet)
    assert outcome.holds == (rate >= request_.load.peak_rate_per_s)
    lax = replace(promise, bounds=tuple(b.model_copy(update={"seconds": 1e3}) for b in promise.bounds))
    most, by = lax.most(fleet)
    assert by == HEADROOM
    assert most == pytest.approx(0.8 * 3 * fleet.capacity_per_s)
    assert rate <= most
    strict = replace(promise, bounds=tuple(b.model_copy(update={"seconds": 1e-4}) for b in promise.bounds))
    assert strict.most(fleet)[0] == 0.0
    assert limit in {HEADROOM, *map(bound_text, promise.bounds)}


def test_lighter_weights_and_a_faster_gpu_buy_rate(found: dict[str, Any]) -> None:
    assert step(found, "fp8 weights")["requests_per_s_more"] > 0.3 * found["next_steps"]["requests_per_s"]
    assert step(found, "fp8 weights")["usd_per_month_more"] == 0.0
    assert step(found, "fp8 weights")["expected_accuracy_loss"] > 0.0
    dearer = step(found, "the next GPU by price")
    assert "h100_sxm" in dearer["step"]
    assert dearer["requests_per_s_more"] > 0
    assert dearer["usd_per_month_more"] > 0
    assert step(found, "more seats")["requests_per_s_more"] == pytest.approx(0.0, abs=0.1)


def test_what_cannot_start_says_why(request_: PlanRequest, judged: Screen) -> None:
    wanted = SETTING | {"gpu": "h100_sxm", "tensor_parallel_size": 8, "replicas": 1, "quantization": "fp8"}
    _, outcome = simulated(request_, judged, **wanted)
    said = explain(outcome, request_, judged.kinds)
    assert "tensor_parallel_size 16" in step(said, "twice the tensor")["why_not"]
    assert step(said, "fp8 weights")["why_not"] == "the weights are fp8 already"
    assert step(said, "the next GPU")["why_not"] == "no dearer GPU is among those asked for"
    largest = SETTING | {"max_num_seqs": MAX_NUM_SEQS[-1], "max_num_batched_tokens": 16384}
    _, outcome = simulated(request_, judged, **largest)
    said = explain(outcome, request_, judged.kinds)
    assert step(said, "more seats")["why_not"] == step(said, "more tokens")["why_not"] == "no plan tries more"


def test_a_step_over_a_limit_says_so(request_: PlanRequest, judged: Screen, row_outcome: tuple[int, Outcome]) -> None:
    tight = replace(request_, max_gpus=3, budget=None)
    said = explain(row_outcome[1], tight, judged.kinds)
    assert step(said, "one replica")["over"] == "more GPUs than --max-gpus"
    assert step(said, "more seats")["over"] is None


def test_the_batch_is_bound_by_what_is_scarce(ask: Asked) -> None:
    busy = replace(ask("l40s"), load=workload(rate=40.0, num_requests=2500), headroom=0.0)
    judged = screened(busy)
    _, few_seats = simulated(busy, judged, **SETTING | {"max_num_seqs": 64})
    said: Any = explain(few_seats, busy, judged.kinds)
    assert said["batch"]["bound_by"] == "seats"
    starved = replace(few_seats.deployment.config, num_gpu_blocks=2000)
    few_blocks = replace(few_seats, deployment=replace(few_seats.deployment, config=starved))
    said = explain(few_blocks, busy, judged.kinds)
    assert said["batch"]["bound_by"] == "kv_blocks"
    calm = replace(busy, load=workload(rate=1.0))
    judged = screened(calm)
    _, idle = simulated(calm, judged, **SETTING)
    said = explain(idle, calm, judged.kinds)
    assert said["batch"]["bound_by"] == "arrivals"


def test_slack_names_the_nearest_limit(found: dict[str, Any], row_outcome: tuple[int, Outcome]) -> None:
    slack, outcome = found["slack"], row_outcome[1]
    shares = [item["of_limit"] for item in slack["limits"]]
    assert slack["nearest_of_limit"] == max(shares)
    assert max(shares[:-1]) == pytest.approx(outcome.worst)
    assert shares[-1] == pytest.approx(outcome.deployment.utilisation / 0.8)


def test_nothing_explains_what_was_not_simulated(
    request_: PlanRequest, judged: Screen, row_outcome: tuple[int, Outcome]
) -> None:
    sliced = Simulator(judged, request_.load, request_.slo.bounds, request_.headroom).many([row_outcome[0]])[0]
    with pytest.raises(InputError, match="not simulated on the whole trace"):
        explain(sliced, request_, judged.kinds)


def test_the_table_fits_a_page_and_begins_with_sentences(found: dict[str, Any]) -> None:
    from rich.console import Console

    page = StringIO()
    Console(file=page, width=100).print(explanation_table(found))
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert "bound by compute" in lines[1]
    assert any(line.startswith("Decode at the peak") and "memory bandwidth" in page.getvalue() for line in lines)
    assert "one replica more" in page.getvalue()


def test_known_kinds_are_used_again(request_: PlanRequest, judged: Screen, row_outcome: tuple[int, Outcome]) -> None:
    kind: ReplicaKind = fleet_of(row_outcome[1], request_, judged.kinds).kind
    assert any(kind is known for known in judged.kinds)
