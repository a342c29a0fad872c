"""The request table: what it refuses, and what its operations keep."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.base import InputError
from twin.traffic.readers import read_trace
from twin.traffic.trace import Trace


def trace(
    arrival: list[float],
    inputs: list[float] | None = None,
    outputs: list[float] | None = None,
    **others: object,
) -> Trace:
    n = len(arrival)
    return Trace(arrival, inputs or [10] * n, outputs or [5] * n, **others)  # type: ignore[arg-type]


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    n = draw(st.integers(1, 30))
    gaps = draw(st.lists(st.floats(0, 100), min_size=n, max_size=n))
    lengths = st.lists(st.integers(1, 3000), min_size=n, max_size=n)
    inputs = draw(lengths)
    hashes = draw(st.booleans())
    return Trace(
        np.cumsum(gaps),
        np.array(inputs),
        np.array(draw(lengths)),
        session=np.array([f"s{k % 3}" for k in range(n)], dtype=object) if draw(st.booleans()) else None,
        prefix_hashes=tuple(tuple(range(k, k + -(-i // 512))) for k, i in enumerate(inputs)) if hashes else None,
    )


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: trace([]), "the trace has no requests"),
        (lambda: trace([0, float("nan")]), "arrival of request 1 is not finite"),
        (lambda: trace([0, 2, 1]), "request 2 arrives before the one above it"),
        (lambda: trace([0, 1], [1, -1]), "input_tokens of request 1 is -1"),
        (lambda: trace([0, 1], [1, float("nan")]), "input_tokens of request 1 is nan"),
        (lambda: trace([0, 1], outputs=[1, 0]), "output_tokens of request 1 is 0"),
        (lambda: trace([0, 1], outputs=[1, 1.5]), "output_tokens of request 1 is 1.5"),
        (lambda: trace([0, 1], [1]), "input_tokens has 1 rows, arrival_s 2"),
        (lambda: trace([0, 1], session=["a"]), "session has 1 rows"),
        (
            lambda: trace([0], prefix_hashes=[[1, 2]]),
            "request 0 has 2 prefix hashes of 512 tokens but only 10",
        ),
    ],
)
def test_construction_refuses(build: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        build()  # type: ignore[operator]


def test_the_clock_starts_at_the_first_arrival_and_columns_are_read_only() -> None:
    mine = np.array([5.0, 5.0, 7.0])
    made = trace(mine)  # type: ignore[arg-type]
    assert made.arrival_s.tolist() == [0, 0, 2]
    assert made.duration_s == 2
    assert len(made) == 3
    mine[0] = 99
    assert made.arrival_s[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        made.input_tokens[0] = 7


def test_slice_is_open_at_its_end() -> None:
    part = trace([0, 1, 2, 3], [1, 2, 3, 4]).slice(1, 3)
    assert part.input_tokens.tolist() == [2, 3]
    assert part.arrival_s.tolist() == [0, 1]
    with pytest.raises(InputError, match="no request arrives between 4 s and 9 s"):
        part.slice(4, 9)


@given(traces(), st.floats(0.1, 300))
def test_busiest_window_beats_every_other(made: Trace, seconds: float) -> None:
    count = len(made.busiest_window(seconds))
    ends = made.arrival_s + seconds
    held = [
        int(((made.arrival_s >= a) & (made.arrival_s < b)).sum()) for a, b in zip(made.arrival_s, ends, strict=True)
    ]
    assert count == max(held)


@given(traces(), st.floats(0.1, 10))
def test_scaling_divides_time_and_nothing_else(made: Trace, factor: float) -> None:
    scaled = made.scaled(factor)
    assert np.allclose(scaled.arrival_s * factor, made.arrival_s)
    assert (scaled.input_tokens == made.input_tokens).all()
    assert scaled.prefix_hashes == made.prefix_hashes


@given(traces(), st.integers(1, 4))
def test_repeats_are_copies_that_share_nothing(made: Trace, times: int) -> None:
    many = made.repeated(times)
    n = len(made)
    assert len(many) == n * times
    for copy in range(times):
        rows = slice(copy * n, (copy + 1) * n)
        assert np.allclose(np.diff(many.arrival_s[rows]), np.diff(made.arrival_s), atol=1e-9)
    if n > 1:  # the rate stays: n requests per (duration + one mean gap)
        mean_gap = made.duration_s / (n - 1)
        assert many.duration_s == pytest.approx(times * made.duration_s + (times - 1) * mean_gap)
    if many.prefix_hashes is not None:
        blocks = [{i for ids in many.prefix_hashes[k * n : (k + 1) * n] for i in ids} for k in range(times)]
        assert all(not a & b for a, b in pairwise(blocks))
    if many.session is not None:
        assert len(set(many.session)) == times * len(set(made.session or [])) if made.session is None else True
        assert not set(many.session[:n]) & set(many.session[n:])


@given(traces(), st.integers(2, 4000))
def test_truncation_fits_and_keeps_the_prefix(made: Trace, limit: int) -> None:
    cut, count = made.fit_context(limit, "truncate")
    long = made.input_tokens + made.output_tokens > limit
    assert count == long.sum()
    assert len(cut) == len(made)
    assert (cut.input_tokens + cut.output_tokens <= limit).all()
    assert (cut.input_tokens[~long] == made.input_tokens[~long]).all()
    assert (cut.input_tokens >= 1).all()
    if cut.prefix_hashes is not None and made.prefix_hashes is not None:
        assert all(a == b[: len(a)] for a, b in zip(cut.prefix_hashes, made.prefix_hashes, strict=True))


def test_requests_longer_than_the_context(shared: Path) -> None:
    """The figures of the issue: 309 of 5,719 Mooncake requests exceed Qwen3-32B's 40,960 tokens."""
    mooncake = read_trace(shared / "traces/mooncake_conversation_trace_0-30min.jsonl.gz")
    with pytest.raises(InputError, match=r"309 of 5,719 requests exceed .* 40,960 tokens.*--too-long"):
        mooncake.fit_context(40960)
    kept, dropped = mooncake.fit_context(40960, "drop")
    assert (len(kept), dropped) == (5719 - 309, 309)
    assert "309 of 5,719" in kept.notes[-1]
    same, none = mooncake.fit_context(10**6)
    assert same is mooncake
    assert none == 0
    with pytest.raises(InputError, match="nothing would be left"):
        mooncake.fit_context(2, "drop")


@given(traces())
def test_frame_and_back(made: Trace) -> None:
    again = Trace.from_frame(made.to_frame())
    for column in ("arrival_s", "input_tokens", "output_tokens"):
        assert (getattr(again, column) == getattr(made, column)).all()
    assert again.prefix_hashes == made.prefix_hashes
    assert (again.session is None) == (made.session is None)


def test_frame_without_a_column_and_out_of_order() -> None:
    frame = trace([0, 1, 2], [1, 2, 3]).to_frame()
    shuffled = Trace.from_frame(frame.iloc[[2, 0, 1]])
    assert shuffled.input_tokens.tolist() == [1, 2, 3]
    assert shuffled.notes == ("2 rows were out of order and sorted by arrival",)
    with pytest.raises(InputError, match="no column 'input_tokens'"):
        Trace.from_frame(frame.drop(columns="input_tokens"))
