"""Made-up traffic: its statistics against scipy's distributions, and what a seed fixes."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from twin.base import InputError
from twin.traffic.describe import describe, prefix_hits
from twin.traffic.lengths import Lengths
from twin.traffic.readers import read_trace
from twin.traffic.synthetic import SyntheticTraffic, recipe_from, synthesize
from twin.traffic.trace import Trace


def make(seed: int = 1, **fields: Any) -> Trace:
    return synthesize(recipe_from({"request_rate": 8, "input_len": 1000, "output_len": 200, **fields}), seed)


def same(a: Trace, b: Trace) -> bool:
    columns = ("arrival_s", "input_tokens", "output_tokens")
    return a.prefix_hashes == b.prefix_hashes and all(np.array_equal(getattr(a, c), getattr(b, c)) for c in columns)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_are_gamma_as_vllm_means_burstiness(burstiness: float) -> None:
    gaps = np.diff(make(burstiness=burstiness, duration_s=2500).arrival_s)
    expected = stats.gamma(burstiness, scale=1 / (8 * burstiness))
    assert stats.kstest(gaps, expected.cdf).pvalue > 1e-3
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.05)


@given(st.integers(0, 2**32), st.floats(0.2, 5), st.floats(0.01, 1000), st.integers(1, 500))
@settings(max_examples=50, deadline=None)
def test_num_requests_is_rescaled_as_vllm_does(seed: int, burstiness: float, rate: float, n: int) -> None:
    """Independent of the code: vLLM's get_request spelt out, drawing from the stream that arrivals use."""
    trace = make(seed, request_rate=rate, burstiness=burstiness, num_requests=n)
    rng = np.random.default_rng(seed).spawn(7)[0]
    delay = np.cumsum([rng.gamma(shape=burstiness, scale=1 / (rate * burstiness)) for _ in range(n)])
    delay *= (n / rate) / delay[-1]
    assert trace.arrival_s == pytest.approx(delay - delay[0], rel=1e-9, abs=1e-9 * n / rate)


def test_infinite_rate_and_infinite_burstiness() -> None:
    burst = make(request_rate=math.inf, num_requests=50)
    assert len(burst) == 50
    assert burst.duration_s == 0
    even = make(burstiness=math.inf, num_requests=50)
    assert np.diff(even.arrival_s) == pytest.approx(1 / 8)


def test_duration_gives_a_count_that_varies_with_the_seed() -> None:
    counts = [len(make(seed, duration_s="10min")) for seed in range(40)]
    assert len(set(counts)) > 10
    # a Poisson process: the count's variance is its mean, 8/s · 600 s
    assert np.mean(counts) == pytest.approx(4800, rel=0.01)
    assert 0.4 < np.var(counts) / 4800 < 2.0


def test_the_same_seed_gives_the_same_trace_and_lengths_do_not_move_arrivals() -> None:
    fields: dict[str, Any] = {
        "num_requests": 500,
        "turns": {"min": 1, "max": 6},
        "input_len": {"median": 500, "p99": 4000},
    }
    assert same(make(7, **fields), make(7, **fields))
    assert not same(make(7, **fields), make(8, **fields))
    other = make(7, **{**fields, "output_len": {"min": 5, "max": 10}})
    assert np.array_equal(other.arrival_s, make(7, **fields).arrival_s)


@pytest.mark.parametrize("burstiness", [0.5, 1.0])
def test_daily_curve_shapes_the_hours_and_keeps_the_mean(burstiness: float) -> None:
    curve = [1.0] * 8 + [3.0] * 8 + [2.0] * 8
    trace = make(request_rate=1, duration_s="4d", daily_curve=curve, start_hour=6.5, burstiness=burstiness)
    hour = ((trace.arrival_s / 3600 + 6.5) % 24).astype(int)
    per_second = np.bincount(hour, minlength=24) / (4 * 3600)
    thirds = per_second.reshape(3, 8).mean(axis=1)
    assert thirds == pytest.approx([0.5, 1.5, 1.0], rel=0.04)
    counted = make(request_rate=1, num_requests=86400, daily_curve=curve)
    assert len(counted) == 86400
    assert counted.duration_s == pytest.approx(86400, rel=1e-3)


def test_an_hour_of_zero_is_empty() -> None:
    trace = make(request_rate=1, duration_s="1d", daily_curve=[0.0] * 12 + [1.0] * 12, start_hour=6)
    # the clock starts at the first arrival, just after noon: six hours later than the recipe
    assert trace.arrival_s.max() < 12 * 3600
    with pytest.raises(InputError, match="no request arrives"):
        make(duration_s=60, daily_curve=[0.0] * 12 + [1.0] * 12)


@pytest.mark.parametrize(
    ("spec", "check"),
    [
        (300, lambda x: (x == 300).all()),
        ({"min": 3, "max": 5}, lambda x: set(x.tolist()) == {3, 4, 5}),
        ({"len": 1000, "range_ratio": 0.2}, lambda x: (x.min(), x.max()) == (800, 1200)),
        (
            {"median": 1200, "p99": 6000},
            lambda x: abs(np.median(x) - 1200) < 30 and abs(np.percentile(x, 99) - 6000) < 300,
        ),
        (
            {"median": 1200, "mean": 2000},
            lambda x: abs(np.median(x) - 1200) < 30 and abs(x.mean() - 2000) < 60,
        ),
        (
            {"median": 1200, "p99": 6000, "min": 500, "max": 3000},
            lambda x: (x.min(), x.max()) == (500, 3000),
        ),
    ],
)
def test_lengths(spec: Any, check: Any) -> None:
    lengths = Lengths.model_validate(spec)
    drawn = lengths.sample(40_000, np.random.default_rng(3))
    assert check(drawn)
    assert json.loads(lengths.model_dump_json()) == spec
    if "max" not in (spec if isinstance(spec, dict) and "median" in spec else {}):
        assert drawn.mean() == pytest.approx(lengths.average(), rel=0.02)


def test_lengths_of_a_trace_stay_in_pairs(shared: Path) -> None:
    path = shared / "traces/AzureLLMInferenceTrace_code.csv"
    trace = make(input_len=None, output_len=None, lengths_from=str(path), num_requests=3000)
    source = read_trace(path)
    pairs = set(zip(source.input_tokens.tolist(), source.output_tokens.tolist(), strict=True))
    assert set(zip(trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True)) <= pairs
    assert trace.input_tokens.mean() == pytest.approx(source.input_tokens.mean(), rel=0.05)
    override = make(input_len=None, output_len=7, lengths_from=str(path), num_requests=3000)
    assert (override.output_tokens == 7).all()
    assert np.array_equal(override.input_tokens, trace.input_tokens)


AGENT: dict[str, Any] = {
    "request_rate": 2,
    "input_len": {"median": 400, "p99": 4000},
    "output_len": 150,
    "turns": {"min": 2, "max": 30},
    "turn_gap_s": 20,
    "session_context_tokens": {"min": 5000, "max": 20000},
    "shared_prefix_tokens": 2100,
}


def test_a_session_grows_by_what_was_said() -> None:
    trace = make(**AGENT, num_requests=4000)
    assert len(trace) == 4000
    assert trace.session is not None
    assert trace.prefix_hashes is not None
    assert trace.duration_s == pytest.approx(2000, rel=0.01)
    owners: dict[int, str] = {}
    for name in set(trace.session):
        rows = np.flatnonzero(trace.session == name)
        grown = np.diff(trace.input_tokens[rows])
        assert (grown > trace.output_tokens[rows][:-1]).all()  # the answer and a new question
        for earlier, later in pairwise(rows):
            a, b = trace.prefix_hashes[earlier], trace.prefix_hashes[later]
            assert b[: len(a)] == a
        for block in trace.prefix_hashes[rows[-1]]:
            if block >= 2100 // 512:
                assert owners.setdefault(block, name) == name  # nothing private is shared
    blocks = np.array([len(ids) for ids in trace.prefix_hashes])
    assert (blocks == -(-trace.input_tokens // 512)).all()
    assert all(ids[:4] == (0, 1, 2, 3) for ids in trace.prefix_hashes)
    hits = prefix_hits(trace)
    assert hits is not None
    assert hits["hit_share_of_input_tokens"] > 0.8


def test_sessions_are_steady_from_the_first_second() -> None:
    """Sessions of 300 s on average in a trace of 2,000 s: if turns did not wrap, its start would be thin."""
    trace = make(**AGENT, num_requests=4000)
    quarters = np.histogram(trace.arrival_s, bins=4)[0] / 1000
    assert quarters == pytest.approx([1, 1, 1, 1], rel=0.15)
    by_duration = make(**AGENT, duration_s=2000)
    assert by_duration.duration_s < 2000
    assert len(by_duration) == pytest.approx(4000, rel=0.15)


def test_without_shared_beginnings_there_are_no_hashes() -> None:
    assert make(num_requests=10).prefix_hashes is None
    assert make(num_requests=10).session is None
    with_prefix = make(num_requests=100, shared_prefix_tokens=1024)
    assert (with_prefix.input_tokens == 2024).all()
    hits = prefix_hits(with_prefix)
    assert hits is not None
    assert hits["hit_share_of_input_tokens"] == pytest.approx(99 * 1024 / (100 * 2024))


def test_the_recipe_reads_naturally_and_survives_json() -> None:
    recipe = recipe_from(
        {
            "request_rate": "inf",
            "burstiness": 0.5,
            "num_requests": 2000,
            "input_len": {"median": 1200, "p99": 6000},
            "output_len": 200,
        }
    )
    text = recipe.model_dump_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert SyntheticTraffic.model_validate_json(text) == recipe
    assert SyntheticTraffic(**recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "give num_requests or duration_s, one of the two"),
        ({"num_requests": 5, "duration_s": 5}, "give num_requests or duration_s"),
        ({"num_requests": 5, "input_len": None}, "give input_len and output_len, or lengths_from"),
        ({"num_requests": 0}, "num_requests"),
        ({"num_requests": 5, "request_rate": 0}, "request_rate"),
        ({"num_requests": 5, "request_rate": float("nan")}, "request_rate"),
        ({"num_requests": 5, "request_rate": -1}, "request_rate"),
        ({"num_requests": 5, "burstiness": 0}, "burstiness"),
        ({"num_requests": 5, "request_rate": 1e-12}, "more than a year"),
        ({"duration_s": "soon"}, "does not start with a number"),
        ({"duration_s": 5, "request_rate": math.inf}, "inf sends all at once"),
        ({"duration_s": 1e7}, "more than 20,000,000 requests"),
        ({"num_requests": 5, "daily_curve": [1, 2]}, "2 multipliers, not 24"),
        ({"num_requests": 5, "daily_curve": [0] * 24}, "not all of them 0"),
        ({"num_requests": 5, "burstyness": 2}, "unknown field 'burstyness'; did you mean 'burstiness'?"),
        ({"num_requests": 5, "input_len": {"medain": 1, "p99": 2}}, "did you mean 'median'?"),
        ({"num_requests": 5, "input_len": {"median": 1}}, "give one of: a number"),
        ({"num_requests": 5, "input_len": {"median": 9, "p99": 2}}, "below the median"),
        ({"num_requests": 5, "input_len": {"min": 9, "max": 2}}, "min 9 is above max 2"),
        ({"num_requests": 5, "input_len": 0}, "input_len.len"),
        ({"num_requests": 5, "lengths_from": "nowhere.csv"}, "there is no file"),
    ],
)
def test_bad_recipes_are_one_sentence(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        make(**fields)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_negative_seed() -> None:
    with pytest.raises(InputError, match="seed"):
        make(-1, num_requests=5)


def test_the_description_of_a_synthetic_trace_is_what_was_asked_for() -> None:
    figures = describe(make(num_requests=20_000, burstiness=0.5, input_len={"median": 1200, "p99": 6000}))
    assert figures["mean_rate_per_s"] == pytest.approx(8, rel=1e-3)
    assert figures["interarrival_cv"] == pytest.approx(2**0.5, rel=0.03)
    assert figures["input_tokens"]["p50"] == pytest.approx(1200, rel=0.03)
