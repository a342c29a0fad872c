"""Write the recorded traces: for each rule, vLLM's own steps on a small case that comes out otherwise without the rule.

Run by hand where vLLM is installed: ``TWIN_ORACLE=… .venv/bin/python tests/lockstep/record.py``.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import twin_side
from cases import Case, draw
from compare import Oracle, Step, first_difference, shrink

from twin.base import InputError
from twin.spec.versions import VERSIONS

RECORDED = Path(__file__).parent / "recorded"
MOST_STEPS = 60


def setting(**changes: object) -> Callable[[Case], list[Step]]:
    """The engine on the same case with other settings."""

    def run(case: Case) -> list[Step]:
        return twin_side.run({**case, "config": {**case["config"], **changes}})

    return run


def requests(**changes: object) -> Callable[[Case], list[Step]]:
    """The engine on the same case with something taken away from every request."""

    def run(case: Case) -> list[Step]:
        changed = copy.deepcopy(case)
        for row in changed["requests"]:
            row |= changes
        return twin_side.run(changed)

    return run


def rule(name: str) -> Callable[[Case], list[Step]]:
    """The engine with one rule of the release turned round."""

    def run(case: Case) -> list[Step]:
        version = VERSIONS[case["version"]]
        other = dataclasses.replace(version, **{name: not getattr(version, name)})
        with patch.dict(VERSIONS, {case["version"]: other}):
            return twin_side.run(case)

    return run


def has(**wanted: object) -> Callable[[Case], bool]:
    """Cases with these settings."""
    return lambda case: all(case["config"][name] == value for name, value in wanted.items())


def group(kind: str, **wanted: object) -> Callable[[Case], bool]:
    """Cases of models with layers of this kind, and with these settings."""
    return lambda case: (
        any(row["kind"] == kind for row in case["config"].get("kv_groups") or ()) and has(**wanted)(case)
    )


def method(name: str) -> Callable[[Case], bool]:
    """Cases with this kind of speculation."""
    return lambda case: (case["config"]["speculative"] or {}).get("method") == name


# name: (release, which cases, the engine without the rule)
RULES: dict[str, tuple[str, Callable[[Case], bool], Callable[[Case], list[Step]]]] = {
    "sliding_window": ("0.32", group("sliding_window"), setting(kv_groups=None)),
    "chunked_local": ("0.32", group("chunked_local"), setting(kv_groups=None)),
    "mamba": ("0.32", group("mamba", enable_prefix_caching=True), setting(kv_groups=None)),
    "mamba_no_prefix_caching": ("0.32", group("mamba", enable_prefix_caching=False), setting(kv_groups=None)),
    "frees_processed_only": ("0.32", group("sliding_window", async_scheduling=True), rule("frees_processed_only")),
    "windows_cap_admission": ("0.32", group("sliding_window"), rule("windows_cap_admission")),
    "sparse_checkpoints": ("0.32", group("sliding_window"), rule("sparse_checkpoints")),
    "0.19_dense_checkpoints": ("0.19", group("sliding_window"), rule("sparse_checkpoints")),
    "priority": ("0.32", has(async_scheduling=False), setting(policy="fcfs")),
    "async": ("0.32", has(pipeline_parallel_size=1, speculative=None), setting(async_scheduling=False)),
    "prefix_caching": ("0.32", has(async_scheduling=False), setting(enable_prefix_caching=False)),
    "shared_keys": ("0.32", has(async_scheduling=True, speculative=None), requests(keys=[])),
    "chunked_prefill_off": ("0.32", has(async_scheduling=False), setting(enable_chunked_prefill=True)),
    "long_prefill_token_threshold": ("0.32", has(speculative=None), setting(long_prefill_token_threshold=0)),
    "threshold_adaptive": ("0.32", has(speculative=None), setting(long_prefill_token_threshold_adaptive=False)),
    "watermark": ("0.32", has(speculative=None), setting(watermark=0.0)),
    "reserve_full_isl": ("0.32", has(scheduler_reserve_full_isl=True), setting(scheduler_reserve_full_isl=False)),
    "max_num_active_seqs": ("0.32", has(speculative=None), setting(max_num_active_seqs=None)),
    "pipeline_sync": ("0.32", has(async_scheduling=False), setting(pipeline_parallel_size=1)),
    "pipeline_async": ("0.32", has(async_scheduling=True), setting(pipeline_parallel_size=1)),
    "ngram": ("0.32", method("ngram"), setting(speculative=None)),
    "eagle": ("0.32", method("eagle"), setting(speculative=None)),
    "draft_model": ("0.32", method("draft_model"), setting(speculative=None)),
    "aborts": ("0.32", has(async_scheduling=True), requests(abort=None)),
    "threshold_spares_a_lone_request": ("0.32", has(), rule("threshold_spares_a_lone_request")),
    "unhashed_blocks_first": ("0.32", has(), rule("unhashed_blocks_first")),
    "lookahead_at_admission": ("0.32", has(), rule("lookahead_at_admission")),
    "pads_new_decodes": ("0.32", has(), rule("pads_new_decodes")),
    "draft_slots_per_step": ("0.32", has(), rule("draft_slots_per_step")),
    "stale_output_holds_back": ("0.32", has(), rule("stale_output_holds_back")),
    "victim_shifts_the_walk": ("0.32", has(policy="priority"), rule("victim_shifts_the_walk")),
    "fills_with_empty_steps": ("0.32", has(), rule("fills_with_empty_steps")),
    "0.19_threshold_binds_a_lone_request": ("0.19", has(), rule("threshold_spares_a_lone_request")),
    "0.19_blocks_queue_as_freed": ("0.19", has(), rule("unhashed_blocks_first")),
    "0.19_no_lookahead_at_admission": ("0.19", has(), rule("lookahead_at_admission")),
    "0.19_draft_slots_by_seat": ("0.19", has(), rule("draft_slots_per_step")),
    "0.19_no_padding": ("0.19", has(), rule("pads_new_decodes")),
    "0.19_victim_leaves_the_walk": ("0.19", has(policy="priority"), rule("victim_shifts_the_walk")),
    "0.19_stale_output_does_not_hold_back": ("0.19", has(), rule("stale_output_holds_back")),
    "0.19_empty_step_waits": ("0.19", has(), rule("fills_with_empty_steps")),
}


def matters(case: Case, without: Callable[[Case], list[Step]], theirs: list[Step]) -> bool:
    """Whether the engine comes out otherwise without the rule (or cannot go on at all)."""
    try:
        return first_difference(without(case), theirs) is not None
    except InputError:  # refused before a step: that shows nothing
        return False
    except (AssertionError, ValueError, KeyError, IndexError):
        return True


def record(name: str, oracle: Oracle) -> bool:
    """Find, shrink and write the case of one rule; False when no case shows it."""
    _, fits, without = RULES[name]

    def shows(case: Case) -> bool:
        try:
            theirs = oracle.run(case)["steps"]
            return first_difference(twin_side.run(case), theirs) is None and matters(case, without, theirs)
        except (RuntimeError, AssertionError, ValueError):  # shrunk to what vLLM, or the engine, refuses
            return False

    for seed in range(4_000):
        case = draw(seed, oracle.version)
        if fits(case) and matters(case, without, twin_side.run(case)) and shows(case):
            case = shrink(case, shows)
            steps: list[dict[str, Any]] = oracle.run(case)["steps"]
            if len(steps) <= MOST_STEPS:
                head = {"rule": name, "vllm": oracle.version, "written_by": "tests/lockstep/record.py", "seed": seed}
                rows = ",\n  ".join(json.dumps(step, separators=(",", ":")) for step in steps)
                start = json.dumps({**head, "case": case})
                (RECORDED / f"{name}.json").write_text(f'{start[:-1]}, "steps": [\n  {rows}\n]}}\n')
                return True
    return False


def main() -> None:
    """Write all, or those named."""
    RECORDED.mkdir(exist_ok=True)
    for name in sys.argv[1:] or RULES:
        with Oracle(RULES[name][0]) as oracle:
            print(name, "written" if record(name, oracle) else "no case shows it", flush=True)


if __name__ == "__main__":
    main()
