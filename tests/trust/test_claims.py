"""Claims: those shipped are whole, figures and judgements are what they say, a refused case says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twin.base import InputError, data_dir
from twin.cli.main import main
from twin.spec.scenario import load_scenario
from twin.trust.claims import Claim, Verdict, judge, page, read_claims, rows_of

SHIPPED = data_dir("scenarios") / "claims" / "claims.yaml"
SCENARIO = """
model: Qwen/Qwen3-8B
traffic: {synthetic: {request_rate: 5, num_requests: 60, input_len: 100, output_len: {median: 20, p99: 100}}}
deployment: {gpu: h100_sxm}
"""
CLAIMS = """
claims:
  - name: batches
    claim: whole batches waste | slots
    scenario: small.yaml
    cases:
      static: [engine.batching=static, engine.max_num_seqs=8]
      continuous: []
      too large: [deployment.tensor_parallel_size=3]
    figures: {useful_slots: {static: 0.5, continuous: 0.9}, busy: {}, weight_gb: {}, capacity_requests: {}}
    why: as it is
"""


@pytest.fixture
def claims(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SCENARIO, encoding="utf-8")
    (tmp_path / "claims.yaml").write_text(CLAIMS, encoding="utf-8")
    return tmp_path / "claims.yaml"


def test_every_claim_of_the_issue_is_shipped_with_its_scenario() -> None:
    shipped = read_claims(SHIPPED)
    assert len(shipped) >= 7
    for claim in shipped:
        assert load_scenario(SHIPPED.parent / claim.scenario).deployment.gpu
        assert any(figure for figure in claim.figures)


def test_dynamic_batching_keeps_the_gpu_busier_as_people_say() -> None:
    (claim,) = read_claims(SHIPPED, ["dynamic_batching"])
    verdict = judge(claim, SHIPPED.parent)
    static, dynamic, continuous = (verdict.values[case] for case in claim.cases)
    assert static["busy"] == pytest.approx(0.45, abs=0.03)
    assert dynamic["busy"] == pytest.approx(0.78, abs=0.03)
    assert verdict.judgement("busy").startswith("agrees")
    assert dynamic["output_throughput"] == pytest.approx(static["output_throughput"], rel=0.02), "busier, not faster"
    assert continuous["capacity_requests"] > 3 * dynamic["capacity_requests"]
    assert continuous["useful_slots"] == 1.0


def test_a_claim_is_judged_by_its_first_and_last_case(claims: Path) -> None:
    (claim,) = read_claims(claims)
    verdict = judge(claim, claims.parent)
    assert set(verdict.values) == {"static", "continuous"}
    assert "divide" in verdict.refused["too large"]
    said, got = verdict.ratio("useful_slots") or (0.0, 0.0)
    assert said == 1.8
    assert got == pytest.approx(1 / verdict.values["static"]["useful_slots"])
    assert verdict.values["static"]["weight_gb"] == pytest.approx(16.4, abs=0.1)
    assert verdict.judgement("busy") == ""
    assert len(rows_of([verdict])) == 4 * 3
    text = page([verdict])
    assert "The twin refuses *too large*" in text
    assert "50.0 %" in text


@pytest.mark.parametrize(("got", "word"), [(1.65, "agrees"), (1.97, "agrees"), (1.6, "differs"), (2.0, "differs")])
def test_a_tenth_is_what_a_claim_may_be_off(claims: Path, got: float, word: str) -> None:
    (claim,) = read_claims(claims)
    verdict = Verdict(claim, {"static": {"useful_slots": 1.0}, "continuous": {"useful_slots": got}}, {})
    assert verdict.judgement("useful_slots").startswith(word)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("useful_slots:", "useful_slot:"), "did you mean 'useful_slots'"),
        (("{static: 0.5", "{statik: 0.5"), "'statik' is no case"),
        (("small.yaml", "gone.yaml"), "no such scenario: gone.yaml"),
    ],
)
def test_what_is_wrong_in_a_file_of_claims_is_said(claims: Path, change: tuple[str, str], says: str) -> None:
    claims.write_text(CLAIMS.replace(*change), encoding="utf-8")
    with pytest.raises(InputError, match=says):
        [judge(claim, claims.parent) for claim in read_claims(claims)]
    with pytest.raises(InputError, match="unknown claim"):
        read_claims(SHIPPED, ["dynamic_batchin"])


def test_the_command_prints_json_and_writes_the_page(claims: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = claims.parent / "page.md"
    assert main(["claims", "batches", "--file", str(claims), "--page", str(target), "--format", "json", "--quiet"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["claims"]
    assert found["cases"]["continuous"]["figures"]["useful_slots"] == 1.0
    assert found["cases"]["too large"]["figures"] is None
    assert found["figures"]["useful_slots"]["claimed"] == {"static": 0.5, "continuous": 0.9}
    assert target.read_text(encoding="utf-8").count("## ") == 1
    assert main(["claims", "--file", str(claims)]) == 0
    assert "refused, too large" in capsys.readouterr().out


def test_a_claim_compares_two_cases_at_least() -> None:
    with pytest.raises(ValueError, match="two cases"):
        Claim(name="a", claim="b", scenario="c", cases={"one": ()}, figures={}, why="")
