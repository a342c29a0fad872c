"""Risk: the nominal world agrees with the plan, worse worlds hold less, and every executor says the same."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from planning import MODEL, asked, workload

from twin.base import Estimate
from twin.cli.risk_table import risk_parts, risk_row
from twin.plan.choice import recommended_of
from twin.plan.found import Running, searched
from twin.plan.plan import screened
from twin.plan.request import PlanRequest
from twin.plan.risk import PlanRisk, RiskRequest, Risks, assess_plan
from twin.risk.assess import assess, chance, risk_of, upper
from twin.risk.growth import Growth
from twin.risk.judge import Judged, prices_at
from twin.risk.trials import Found, Highest, Shared, Trial, evaluate_item, highest_factor, in_world, later, subject_of
from twin.risk.worlds import NOMINAL, Demand, draw_worlds
from twin.search.evaluate import Outcome
from twin.spec.engine_errors import EngineErrors
from twin.spec.model import load_model
from twin.spec.ownership import Figure

SPEC = load_model(MODEL)
NO_ERRORS = EngineErrors(tpot=0.0, ttft=0.0, evidence="seen", source="a test")
WIDE = EngineErrors(tpot=0.3, ttft=0.5, evidence="unseen", source="a test")


def shared_of(request: PlanRequest, outcome: Outcome, errors: EngineErrors) -> Shared:
    profile = next(p for p in request.profiles if p.name == outcome.candidate.gpu)
    return Shared(SPEC, (subject_of(outcome, SPEC, profile, Demand(request.load, SPEC), errors),))


def assessed(shared: Shared, outcome: Outcome, **others: object) -> tuple[dict[str, object], Judged]:
    price = Figure(value=2.0, low=1.0, high=6.0)
    run = lambda items: [evaluate_item(shared, item) for item in items]  # noqa: E731
    risks, judged = assess(shared, [[(0, outcome, price)]], run, **others)  # type: ignore[arg-type]
    return risks[0], judged[0]


def test_the_nominal_world_says_what_the_plan_said(request_: PlanRequest, ours: Outcome) -> None:
    found = in_world(shared_of(request_, ours, WIDE), Trial(0))[0]
    assert found.values_s == pytest.approx(ours.values_s)
    assert found.ratio == pytest.approx(ours.worst)
    assert found.most == pytest.approx(1 / ours.deployment.utilisation)


def test_a_later_first_token_moves_what_follows(request_: PlanRequest, ours: Outcome) -> None:
    from twin.search.evaluate import simulated

    table = simulated(ours.deployment, request_.load.busiest).table
    late = later(table, 1.5)
    assert late.ttft_s == pytest.approx(1.5 * table.ttft_s)
    assert np.nan_to_num(late.tpot_s) == pytest.approx(np.nan_to_num(table.tpot_s))
    assert late.e2el_s - table.e2el_s == pytest.approx(0.5 * table.ttft_s)


def test_head_room_is_where_a_promise_breaks(request_: PlanRequest, ours: Outcome) -> None:
    shared = shared_of(request_, ours, NO_ERRORS)
    highest = highest_factor(shared, Highest(0, ours.candidate.replicas))
    assert highest >= 1.0
    assert in_world(shared, Trial(0, NOMINAL, (highest,)))[0].ratio <= 1.0
    assert in_world(shared, Trial(0, NOMINAL, (highest * 1.1,)))[0].ratio > 1.0


def test_risk_of_an_option(request_: PlanRequest, ours: Outcome) -> None:
    shared = shared_of(request_, ours, WIDE)
    risk, judged = assessed(shared, ours, worlds=12, growth=Growth(0.05, 0.02))
    json.dumps(risk, allow_nan=False)
    held = risk["probability_held"]
    assert isinstance(held, dict)
    assert held["value"] == pytest.approx((judged.ratios <= 1).mean())
    assert 0 < held["stderr"] < 0.2
    # the tightest promise at 90 % lies between the middle and the worst of the worlds
    assert np.median(judged.ratios) < float(str(risk["promised_at_90"])) <= judged.ratios.max()
    cost = risk["usd_per_month"]
    assert isinstance(cost, dict)
    assert cost["p5"] < cost["value"] < cost["p95"]
    growth = risk["growth"]
    assert isinstance(growth, dict)
    months = growth["probability_held_by_month"]
    assert len(months) == 37
    assert all(a >= b for a, b in itertools.pairwise(months))  # growing traffic never mends a promise
    assert months[0] == pytest.approx(held["value"], abs=0.13)  # by power law at ×1 against simulated at ×1
    again, _ = assessed(shared, ours, worlds=12, growth=Growth(0.05, 0.02))
    assert json.dumps(again) == json.dumps(risk)


def test_wider_errors_cost_certainty(request_: PlanRequest, ours: Outcome) -> None:
    promised = [
        float(str(assessed(shared_of(request_, ours, errors), ours, worlds=12)[0]["promised_at_90"]))
        for errors in (NO_ERRORS, WIDE)
    ]
    assert promised[1] > promised[0]


def test_no_growth_and_one_replica_are_plain_sentences(request_: PlanRequest, ours: Outcome) -> None:
    assert ours.candidate.replicas == 1
    risk, _ = assessed(shared_of(request_, ours, NO_ERRORS), ours, worlds=4)
    assert risk["growth"] is None
    down = risk["down"]
    assert isinstance(down, dict)
    assert down["node"]["text"] == "nothing is left: there is one replica"
    assert down["node"]["share_of_traffic"] == 0.0
    assert not down["node"]["holds"]


def test_a_replica_less_holds_less(request_: PlanRequest, ours: Outcome) -> None:
    """Two replicas where one does: with one down the rest holds, on another node or not."""
    deployment = ours.deployment
    two = replace(deployment.candidate, replicas=2)
    doubled = replace(deployment, candidate=two, utilisation=deployment.utilisation / 2)
    outcome = replace(ours, deployment=doubled)
    risk, judged = assessed(shared_of(request_, outcome, NO_ERRORS), outcome, worlds=4)
    down = risk["down"]
    assert isinstance(down, dict)
    assert down["replica"]["replicas_left"] == 1
    assert down["replica"]["share_of_traffic"] < judged.headroom
    assert "may stand on one node" in down["node"]["text"]  # two small replicas fit into one


def test_without_promises_capacity_is_what_breaks(request_: PlanRequest, ours: Outcome) -> None:
    free = replace(ours, bounds=(), measured=replace(ours.measured, values_s=(), busiest_s=()))
    risk, judged = assessed(shared_of(request_, free, NO_ERRORS), free, worlds=6)
    assert risk["bounds"] == []
    assert judged.headroom == pytest.approx(1 / free.deployment.utilisation, rel=0.3)


def test_one_output_token_has_no_tpot(ours: Outcome) -> None:
    """TPOT is then undefined: its promise holds, and nothing divides by it."""
    load = workload(num_requests=300)
    short = replace(load, trace=replace(load.trace, output_tokens=np.ones(300, dtype=np.int64)))
    request = asked(short, "l40s", "h100_sxm")
    _, _, judged = screened(request)
    outcome = searched(request, judged, judged.alive(), Running()).holding[0]
    risk, _ = assessed(shared_of(request, outcome, WIDE), outcome, worlds=6)
    tpot = next(row for row in risk["bounds"] if row["metric"] == "tpot")  # type: ignore[attr-defined]
    assert tpot["probability_held"]["value"] == 1.0
    json.dumps(risk, allow_nan=False)


def test_worlds_lost_with_their_workers_are_left_out(ours: Outcome, request_: PlanRequest) -> None:
    subject = shared_of(request_, ours, NO_ERRORS).subjects[0]
    worlds = draw_worlds(4, 0)
    found = tuple(Found((0.1, 0.01), ratio, 2.0) for ratio in (0.5, 0.8, 0.9, 1.2))
    price = Estimate(value=2.0, origin="assumed")
    full = Judged(subject, ours, price, worlds, found, np.array([2.0, 1.2, 1.1, 0.9]), {1: 1.5})
    part = Judged(subject, ours, price, worlds[:2], found[:2], np.array([2.0, 1.2]), {1: 1.5})
    assert risk_of([full], None, 0)["probability_held"]["value"] == 0.75  # type: ignore[index]
    both = risk_of([full, part], None, 0)  # two pools: only worlds that both met
    assert both["worlds"] == 2
    assert "too few worlds" in str(
        risk_of([replace(part, worlds=(), at_plan=(), breaks_at=np.zeros(0))], None, 0)["text"]
    )


def test_upper_is_unbiased_and_chance_knows_its_error() -> None:
    rng = np.random.default_rng(0)
    covered = [float((rng.standard_normal(4000) <= upper(rng.standard_normal(64), 0.9)).mean()) for _ in range(400)]
    assert np.mean(covered) == pytest.approx(0.9, abs=0.006)
    assert chance(np.ones(64, dtype=bool))["stderr"] > 0


def test_prices_spread_over_providers() -> None:
    z = np.array([-5.0, 0.0, 5.0])
    assert prices_at(Figure(value=2.0, low=1.0, high=6.0), z) == pytest.approx([1.0, 2.0, 6.0], abs=1e-4)
    assert (prices_at(Estimate(value=2.0, origin="assumed"), z) == 2.0).all()


@pytest.fixture(scope="module")
def risks(request_: PlanRequest, whole: list[Outcome], ours: Outcome) -> dict[int, PlanRisk]:
    asked_ = RiskRequest(growth=Growth(0.03), worlds=4)

    def decide(risks: Risks) -> tuple[Outcome, list[Outcome]]:
        assert [*risks] == [ours.candidate.id]
        return ours, whole

    return {jobs: assess_plan(replace(request_, jobs=jobs), asked_, [ours], decide, recommended_of) for jobs in (1, 2)}


def test_any_number_of_processes_says_the_same(risks: dict[int, PlanRisk]) -> None:
    one, two = (json.dumps([r.options, r.sensitivity, r.would_change], allow_nan=False) for r in risks.values())
    assert one == two


def test_the_table_shows_it(risks: dict[int, PlanRisk], ours: Outcome) -> None:
    from rich.console import Console

    risk = risks[1]
    option = {"id": ours.candidate.id, "names": ["recommended"], "risk": risk.options[ours.candidate.id]}
    payload = {"options": [option], "risk": {"sensitivity": risk.sensitivity, "would_change": risk.would_change}}
    console = Console(width=100, record=True, file=StringIO())
    for part in risk_parts(payload):
        console.print(part)
    text = console.export_text()
    assert "P(held)" in text
    assert "What moves the tail most" in text
    assert "What would change" in text
    assert max(map(len, text.splitlines())) <= 100
    assert risk_row(option)["headroom_factor"] >= 1.0  # type: ignore[operator]
    assert risk_parts({"options": [{"id": "x"}]}) == []
