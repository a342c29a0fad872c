"""The run folder: complete or not there; and the formulas of money."""

from __future__ import annotations

import doctest
import json
from array import array
from pathlib import Path

import pandas as pd
import pytest

from twin.base import TwinError
from twin.cluster.requests import RequestTable
from twin.results import money
from twin.results.run import write_run

TABLE = RequestTable.of([array("d", [0, 0.0, 0.0, 0.1, 1.0, 3.0, 100, 5, 0, 0, 0])])


def write(parent: Path) -> Path:
    return write_run(
        parent,
        "r",
        scenario_yaml="a: 1\n",
        vllm_version="0.32",
        manifest={"seed": 3},
        documents={"summary.json": {"x": 1.5}},
        requests=TABLE,
    )


def test_a_run_folder_is_complete_and_the_next_has_a_number(tmp_path: Path) -> None:
    first, second, third = (write(tmp_path / "runs") for _ in range(3))
    assert [folder.name for folder in (first, second, third)] == ["r", "r-2", "r-3"]
    manifest = json.loads((first / "manifest.json").read_text())
    assert manifest["seed"] == 3
    assert manifest["vllm_version_modelled"]
    frame = pd.read_parquet(first / "requests.parquet")
    assert frame.loc[0, "output_tokens"] == 5
    assert frame["input_tokens"].dtype == "int64"


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_run(tmp_path, "r", scenario_yaml="", manifest={}, documents={"x.json": {"bad": object()}})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(TwinError, match="cannot write"):
        write(tmp_path / "file")


def test_money_examples() -> None:
    assert doctest.testmod(money).failed == 0
