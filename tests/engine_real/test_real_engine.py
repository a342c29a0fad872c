"""twin's engine composes every step as vLLM's whole engine does, model, kernels and proposer included.

The engine runs on the CPU, where vLLM switches asynchronous scheduling off: every case is synchronous. The scheduler alone,
with asynchronous scheduling and everything else, is compared in ``tests/lockstep``.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import twin_side
from compare import Oracle, first_difference, oracle_environment, plain, side_by_side

VERSION = "0.32"
CASES_OF_EACH = 3
Case = dict[str, Any]

BASE = {
    "num_gpu_blocks": 600,
    "block_size": 32,  # the CPU's attention takes multiples of 32
    "max_num_seqs": 16,
    "max_num_batched_tokens": 512,
    "max_model_len": 512,
    "enable_prefix_caching": False,
    "enable_chunked_prefill": True,
    "long_prefill_token_threshold": 0,
    "long_prefill_token_threshold_adaptive": False,
    "watermark": 0.0,
    "scheduler_reserve_full_isl": True,
    "policy": "fcfs",
    "async_scheduling": False,
    "pipeline_parallel_size": 1,
    "max_num_active_seqs": None,
    "speculative": None,
}
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 3}
CONFIGS: dict[str, Case] = {
    "plain": {},
    "prefix_caching": {"enable_prefix_caching": True, "num_gpu_blocks": 60},
    "preemption": {"enable_prefix_caching": True, "num_gpu_blocks": 20, "scheduler_reserve_full_isl": False},
    "small_budget": {"max_num_batched_tokens": 40, "max_num_seqs": 12, "long_prefill_token_threshold": 25},
    "priority": {"policy": "priority", "num_gpu_blocks": 24, "enable_prefix_caching": True, "watermark": 0.05},
    "ngram": {"speculative": NGRAM, "enable_prefix_caching": True, "num_gpu_blocks": 40},
}


def workload(rng: random.Random, count: int = 40) -> list[Case]:
    """Requests of a few families with shared beginnings, of which some go on with an earlier answer or are aborted."""
    rows: list[Case] = []
    for index, arrival in enumerate(sorted(rng.randint(0, 160) for _ in range(count))):
        prompt, output = rng.choice([rng.randint(1, 60), rng.randint(60, 300)]), rng.choice([1, rng.randint(2, 90)])
        stem = rng.randint(0, prompt // 32)
        row = {
            "arrival": arrival,
            "input_tokens": prompt,
            "output_tokens": output,
            "priority": rng.choice([0, 0, 1, 2]),
            "keys": [1000 * rng.randint(1, 2) + block for block in range(stem)],
            "abort": arrival + rng.randint(0, 40) if rng.random() < 0.1 else None,
            "drafts": [],
            "accepted": [],
            "temperature": 0.7 if index < 2 else 0.0,  # drafts are refused; rejection sampling is slow without Triton
        }
        if index > 10 and rng.random() < 0.25:  # the next turn of what is done by then, mostly
            earlier = rng.randrange(index // 2)
            whole = rows[earlier]["input_tokens"] + rows[earlier]["output_tokens"]
            row |= {"turn_of": earlier, "keys": [], "input_tokens": min(whole + rng.randint(1, 30), 400)}
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def engine() -> Iterator[subprocess.Popen[str]]:
    """A process with vLLM's engine, which serves all configurations in turn."""
    environment = oracle_environment(VERSION)
    if environment is None:
        pytest.skip(f"vLLM {VERSION} is not installed (make oracle), so its engine cannot run beside ours")
    process = subprocess.Popen(
        [environment["TWIN_ORACLE_PYTHON"], str(Path(__file__).parent / "real_engine.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    with process:
        yield process


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    """vLLM's scheduler without its engine; asked for after ``engine``, which skips where there is no vLLM."""
    with Oracle(VERSION) as process:
        yield process


def really(process: subprocess.Popen[str], case: Case) -> Case:
    """What vLLM's engine did: the case as it happened, and its steps."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(case) + "\n")
    process.stdin.flush()
    result: Case = json.loads(process.stdout.readline())
    assert "error" not in result, result["error"]
    result["steps"] = [plain(step) for step in result["steps"]]
    return result


@pytest.mark.parametrize("name", CONFIGS)
def test_every_step_is_composed_as_in_vllms_engine(
    name: str, engine: subprocess.Popen[str], oracle: Oracle, record_property: Callable[[str, object], None]
) -> None:
    totals = {"steps": 0, "preemptions": 0, "hits": 0, "drafts": 0, "accepted": 0, "evictions": 0, "seconds": 0.0}
    for number in range(CASES_OF_EACH):
        rows = workload(random.Random(f"{name} {number}"))
        result = really(engine, {"version": VERSION, "config": BASE | CONFIGS[name], "requests": rows})
        case, theirs = result["case"], result["steps"]
        ours = twin_side.run(case)
        at = first_difference(ours, theirs)
        assert at is None, side_by_side(case, ours, theirs, at)
        assert first_difference(oracle.run(case)["steps"], theirs) is None, "vLLM's scheduler alone does otherwise"
        totals["steps"] += len(theirs)
        totals["evictions"] += result["totals"]["evictions"]
        totals["seconds"] += sum(result["seconds"])
        totals["preemptions"] += sum(len(step["preempted"]) for step in theirs)
        totals["hits"] += sum(hit > 0 for step in theirs for hit in (step["new"] | step["resumed"]).values())
        totals["drafts"] += sum(sum(step["drafts"].values()) for step in theirs)
        totals["accepted"] += sum(sum(row["accepted"]) for row in case["requests"])
    for what, value in totals.items():
        record_property(what, value)
    assert totals["steps"] >= 350  # six of them: more than 2,000 in all
    assert totals["preemptions"] > 0 or name not in ("preemption", "priority")
    assert totals["hits"] > 10 or not (BASE | CONFIGS[name])["enable_prefix_caching"]
    assert totals["evictions"] > 0 or name != "prefix_caching"
    assert name != "ngram" or 0 < totals["accepted"] < totals["drafts"]
    print(name, totals)
