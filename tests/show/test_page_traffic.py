"""The Traffic page says what ``twin traffic`` says: its figures, its files, and its sentences about what is broken."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from app_pages import Drawn, cli, opened, ran, sentence, shown

from twin.show import store
from twin.show.formats import count, share
from twin.traffic.readers import read_trace
from twin.traffic.synthetic import synthesize

HEAD = b"arrival_s,input_tokens,output_tokens\n"
GOOD = HEAD + b"".join(b"%d,%d,%d\n" % (i * 7, 100 + i, 5 + i % 9) for i in range(300))
DATED = b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + b"".join(
    b"2026-11-%02d %02d:30:00.0000000,%d,9\n" % (1 + i // 24, i % 24, 50 + i) for i in range(72)
)
BROKEN = {
    "empty.csv": b"",
    "blank.csv": b"\n\n  \n",
    "binary.csv": bytes(range(256)) * 20,
    "only_a_header.csv": HEAD,
    "other_columns.csv": b"when,who,what\n1,2,3\n",
    "near_columns.csv": b"arrival_s,input_token,output_tokens\n1,2,3\n",
    "negative.csv": HEAD + b"0,10,5\n1,-3,5\n",
    "huge.csv": HEAD + b"0,10,5\n1,99999999999999,5\n",
    "endless.csv": HEAD + b"0,10,5\ninf,3,5\n",
    "words.csv": HEAD + b"0,10,5\n1,ten,5\n",
    "ragged.csv": HEAD + b"0,10,5\n1,2\n",
    "nothing_asked.csv": HEAD + b"0,0,5\n1,3,0\n",
    "latin1.csv": "arrival_s,input_tokens,output_tokens,Übung\n0,1,1,é\n".encode("latin-1"),
    "half.csv.gz": gzip.compress(GOOD, mtime=0)[:200],
    "damaged.csv.gz": b"\x1f\x8b" + b"not gzip at all",
    "other.json": b'{"hello": [1, 2]}',
    "torn.jsonl": b'{"timestamp": 0, "input_length": 5, "output_length": 1}\n{"timestamp": 1, "inp',
    "list.jsonl": b'{"timestamp": 0, "input_length": 5, "output_length": 1}\n[1, 2]\n',
    "[odd] $name_*.csv": HEAD + b"x,1,1\n",
}


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    (folder / "good.csv").write_bytes(GOOD)
    (folder / "dated.csv.gz").write_bytes(gzip.compress(DATED))
    monkeypatch.setenv("TWIN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TWIN_TRACES", str(folder))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    return Drawn(monkeypatch)


@pytest.mark.parametrize("name", ["good.csv", "dated.csv.gz"])
def test_figures_are_those_of_the_command(
    name: str, drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = opened("traffic", trace=name)
    said = cli(capsys, "traffic", "show", str(tmp_path / "traces" / name))
    assert json.loads(drawn.file("Figures (JSON)")) == said
    figures = shown(app)
    assert figures["Requests"] == count(said["requests"])
    assert figures["Mean rate"] == count(said["mean_rate_per_s"], "/s")
    assert figures["Busiest five minutes"] == count(said["busiest_5min"]["rate_per_s"], "/s")
    assert figures["Mean input tokens"] == count(round(said["input_tokens"]["mean"]))
    rules = [rule.at for rule in drawn.charts["input_lengths"].rules]
    assert rules == [said["input_tokens"][name] for name in ("p50", "p90", "p99")]


def test_the_busiest_five_minutes_are_marked(drawn: Drawn) -> None:
    opened("traffic")
    chart = drawn.charts["arrivals"]
    figures = json.loads(drawn.file("Figures (JSON)"))
    busy = figures["busiest_5min"]
    assert chart.series[1].y == (busy["rate_per_s"],) * 2
    assert chart.series[1].x[0] * 60 == pytest.approx(busy["start_s"])  # minutes


def test_what_is_drawn_adds_up_to_the_trace(drawn: Drawn) -> None:
    opened("traffic", trace="good.csv")
    table = list(csv.DictReader(io.StringIO(drawn.file("Rates over time (CSV)"))))
    assert sum(int(row["requests"]) for row in table) == 300
    steps = drawn.charts["arrivals"].series[0].y
    assert steps[:-1] == tuple(float(row["requests_per_s"]) if row["requests_per_s"] else None for row in table)
    assert sum(value or 0.0 for value in drawn.charts["output_lengths"].series[0].y) == pytest.approx(1.0)
    assert max(len(series.x) for chart in drawn.charts.values() for series in chart.series) < 300


def test_days_and_hours_of_the_files_own_clock(drawn: Drawn) -> None:
    opened("traffic", trace="dated.csv.gz")
    chart = next(chart for chart in drawn.charts.values() if chart.heat is not None)
    assert chart.heat is not None
    assert chart.heat.rows == ("2026-11-01", "2026-11-02", "2026-11-03")
    assert "of the file" in chart.note


def test_twice_as_fast(drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened("traffic", trace="good.csv", rate="×2")
    said = cli(capsys, "traffic", "scale", str(tmp_path / "traces" / "good.csv"), "--rate", "×2")
    assert json.loads(drawn.file("Figures (JSON)")) == said


def test_a_rate_that_is_none_has_the_sentence_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = opened("traffic", trace="good.csv", rate="fast")
    said = sentence(capsys, "traffic", "scale", str(tmp_path / "traces" / "good.csv"), "--rate", "fast")
    assert [item.value for item in app.error] == [said]


def test_the_requests_can_be_taken_away(drawn: Drawn, tmp_path: Path) -> None:
    opened("traffic", trace="chat.yaml")
    whole = store.trace_at(store.trace_file("chat.yaml"))
    for label, name in (("Requests (CSV)", "again.csv"), ("Requests (JSON lines)", "again.jsonl")):
        (tmp_path / name).write_text(drawn.file(label))
        again = read_trace(tmp_path / name)
        assert again.input_tokens.tolist() == whole.input_tokens.tolist()
        assert again.arrival_s.tolist() == pytest.approx(whole.arrival_s.tolist())
    assert again.prefix_hashes == whole.prefix_hashes


def test_prefixes_sessions_and_classes_where_there_are_any(drawn: Drawn, tmp_path: Path) -> None:
    figures = shown(opened("traffic", trace="chat.yaml"))
    said = json.loads(drawn.file("Figures (JSON)"))
    assert figures["Could be cached"] == share(said["prefix"]["hit_share_of_input_tokens"])
    assert figures["Sessions"] == count(said["sessions"]["sessions"])
    (tmp_path / "traces" / "classes.csv").write_text("time,isl,osl,class\n0,1,1,a\n1,1,1,b\n2,1,1,a\n")
    assert "Could be cached" not in shown(opened("traffic", trace="classes.csv"))
    assert dict(zip(drawn.charts["classes"].series[0].x, drawn.charts["classes"].series[0].y, strict=True)) == {
        "a": 2,
        "b": 1,
    }


def test_what_was_dropped_is_said(drawn: Drawn, tmp_path: Path) -> None:
    (tmp_path / "traces" / "drops.csv").write_text("time,isl,osl\n1,1,1\n0,1,1\n2,1,0\n")
    app = opened("traffic", trace="drops.csv")
    said = [item.value for item in app.warning]
    assert [text.split(" ", 2)[2] for text in said] == [
        "was out of order and sorted by arrival",
        "was dropped because they have zero output tokens",
    ]


def test_an_upload_is_shown_and_stays(drawn: Drawn) -> None:
    app = opened("traffic")
    app.file_uploader[0].set_value(("mine.csv", GOOD, "text/csv"))
    ran(app)
    assert app.selectbox[0].value == "mine.csv"
    assert app.query_params["trace"] == "mine.csv"
    assert shown(app)["Requests"] == "300"
    assert shown(opened("traffic", trace="mine.csv"))["Requests"] == "300"


def test_another_trace_can_be_chosen_after_an_upload(drawn: Drawn) -> None:
    app = opened("traffic")
    app.file_uploader[0].set_value(("mine.csv", GOOD, "text/csv"))
    ran(app)
    app.selectbox[0].set_value("dated.csv.gz")
    ran(app)
    assert shown(app)["Requests"] == "72"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_upload_has_the_sentence_of_the_command(
    name: str, drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = opened("traffic")
    app.file_uploader[0].set_value((name, BROKEN[name], "text/csv"))
    ran(app)
    (tmp_path / name).write_bytes(BROKEN[name])
    assert [item.value for item in app.error] == [sentence(capsys, "traffic", "show", str(tmp_path / name))]
    assert name not in store.trace_files()
    assert app.selectbox[0].value == "chat.yaml"
    assert (len(app.metric), len(app.get("page_link")), len(app.subheader)) == (0, 0, 0)
    app.selectbox[0].set_value("dated.csv.gz")
    ran(app)
    assert shown(app)["Requests"] == "72"
    assert not app.error


def test_a_link_to_a_trace_that_is_gone_says_so(drawn: Drawn) -> None:
    app = opened("traffic", trace="godd.csv")
    assert "unknown trace 'godd.csv'; did you mean 'good.csv'?" in app.error[0].value.replace("\\", "")
    assert app.selectbox[0].value == "chat.yaml"


def test_made_up_traffic_is_that_of_the_command(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {
        "request_rate": "2",
        "input_len": "median=300,p99=900",
        "output_len": "50",
        "duration": "30min",
        "seed": "7",
    }
    opened("traffic", source="Made up", turns="min=1,max=3", **asked)
    flags = [word for name, value in asked.items() for word in (f"--{name.replace('_', '-')}", value)]
    said = cli(capsys, "traffic", "synth", *flags, "--turns", "min=1,max=3")
    figures = json.loads(drawn.file("Figures (JSON)"))
    assert figures == {name: said[name] for name in figures}
    assert {"recipe", "seed"} == set(said) - set(figures)


def test_the_command_that_is_shown_makes_the_same(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    app = opened("traffic", source="Made up", duration="20min", curve="a working day")
    words = shlex.split(next(item.value for item in app.code))
    assert words[0] == "twin"
    said = cli(capsys, *words[1:])
    assert said["requests"] == json.loads(drawn.file("Figures (JSON)"))["requests"]


@pytest.mark.parametrize(
    ("field", "value", "flags"),
    [
        ("input_len", "lots", ["--input-len", "lots"]),
        ("input_len", "median=100,p98=5", ["--input-len", "median=100,p98=5"]),
        ("duration", "1 fortnight", ["--duration", "1 fortnight"]),
        ("request_rate", "-1", ["--request-rate", "-1"]),
        ("duration", "9999999h", ["--duration", "9999999h"]),
    ],
)
def test_impossible_traffic_has_the_sentence_of_the_command(
    field: str, value: str, flags: list[str], drawn: Drawn, capsys: pytest.CaptureFixture[str]
) -> None:
    app = opened("traffic", source="Made up", **{field: value})
    usual = {"--request-rate": "8", "--input-len": "median=1200,p99=6000", "--output-len": "200", "--duration": "1h"}
    words = [word for name, said in usual.items() if name not in flags for word in (name, said)]
    assert [item.value for item in app.error] == [sentence(capsys, "traffic", "synth", *words, *flags)]


def test_a_page_makes_no_more_than_it_can_hold(drawn: Drawn) -> None:
    app = opened("traffic", source="Made up", request_rate="5000")
    assert "a page makes up to 2,000,000 requests" in app.error[0].value
    assert not app.metric


def test_the_plan_page_is_asked_for_the_same(drawn: Drawn) -> None:
    from urllib.parse import parse_qsl

    from twin.show.question import Question

    app = opened("traffic", trace="good.csv", rate="×2")
    link = app.get("page_link")[0].proto
    question = Question.from_params(dict(parse_qsl(link.query_string)))
    assert (link.page, link.external, question.traffic, question.rate) == ("plan", False, "good.csv", "×2")
    app = opened("traffic", source="Made up", request_rate="3", output_len="77")
    question = Question.from_params(dict(parse_qsl(app.get("page_link")[0].proto.query_string)))
    assert (question.traffic, question.request_rate, question.output_len) == (None, 3.0, "77")


def test_the_same_trace_is_read_once(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened("traffic", trace="good.csv")
    monkeypatch.setattr(store, "trace_at", lambda *_: pytest.fail("read again"))
    ran(app)
    assert shown(app)["Requests"] == "300"


def test_synthesis_is_repeatable() -> None:
    from twin.show.pages.made_up import recipe_of

    recipe = recipe_of({"request_rate": "2", "input_len": "100", "output_len": "10", "duration": "60s"})
    assert synthesize(recipe, 3).arrival_s.tolist() == synthesize(recipe, 3).arrival_s.tolist()
