"""Hashes of what went into a run: of content, never of a place."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from twin.base import InputError
from twin.results.hashes import file_hash, price_book_hash, traffic_hash
from twin.spec.scenario import Traffic
from twin.traffic.synthetic import recipe_from

RECIPE = {"request_rate": 3, "num_requests": 100, "input_len": 700, "output_len": 110}


def test_a_file_is_hashed_by_its_bytes_and_named_without_its_folder(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "trace.csv", tmp_path / "b" / "trace.csv"
    for file in (first, second):
        file.parent.mkdir()
        file.write_bytes(b"arrived_at\n")
    found = traffic_hash(Traffic(trace=str(first)))
    assert found == {"name": "trace.csv", "sha256": hashlib.sha256(b"arrived_at\n").hexdigest()} == file_hash(second)
    second.write_bytes(b"arrived_at\n1\n")
    assert file_hash(second)["sha256"] != found["sha256"]
    with pytest.raises(InputError, match="cannot read it"):
        file_hash(tmp_path / "gone")


def test_a_recipe_is_hashed_by_what_it_says(tmp_path: Path) -> None:
    def of(**more: object) -> str:
        return traffic_hash(Traffic(synthetic=recipe_from({**RECIPE, **more})))["sha256"]

    assert of() == traffic_hash(Traffic(synthetic=recipe_from(dict(reversed(RECIPE.items())))))["sha256"]
    assert of(request_rate=4) != of()
    lengths = tmp_path / "lengths.csv"
    lengths.write_text("one")
    drawn = of(lengths_from=str(lengths))
    moved = tmp_path / "elsewhere" / "lengths.csv"
    moved.parent.mkdir()
    lengths.rename(moved)
    assert of(lengths_from=str(moved)) == drawn
    moved.write_text("another")
    assert of(lengths_from=str(moved)) != drawn


def test_without_a_book_of_the_user_s_the_shipped_one_is_named(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("prices: {}\n")
    assert price_book_hash(None)["name"] == "prices.yaml"
    assert price_book_hash(own) == file_hash(own)
