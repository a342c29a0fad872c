"""The commands ``twin traffic show | synth | scale | convert``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from twin.base import InputError, TwinError
from twin.cli.traffic import traffic_app
from twin.traffic.readers import read_trace

SYNTH = ["synth", "--request-rate", "8", "--input-len", "median=1200,p99=6000", "--output-len", "200"]


def run(*args: object) -> Result:
    return CliRunner().invoke(traffic_app, [str(a) for a in args])


def ok(*args: object) -> Result:
    result = run(*args)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture
def made(tmp_path: Path) -> Path:
    ok(*SYNTH, "--num-requests", 300, "--turns", "min=1,max=4", "--seed", 3, "--out", tmp_path / "made.jsonl")
    return tmp_path / "made.jsonl"


def test_show_as_json_is_one_object_and_nothing_else(made: Path, tmp_path: Path) -> None:
    result = ok("show", made, "--format", "json", "--out", tmp_path / "figures.json")
    figures = json.loads(result.stdout)
    assert figures["schema_version"]
    assert figures["requests"] == 300
    assert figures["prefix"]["hash_block_tokens"] == 512
    assert str(tmp_path) not in result.stdout
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written.items() <= figures.items()


@pytest.mark.parametrize("format", ["table", "csv", "md"])
def test_show_in_every_other_format(made: Path, format: str) -> None:
    shown = ok("show", made, "--format", format).stdout
    assert "input_tokens.p99" in shown
    assert "300" in shown


def test_notes_go_to_stderr_unless_quiet(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("time,isl,osl\n1,1,1\n0,1,1\n2,1,0\n")
    loud = ok("show", path, "--format", "json")
    assert "1 row was out of order" in loud.stderr
    assert "1 row was dropped" in loud.stderr
    assert json.loads(loud.stdout)["requests"] == 2
    assert ok("show", path, "--format", "json", "--quiet").stderr == ""


def test_synth_repeats_byte_for_byte_and_says_its_recipe() -> None:
    first, second = (ok(*SYNTH, "--seed", 4, "--format", "json").stdout for _ in range(2))
    assert first == second
    assert first != ok(*SYNTH, "--seed", 5, "--format", "json").stdout
    figures = json.loads(first)
    assert figures["requests"] == 1000  # as vllm bench serve, when neither a number nor a duration is given
    assert figures["recipe"]["input_len"] == {"median": 1200, "p99": 6000}
    assert figures["seed"] == 4


def test_synth_csv_on_stdout_is_a_trace(tmp_path: Path) -> None:
    text = ok(*SYNTH, "--duration", "2min", "--burstiness", "0.5", "--format", "csv").stdout
    path = tmp_path / "t.csv"
    path.write_text(text)
    trace = read_trace(path)
    assert 100 < trace.duration_s <= 120
    assert (trace.output_tokens == 200).all()


def test_synth_lengths_from_a_trace(made: Path, tmp_path: Path) -> None:
    ok(
        "synth",
        "--request-rate",
        "inf",
        "--lengths-from",
        made,
        "--num-prompts",
        50,
        "--out",
        tmp_path / "b.csv",
    )
    trace = read_trace(tmp_path / "b.csv")
    assert len(trace) == 50
    assert trace.duration_s == 0
    assert set(trace.input_tokens) <= set(read_trace(made).input_tokens)


def test_scale_and_convert(made: Path, tmp_path: Path) -> None:
    ok("scale", made, "--rate", "×2", "--out", tmp_path / "fast.jsonl.gz")
    before, after = read_trace(made), read_trace(tmp_path / "fast.jsonl.gz")
    assert after.arrival_s * 2 == pytest.approx(before.arrival_s, abs=1e-8)
    assert after.prefix_hashes == before.prefix_hashes
    converted = ok("convert", made, "--to", "csv", "--out", tmp_path / "plain")
    assert "left out" in converted.stderr
    assert read_trace(tmp_path / "plain").input_tokens.tolist() == before.input_tokens.tolist()


@pytest.mark.parametrize(
    ("args", "error", "says"),
    [
        (["show", "missing.csv"], InputError, "no file 'missing.csv'"),
        (["synth", "--request-rate", "8"], InputError, "give input_len and output_len"),
        ([*SYNTH, "--turns", "0"], InputError, "turns"),
        ([*SYNTH, "--input-len", "meadian=1,p99=2"], InputError, "did you mean 'median'"),
        ([*SYNTH, "--daily-curve", "1,2"], InputError, "2 multipliers, not 24"),
        ([*SYNTH, "--out", "no/such/folder/t.csv"], TwinError, "cannot write"),
        ([*SYNTH, "--seed", "-1"], InputError, "seed"),
    ],
)
def test_errors_propagate_as_one_sentence(args: list[str], error: type[TwinError], says: str) -> None:
    result = run(*args)
    assert type(result.exception) is error
    assert says in str(result.exception)
    assert result.stdout == ""


def test_help_needs_no_numbers() -> None:
    """The command line starts fast: numpy, pandas and Arrow load only inside a command."""
    code = "import sys, twin.cli.traffic; print([m for m in ('numpy', 'pandas', 'pyarrow') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
