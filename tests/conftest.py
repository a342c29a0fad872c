"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest

pytest_plugins = ["planning", "asked_runs"]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real traces, ground truth and prices that lie beside the checkout; a user's clone does not have them."""
    folder = ROOT.parent / "shared"
    if not (folder / "traces").is_dir():
        pytest.skip("needs the real traces in ../shared, which this checkout does not have beside it")
    return folder


@pytest.fixture
def oracle() -> Path:
    """The Python of the real vLLM that ``make oracle`` builds."""
    folder = Path(os.environ.get("TWIN_ORACLE", ""))
    if not (folder / "bin" / "python").exists():
        pytest.skip("needs vLLM in an environment of its own (make oracle)")
    return folder / "bin" / "python"
