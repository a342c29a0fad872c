"""twin's engine against vLLM's scheduler, every step of random cases; a difference is shrunk and shown side by side.

``make lockstep [STEPS=n SEED=n]`` runs it; its last line is one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import twin_side
from cases import Case, draw

HERE = Path(__file__).parent
VERSIONS = ("0.32", "0.19")
SHARE = {"0.32": 3, "0.19": 1}  # of the cases
FIELDS = ("scheduled", "new", "resumed", "preempted", "drafts", "free", "running", "waiting", "finished")
Step = dict[str, Any]


def oracle_environment(version: str) -> dict[str, str] | None:
    """The environment variables with which the oracle's Python is vLLM ``version``; None where it is not installed."""
    home = os.environ.get("TWIN_ORACLE")
    if home is None or not Path(home, ".done").exists():
        return None
    older = {"PYTHONPATH": str(Path(home, "0.19"))} if version == "0.19" else {}
    return {**os.environ, **older, "TWIN_ORACLE_PYTHON": str(Path(home, "bin", "python"))}


class Oracle:
    """A process with the real scheduler of one release. Raises RuntimeError where that is not installed."""

    def __init__(self, version: str) -> None:
        environment = oracle_environment(version)
        if environment is None:
            raise RuntimeError(f"vLLM {version} is not installed: make oracle")
        self.version = version
        self._process = subprocess.Popen(
            [environment["TWIN_ORACLE_PYTHON"], str(HERE / "oracle.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def run(self, case: Case) -> dict[str, Any]:
        """Steps and totals of a case. Raises RuntimeError with vLLM's traceback when vLLM itself fails."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(case) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"the oracle for vLLM {self.version} ended with status {self._process.wait()}")
        result: dict[str, Any] = json.loads(line)
        if "error" in result:
            raise RuntimeError(result["error"])
        result["steps"] = [plain(step) for step in result["steps"]]
        return result

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def plain(step: Step) -> Step:
    """A step with request numbers as integers, as JSON cannot have them."""
    return {
        name: {int(key): count for key, count in value.items()} if isinstance(value, dict) else value
        for name, value in step.items()
    }


def first_difference(ours: list[Step], theirs: list[Step]) -> int | None:
    """Index of the first step that is not the same on both sides."""
    for index, (one, other) in enumerate(itertools.zip_longest(ours, theirs)):
        if one != other:
            return index
    return None


def ours_of(case: Case) -> list[Step]:
    """Steps of twin's engine; an engine that fails has none."""
    try:
        return twin_side.run(case)
    except (AssertionError, KeyError, IndexError, ValueError, RuntimeError) as error:
        print(f"twin's engine failed: {error!r}", file=sys.stderr)
        return []


def shrink(case: Case, differs: Callable[[Case], bool]) -> Case:
    """The smallest case found that still differs: fewer requests, shorter ones, plainer settings."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in _simpler(case):
            if differs(candidate):
                case, smaller = candidate, True
                break
    return case


def _simpler(case: Case) -> Iterator[Case]:
    requests = case["requests"]
    for count in (len(requests) // 2, 1):
        for start in range(0, len(requests), max(count, 1)):
            kept = requests[:start] + requests[start + count :]
            if kept and count:
                yield {**case, "requests": kept}
    plainer = {"keys": [], "abort": None, "arrival": 0, "priority": 0, "drafts": [], "accepted": []}
    for index, row in enumerate(requests):
        shorter = [
            (name, value) for name in ("output_tokens", "input_tokens") for value in (1, row[name] // 2, row[name] - 1)
        ]
        for name, value in [*plainer.items(), *shorter]:
            worth = value != row[name] if name in plainer else 0 < value < row[name]
            if worth and (name != "arrival" or index == 0 or requests[index - 1]["arrival"] == 0):
                candidate = copy.deepcopy(case)
                candidate["requests"][index][name] = value
                yield candidate
    defaults = {"watermark": 0.0, "long_prefill_token_threshold": 0, "max_num_active_seqs": None, "policy": "fcfs"}
    for name, value in defaults.items():
        if case["config"][name] != value:
            yield {**case, "config": {**case["config"], name: value}}


def side_by_side(case: Case, ours: list[Step], theirs: list[Step], at: int, before: int = 3) -> str:
    """The case and the steps up to the first different one, in at most 100 columns."""
    config = ", ".join(f"{name}={value}" for name, value in case["config"].items())
    lines = [f"vLLM {case['version']}", *_wrapped(config)]
    lines += [f"request {index}: {_short(row)}" for index, row in enumerate(case["requests"])]
    lines.append(f"{'step':>5}   {'field':<10} {'twin':<39} {'vLLM':<39}")
    for index in range(max(at - before, 0), at + 1):
        one, other = (steps[index] if index < len(steps) else {} for steps in (ours, theirs))
        for name in FIELDS:
            mine, their = one.get(name, "(no step)"), other.get(name, "(no step)")
            if mine or their:
                mark = " " if mine == their else "≠"
                lines.append(f"{index:>5} {mark} {name:<10} {_fit(mine):<39} {_fit(their):<39}")
    return "\n".join(lines)


def _fit(value: object) -> str:
    text = str(value)
    return text if len(text) <= 39 else f"{text[:36]}..."


def _short(row: Case) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items() if value not in (0, None, []))[:88]


def _wrapped(text: str, width: int = 100) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return lines


def count(case: Case, result: dict[str, Any], totals: Counter[str]) -> None:
    """Add what the oracle went through in ``case`` to ``totals``."""
    config, steps = case["config"], result["steps"]
    totals["cases"] += 1
    totals["steps"] += len(steps)
    totals[f"steps_{case['version']}"] += len(steps)
    totals["evictions"] += result["totals"]["evictions"]
    totals["preemptions"] += sum(len(step["preempted"]) for step in steps)
    totals["prefix_hits"] += sum(
        hit > 0 for step in steps for hit in (*step["new"].values(), *step["resumed"].values())
    )
    totals["aborts"] += sum(row["abort"] is not None for row in case["requests"])
    kinds = {
        "async": config["async_scheduling"],
        "speculative": config["speculative"] is not None,
        "pipeline": config["pipeline_parallel_size"] > 1,
        "priority": config["policy"] == "priority",
    } | {
        f"{name}_groups": any(group["kind"] == name for group in config.get("kv_groups") or ())
        for name in ("sliding_window", "chunked_local", "mamba")
    }
    for kind, is_so in kinds.items():
        totals[f"{kind}_steps"] += len(steps) * is_so


def compare_version(version: str, seeds: range, steps: int, say: Callable[[str], None]) -> Counter[str]:
    """Cases of one release until ``steps`` are compared; stops at the first difference, and shows it."""
    totals: Counter[str] = Counter()
    with Oracle(version) as oracle:
        for seed in seeds:
            case = draw(seed, version)
            result = oracle.run(case)
            ours = ours_of(case)
            count(case, result, totals)
            if first_difference(ours, result["steps"]) is not None:
                totals["mismatches"] += 1
                say(f"vLLM {version}, case {seed} differs:\n{explain(oracle, case)}")
                break
            if totals["steps"] >= steps:
                break
            if seed % 200 == 199:
                say(f"vLLM {version}: {totals['steps']:,} steps of {totals['cases']:,} cases, all the same")
    return totals


def explain(oracle: Oracle, case: Case) -> str:
    """A case that differs, shrunk and side by side."""

    def both(candidate: Case) -> tuple[list[Step], list[Step]] | None:
        try:
            return ours_of(candidate), oracle.run(candidate)["steps"]
        except RuntimeError:  # shrunk to something that vLLM refuses
            return None

    def differs(candidate: Case) -> bool:
        sides = both(candidate)
        return sides is not None and first_difference(*sides) is not None

    case = shrink(case, differs)
    sides = both(case)
    assert sides is not None
    at = first_difference(*sides)
    assert at is not None
    return side_by_side(case, *sides, at)


def speed(version: str = "0.32") -> dict[str, float]:
    """Seconds of the real scheduler and of twin's engine on the same workload, in the same process run after run."""
    case = busy_case(version)
    with Oracle(version) as oracle:
        oracle.run({**case, "requests": case["requests"][:20]})  # warm
        real = oracle.run(case)["totals"]["seconds"]
    ours = min(twin_side.time_engine(case) for _ in range(3))
    return {"vllm_s": round(real, 3), "twin_s": round(ours, 5), "times_faster": round(real / ours, 1)}


def busy_case(version: str) -> Case:
    """1,000 requests of 500 tokens in and 300 out, arriving one every four steps: about 75 decode at a time."""
    config = draw(0, version)["config"] | {
        "num_gpu_blocks": 20_000,
        "block_size": 16,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 8192,
        "max_model_len": 4096,
        "enable_prefix_caching": True,
        "enable_chunked_prefill": True,
        "long_prefill_token_threshold": 0,
        "long_prefill_token_threshold_adaptive": False,
        "watermark": 0.0,
        "scheduler_reserve_full_isl": True,
        "policy": "fcfs",
        "async_scheduling": True,
        "pipeline_parallel_size": 1,
        "max_num_active_seqs": None,
        "speculative": None,
        "kv_groups": None,
    }
    row = {
        "input_tokens": 500,
        "output_tokens": 300,
        "priority": 0,
        "keys": [],
        "abort": None,
        "drafts": [],
        "accepted": [],
    }
    return {"version": version, "config": config, "requests": [{"arrival": 4 * n, **row} for n in range(1000)]}


def main() -> int:
    """See ``make lockstep``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000, help="at least so many in all")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    options = parser.parse_args()
    first = options.seed * 10_000_000
    seeds = range(first, first + 10_000_000)
    share = sum(SHARE.values())

    def run(version: str) -> Counter[str]:
        steps = -(-options.steps * SHARE[version] // share)
        return compare_version(version, seeds, steps, lambda text: print(text, file=sys.stderr, flush=True))

    missing = [version for version in VERSIONS if oracle_environment(version) is None]
    if missing:
        print(f"vLLM {' and '.join(missing)} not installed: make oracle", file=sys.stderr)
        return 1
    with ThreadPoolExecutor(len(VERSIONS)) as pool:
        totals = sum(pool.map(run, VERSIONS), Counter())
    result: dict[str, Any] = {name: totals[name] for name in ("steps", "mismatches", "preemptions", "evictions")}
    result |= dict(sorted(totals.items()))
    result["seed"] = options.seed
    if not totals["mismatches"]:
        result["speed"] = speed()
    print(json.dumps(result))
    return 1 if totals["mismatches"] else 0


if __name__ == "__main__":
    sys.exit(main())
