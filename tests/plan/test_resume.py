"""A search that is stopped keeps what it has, and goes on from there to the very same answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twin.cli.main import main
from twin.search.simulator import Simulator

ASKED = (
    *("plan", "--request-rate", "4", "--input-len", "600", "--output-len", "80", "--num-requests", "500"),
    *("--model", "Qwen/Qwen3-8B", "--gpu", "l40s,h100_sxm", "--ttft", "600", "--tpot", "p90:40ms"),
    *("--budget", "20k/month", "--format", "json", "--jobs", "1"),
)

ENDS = ("--format", "json", "--jobs", "1", "--out")


def run(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    code = main([*flags])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def counted(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[int]:
    """Every simulation from now on; the ``stop_at``-th is where the user presses Ctrl-C."""
    calls: list[int] = []
    plain = Simulator.run

    def run_(self: Simulator, row: int, *rest: object) -> object:
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(row)
        return plain(self, row, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Simulator, "run", run_)
    return calls


def test_interrupted_and_resumed_is_the_same_answer_for_fewer_simulations(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        whole = counted(patched)
        _, wanted, _ = run(capsys, *ASKED, "--out", str(tmp_path / "whole"))
    with monkeypatch.context() as patched:
        counted(patched, stop_at=20)
        code, out, _ = run(capsys, *ASKED, "--out", str(tmp_path / "runs"))
    first = json.loads(out)
    assert code == 130
    assert first["interrupted"]
    assert first["front"], "what was found is shown"
    (kept,) = (tmp_path / "runs").iterdir()
    with monkeypatch.context() as patched:
        rest = counted(patched)
        code, out, err = run(capsys, "plan", "--resume", str(kept), *ENDS, str(tmp_path / "runs"))
    assert code == 0
    assert out == wanted
    assert len(rest) == len(whole) - 20
    assert "20 simulations" in err


def test_a_finished_search_costs_no_simulation_to_ask_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, wanted, _ = run(capsys, *ASKED, "--out", str(tmp_path))
    calls = counted(monkeypatch)
    _, again, _ = run(capsys, "plan", "--resume", str(tmp_path / "plan"), *ENDS, str(tmp_path))
    assert again == wanted
    assert not calls


def test_a_torn_last_line_is_left_out_and_damage_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, wanted, _ = run(capsys, *ASKED, "--out", str(tmp_path))
    journal = tmp_path / "plan" / "search.jsonl"
    text = journal.read_text()
    resume = ("plan", "--resume", str(tmp_path / "plan"), *ENDS, str(tmp_path))
    journal.write_text(text[:-40])
    assert run(capsys, *resume)[1] == wanted
    journal.write_text(text.replace("values_s", "value", 1))
    code, _, err = run(capsys, *resume)
    assert code == 2
    assert "search.jsonl:2" in err
    journal.write_text(text[:30])
    assert "first line" in run(capsys, *resume)[2]
    journal.unlink()
    assert "no search to go on with" in run(capsys, *resume)[2]
    assert "no search to go on with" in run(capsys, "plan", "--resume", str(tmp_path / "none"))[2]


def test_another_question_cannot_take_it_up(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run(capsys, *ASKED, "--out", str(tmp_path))
    code, out, err = run(capsys, "plan", "--resume", str(tmp_path / "plan"), "--model", "Qwen/Qwen3-14B")
    assert code == 2
    assert out == ""
    assert "another model" in err
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]
    (tmp_path / "plan" / "flags.json").write_text("{")
    assert "torn" in run(capsys, "plan", "--resume", str(tmp_path / "plan"))[2]
