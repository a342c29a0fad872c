"""Fleets of several pools: what is said of them is what one simulation of the whole fleet, built by hand, does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from planning import asked, workload
from simpy import Environment
from simpy.events import Timeout

from twin.cluster.requests import RequestTable
from twin.cluster.servers import Servers
from twin.engine.request import Request
from twin.plan.answer import option_of
from twin.plan.asked import asked_of
from twin.plan.fleet import Pool, Pooled
from twin.plan.plan import screened, solve
from twin.plan.pools import partitions, pooled, shares_of
from twin.plan.request import PlanRequest
from twin.search.evaluate import Outcome
from twin.search.objectives import nondominated_of, objective_values
from twin.search.simulator import Simulator
from twin.spec.classes import parse_class
from twin.spec.objectives import Objectives, parse_weights
from twin.traffic.trace import Trace

CLASSES = ("chat:input<=700,ttft=300ms,tpot=p90:20ms", "batch:e2el=20s")
SCHEDULE = Objectives(weights=(parse_weights("all:latency=1,energy=1,throughput=1"),))


def few(request: PlanRequest, share: float) -> list[Outcome]:
    """In place of a search: every so many of what the screen leaves."""
    _, _, judged = screened(request)
    runs = Simulator(judged, request.load, request.slo.bounds, request.headroom, wants=request.wants)
    rows = judged.alive()
    return runs.many(rows[:: max(1, len(rows) // 4)][:5].tolist(), "whole")


@pytest.fixture(scope="module")
def request_() -> PlanRequest:
    plain = asked(workload(num_requests=300), "l40s", "h100_sxm", ttft=None, tpot=None)
    return asked_of(plain, [parse_class(text) for text in CLASSES], SCHEDULE)


@pytest.fixture(scope="module")
def searched(request_: PlanRequest) -> dict[tuple[str, ...], list[Outcome]]:
    return {share.request.classes: few(share.request, 0.5) for share in shares_of(request_)}


@pytest.fixture(scope="module")
def fleets(request_: PlanRequest, searched: dict[tuple[str, ...], list[Outcome]]) -> list[Pooled]:
    return pooled(request_, lambda asked_, share: searched[asked_.classes])


def by_hand(trace: Trace, pools: Sequence[Pool]) -> RequestTable:
    """All requests through one simulation with a router in front that knows their class."""
    env = Environment()
    of_class = {name: at for at, pool in enumerate(pools) for name in pool.share.classes}
    fleets = [pool.outcome.deployment.fleet for pool in pools]
    servers = [Servers(env, f.config, f.cost, replicas=f.replicas, routing=f.routing) for f in fleets]
    for server in servers:
        server.hear(None)
    arriving = []
    for index, (arrival, tokens_in, tokens_out) in enumerate(
        zip(trace.arrival_s.tolist(), trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True)
    ):
        to = of_class[trace.request_class[index]]  # type: ignore[index]
        host = fleets[to].host
        queued = arrival + host.request_s + host.input_token_s * tokens_in
        arriving.append((queued, index, to, Request(index, arrival, tokens_in, tokens_out, (), queued)))
    for queued, _, to, request in sorted(arriving, key=lambda item: item[:2]):
        Timeout(env, queued).callbacks.append(lambda _, to=to, request=request: servers[to].submit(request))
    env.run()
    while any([target.drain() for server in servers for target in server.targets]):
        env.run()
    return RequestTable.of(engine.finished for server in servers for engine in server.engines)


def test_a_fleet_of_pools_is_one_simulation_built_by_hand(request_: PlanRequest, fleets: list[Pooled]) -> None:
    fleet = next(fleet for fleet in fleets if len({pool.outcome.candidate.gpu for pool in fleet.pools}) == 2)
    trace = request_.load.trace
    table = by_hand(trace, fleet.pools)
    chat = trace.input_tokens <= 700
    expected = [
        np.quantile(table.ttft_s[chat], 0.99),
        np.nanquantile(table.tpot_s[chat], 0.9),
        np.quantile(table.e2el_s[~chat], 0.99),
    ]
    assert fleet.values_s == pytest.approx(expected, rel=1e-9)
    good = ~chat & (table.e2el_s <= 20.0) | chat & (table.ttft_s <= 0.3) & ~(table.tpot_s > 0.02)
    duration = float(table["finished_s"].max() - table["arrival_s"].min())
    metrics = fleet.summary
    assert metrics["slo_attainment"] == pytest.approx(good.mean())
    assert metrics["request_goodput"] == pytest.approx(good.sum() / duration)
    assert metrics["output_throughput"] == pytest.approx(trace.output_tokens.sum() / duration)
    for name in ("ttft", "e2el"):
        assert metrics[f"p99_{name}_ms"] == pytest.approx(np.quantile(getattr(table, f"{name}_s"), 0.99) * 1e3)
    assert metrics["mean_tpot_ms"] == pytest.approx(np.nanmean(table.tpot_s) * 1e3)
    assert fleet.simulated.table.values[:, :7] == pytest.approx(table.values[:, :7], rel=1e-9)
    usd = sum(p.outcome.candidate.num_gpus * request_.prices[p.outcome.candidate.gpu].value for p in fleet.pools)
    assert fleet.usd_per_hour == pytest.approx(usd)
    classes = fleet.measured.classes
    assert classes["chat"]["requests"] == chat.sum()
    assert classes["chat"]["slo_attainment"] == pytest.approx(good[chat].mean())
    print(
        f"{fleet.candidate.id}: p99 TTFT of chat {fleet.values_s[0] * 1e3:.3f} ms, by hand {expected[0] * 1e3:.3f} ms"
    )


def test_fronts_of_pools_miss_no_fleet_of_the_front(
    request_: PlanRequest, searched: dict[tuple[str, ...], list[Outcome]], fleets: list[Pooled]
) -> None:
    shares = {share.classes: share for share in shares_of(request_)}
    every = [
        Pooled((Pool(shares[("chat",)], a), Pool(shares[("batch",)], b)), request_.slo.bounds, 0.2)
        for a, b in product(searched[("chat",)], searched[("batch",)])
    ]
    limits = request_.limits
    within = [
        fleet
        for fleet in every
        if fleet.holds
        and limits.violation_of([(p.outcome.candidate.gpu, p.outcome.candidate.num_gpus) for p in fleet.pools]) is None
    ]
    exhaustive = {tuple(objective_values(o, request_.minimise)) for o in nondominated_of(within, request_.minimise)}
    assert {tuple(objective_values(o, request_.minimise)) for o in fleets} == exhaustive
    assert len(within) > len(fleets) > 1


def test_limits_are_those_of_the_whole_fleet(
    request_: PlanRequest, searched: dict[tuple[str, ...], list[Outcome]], fleets: list[Pooled]
) -> None:
    fewest = min(fleet.candidate.num_gpus for fleet in fleets)
    narrow = pooled(replace(request_, max_gpus=fewest), lambda asked_, share: searched[asked_.classes])
    assert narrow
    assert all(fleet.candidate.num_gpus == fewest for fleet in narrow)
    assert pooled(replace(request_, max_gpus=1), lambda asked_, share: searched[asked_.classes]) == []


def test_an_option_shows_its_pools_and_nothing_that_differs(request_: PlanRequest, fleets: list[Pooled]) -> None:
    fleet = next(fleet for fleet in fleets if len({pool.outcome.candidate.gpu for pool in fleet.pools}) == 2)
    shown = option_of(request_, fleet, ("recommended",))
    json.dumps(shown, allow_nan=False, default=float)
    pools = shown["pools"]
    assert isinstance(pools, list)
    assert [pool["serves"] for pool in pools] == [["chat"], ["batch"]]
    assert [pool["id"] for pool in pools] == [pool.outcome.candidate.id for pool in fleet.pools]
    assert shown["gpu"] is None
    assert shown["replicas"] is None
    assert shown["vllm_command"] is None
    assert all(pool["vllm_command"].startswith("vllm serve") for pool in pools)
    assert shown["usd_per_month"] == pytest.approx(sum(pool["usd_per_month"] for pool in pools))
    assert shown["num_gpus"] == sum(pool["num_gpus"] for pool in pools)
    assert shown["energy"]["kwh_per_month"] == pytest.approx(sum(p["energy"]["kwh_per_month"] for p in pools))  # type: ignore[index]
    assert [item["name"] for item in shown["classes"]] == ["chat", "batch"]  # type: ignore[attr-defined]
    assert shown["bounds"] == [bound for pool in pools for bound in pool["bounds"]]
    assert set(pools[0]) - {"serves"} <= set(shown)


def test_every_pool_has_its_own_classes_promises_and_context(request_: PlanRequest) -> None:
    chat, batch = shares_of(request_)
    assert (chat.rows ^ batch.rows).all()
    assert {bound.request_class for bound in chat.request.slo.bounds} == {"chat"}
    assert chat.request.load.max_model_len < batch.request.load.max_model_len == request_.load.max_model_len
    assert request_.load.trace.arrival_s[batch.rows][0] == batch.offset_s
    chosen = replace(request_, load=replace(request_.load, max_model_len=16384))
    assert [share.request.load.max_model_len for share in shares_of(chosen)] == [16384, 16384]


def test_classes_that_need_no_pool_or_cannot_have_one() -> None:
    plain = asked(workload(num_requests=60), "h100_sxm")

    def names(*texts: str) -> list[str]:
        return [share.name for share in shares_of(asked_of(plain, [parse_class(text) for text in texts]))]

    assert names() == []
    assert names("all:ttft=1s") == []
    assert names("chat:input<=700") == ["chat", "other"]
    longest = int(plain.load.trace.input_tokens.max())
    assert names(f"most:input<{longest}") == ["most"]  # one request has no rate
    assert pooled(plain, few) == []


def test_partitions_are_runs_of_neighbours() -> None:
    assert list(partitions(["a", "b"])) == [(("a",), ("b",))]
    assert len(list(partitions("abcd"))) == 3 + 3  # two pools, three pools; never four
    assert list(partitions(["a"])) == list(partitions([])) == []


def test_a_plan_with_classes_offers_fleets_of_pools_too() -> None:
    plain = asked(workload(num_requests=150), "l40s", ttft=None, tpot=None, max_gpus=2)
    request = asked_of(plain, [parse_class("chat:input<=700,ttft=300ms"), parse_class("batch:e2el=20s")])
    first, again = solve(request).payload, solve(request).payload
    assert json.dumps(first, default=float) == json.dumps(again, default=float)
    ids = [point["id"] for point in first["front"]]  # type: ignore[attr-defined]
    assert any("@" in name for name in ids)
    assert any("@" not in name for name in ids)
    assert all(o["num_gpus"] <= 2 and o["slo_met"] for o in first["options"])  # type: ignore[attr-defined]
    assert all(set(point["objectives"]) == set(request.minimise) for point in first["front"])  # type: ignore[attr-defined]
