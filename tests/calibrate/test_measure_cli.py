"""``twin calibrate kernels``: another interpreter does the work, its result and its errors become ours."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from test_measure_log import GEMM, MACHINE
from typer.testing import CliRunner

from calibrate.measure.__main__ import Reporter
from calibrate.measure.__main__ import main as measure_main
from twin.base import InputError, TwinError
from twin.cli import calibrate_kernels
from twin.cli.calibrate_kernels import find_python, kernels, measure


def stand_in(folder: Path, body: str) -> Path:
    """A 'Python' that runs ``body`` (with ``arguments`` after ``-m calibrate.measure``) instead of measuring."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport json, sys\narguments = sys.argv[3:]\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(kernels)
    return app


def test_the_log_of_the_other_python_becomes_the_result(app: typer.Typer, tmp_path: Path) -> None:
    log = tmp_path / "a.jsonl"
    log.write_text(json.dumps({"machine": MACHINE}) + "\n" + json.dumps(GEMM) + "\n")
    python = stand_in(tmp_path, 'print(json.dumps({"planned": 1, "measured": 1, "kept": 0, "refused": {}}))')
    found = CliRunner().invoke(
        app, ["--device", "cpu", "--out", str(log), "--python", str(python), "--format", "json"], catch_exceptions=False
    )
    result = json.loads(found.stdout)
    assert result["measured"] == 1
    assert result["machine"]["name"] == "a CPU"
    assert result["families"][0]["best_flops_per_s"] == pytest.approx(1.64e7, rel=0.01)
    for fmt, word in (("table", "Measured kernels"), ("csv", "gemm,bf16,1"), ("md", "| gemm | bf16 |")):
        arguments = ["--device", "cpu", "--out", str(log), "--python", str(python), "--format", fmt]
        assert word in CliRunner().invoke(app, arguments, catch_exceptions=False).stdout


def test_options_reach_the_other_python(app: typer.Typer, tmp_path: Path) -> None:
    log = tmp_path / "a.jsonl"
    log.write_text(json.dumps({"machine": MACHINE}) + "\n")
    body = f"open({str(tmp_path / 'said')!r}, 'w').write(json.dumps(arguments))\nprint('{{}}')"
    asked = ["--quick", "--family", "gemm", "--family", "copy", "--dtype", "int8", "--threads", "2", "--wait", "5s"]
    arguments = ["--device", "cpu", "--out", str(log), "--python", str(stand_in(tmp_path, body)), *asked]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    said = json.loads((tmp_path / "said").read_text())
    assert sorted(said) == sorted(["--device", "cpu", "--out", str(log), *asked])


def test_an_error_of_the_other_python_is_ours(tmp_path: Path) -> None:
    error = InputError("the CPU is busy", where="a.jsonl:3", allowed=["cpu"], nearest="cpu").as_json()
    python = stand_in(tmp_path, f"print(json.dumps({{'error': {error!r}}})); sys.exit(2)")
    with pytest.raises(InputError, match=r"a\.jsonl:3: the CPU is busy; did you mean 'cpu'\? \(allowed: cpu\)"):
        measure(python, [])


def test_a_child_that_dies_or_is_no_python_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TwinError, match="ended with code 7 and no result"):
        measure(stand_in(tmp_path, "sys.exit(7)"), [])
    with pytest.raises(InputError, match="cannot run Python: No such file"):
        measure(tmp_path / "none", [])


def test_an_interrupted_child_is_no_result(tmp_path: Path) -> None:
    assert measure(stand_in(tmp_path, "sys.exit(130)"), []) is None


def test_a_signal_to_us_alone_is_handed_on(tmp_path: Path) -> None:
    body = "import time\ntry:\n    print('{}', file=sys.stderr, flush=True)\n    time.sleep(60)\n"
    body += f"except KeyboardInterrupt:\n    open({str(tmp_path / 'heard')!r}, 'w')\n    sys.exit(130)"
    python = stand_in(tmp_path, body)
    script = "import sys; from pathlib import Path; from twin.cli.calibrate_kernels import measure\n"
    script += f"sys.exit(130 if measure(Path({str(python)!r}), []) is None else 0)"
    us = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert us.stderr is not None
    us.stderr.readline()
    time.sleep(0.1)
    us.send_signal(signal.SIGINT)
    assert us.wait(20) == 130
    us.stderr.close()
    assert (tmp_path / "heard").exists()


def test_only_our_packages_are_lent_to_the_other_python(tmp_path: Path) -> None:
    body = "import os; print(json.dumps({'there': sorted(os.listdir(os.environ['PYTHONPATH']))}))"
    assert measure(stand_in(tmp_path, body), []) == {"there": ["calibrate", "twin"]}


def test_which_python_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = calibrate_kernels.importlib.util.find_spec
    monkeypatch.setattr(
        calibrate_kernels.importlib.util, "find_spec", lambda name: None if name == "torch" else real(name)
    )
    monkeypatch.setenv("TWIN_ORACLE", "")
    with pytest.raises(InputError, match=r"pip install 'twin\[calibrate\]'"):
        find_python()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("")
    monkeypatch.setenv("TWIN_ORACLE", str(tmp_path))
    assert find_python() == tmp_path / "bin" / "python"
    monkeypatch.setattr(calibrate_kernels.importlib.util, "find_spec", lambda _: True)
    assert find_python() == Path(sys.executable)


def test_the_module_tells_its_error_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--out", str(tmp_path / "a.jsonl"), "--wait", "soon"]
    assert measure_main(arguments) == 2
    assert "--wait" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert not os.listdir(tmp_path)


def test_progress_is_rare_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(quiet=False)
    for i in range(5):
        reporter.progress(f"{i}/5")
    Reporter(quiet=True).tell("nothing")
    assert capsys.readouterr().err == "0/5\n"
