"""The report as files: HTML that needs nothing else, A4 pages, Markdown, and both languages whole."""

from __future__ import annotations

import ast
import html as entities
import io
import re
import string
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asked_runs import RunFolder

import twin.show
from twin.cli.main import main
from twin.results.run import read_run
from twin.show.report.blocks import Figure, Report
from twin.show.report.content import report
from twin.show.report.html import html
from twin.show.report.markdown import markdown
from twin.show.retold import TEMPLATES, retold
from twin.show.words import catalogue, words

SHOW = Path(twin.show.__file__).parent
CASES = ("plain", "risk", "pools", "infeasible", "fixed", "late")
ZH = catalogue("zh")

CONSTANTS = re.compile(r"\bp(5|50|90|95|99)\b|5 to 95 %|at 90 %|SHA-256|twin plan --\S+|--[a-z]")
"""Numbers in words that are names of quantiles and the like, not figures of a run."""


@pytest.fixture(scope="module")
def page(run_folder: RunFolder) -> Callable[..., str]:
    """The HTML of a run's report, each made once."""
    known: dict[tuple[str, str], str] = {}

    def make(name: str, lang: str = "en") -> str:
        if (name, lang) not in known:
            today = read_run(run_folder("fixed")) if name == "risk" else None
            found = report(read_run(run_folder(name)), today=today, start="2027-01", lang=lang)
            known[name, lang] = html(found, words(lang))
        return known[name, lang]

    return make


def own_words(text: str) -> str:
    """What the report says in its own words: without charts, style, and whatever carries its place in the run."""
    text = re.sub(r"<(svg|style|head|pre)\b.*?</\1>", " ", text, flags=re.DOTALL)
    text = re.sub(r"<(data|span|cite|code)\b[^>]*(title|data-path)=[^>]*>.*?</\1>", " ", text, flags=re.DOTALL)
    text = re.sub(
        r'<p class="note">Each .*?</p>|<figcaption>.*?</figcaption>', " ", text
    )  # charts say theirs themselves
    return entities.unescape(re.sub(r"<[^>]+>", " ", text))


@pytest.mark.parametrize("name", CASES)
def test_no_figure_is_typed_by_hand(page: Callable[..., str], name: str) -> None:
    charts = re.compile(r'<figure class="chart".*?</figure>', re.DOTALL)
    said = CONSTANTS.sub(" ", own_words(charts.sub(" ", page(name))))
    assert not re.findall(r".{30}\d.{30}", said)


def test_every_figure_on_the_page_carries_its_value(page: Callable[..., str]) -> None:
    figures = re.findall(r'<data class="(\w+)" value="([^"]+)" title="([^"]+)">([^<]+)</data>', page("risk"))
    assert len(figures) > 200
    for form, value, path, shown in figures:
        digits = re.sub(r"[^\d.]", "", entities.unescape(shown))
        number = float(value)
        scale = {"ms": 1.0, "seconds": 1e3, "share": 100.0, "availability": 100.0}.get(form, 1.0)
        scale = 1 / 60 if " min" in shown else scale
        if " s" in shown and form in ("ms", "seconds"):
            scale /= 1e3
        if shown[:4] in ("&lt;", "&gt;"):
            continue
        assert float(digits) == pytest.approx(number * scale, rel=0.06, abs=0.5), (path, value, shown)


def test_html_is_one_quick_small_file(run_folder: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    begun = time.perf_counter()
    assert main(["report", str(run_folder("risk")), "--out", str(out), "--quiet"]) == 0
    assert time.perf_counter() - begun < 10
    text = out.read_text(encoding="utf-8")
    assert len(text.encode()) < 5_000_000
    assert "<script" not in text
    assert not re.findall(r'(?:src|href|action)="(?!#)[^"]*"', text)
    assert not re.findall(r"url\((?!['\"]?#)|@import", text)
    assert str(run_folder("risk").parent) not in text
    assert text.count("<svg") >= 6
    again = tmp_path / "again.html"
    main(["report", str(run_folder("risk")), "--out", str(again), "--quiet"])
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_pdf_is_a4_with_the_decision_on_its_own_page(run_folder: RunFolder, tmp_path: Path, lang: str) -> None:
    import pypdf

    names = [tmp_path / "a.pdf", tmp_path / "b.pdf"][: 2 if lang == "en" else 1]
    asked = ["report", str(run_folder("risk")), "--format", "pdf", "--lang", lang, "--quiet", "--out"]
    for name in names:
        assert main([*asked, str(name)]) == 0
    assert len({name.read_bytes() for name in names}) == 1
    pages = pypdf.PdfReader(io.BytesIO(names[0].read_bytes())).pages
    assert {(round(float(p.mediabox.width)), round(float(p.mediabox.height))) for p in pages} == {(595, 842)}
    say = words(lang)
    first, second = (re.sub(r"\s", "", pages[at].extract_text()) for at in (0, 1))
    asked_here = say("What would change the decision, the nearest first:")
    assert re.sub(r"\s", "", asked_here) in first
    assert re.sub(r"\s", "", say("Demand and growth")) not in first
    assert re.sub(r"\s", "", say("Demand and growth")) in second
    assert f"2/{len(pages)}" in second


@pytest.mark.parametrize("name", CASES)
def test_markdown_has_whole_tables(run_folder: RunFolder, name: str) -> None:
    made = report(read_run(run_folder(name)))
    text = markdown(made, words("en"))
    tables = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert len(tables) >= 5
    for found in tables:
        lines = found.splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert text.startswith("# Capacity plan for Qwen/Qwen3-8B\n")
    notes = [b.chart.note for s in made.sections for b in s.blocks if isinstance(b, Figure) and b.chart.note]
    flat = " ".join(text.split())
    assert all(flat.count(note) == notes.count(note) for note in notes)


def _said_in(path: Path) -> Iterator[str]:
    """Texts handed to ``say`` or ``t``, and those of the tables of words beside them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("t", "say") and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                yield node.args[0].value


def test_every_text_of_the_report_is_in_the_catalogue() -> None:
    sources = [p for p in (SHOW / "report").glob("*.py") if not p.name.startswith("xlsx")]
    missing = {text for path in sources for text in _said_in(path)} - set(ZH)
    assert not missing


@pytest.mark.parametrize("name", CASES)
def test_all_that_is_said_is_translated(run_folder: RunFolder, name: str) -> None:
    """The content in Chinese, with a catalogue that notes what it does not know."""
    strange: list[str] = []

    def say(text: str, /, **blanks: object) -> str:
        if text not in ZH and (blanks or (retold(text, ZH) == text and re.search("[a-z]{2}", text))):
            strange.append(text)
        return words("zh")(text, **blanks)

    today = read_run(run_folder("fixed")) if name == "risk" else None
    found: Report = report(read_run(run_folder(name)), today=today, start="2027-01", name="客服", say=say, lang="zh")
    markdown(found, say)
    assert not strange


def test_a_chinese_page_has_no_english_words_of_its_own(page: Callable[..., str]) -> None:
    known = {
        "twin",
        "plan",
        "fixed",
        "today",
        "risk",
        "growth",
        "rack",
        "token",
        "vllm",
        "ttft",
        "tpot",
        "yaml",
        "scenario",
    }
    found = set(re.findall(r"[A-Za-z]{4,}", own_words(page("risk", "zh"))))
    assert {word for word in found if word.lower() not in known} == set()
    assert '<html lang="zh-CN">' in page("risk", "zh")


def test_translations_keep_the_blanks() -> None:
    def blanks(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    assert {text for text, said in ZH.items() if blanks(text) != blanks(said)} == set()


def test_templates_tell_their_own_sentences() -> None:
    assert [template for template in TEMPLATES if template not in ZH] == []
    for template in TEMPLATES:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name}
        blanks = {name: f"{number}7" for number, name in enumerate(sorted(names), 1)}
        assert retold(template.format(**blanks), ZH) == ZH[template].format(**blanks)


def test_both_languages_have_the_same_figures(page: Callable[..., str]) -> None:
    places = [
        re.findall(r'(?:title|data-path)="((?:plan|manifest|flags|sum|ratio)[^"]+)"', page("risk", lang))
        for lang in ("en", "zh")
    ]
    assert sorted(places[0]) == sorted(places[1])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nowhere"], "no such run folder"),
        (["{risk}", "--start", "soon"], "--start is a month as 2027-01, not 'soon'"),
        (["{risk}", "--rack-kw", "-3"], "--rack-kw is the power of a rack"),
        (["{risk}", "--today", "{risk}"], "--today takes a run of twin plan --fixed"),
        (["{risk}", "--lang", "fr"], "'fr' is not one of 'en', 'zh'"),
        (["{risk}", "--format", "doc"], "'doc' is not one of"),
    ],
)
def test_bad_input_is_one_sentence(
    run_folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    out = tmp_path / "report.html"
    words_ = [part.replace("{risk}", str(run_folder("risk"))) for part in arguments]
    capsys.readouterr()
    assert main(["report", *words_, "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert why in said.err
    assert said.err.count("\n") == 1
    assert not said.out
    assert not out.exists()


@pytest.mark.parametrize(("fmt", "package"), [("pdf", "weasyprint"), ("html", "jinja2")])
def test_a_package_that_is_missing(
    run_folder: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fmt: str,
    package: str,
) -> None:
    folder = run_folder("plain")
    monkeypatch.setitem(sys.modules, package, None)
    capsys.readouterr()
    assert main(["report", str(folder), "--format", fmt, "--out", str(tmp_path / "r")]) == 2
    assert capsys.readouterr().err == (
        f"error: a report in {fmt.upper()} needs {package}: pip install 'twin[dashboard]'\n"
    )


def test_what_was_written_is_said(
    run_folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    folder = run_folder("plain").resolve()
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["report", str(folder), "--format", "md"]) == 0
    assert capsys.readouterr().err == "written: report.md\n"
    assert (tmp_path / "report.md").exists()
