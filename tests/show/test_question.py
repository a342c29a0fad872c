"""The page's question is ``twin plan``'s: the same flags, the same defaults, the same command line."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.base import InputError
from twin.cli.main import _GLOBAL_FLAGS, build_app, main
from twin.cli.plan import plan
from twin.show.question import CHOICES, LIMITS, MADE_UP, MOST, START, Question, command

FILES = {"chat.yaml": Path("/scenarios/chat.yaml"), "mine.csv": Path("/work/mine.csv")}

_TEXT = st.sampled_from(["--quiet", "-1", "--out"]) | st.text(
    st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1, max_size=12
)
_KINDS: dict[Any, st.SearchStrategy[Any]] = {
    "str": _TEXT,
    "str | None": st.none() | _TEXT,
    "float": st.floats(0, 1e6),
    "float | None": st.none() | st.floats(0, 1e6),
    "int": st.integers(8, 4096),
    "int | None": st.none() | st.integers(2, 10_000),
    "bool": st.booleans(),
}
_FIELDS = {name: _KINDS[str(kind)] for name, kind in inspect.get_annotations(Question).items()}
_FIELDS |= {"price": st.none() | st.sampled_from(CHOICES["price"]), "too_long": st.sampled_from(CHOICES["too_long"])}
QUESTIONS = st.fixed_dictionaries({}, optional=_FIELDS).map(lambda said: Question.model_validate({**START, **said}))


@given(QUESTIONS)
def test_a_url_holds_the_whole_question(question: Question) -> None:
    assert Question.from_params(question.to_params()) == question


@settings(deadline=None)
@given(QUESTIONS)
def test_the_command_line_asks_the_very_question(question: Question) -> None:
    """Parsed by the command's own parser, each flag has the value of the field."""
    question = question.model_copy(update={"traffic": "mine.csv", "price": "spot", "too_long": "drop"})
    words = [word for word in question.argv(FILES)[1:] if word not in _GLOBAL_FLAGS]
    parser = typer.main.get_command(build_app()).commands["plan"]  # type: ignore[attr-defined]
    flags = parser.make_context("plan", words).params
    for name, value in question:
        found = flags[name]
        assert found == (FILES["mine.csv"] if name == "traffic" else value), name


def test_fields_are_flags_with_their_defaults() -> None:
    flags = inspect.signature(plan).parameters
    for name, field in Question.model_fields.items():
        assert field.default == flags[name].default, name


def test_nothing_said_is_the_question_that_one_click_asks() -> None:
    assert Question.from_params({"run": "plan", "view": "Money"}) == Question.model_validate(START)
    assert Question.model_validate(START).argv(FILES)[:3] == ["plan", "--traffic", "/scenarios/chat.yaml"]


def test_traffic_made_up_needs_no_word_about_the_trace() -> None:
    question = Question.from_params({"request_rate": "8", "input_len": "1200", "output_len": "200"})
    assert question.traffic is None
    assert question.request_rate == 8
    assert set(MADE_UP) <= set(Question.model_fields)


def test_a_link_with_a_word_for_a_number_says_so() -> None:
    with pytest.raises(InputError, match=r"--max-gpus.*'many'"):
        Question.from_params({"max_gpus": "many"})


def test_a_trace_is_a_name_and_never_a_path() -> None:
    question = Question.model_validate({**START, "traffic": "/etc/passwd"})
    with pytest.raises(InputError, match="unknown trace '/etc/passwd'"):
        question.argv(FILES)


def test_a_run_asks_its_question_again(tmp_path: Path) -> None:
    trace = tmp_path / "mine.csv"
    trace.touch()
    (tmp_path / "runs").mkdir()
    flags = {"traffic": "../mine.csv", "model": "Qwen/Qwen3-8B", "worlds": 64, "algorithm": "auto", "rate": "×2"}
    question = Question.from_flags(flags, tmp_path / "runs", {"mine.csv": trace})
    assert (question.traffic, question.rate, question.budget) == ("mine.csv", "×2", None)
    assert Question.from_params(question.to_params()) == question


def test_a_command_can_be_pasted() -> None:
    argv = ["plan", "--traffic", "/work/my traces/a.csv", "--rate", "×2"]
    assert command(argv, Path("/work")) == "twin plan --traffic 'my traces/a.csv' --rate '×2'"


def test_of_a_link_with_nonsense_the_rest_is_kept_and_every_fault_told() -> None:
    link = {"max_gpus": "many", "worlds": "3", "price": "free", "ttft": "700ms", "users": "-1", "node_size": "8"}
    question, faults = Question.of_link(link)
    assert (question.ttft, question.node_size) == ("700ms", 8)
    assert (question.max_gpus, question.worlds, question.price, question.users) == (None, 64, None, None)
    said = " / ".join(map(str, faults))
    for told in ("--max-gpus", "'many'", "--worlds: at least 8", "not '3'", "'free'", "--users: at least 0"):
        assert told in said
    assert len(faults) == 4
    with pytest.raises(InputError, match="--max-gpus"):
        Question.from_params(link)


def test_choices_and_limits_are_those_of_the_command() -> None:
    hints = get_type_hints(plan, include_extras=True)
    for name, choices in CHOICES.items():
        kind = get_args(hints[name])[0]
        assert choices == tuple(each for each in get_args(kind) if isinstance(each, str)) or choices == get_args(
            get_args(kind)[0]
        )
    for name, (least, most) in LIMITS.items():
        option = get_args(hints[name])[1]
        assert option.min in (least, None), name
        assert option.max == (most if most < MOST else None), name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ttft", "soon"),
        ("tpot", "p200:5ms"),
        ("budget", "20k a month"),
        ("growth", "fast"),
        ("rate", "twice"),
    ],
)
def test_a_text_that_is_not_read_has_the_sentence_of_the_command(
    name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    question = Question.model_validate({**START, "traffic": "chat.yaml", name: text})
    [(field, fault)] = question.faults().items()
    assert field == name
    here = Path(__file__).parents[2] / "scenarios" / "chat.yaml"
    assert main(question.argv({"chat.yaml": here})) == 2
    assert f"error: {fault}" in capsys.readouterr().err.splitlines()
