"""Sensitivity and what would change: checked against what is put in, and by making the change that is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planning import MODEL

from twin.plan.choice import recommended_of
from twin.plan.request import PlanRequest
from twin.risk.growth import Growth
from twin.risk.sensitivity import Question, respond, sensitivity
from twin.risk.trials import subject_of
from twin.risk.what_if import what_would_change
from twin.risk.worlds import Demand
from twin.search.evaluate import Outcome
from twin.spec.engine_errors import EngineErrors
from twin.spec.model import load_model
from twin.spec.ownership import Figure

SPEC = load_model(MODEL)
ERRORS = EngineErrors(tpot=0.1, ttft=0.2, evidence="seen", source="a test")


@pytest.fixture(scope="module")
def question(request_: PlanRequest, ours: Outcome) -> Question:
    profile = next(p for p in request_.profiles if p.name == ours.candidate.gpu)
    subject = subject_of(ours, SPEC, profile, Demand(request_.load, SPEC), ERRORS)
    return Question(SPEC, subject, Figure(value=2.0, low=1.0, high=4.0), Growth(0.05, 0.02))


def at(question: Question, **z: float) -> tuple[float, float]:
    return respond(question, [z.get(name.replace(" ", "_").replace(":", ""), 0.0) for name in question.names])


def test_responses_move_the_right_way(question: Question) -> None:
    cost, tail = at(question)
    dear, same = at(question, price=2.0)
    assert dear > cost
    assert same == pytest.approx(tail)
    slow_cost, slow_tail = at(question, engine_beyond_its_kernels_steps=2.0)
    assert slow_cost > cost
    assert slow_tail > tail
    assert at(question, growth_over_a_year=2.0)[0] == pytest.approx(
        cost * np.exp(12 * 2 * 0.02 / 1.05), rel=1e-6
    )  # the fleet grows with the traffic
    assert at(question, output_length=2.0)[0] > cost


def test_what_is_put_in_comes_out_ranked(question: Question) -> None:
    """A made-up response, exp(3·price's place + 1·output length's): Morris must find 3, 1 and nothing else."""
    price, output = question.names.index("price"), question.names.index("output length")

    def made_up(points):  # type: ignore[no-untyped-def]
        from scipy.stats import norm

        places = (norm.cdf(np.array(points)) - 0.05) / 0.9
        value = np.exp(3 * places[:, price] + places[:, output])
        return [(float(v), 1.0) for v in value]

    found = sensitivity(question, made_up, seed=1)
    ranked = found["cost"]
    assert isinstance(ranked, list)
    assert [row["input"] for row in ranked[:2]] == ["price", "output length"]
    assert ranked[0]["effect"] == pytest.approx(np.expm1(3.0), rel=1e-6)
    assert ranked[0]["error"] == pytest.approx(0.0, abs=1e-6)
    assert ranked[1]["effect"] == pytest.approx(np.expm1(1.0), rel=1e-6)
    assert all(row["effect"] == pytest.approx(0.0, abs=1e-9) for row in ranked[2:])


def test_a_lost_evaluation_ranks_nothing(question: Question) -> None:
    found = sensitivity(question, lambda points: [None] * len(points))
    assert "lost" in str(found["text"])
    assert "cost" not in found


@pytest.fixture(scope="module")
def turns(whole: list[Outcome], ours: Outcome, question: Question) -> dict[str, dict[str, object]]:
    found = what_would_change(whole, ours, recommended_of, SPEC, question.subject, highest=1.2)
    sizes = [abs(np.log(float(str(turn["factor"])))) for turn in found]
    assert sizes == sorted(sizes)
    return {str(turn["input"]): turn for turn in found}


def test_the_change_that_is_named_turns_the_answer_and_a_smaller_does_not(
    whole: list[Outcome], ours: Outcome, turns: dict[str, dict[str, object]]
) -> None:
    prices = {name: turn for name, turn in turns.items() if name.startswith("price of ")}
    assert prices
    for name, turn in prices.items():
        gpu, factor = name.removeprefix("price of "), float(str(turn["factor"]))
        for share, turned in ((1.0, True), (0.97, False)):
            move = factor**share
            changed = [
                replace(o, deployment=replace(o.deployment, usd_per_hour=o.usd_per_hour * move))
                if o.candidate.gpu == gpu
                else o
                for o in whole
                if o.holds
            ]
            best = recommended_of(changed)
            assert best is not None
            assert (best.candidate.id != ours.candidate.id) == turned


def test_a_tighter_bound_is_where_the_option_stops_holding(ours: Outcome, turns: dict[str, dict[str, object]]) -> None:
    for bound, value in zip(ours.bounds, ours.values_s, strict=True):
        turn = turns.get(f"bound on {bound.metric.upper()}")
        if turn is not None and float(str(turn["factor"])) < 1.0:
            assert float(str(turn["factor"])) >= value / bound.seconds * (1 - 1e-3)


def test_traffic_and_step_time(ours: Outcome, turns: dict[str, dict[str, object]]) -> None:
    room = (1 - ours.headroom) / ours.deployment.utilisation
    assert turns["traffic"]["factor"] == pytest.approx(min(1.2, room))
    if "step time" in turns:
        assert float(str(turns["step time"]["factor"])) > 1.0
