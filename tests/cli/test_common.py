"""The frame of the command line: output formats, whole files, and every way of ending."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from twin import __version__
from twin.base import Estimate, InfeasibleError, TwinError
from twin.cli import common
from twin.cli.common import Format, emit, json_text, note, write_atomic
from twin.cli.main import main

ROWS = [{"a": 1, "b": "x|y"}, {"a": 2.5, "c": [1, 2]}, {"a": math.nan}]


def _table() -> Table:
    table = Table("a", "b")
    table.add_row("1", "wide " * 40)
    return table


def _emit(capsys: pytest.CaptureFixture[str], fmt: Format, **more: object) -> str:
    emit({"z": 1, "rows": ROWS}, fmt=fmt, table=_table, rows=ROWS, **more)  # type: ignore[arg-type]
    return capsys.readouterr().out


def _twin(code: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """``twin arguments`` in a process of its own, after ``code`` has changed ``m`` (twin.cli.main)."""
    program = f"import sys, typer, twin.cli.main as m\n{code}\nsys.exit(m.main(sys.argv[1:]))"
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", program, *arguments], text=True, **{"capture_output": True, **options}
    )


def _failing(statement: str) -> str:
    """Code that replaces the application by one whose command ``x`` runs ``statement``."""
    return f"""
from pathlib import Path
from twin.base import InfeasibleError, ThresholdError
from twin.cli.common import Format, emit
app = typer.Typer()
@app.callback()
def root(): pass
@app.command("x")
def x(fmt: Format = typer.Option(Format.table, "--format")):
    {statement}
m.build_app = lambda: app
"""


def test_json_is_one_object_with_the_version_first(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(_emit(capsys, Format.json))
    assert list(data) == ["schema_version", "z", "rows"]
    assert data["schema_version"] == 1
    assert data["rows"][2]["a"] is None


def test_json_takes_what_the_rooms_hold() -> None:
    class Kind(Enum):
        one = "1"

    payload = {
        "np": np.float64(1.5),
        "array": np.array([1.0, math.inf]),
        "estimate": Estimate(value=1.0, origin="measured"),
        "path": Path("x/y"),
        "kind": Kind.one,
        "set": {"b", "a"},
    }
    data = json.loads(json_text(payload))
    assert data["np"] == 1.5
    assert data["array"] == [1.0, None]
    assert data["estimate"]["origin"] == "measured"
    assert (data["path"], data["kind"], data["set"]) == ("x/y", "1", ["a", "b"])


@given(st.dictionaries(st.text(), st.floats() | st.text() | st.integers() | st.lists(st.floats())))
def test_json_is_strict_and_repeats(payload: dict[str, object]) -> None:
    def refuse(word: str) -> float:
        raise AssertionError(word)

    text = json_text(payload)
    assert text == json_text(payload)
    json.loads(text, parse_constant=refuse)


def test_csv_and_md_come_from_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert _emit(capsys, Format.csv).splitlines() == ["a,b,c", "1,x|y,", '2.5,,"[1, 2]"', ",,"]
    assert _emit(capsys, Format.md).splitlines()[2] == "| 1 | x\\|y |  |"


def test_table_keeps_to_100_columns_off_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    lines = _emit(capsys, Format.table).splitlines()
    assert max(map(len, lines)) == 100


def test_out_holds_what_stdout_holds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "new" / "result.json"
    printed = _emit(capsys, Format.json, out=target)
    assert target.read_text() == printed


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.txt"
    target.write_text("before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(common.os, "replace", fail)
    with pytest.raises(TwinError, match=r"a\.txt: cannot write: No space left") as caught:
        write_atomic(target, "after")
    assert caught.value.exit_code == 1
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_is_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TwinError, match="cannot write"):
        write_atomic(tmp_path / "file" / "a.txt", b"x")


def test_nothing_is_printed_when_out_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TwinError):
        _emit(capsys, Format.json, out=tmp_path / "file" / "a.json")
    assert capsys.readouterr().out == ""


def test_notes_go_to_stderr_unless_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    note("one")
    token = common.session.set(common.Session(quiet=True))
    note("two")
    common.session.reset(token)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "one\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"twin {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--verson"], "'--version'"),
        (["hardware", "list", "--formt", "json"], "'--format'"),
        (["hardwar"], "'hardware'"),
        (["hardware", "list", "--format", "xml"], "'table', 'json', 'csv', 'md'"),
        (["hardware", "list", "surplus"], "surplus"),
    ],
)
def test_usage_errors_are_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: twin")
    assert said in captured.err


@pytest.mark.parametrize("arguments", [["hardware", "lst", "--format", "json"], ["--format=json", "hardware", "list"]])
def test_usage_errors_are_an_object_too(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 2
    data = json.loads(capsys.readouterr().out)
    assert list(data) == ["schema_version", "error"]
    assert data["error"]["type"] == "InputError"
    assert data["error"]["exit_code"] == 2


def test_flags_for_all_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "list", "--quiet", "--debug", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"]


def test_help_lists_commands_and_nothing_else_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    captured = capsys.readouterr()
    assert "hardware" in captured.out
    assert "traffic" in captured.out
    assert captured.err == ""


def test_exit_codes_of_the_error_tree() -> None:
    ended = _twin(_failing("raise InfeasibleError('too big', allowed=[1])"), "x", "--format", "json")
    assert ended.returncode == InfeasibleError.exit_code == 3
    assert ended.stderr == "error: too big (allowed: 1)\n"
    assert json.loads(ended.stdout)["error"]["allowed"] == ["1"]


def test_an_error_after_the_result_adds_no_second_object() -> None:
    code = _failing("emit({'a': 1}, fmt=fmt, table=str); raise ThresholdError('5 % is above 4 %')")
    ended = _twin(code, "x", "--format", "json")
    assert ended.returncode == 4
    assert json.loads(ended.stdout) == {"schema_version": 1, "a": 1}
    assert ended.stderr == "error: 5 % is above 4 %\n"


def test_a_command_may_return_its_exit_code() -> None:
    assert _twin(_failing("return 3"), "x").returncode == 3
    assert _twin(_failing("raise typer.Exit(4)"), "x").returncode == 4


def test_interrupted_is_130() -> None:
    ended = _twin(_failing("raise KeyboardInterrupt"), "x")
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr


def test_a_defect_is_one_line_and_a_traceback_only_on_request() -> None:
    code = _failing("raise ZeroDivisionError('a\\nb')")
    ended = _twin(code, "x", "--format", "json")
    assert ended.returncode == 1
    assert ended.stderr == "error: internal error: ZeroDivisionError: a b; run again with --debug\n"
    assert "ZeroDivisionError" in json.loads(ended.stdout)["error"]["message"]
    ended = _twin(code, "x", "--debug")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


def test_debug_shows_where_an_input_error_was_raised() -> None:
    code = _failing("raise InfeasibleError('too big')")
    assert "Traceback" not in _twin(code, "x").stderr
    assert "Traceback" in _twin(code, "x", "--debug").stderr


def test_a_file_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    ended = _twin(_failing(f"open({str(tmp_path / 'none')!r})"), "x")
    assert ended.returncode == 1
    assert ended.stderr == f"error: {tmp_path / 'none'}: No such file or directory\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_one_sentence() -> None:
    with open("/dev/full", "w") as full:
        ended = _twin(
            "", "model", "list", "--format", "json", stdout=full, stderr=subprocess.PIPE, capture_output=False
        )
    assert ended.returncode == 1
    assert ended.stderr == "error: output: No space left on device\n"


def test_a_reader_that_leaves_is_no_drama() -> None:
    code = _failing("[print('x' * 100) for _ in range(10_000)]")
    program = f"import sys, typer, twin.cli.main as m\n{code}\nsys.exit(m.main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", program, "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        stderr = process.stderr.read()
    assert process.returncode == 1
    assert stderr == b""


def test_help_imports_no_heavy_room() -> None:
    """What keeps it under half a second, which the benchmark measures."""
    heavy = "numpy", "pandas", "pyarrow", "simpy", "pymoo", "scipy", "yaml"
    said = f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    code = f"import atexit; atexit.register(lambda: {said})"
    assert _twin(code, "--help").stderr == "[]\n"
