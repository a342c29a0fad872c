"""The lists of names: what they say is what ``--gpu`` and ``--model`` take."""

from __future__ import annotations

import csv
import io
import json

import pytest

from twin.cli.main import main
from twin.spec.hardware import load_profile
from twin.spec.model import load_model


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_hardware_list(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(_run(capsys, "hardware", "list", "--format", "json"))
    assert list(data) == ["schema_version", "profiles"]
    assert {row["name"] for row in data["profiles"]} >= {
        "a100_sxm",
        "l40s",
        "h100_sxm",
        "h200_sxm",
        "b200_sxm",
    }
    for row in data["profiles"]:
        assert row["memory_bytes"] == load_profile(row["name"]).facts.memory_bytes.value
        assert row["origin"] in ("measured", "fitted", "datasheet", "assumed")


def test_model_list(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(_run(capsys, "model", "list", "--format", "json"))
    assert list(data) == ["schema_version", "models"]
    for row in data["models"]:
        assert load_model(row["name"]).num_parameters == row["parameters"]


@pytest.mark.parametrize("what", ["hardware", "model"])
def test_every_format_names_every_row(capsys: pytest.CaptureFixture[str], what: str) -> None:
    table = list(csv.DictReader(io.StringIO(_run(capsys, what, "list", "--format", "csv"))))
    for fmt in ("table", "md", "json"):
        text = _run(capsys, what, "list", "--format", fmt)
        assert all(row["name"] in text for row in table)
