"""One small plan, made once for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import planned


@pytest.fixture(scope="session")
def plan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planned(tmp_path_factory.mktemp("runs"))
