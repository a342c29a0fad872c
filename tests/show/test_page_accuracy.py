"""The Accuracy page says what is shipped, tells apart what was fitted, and judges an upload as ``twin validate`` does."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from app_pages import Drawn, cli, opened, ran, sentence, shown

from twin.cli.main import main
from twin.show import accuracy_charts
from twin.show.formats import share
from twin.spec.accuracy import load_accuracy, quoted
from twin.spec.hardware import load_profile, profile_names
from twin.trust.accuracy import left_out
from twin.trust.plot import Point
from twin.trust.table import METRICS

JUDGE = "Judge it by your own measurements"
COLUMNS = "system,model,precision,isl,osl,concurrency,tp_size"
RUNS = f"""{COLUMNS},mean_ttft_ms,mean_tpot_ms
h100_sxm,meta-llama/Llama-3.1-8B,bf16,512,64,4,1,40,7.5
h100_sxm,meta-llama/Llama-3.1-8B,bf16,512,64,8,1,60,8
l40s,meta-llama/Llama-3.1-8B,bf16,512,64,4,1,70,22
l40s,meta-llama/Llama-9-8B,bf16,512,64,4,1,70,22
"""
BROKEN = {
    "empty.csv": b"",
    "binary.csv": bytes(range(256)),
    "header.csv": f"{COLUMNS}\n".encode(),
    "columns.csv": b"system,model\nh100_sxm,x\n",
    "negative.csv": RUNS.replace("40,7.5", "-40,7.5").encode(),
    "words.csv": RUNS.replace("40,7.5", "fast,7.5").encode(),
    "seconds.csv": f"{COLUMNS},mean_tpot_ms\nh100_sxm,meta-llama/Llama-3.1-8B,bf16,512,64,4,1,0.0075\n".encode(),
    "torn.json": b'{"input_lens": [1, 2',
    "other.json": b'{"hello": 1}',
    "stamps.csv": b"run,request_id,input_toks,output_toks,queued_s,scheduled_s,first_token_s,last_token_s\na,1,5,x,0,0,0,1\n",
}


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_RUNS", str(tmp_path / "runs"))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    return Drawn(monkeypatch)


def test_the_shipped_figures(drawn: Drawn) -> None:
    accuracy = load_accuracy()
    assert accuracy is not None
    assert accuracy.unseen_gpu is not None
    figures = shown(opened("accuracy"))
    assert figures["TTFT, unseen GPU"] == f"{share(accuracy.unseen_gpu.ttft, 1)} off"
    assert json.loads(drawn.file("Figures (JSON)")) == json.loads(accuracy.model_dump_json())
    chart = drawn.charts["errors_by_gpu"]
    every = [(gpu, errors) for gpu, found in accuracy.gpus.items() for errors in found]
    for series in chart.series:
        assert series.y == tuple(getattr(errors, series.name.lower()) for _, errors in every)
        assert series.outside == tuple(errors.fitted for _, errors in every), "fitted is drawn apart from unseen"
    held = {name: errors.inside_90 for name, errors in every if errors.inside_90}
    assert drawn.charts["coverage"].series[0].y == tuple(found["tpot"] for found in held.values())
    assert drawn.charts["coverage"].rules[0].at == 0.9


def test_what_the_fit_had_not_seen(drawn: Drawn) -> None:
    opened("accuracy")
    profiles = [load_profile(name) for name in profile_names()]
    for kind in ("gpu", "layout"):
        found = left_out(profiles, kind)
        tpot, ttft = drawn.charts[f"unseen_{kind}"].series
        assert tpot.y == tuple(errors.tpot for errors in found.values())
        assert ttft.y == tuple(errors.ttft for errors in found.values())
        assert not any(tpot.outside)


def test_saturated_points_stand_apart(drawn: Drawn) -> None:
    accuracy = load_accuracy()
    assert accuracy is not None
    assert accuracy.saturated is not None
    said = next(item.value for item in opened("accuracy").info if "Saturated" in item.value)
    assert f"({accuracy.saturated.n} runs)" in said
    assert share(accuracy.saturated.ttft, 1) in said


def test_every_gpu_has_the_sentence_that_its_plan_carries(drawn: Drawn) -> None:
    from twin.show.pages.accuracy import meanings

    accuracy = load_accuracy()
    assert accuracy is not None
    for text, gpus in meanings(accuracy).items():
        for gpu in gpus:
            said = quoted(accuracy, load_profile(gpu))
            assert said is not None
            assert str(said["text"]).startswith(text)


def test_without_shipped_figures_there_is_an_empty_state(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    opened("accuracy")
    monkeypatch.setattr("twin.show.pages.accuracy.load_accuracy", lambda: None)
    assert "No figures are shipped" in opened("accuracy").info[0].value


def test_an_upload_is_judged_as_the_command_does(
    drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = opened("accuracy", view=JUDGE)
    assert "No measurements yet" in app.info[0].value
    app.file_uploader[0].set_value(("runs.csv", RUNS.encode(), "text/csv"))
    ran(app)
    (tmp_path / "runs.csv").write_text(RUNS)
    said = cli(capsys, "validate", str(tmp_path / "runs.csv"), "--out", str(tmp_path / "pred.csv"))
    assert drawn.file("Predictions (CSV)") == (tmp_path / "pred.csv").read_text()
    table = app.dataframe[0].value
    assert table["rows"].tolist() == [item["rows"] for item in said["errors"]]
    assert table["TTFT MAPE"].tolist() == [share(item["ttft_mape"], 1) for item in said["errors"]]
    assert table["TPOT in 90%"].tolist() == [share(item["tpot_inside_90"]) for item in said["errors"]]
    assert "3 of 4 rows predicted" in app.subheader[0].value
    assert any("Llama-9-8B" in item.value for item in app.info)
    rows = list(csv.DictReader(io.StringIO(drawn.file("Predictions (CSV)"))))
    marks = [series for series in drawn.charts["scatter_tpot"].series if not series.baseline]
    assert [value for series in marks for value in series.y] == [
        float(row["predicted_mean_tpot_ms"]) for row in rows if not row["reason"]
    ]
    assert [value for series in marks for value in series.low] == [
        float(row["predicted_mean_tpot_ms_lo90"]) for row in rows if not row["reason"]
    ]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_upload_has_the_sentence_of_the_command(
    name: str, drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = opened("accuracy", view=JUDGE)
    app.file_uploader[0].set_value((name, BROKEN[name], "text/csv"))
    ran(app)
    (tmp_path / name).write_bytes(BROKEN[name])
    assert [item.value for item in app.error] == [sentence(capsys, "validate", str(tmp_path / name))]
    assert not drawn.files
    assert not [item for item in (tmp_path / "runs").rglob("*") if item.is_file()]


def test_predictions_alone_have_no_errors(drawn: Drawn) -> None:
    app = opened("accuracy", view=JUDGE)
    blind = f"{COLUMNS}\nh100_sxm,meta-llama/Llama-3.1-8B,bf16,512,64,4,1\n"
    app.file_uploader[0].set_value(("blind.csv", blind.encode(), "text/csv"))
    ran(app)
    assert any("Nothing was measured" in item.value for item in app.info)
    assert len(app.dataframe) == 0
    assert "predicted_mean_ttft_ms" in drawn.file("Predictions (CSV)")


def test_a_request_log_is_asked_what_it_does_not_say(
    drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stamps = "run,request_id,input_toks,output_toks,queued_s,scheduled_s,first_token_s,last_token_s\n" + "".join(
        f"a,{i},{300 + i},{20 + i},{i * 0.5},{i * 0.5},{i * 0.5 + 0.05},{i * 0.5 + 0.4}\n" for i in range(20)
    )
    path = tmp_path / "log.csv"
    path.write_text(stamps)
    app = opened("accuracy", view=JUDGE)
    app.file_uploader[0].set_value(("log.csv", stamps.encode(), "text/csv"))
    ran(app)
    assert [item.value for item in app.error] == [sentence(capsys, "validate", str(path))]
    app.selectbox[0].set_value("h100_sxm")
    app.text_input(key="judged_model").set_value("meta-llama/Llama-3.1-8B")
    app.text_input(key="judged_precision").set_value("bf16")
    app.number_input[0].set_value(1)
    ran(app)
    assert [item.value for item in app.error] == []
    flags = ["--system", "h100_sxm", "--model", "meta-llama/Llama-3.1-8B", "--precision", "bf16"]
    capsys.readouterr()
    assert (
        main(["validate", str(path), *flags, "--tensor-parallel-size", "1", "--out", str(tmp_path / "pred.csv")]) == 0
    )
    assert drawn.file("Predictions (CSV)") == (tmp_path / "pred.csv").read_text()
    assert {"requests_ttft", "requests_tpot", "requests_e2el"} <= set(drawn.charts)


def test_bounds_and_saturation_are_drawn() -> None:
    metric = METRICS[0]
    points = [Point("h100_sxm", False, 10.0, 11.0, 9.0, 13.0), Point("h100_sxm", True, 20.0, 40.0, 30.0, 60.0)]
    diagonal, marks = accuracy_charts.scatter(metric, points).series
    assert diagonal.x == diagonal.y
    assert (marks.low, marks.high, marks.outside) == ((9.0, 30.0), (13.0, 60.0), (False, True))
