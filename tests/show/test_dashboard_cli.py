"""``twin dashboard`` serves this machine alone, says in a sentence what stands in its way, and its pages are found."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from twin.cli.dashboard import _loopback, _script
from twin.cli.main import main
from twin.show.dashboard import PAGES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def _free() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_port_that_is_taken_is_one_sentence(taken: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "--no-open", "--port", str(taken)]) == 2
    assert capsys.readouterr().err == f"error: port {taken} is taken; choose another with --port\n"


def test_folders_are_checked_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main(["dashboard", "--traces", str(tmp_path / "none")]) == 2
    assert "no such folder of traces" in capsys.readouterr().err
    assert main(["dashboard", "--runs", str(file)]) == 2
    assert "it is a file" in capsys.readouterr().err
    assert main(["dashboard", "--address", "no.such.address.invalid", "--port", str(_free())]) == 2
    assert "is no address of this machine" in capsys.readouterr().err


def test_without_streamlit_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("twin.cli.dashboard.find_spec", lambda name: None if name == "streamlit" else found(name))
    assert main(["dashboard"]) == 2
    assert capsys.readouterr().err == "error: the dashboard needs streamlit: pip install 'twin[dashboard]'\n"


@pytest.mark.parametrize(
    ("address", "alone"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.1.2.3", False)],
)
def test_which_addresses_are_this_machine_alone(address: str, alone: bool) -> None:
    assert _loopback(address) is alone


def test_the_help_imports_no_page() -> None:
    code = "import sys; from twin.cli.main import main; main(['--help']); sys.exit('streamlit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_it_serves_answers_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    port = _free()
    command = [sys.executable, "-m", "twin", "dashboard", "--no-open", "--port", str(port), "--runs", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert _answer(f"http://127.0.0.1:{port}/_stcore/health", server) == "ok"
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((_own_address(), port), timeout=2).close()
        finally:
            server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=30)
    assert f"dashboard: http://localhost:{port}" in said
    assert "warning" not in said
    assert "Traceback" not in said


def _own_address() -> str:
    """Of this machine in its network; another loopback address where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.2"
        return str(sock.getsockname()[0])


def _answer(url: str, server: subprocess.Popen[str]) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return str(answer.read().decode())
        except OSError:
            assert server.poll() is None, "it ended"
            time.sleep(0.05)
    raise AssertionError("it never answered")


def test_the_script_lies_beside_no_folder_of_pages() -> None:
    """Streamlit would take such a folder's files for pages of its own."""
    assert _script() == ROOT / "app.py"
    assert not (_script().parent / "pages").exists()


def test_the_first_page_is_the_plan_and_all_pages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_RUNS", str(tmp_path))
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30).run()
    assert not page.exception
    assert page.title[0].value == "Plan"
    for name in PAGES:
        assert importlib.util.find_spec(f"twin.show.pages.{name}"), name


def test_the_first_page_imports_no_other() -> None:
    """What it imports is what its first visitor waits for."""
    code = (
        "import sys, twin.show.dashboard, twin.show.pages.plan;"
        "print({'simpy', 'pymoo', 'matplotlib', 'SALib', 'twin.results.run'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_how_streamlit_runs_is_written_once() -> None:
    ours = ROOT / "twin" / "show" / "streamlit.toml"
    assert (ROOT / ".streamlit" / "config.toml").resolve() == ours
    settings = tomllib.loads(ours.read_text(encoding="utf-8"))
    assert settings["server"]["address"] == "127.0.0.1"
    assert settings["browser"]["gatherUsageStats"] is False
