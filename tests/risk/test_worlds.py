"""Worlds: reproducible, as wide as what was measured, and other days that are like the one recorded."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
from planning import MODEL, workload

from twin.base import InputError
from twin.cost.draws import slower, stretched
from twin.cost.layout import Layout
from twin.cost.spread import spread_step_model
from twin.risk.growth import Growth, parse_growth
from twin.risk.resample import BLOCKS, Resampler
from twin.risk.worlds import NOMINAL, Beyond, Demand, beyond, draw_worlds, independent_worlds, profile_in, step_in
from twin.search.workload import Workload
from twin.spec.engine_errors import EngineErrors, engine_errors, evidence_of, load_risk
from twin.spec.hardware import load_profile
from twin.spec.model import load_model
from twin.traffic.synthetic import recipe_from, synthesize
from twin.traffic.trace import Trace

H100 = load_profile("h100_sxm")
SPEC = load_model(MODEL)


def priced(profile, tokens: int = 2048):  # type: ignore[no-untyped-def]
    return spread_step_model(SPEC, profile, Layout(2, "fp8"), max_tokens=tokens)


def test_slower_makes_every_step_exactly_so_much_longer() -> None:
    plain, slow = priced(H100), priced(slower(H100, 1.3))
    for chunks, decodes, context in (([], 1, 100), ([], 200, 200_000), ([(None, 1500, 0)], 16, 9000)):
        assert slow.step_s(chunks, decodes, context) == pytest.approx(1.3 * plain.step_s(chunks, decodes, context))
    assert slow.host.request_s == plain.host.request_s  # not part of a step


def test_stretching_one_family_leaves_the_others() -> None:
    plain, slow = priced(H100), priced(stretched(H100, {"decode_attention": 2.0}))
    assert slow.decode_attention_s(64, 64_000) == pytest.approx(2 * plain.decode_attention_s(64, 64_000))
    assert slow.linear_s == plain.linear_s


def test_worlds_repeat_and_fill_their_distributions() -> None:
    worlds = draw_worlds(100, 3)
    assert worlds == draw_worlds(100, 3)
    assert worlds != draw_worlds(100, 4)
    for name in ("step", "first", "growth", "price"):
        values = np.array([getattr(world, name) for world in worlds])
        assert values.mean() == pytest.approx(0, abs=0.02)  # a Latin hypercube: nearer than 100 independent draws
        assert values.std() == pytest.approx(1, abs=0.05)
    with pytest.raises(InputError, match="at least 2 worlds"):
        draw_worlds(1, 0)


def test_the_nominal_world_is_what_the_plan_assumes() -> None:
    assert profile_in(NOMINAL, H100, Beyond(0.5, 0.5)) is H100


def test_worlds_spread_a_step_by_what_engines_were_off() -> None:
    """Kernels' own draws are part of what was measured: together they spread a step by the error, not by more."""
    errors = EngineErrors(tpot=0.2, ttft=0.4, evidence="seen", source="a test")
    point = {"running": 64, "context": 800, "prompt": 700}
    off = beyond(SPEC, H100, Layout(2, "fp8"), errors, **point)
    assert 0 < off.step < 0.2
    steps = []
    for world in independent_worlds(150, 11):
        step = step_in(world, SPEC, H100, Layout(2, "fp8"), off, max_tokens=1024)
        steps.append(log(step.step_s([], 64, 64 * 800)))
    assert np.std(steps) == pytest.approx(0.2, rel=0.2)
    exact = beyond(SPEC, H100, Layout(2, "fp8"), errors.model_copy(update={"tpot": 0.0, "ttft": 0.0}), **point)
    assert exact == Beyond(0.0, 0.0)  # never less than the kernels say


def test_evidence_and_errors() -> None:
    assert evidence_of(H100) == "seen"
    assert evidence_of(load_profile("l40s")) == "unseen"
    data = load_risk()
    assert all(spread.widen >= 1 for by in data.spreads.values() for spread in by.values())
    found = engine_errors(H100, data)
    assert H100.host is not None
    assert found.tpot >= (H100.host.tpot_error or 0)  # its own error on layouts left out is the least
    assert engine_errors(load_profile("l40s"), data).ttft == data.spreads["unseen"]["ttft"].widened
    assert "inferencex" in found.source


def test_resampled_minutes_are_like_the_recorded() -> None:
    minutes = workload(num_requests=1500).busiest
    drawn = [Resampler(minutes).draw(np.random.default_rng(seed)) for seed in range(30)]
    counts = [len(trace) for trace in drawn]
    assert np.mean(counts) == pytest.approx(len(minutes), rel=0.03)
    assert len(set(counts)) > 10
    assert np.mean([t.output_tokens.mean() for t in drawn]) == pytest.approx(minutes.output_tokens.mean(), rel=0.03)
    assert all(trace.duration_s <= 1.01 * minutes.duration_s for trace in drawn)
    again = Resampler(minutes).draw(np.random.default_rng(0))
    assert (again.arrival_s == drawn[0].arrival_s).all()


def test_bursts_survive_resampling() -> None:
    """Twenty requests at one instant every ten seconds: no draw tears them apart."""
    arrival = np.repeat(np.arange(30) * 10.0, 20)
    burst = Trace(arrival, np.full(600, 100), np.full(600, 10), name="bursts")
    for seed in range(5):
        drawn = Resampler(burst).draw(np.random.default_rng(seed))
        _, sizes = np.unique(np.round(drawn.arrival_s, 6), return_counts=True)
        assert set(sizes.tolist()) == {20}


def test_a_request_drawn_twice_is_another_conversation() -> None:
    """Everybody's prefix (id 0) stays shared; a conversation's own ids are renamed in the second copy."""
    n = 200
    hashes = tuple((0, 1 + i) for i in range(n))
    trace = Trace(np.arange(n) * 1.5, np.full(n, 1024), np.full(n, 10), prefix_hashes=hashes)
    drawn = Resampler(trace).draw(np.random.default_rng(1))
    assert drawn.prefix_hashes is not None
    assert all(ids[0] == 0 for ids in drawn.prefix_hashes)
    own = [ids[1] for ids in drawn.prefix_hashes]
    assert len(own) == len(set(own))
    assert any(item > n for item in own)  # something was drawn twice in so many blocks
    assert BLOCKS > 1


def test_a_recipe_is_made_up_again() -> None:
    recipe = recipe_from({"request_rate": 4, "num_requests": 400, "input_len": 500, "output_len": 50})
    load = Workload(synthesize(recipe, 1), 4096)
    demand = Demand(load, SPEC, recipe)
    one, two = (demand.in_world(world) for world in draw_worlds(2, 0))
    assert demand.in_world(NOMINAL) is demand.slice
    assert not np.array_equal(one.arrival_s[:50], two.arrival_s[:50])
    assert len(one) / one.duration_s == pytest.approx(4, rel=0.3)
    assert "made up again" in demand.how
    classes = replace(load.trace, request_class=np.array(["chat"] * 400, dtype=object))
    labelled = Demand(Workload(classes, 4096), SPEC, recipe)
    assert labelled.in_world(draw_worlds(2, 0)[0]).request_class is not None  # a recipe would lose them


@pytest.mark.parametrize(
    ("text", "monthly", "stderr"),
    [("5%/month", 0.05, 0), ("5%", 0.05, 0), ("60%/yr", 1.6 ** (1 / 12) - 1, 0), ("5%±2%/month", 0.05, 0.02)],
)
def test_growth_is_read(text: str, monthly: float, stderr: float) -> None:
    found = parse_growth(text)
    assert found.per_month == pytest.approx(monthly)
    assert found.stderr == pytest.approx(stderr)


def test_growth_compounds_and_is_lognormal() -> None:
    growth = Growth(0.05, 0.02, planned_months=6, months=12)
    factors = growth.factors(np.array([0.0, 1.0]))
    assert factors.shape == (2, 13)
    assert factors[0, 6] == pytest.approx(1.0)  # what was planned for
    assert factors[0, 12] == pytest.approx(1.05**6)
    assert factors[1, 12] == pytest.approx(exp(6 * (log(1.05) + 0.02 / 1.05)))


@pytest.mark.parametrize("text", ["5", "5%/week", "-100%/month", "5%±-2%/month", "x"])
def test_growth_that_is_none(text: str) -> None:
    with pytest.raises(InputError):
        parse_growth(text)


def test_growth_that_overflows_is_said_so() -> None:
    with pytest.raises(InputError, match="no forecast"):
        parse_growth("900%/month", months=36)
    with pytest.raises(InputError, match="no forecast"):
        parse_growth("5%/month", planned_months=10_000.0)
