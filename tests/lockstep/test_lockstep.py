"""twin's engine schedules as vLLM does, step for step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import twin_side
from cases import draw
from compare import VERSIONS, Oracle, compare_version, first_difference, oracle_environment, plain

from twin.engine.grouped import GroupedScheduler
from twin.engine.request import Request
from twin.engine.scheduler import Scheduler

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))
STEPS = {"0.32": 40_000, "0.19": 14_000}


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if oracle_environment(name) is None:
        pytest.skip(f"vLLM {name} is not installed (make oracle); recorded traces take its place")
    return name


def test_every_step_of_random_cases_is_vllms(version: str, seen: dict[str, int]) -> None:
    said: list[str] = []
    totals = compare_version(version, range(10**9, 10**9 + 10**6), STEPS[version], said.append)
    assert not totals["mismatches"], said[-1]
    seen[f"vLLM {version}"] = totals["steps"]
    assert totals["steps"] >= STEPS[version]
    for what in ("preemptions", "evictions", "prefix_hits", "async_steps", "speculative_steps", "pipeline_steps"):
        assert totals[what] > 100, what
    kinds = ("sliding_window", "chunked_local", "mamba")[: 3 if version == "0.32" else 2]
    assert all(totals[f"{kind}_groups_steps"] > 500 for kind in kinds)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_every_recorded_step_is_vllms(path: Path, seen: dict[str, int]) -> None:
    """Steps that vLLM itself took, written down for each rule: they need no vLLM."""
    trace = json.loads(path.read_text())
    theirs = [plain(step) for step in trace["steps"]]
    seen["recorded"] = seen.get("recorded", 0) + len(theirs)
    assert first_difference(twin_side.run(trace["case"]), theirs) is None
    assert first_difference(twin_side.run(trace["case"], leaps=False), theirs) is None


def preempt_the_first(self: Scheduler, queue: list[Request]) -> Request:
    return queue[0]


def test_a_wrong_rule_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(Scheduler, "_victim", preempt_the_first)
    said: list[str] = []
    totals = compare_version(version, range(1000), 100_000, said.append)
    assert totals["mismatches"] == 1
    assert "≠" in said[-1]
    assert said[-1].count("request ") <= 4, "a preemption needs two requests, or few more"
    assert all(len(line) <= 100 for line in said[-1].splitlines())


def test_a_leap_too_far_is_found(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    right = GroupedScheduler.leap_steps
    monkeypatch.setattr(
        GroupedScheduler,
        "leap_steps",
        lambda self: min(2 * right(self), self.decodes.steps_to_first_end()) if right(self) else 0,
    )
    with Oracle(version) as oracle:
        different = (
            case for case in (draw(seed, version) for seed in range(400)) if case["config"]["speculative"] is None
        )
        assert any(first_difference(_steps(case), oracle.run(case)["steps"]) is not None for case in different)


def _steps(case: dict) -> list[dict]:
    try:
        return twin_side.run(case)
    except (AssertionError, IndexError, KeyError):
        return []


def test_recorded_traces_find_a_wrong_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "_victim", preempt_the_first)
    wrong = 0
    for path in RECORDED:
        trace = json.loads(path.read_text())
        wrong += first_difference(_steps(trace["case"]), [plain(step) for step in trace["steps"]]) is not None
    assert wrong, "no recorded trace preempts"


def test_there_is_a_recorded_trace_for_every_rule() -> None:
    from record import RULES

    assert {path.stem for path in RECORDED} <= set(RULES)
    assert len(RECORDED) >= 25
