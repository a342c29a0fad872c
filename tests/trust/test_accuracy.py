"""``twin accuracy``: the figures are those of the measurements, the bytes those of the inputs, and plans quote them."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from twin.base import InputError
from twin.cli.main import main
from twin.cli.plan_table import option_row, plan_table
from twin.spec.accuracy import Accuracy, Errors, load_accuracy, quoted
from twin.spec.hardware import HardwareProfile, RunErrors, load_profile, profile_names
from twin.trust.accuracy import gather, summarized
from twin.trust.accuracy_page import MARKERS, page, with_block
from twin.trust.replay import replay
from twin.trust.request_log import read_inputs
from twin.trust.table import read_table
from twin.trust.validate import predict_rows

INPUTS = "system,model,precision,isl,osl,concurrency,tp_size"
ROWS = [
    "h100_sxm,meta-llama/Llama-3.1-70B,fp8,256,32,4,4",
    "h100_sxm,meta-llama/Llama-3.1-70B,fp8,256,32,8,8",
    "h200_sxm,meta-llama/Llama-3.1-8B,bf16,256,32,4,1",
    "h100_sxm,someone/mixture-9b,fp4,256,32,4,4",
]
UNSEEN = Errors(n=100, tpot=0.08, ttft=0.3)


def figure(row: dict[str, str], name: str) -> float:
    return float(row[f"predicted_mean_{name}_ms"] or 1.0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose every run was a quarter slower per token than predicted, and took twice as long to the first one."""
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    path.write_text("\n".join([INPUTS, *ROWS]) + "\n")
    predictions = predict_rows(read_table(path)[1])
    told = [f"{2 * figure(p, 'ttft')},{1.25 * figure(p, 'tpot')}" for p in predictions]
    lines = [f"{row},{measured}" for row, measured in zip(ROWS, told, strict=True)]
    path.write_text("\n".join([f"{INPUTS},mean_ttft_ms,mean_tpot_ms", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A request log in which everything took twice as long as predicted."""
    path = tmp_path_factory.mktemp("log") / "requests.csv"
    path.with_name("requests_runs.csv").write_text(
        "run,model,hardware,engine_version,tp,dtype\nmine,Qwen/Qwen3-8B,L40S,0.19.0,1,bfloat16\n"
    )
    head = [
        "run",
        "request_id",
        "input_toks",
        "output_toks",
        "queued_s",
        "scheduled_s",
        "first_token_s",
        "last_token_s",
    ]
    lines = [["mine", i, 200 + 10 * i, 20, 0.5 * i] for i in range(12)]

    def write(times: list[list[float]]) -> None:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([head, *([*a, *b] for a, b in zip(lines, times, strict=True))])

    write([[at + 0.1, at + 0.2, at + 0.3] for *_, at in lines])
    [run], _ = replay(read_inputs(path), {})
    guess = run.requests
    ends = [2 * guess[f"predicted_{name}_s"].to_numpy() for name in ("queue", "ttft", "e2el")]
    write((np.array([line[-1] for line in lines]) + np.array(ends)).T.tolist())
    return path


def verdict(**changes: object) -> dict[str, object]:
    bound = {"threshold": 0.05, "holds": True}
    metric = {"metric": "mean_tpot_ms", "predicted": 10.2, "measured": 10.0, "error": 0.02, **bound}
    load = {"name": "load 60 %", "load": 0.6, "concurrency": None, "requests": 99, "sentinels_around": [1.08, 0.97]}
    about = {
        "scenario": "chat",
        "model": "Qwen/Qwen3-8B",
        "profile": "epyc_zen5_1c",
        "words": "a stand-in",
        "why": None,
    }
    return {**about, "verdict": "pass", "drift": {"moved": 0.04}, "loads": [{**load, "metrics": [metric]}], **changes}


@pytest.fixture
def verified(tmp_path: Path) -> Path:
    for name, changes in (("chat", {}), ("code", {"partial": True, "verdict": None, "why": "the server died"})):
        (tmp_path / "verify" / name).mkdir(parents=True)
        (tmp_path / "verify" / name / "verdict.json").write_text(json.dumps(verdict(**changes)))
    return tmp_path / "verify"


def test_the_figures_are_those_of_the_measurements(runs: Path, log: Path) -> None:
    evidence = gather([runs], [log], [])
    found = summarized(evidence)
    [h100], [h200] = found.gpus["h100_sxm"], found.gpus["h200_sxm"]
    assert (h100.n, h200.n) == (2, 1)
    for errors in (h100, h200):
        assert errors.tpot == pytest.approx(0.2, rel=1e-3)
        assert errors.ttft == pytest.approx(0.5, rel=1e-3)
        assert not errors.fitted
    [logged] = found.gpus["l40s"]
    assert (logged.n, logged.kind) == (1, "request logs")
    for name in ("tpot", "ttft", "e2el"):
        assert getattr(logged, name) == pytest.approx(0.5, rel=1e-3)
    text = page(evidence, found, {"runs": "a.png"})
    assert "| h100_sxm, 2 runs | no | 20.0 % | 50.0 % |" in text
    assert "3 of 4 recorded runs" in text
    assert "| 1 | unknown model 'someone/mixture-9b'" in text
    assert "![predicted against measured, run by run](a.png)" in text
    assert "No verdict of a real engine" in text


def test_runs_that_a_profile_was_fitted_on_are_called_so(runs: Path, tmp_path: Path) -> None:
    source = next(s for s in (load_profile("h100_sxm").host or ()) if s[0] == "step_s")[1].source
    again = tmp_path / source.split(",")[0]
    again.write_bytes(runs.read_bytes())
    assert summarized(gather([again], [], [])).gpus["h100_sxm"][0].fitted


def test_same_inputs_same_bytes_and_no_path(
    runs: Path, log: Path, verified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    readme = tmp_path / "README.md"
    lockstep = '<!-- lockstep -->\n\n    {"steps": 1234567, "mismatches": 0}\n\n<!-- /lockstep -->'
    readme.write_text(f"before\n\n{MARKERS[0]}\nold\n{MARKERS[1]}\n\nafter\n\n{lockstep}\n")
    written = []
    for name in ("one", "two"):
        out = tmp_path / name
        flags = ["--runs", str(runs), "--log", str(log), "--verified", str(verified), "--readme", str(readme)]
        flags += ["--out", str(out / "accuracy.md"), "--data", str(out / "accuracy.json"), "--format", "json"]
        assert main(["accuracy", *flags, "--quiet"]) == 0
        files = {path.name: path.read_bytes() for path in sorted(out.iterdir())} | {"README": readme.read_bytes()}
        written.append((files, capsys.readouterr().out))
    assert written[0] == written[1]
    files, stdout = written[0]
    assert files.keys() == {"accuracy.md", "accuracy.png", "accuracy_requests.png", "accuracy.json", "README"}
    assert stdout.encode() == files["accuracy.json"]
    assert str(tmp_path).encode() not in b"".join(files.values())
    assert "| h100_sxm, 2 runs | no | 20.0 % |" in files["README"].decode()
    assert "old" not in readme.read_text()
    assert readme.read_text().startswith("before\n")
    text = files["accuracy.md"].decode()
    assert "0 of 1,234,567 steps differed" in text
    assert "10.2 / 10, +2.0 %" in text
    assert "Partial, not judged: the server died (`code/verdict.json`)" in text
    assert load_accuracy(tmp_path / "one" / "accuracy.json") == Accuracy.model_validate_json(stdout)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "nothing to judge by"),
        (["--runs", "{tmp}/none.csv"], "none.csv: no such file"),
        (["--verified", "{tmp}"], "holds no verdict.json"),
        (["--verified", "{tmp}/bad.json"], "bad.json: is not a verdict"),
        (["--runs", "{runs}", "--readme", "{tmp}/bad.json"], "no line <!-- accuracy -->"),
        (["--runs", "{tmp}/bare.csv"], "bare.csv: nothing in it was measured"),
        (["--runs", "{runs}", "--out", "{tmp}/page.pdf"], "the page is Markdown"),
    ],
)
def test_bad_input_is_a_sentence_and_nothing_is_written(
    flags: list[str], said: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.json").write_text('{"loads": []}')
    (tmp_path / "bare.csv").write_text(f"{INPUTS}\n{ROWS[2]}\n")
    before = sorted(tmp_path.iterdir())
    asked = [flag.format(tmp=tmp_path, runs=runs) for flag in flags]
    asked += [] if "--out" in flags else ["--out", str(tmp_path / "docs" / "accuracy.md")]
    assert main(["accuracy", *asked]) == 2
    assert said in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_block_without_its_end_is_refused() -> None:
    with pytest.raises(InputError, match="no line"):
        with_block(f"{MARKERS[1]} {MARKERS[0]}", "x", "README.md")


def test_what_a_fit_had_not_seen_comes_from_the_gpus_with_runs_of_their_own(runs: Path) -> None:
    profile = load_profile("h100_sxm")
    assert profile.host is not None
    said = {
        "gpu_left_out": RunErrors(tpot=0.1, ttft=0.4, n=30),
        "layout_left_out": RunErrors(tpot=0.05, ttft=0.2, n=30),
    }
    one = profile.model_copy(update={"host": profile.host.model_copy(update={"runs": said}), "older_host": None})
    less = {name: RunErrors(tpot=0.0, ttft=0.0, n=10) for name in said}
    other = one.model_copy(update={"name": "b", "host": profile.host.model_copy(update={"runs": less})})
    found = summarized(replace(gather([runs], [], []), profiles=[one, other, load_profile("l40s")]))
    assert found.unseen_gpu == Errors(n=40, tpot=0.075, ttft=0.3)
    assert found.unseen_layout == Errors(n=40, tpot=0.0375, ttft=0.15)


def made_up(profile: HardwareProfile, *errors: Errors) -> Accuracy:
    known = {profile.name: profile.digest()}
    return Accuracy(date="2026-01-01", sources=(), profiles=known, gpus={profile.name: errors}, unseen_gpu=UNSEEN)


def test_a_plan_quotes_what_was_measured_on_its_gpu() -> None:
    profile = load_profile("h100_sxm")
    found = quoted(made_up(profile, Errors(n=39, tpot=0.031, ttft=0.052, fitted=True)), profile)
    assert found is not None
    assert found["text"] == (
        "on 39 measured runs of this GPU TPOT was 3% and TTFT 5% off (mean absolute; its host times were fitted on them);"
        " on GPUs left out of the fit TPOT was 8% and TTFT 30%. docs/accuracy.md"
    )


def test_a_gpu_without_runs_gets_the_error_of_unseen_ones_and_a_changed_one_nothing() -> None:
    profile, assumed = load_profile("l40s"), load_profile("l4")
    found = quoted(made_up(profile), profile)
    assert found is not None
    assert str(found["text"]).startswith("no run of this GPU was measured; on GPUs left out of the fit TPOT was 8%")
    more = quoted(made_up(assumed), assumed)
    assert more is not None
    assert "speed is assumed" in str(more["text"])
    changed = profile.model_copy(update={"label": "mine"})
    assert quoted(made_up(profile), changed) is None
    assert quoted(None, profile) is None


def test_another_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "accuracy.json"
    assert load_accuracy(path) is None
    path.write_text("[1]")
    with pytest.raises(InputError, match=r"accuracy\.json: is not what twin accuracy writes"):
        load_accuracy(path)


def test_every_format_of_a_plan_quotes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = load_profile("l40s")
    asked = ["plan", "--request-rate", "2", "--input-len", "300", "--output-len", "40", "--num-requests", "200"]
    asked += ["--model", "Qwen/Qwen3-8B", "--gpu", "l40s", "--max-gpus", "2", "--jobs", "1", "--out", str(tmp_path)]
    said = "on 7 measured runs of this GPU TPOT was 3%"
    for accuracy, there in ((made_up(profile, Errors(n=7, tpot=0.03, ttft=0.05)), True), (None, False)):
        monkeypatch.setattr("twin.plan.option.load_accuracy", lambda accuracy=accuracy: accuracy)
        assert main([*asked, "--format", "json", "--quiet"]) == 0
        payload = json.loads(capsys.readouterr().out)
        console = Console(record=True, file=io.StringIO())
        console.print(plan_table(payload))
        table = " ".join(console.export_text().split())
        rows = [str(option_row(item)["accuracy"]) for item in payload["options"]]
        quotes = [item["accuracy"]["quoted"] for item in payload["options"]]
        assert all((quote is not None and said in quote["text"]) == there for quote in quotes)
        assert all((said in text) == there for text in (table, *rows))
        assert ("whole runs were" in table) != there


def test_the_shipped_figures_hold_for_the_shipped_profiles() -> None:
    shipped = load_accuracy()
    if shipped is None:
        pytest.skip("no hwprofiles/accuracy.json: make accuracy")
    assert shipped.profiles == {name: load_profile(name).digest() for name in profile_names()}, "make accuracy"
