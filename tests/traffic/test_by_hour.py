"""A trace cut into days and hours, and into bins: every request is in one cell, and a cell says its rate."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.traffic.bins import lengths, rates
from twin.traffic.by_hour import load_by_hour
from twin.traffic.readers import read_trace
from twin.traffic.trace import Trace


def trace(*arrivals: float, started_at: datetime | None = None) -> Trace:
    ones = np.ones(len(arrivals), dtype=np.int64)
    return Trace(np.array(arrivals, dtype=np.float64), ones, 2 * ones, started_at=started_at)


def test_days_begin_at_midnight_of_the_files_clock() -> None:
    every_ten_minutes = np.arange(0, 40 * 3600, 600)
    heat = load_by_hour(trace(*every_ten_minutes, started_at=datetime(2026, 11, 1, 22, 30)))
    assert heat["rows"] == ["2026-11-01", "2026-11-02", "2026-11-03"]
    assert heat["columns"][0] == "00:00"
    assert heat["columns"][23] == "23:00"
    assert heat["clock"] == "of the file"
    first = heat["values"][0]
    assert first[:22] == [None] * 22
    assert first[22] == pytest.approx(3 / 1800)  # half of the hour is covered
    assert first[23] == pytest.approx(6 / 3600)
    assert heat["values"][2][15:] == [None] * 9


def test_without_a_clock_the_first_request_is_the_beginning() -> None:
    heat = load_by_hour(trace(*np.arange(0, 30 * 3600, 600)))
    assert heat["rows"] == ["day 1", "day 2"]
    assert heat["columns"][:2] == ["0 h", "1 h"]
    assert heat["clock"] == "since the first request"


@pytest.mark.parametrize(
    ("seconds", "rows", "columns"),
    [(3500, 12, 5), (3601, 2, 12), (86_400, 25, 12), (86_401, 2, 24), (60, 1, 5)],
)
def test_a_shorter_trace_is_cut_finer(seconds: float, rows: int, columns: int) -> None:
    heat = load_by_hour(trace(*np.linspace(0, seconds, 2000)))
    assert (len(heat["rows"]), len(heat["columns"])) == (rows, columns)
    assert [len(row) for row in heat["values"]] == [columns] * rows
    assert len(set(heat["rows"])) == rows


def test_hours_of_two_days_have_names_of_their_own() -> None:
    heat = load_by_hour(trace(*np.linspace(0, 86_000, 500), started_at=datetime(2026, 3, 1, 14, 59)))
    assert len(set(heat["rows"])) == len(heat["rows"]) == 25


def test_what_spans_more_than_a_year_has_no_picture() -> None:
    assert load_by_hour(trace(0.0, 1e12))["rows"] == []


def test_one_instant_is_no_rate() -> None:
    assert load_by_hour(trace(0.0, 0.0))["values"] == [[None] * 5]
    assert rates(trace(0.0, 0.0))["requests_per_s"] == [None]


gaps = st.lists(st.floats(0, 20_000), min_size=1, max_size=200)


@given(gaps)
def test_every_request_is_counted_once(between: list[float]) -> None:
    made = trace(*np.cumsum(between))
    bins = rates(made)
    assert sum(bins["requests"]) == len(made)
    assert len(bins["start_s"]) <= 240
    for start, count, rate in zip(bins["start_s"], bins["requests"], bins["requests_per_s"], strict=True):
        covered = min(bins["bin_s"], made.duration_s - start)
        assert rate is None or rate * covered == pytest.approx(count)


@given(st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=300))
def test_every_length_is_in_its_bin(tokens: list[int]) -> None:
    bins = lengths(np.array(tokens))
    assert sum(bins["requests"]) == len(tokens)
    for low, high, count in zip(bins["from"], bins["to"], bins["requests"], strict=True):
        assert count == sum(low <= value <= high for value in tokens)


def test_a_traces_clock_follows_its_cuts(shared) -> None:
    whole = read_trace(shared / "traces" / "AzureLLMInferenceTrace_conv.csv")
    assert whole.started_at is not None
    assert whole.started_at.strftime("%Y-%m-%d %H:%M:%S") == "2023-11-16 18:15:46"
    part = whole.slice(600.0, 900.0)
    assert part.started_at == whole.clock_at(float(whole.arrival_s[np.searchsorted(whole.arrival_s, 600.0)]))
    assert Trace.from_frame(whole.to_frame()).started_at == whole.started_at
    assert whole.scaled(2.0).started_at is None
