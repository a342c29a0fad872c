"""What is written reads back the same, and is written whole or not at all."""

import os
from pathlib import Path

import numpy as np
import pytest

from twin.base import InputError, TwinError
from twin.traffic.flags import parse_lengths, parse_numbers, parse_rate_factor
from twin.traffic.readers import load, read_trace, recognise
from twin.traffic.synthetic import recipe_from, synthesize
from twin.traffic.trace import Trace
from twin.traffic.writers import write_trace

RECIPE = {
    "request_rate": 3.7,
    "num_requests": 200,
    "input_len": {"median": 900, "p99": 5000},
    "output_len": 70,
    "turns": {"min": 1, "max": 5},
}


@pytest.fixture
def trace() -> Trace:
    return synthesize(recipe_from(RECIPE), 5)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.jsonl.gz"])
def test_round_trip(tmp_path: Path, trace: Trace, name: str) -> None:
    path = tmp_path / name
    write_trace(trace, path)
    assert recognise(load(path)) == ("mooncake" if "jsonl" in name else "csv")
    again = read_trace(path)
    assert again.arrival_s == pytest.approx(trace.arrival_s, abs=1e-9 if "jsonl" in name else 0.0)
    assert np.array_equal(again.input_tokens, trace.input_tokens)
    assert np.array_equal(again.output_tokens, trace.output_tokens)
    assert again.session is not None
    assert again.session.tolist() == trace.session.tolist()  # type: ignore[union-attr]
    assert again.prefix_hashes == (trace.prefix_hashes if "jsonl" in name else None)
    assert again.notes == ()
    assert os.listdir(tmp_path) == [name]


def test_mooncake_comes_back_byte_for_byte_in_its_fields(shared: Path, tmp_path: Path) -> None:
    source = shared / "traces/mooncake_conversation_trace_head200.jsonl"
    write_trace(read_trace(source), tmp_path / "t.jsonl")
    assert (tmp_path / "t.jsonl").read_text().strip() == source.read_text().strip()


def test_the_same_trace_gives_the_same_bytes(tmp_path: Path, trace: Trace) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_trace(trace, tmp_path / name)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_what_cannot_be_written(tmp_path: Path, trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "no" / "folder.csv", tmp_path):
        with pytest.raises(TwinError, match="cannot write") as caught:
            write_trace(trace, path)
        assert caught.value.exit_code == 1
    with pytest.raises(InputError, match="did you mean 'mooncake'"):
        write_trace(trace, tmp_path / "t", "moncake")
    other = Trace(
        trace.arrival_s,
        trace.input_tokens,
        trace.output_tokens,
        prefix_hashes=((),) * 200,
        hash_block_tokens=16,
    )
    with pytest.raises(TwinError, match="512 tokens, this trace's 16"):
        write_trace(other, tmp_path / "t.jsonl")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "old.csv").write_text("old")
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(TwinError, match="No space left"):
        write_trace(trace, tmp_path / "old.csv")
    assert os.listdir(tmp_path) == ["old.csv"]
    assert (tmp_path / "old.csv").read_text() == "old"


@pytest.mark.parametrize(("text", "value"), [("2", 2), ("×2", 2), ("x0.5", 0.5), ("1.5x", 1.5), (" ×3 ", 3)])
def test_rate_factor(text: str, value: float) -> None:
    assert parse_rate_factor(text) == value


@pytest.mark.parametrize("text", ["", "0", "-2", "fast", "2%", "inf", "2xx2"])
def test_bad_rate_factor(text: str) -> None:
    with pytest.raises(InputError, match="--rate"):
        parse_rate_factor(text)


def test_lengths_and_numbers_on_the_command_line() -> None:
    assert parse_lengths("1200", what="--input-len") == 1200
    assert parse_lengths("median=1200, p99=6e3", what="--input-len") == {"median": 1200, "p99": 6000}
    assert parse_numbers("1,2,0.5", what="--daily-curve") == (1, 2, 0.5)
    for text in ("1.5k", "median=", "median=x", "1200 tokens"):
        with pytest.raises(InputError, match="--input-len"):
            parse_lengths(text, what="--input-len")
