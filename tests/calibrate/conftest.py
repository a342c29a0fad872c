"""The made-up database as a fixture."""

from pathlib import Path

import pytest
from made_up import write_database


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return write_database(tmp_path)
