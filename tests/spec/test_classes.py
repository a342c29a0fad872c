"""Classes of requests: who is whose, what is promised to whom, and what makes no sense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.base import InputError
from twin.spec.classes import RequestClass, labelled, parse_class, promised
from twin.spec.objectives import Objectives, parse_objectives, parse_weights
from twin.spec.scenario import load_scenario
from twin.spec.slo import Slo
from twin.traffic.trace import Trace

CHAT = "chat:input<=4000,ttft=500ms,tpot=p90:50ms"


def trace(tokens_in: list[int], own: list[str | None] | None = None) -> Trace:
    n = len(tokens_in)
    column = None if own is None else np.array(own, dtype=object)
    return Trace(np.arange(n) * 1.0, np.array(tokens_in), np.full(n, 10), request_class=column)


def names(found: Trace) -> list[str | None]:
    assert found.request_class is not None
    return list(found.request_class)


def test_the_first_that_matches_takes_a_request() -> None:
    classes = [parse_class(CHAT), parse_class("long:input>=3000"), parse_class("rest:e2el=60s")]
    assert names(labelled(trace([1, 3500, 4000, 4001]), classes)) == ["chat", "chat", "chat", "long"]
    assert names(labelled(trace([4001, 1]), [parse_class("long:input>=3000")])) == ["long", None]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 100), st.integers(1, 100))
@settings(max_examples=50, deadline=None)
def test_every_request_is_in_the_first_class_that_admits_its_length(lengths: list[int], low: int, high: int) -> None:
    classes = [parse_class(f"a:input<{low + 1}"), parse_class(f"b:input>={high}"), parse_class("c:")]
    expected = ["a" if n <= low else "b" if n >= high else "c" for n in lengths]
    assert names(labelled(trace(lengths), classes)) == expected


def test_the_trace_s_own_names_count_before_all_that_are_left() -> None:
    own = trace([5, 5, 5], ["batch", "chat", None])
    assert names(labelled(own, [parse_class("chat:ttft=1s"), parse_class("batch:e2el=9s")])) == ["batch", "chat", None]
    assert names(labelled(own, [parse_class("talk:class=chat"), parse_class("rest:")])) == ["rest", "talk", "rest"]


def test_a_class_without_requests_says_so() -> None:
    found = labelled(trace([5, 5]), [parse_class("long:input>100,ttft=1s"), parse_class("rest:")])
    assert found.notes == ("no request of this traffic is of class long: its promises hold for want of any",)


def test_promises_know_their_class_and_a_request_is_held_to_its_own() -> None:
    slo = promised(Slo.of(ttft="2s", e2el="60s"), [parse_class(CHAT), parse_class("batch:ttft=p50:9s")])
    said = [(b.request_class, b.metric, b.quantile, b.seconds) for b in slo.bounds]
    assert said[2:] == [("chat", "ttft", 0.99, 0.5), ("chat", "tpot", 0.9, 0.05), ("batch", "ttft", 0.5, 9.0)]
    assert slo.request_bounds_s() == {"ttft": 2.0, "e2el": 60.0}
    assert slo.request_bounds_s("chat") == {"ttft": 0.5, "tpot": 0.05, "e2el": 60.0}
    assert slo.request_bounds_s("batch") == {"ttft": 9.0, "e2el": 60.0}  # its own, though of a lower quantile
    assert slo.model_dump() == {"ttft": "p99:2000ms", "e2el": "p99:60000ms"}  # those of a class are written with it


def test_the_flag_and_the_yaml_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "model: Qwen/Qwen3-8B\n"
        "traffic: {synthetic: {request_rate: 6, num_requests: 20, input_len: 700, output_len: 110}}\n"
        "deployment: {gpu: h100_sxm}\n"
        "classes: [{name: chat, max_input_tokens: 4000, slo: {ttft: 500ms, tpot: 'p90:50ms'}},\n"
        "  {name: batch, slo: {e2el: 60s}}]\n"
        "objectives: {minimise: [cost, p99_ttft], weights: [{when: peak, weights: {latency: 3}}]}\n"
    )
    scenario = load_scenario(file)
    assert scenario.classes == (parse_class(CHAT), parse_class("batch:e2el=60s"))
    assert scenario.objectives == Objectives(
        minimise=parse_objectives("cost,p99_ttft"), weights=(parse_weights("peak:latency=3"),)
    )
    again = tmp_path / "again.yaml"
    again.write_text(scenario.to_yaml())
    assert load_scenario(again).classes == scenario.classes
    assert load_scenario(again).objectives == scenario.objectives
    assert [item.ruled for item in load_scenario(again).classes] == [True, False]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("classes: [{name: a}, {name: a}]", "class a stands twice"),
        ("classes: [{name: a, min_input_tokens: 9, max_input_tokens: 3}]", "min_input_tokens 9 is above"),
        ("classes: [{name: a, max_inptu_tokens: 3}]", "unknown key 'max_inptu_tokens'"),
        ("objectives: {weights: [{when: noon, weights: {cost: 1}}]}", "'noon' is not a window"),
        ("objectives: {weights: [{when: peak, weights: {speed: 1}}]}", "unknown weight 'speed'"),
        ("objectives: {minimise: [cost]}", "leaves nothing to trade off"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "model: Qwen/Qwen3-8B\ntraffic: {synthetic: {request_rate: 6, num_requests: 20, input_len: 7, output_len: 1}}\n"
        f"deployment: {{gpu: h100_sxm}}\n{line}\n"
    )
    with pytest.raises(InputError) as caught:
        load_scenario(file)
    assert said in str(caught.value)
    assert str(caught.value).startswith("s.yaml:4")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("input<=4000", "does not begin with a name"),
        ("a:speed=3", "'speed=3' is not understood"),
        ("a:input<=x", "is not understood"),
        ("a:input<1", "at most 0 input tokens"),
        ("a:input>9,input<=9", "at least 10 and at most 9 input tokens"),
        ("a:ttft=never", "'never' does not start with a number"),
        ("a:ttft=p0:5ms", "between p0 and p100"),
    ],
)
def test_a_flag_that_makes_no_sense(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_class(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "own", "said"),
    [
        (["a:ttft=1s", "b:e2el=1s"], None, "class b can have no request: a before it takes all that are left"),
        (["a:class=x"], None, "the trace has no request_class"),
        (["a:class=chta"], ["chat", "chat"], "did you mean 'chat'"),
    ],
)
def test_classes_that_this_traffic_cannot_have(classes: list[str], own: list[str | None] | None, said: str) -> None:
    with pytest.raises(InputError) as caught:
        labelled(trace([5, 5], own), [parse_class(text) for text in classes])
    assert said in str(caught.value)


def test_slices_keep_the_class_and_no_classes_change_nothing() -> None:
    found = labelled(trace([1, 9, 1, 9]), [parse_class("small:input<5"), RequestClass(name="big")])
    assert names(found.slice(1.0, 3.0)) == ["big", "small"]
    plain = trace([1, 2])
    assert labelled(plain, []) is plain
