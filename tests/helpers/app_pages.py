"""Pages of the dashboard under Streamlit's AppTest, and what the command line says of the same."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from twin.cli.main import main
from twin.show import shell
from twin.show.chart import Chart


def opened(page: str, **params: str | list[str]) -> AppTest:
    """The page as its URL asks for it, run once."""
    logging.getLogger("streamlit").disabled = True  # its handler keeps the stream of the first test
    logging.getLogger("streamlit.runtime.scriptrunner_utils.script_run_context").disabled = True
    app = AppTest.from_string(f"from twin.show.pages.{page} import page\npage()", default_timeout=120)
    for name, value in params.items():
        app.query_params[name] = value
    return ran(app)


def ran(app: AppTest) -> AppTest:
    """Run again; a traceback on the page fails the test."""
    app.run()
    assert [item.message for item in app.exception] == []
    return app


def shown(app: AppTest) -> dict[str, str]:
    """Key figures by their label."""
    return {item.label: item.value for item in app.metric}


def sentence(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The error of a command, as a page shows it."""
    capsys.readouterr()
    assert main([*words]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    return shell.plain(said[0])


def cli(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """The JSON that a command prints."""
    capsys.readouterr()
    main([*words, "--format", "json"])
    return dict(json.loads(capsys.readouterr().out))


class Drawn:
    """Charts and downloads that a page makes, instead of drawing them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.charts: dict[str, Chart] = {}
        self.files: dict[str, str | bytes | Callable[[], str | bytes]] = {}
        monkeypatch.setattr(shell, "chart", self._chart)
        monkeypatch.setattr(shell, "downloads", self._downloads)

    def _chart(self, drawn: Chart, *, select: bool = False) -> list[str]:
        self.charts[drawn.key] = drawn
        return []

    def _downloads(self, items: list[shell.Download]) -> None:
        self.files |= {item.label: item.data for item in items}

    def file(self, label: str) -> str:
        """What a click on the button would save."""
        data = self.files[label]
        data = data() if callable(data) else data
        return data if isinstance(data, str) else data.decode()
