"""Run folders of ``twin plan``, made by the command once a session: small enough for seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from twin.cli.main import main

RunFolder = Callable[[str], Path]

TRAFFIC = ("--request-rate", "3", "--input-len", "800", "--output-len", "150", "--num-requests", "300")
SMALL = ("--model", "Qwen/Qwen3-8B", "--quantization", "fp8", "--max-num-seqs", "128", "--jobs", "1")
L40S = (*SMALL, *TRAFFIC, "--gpu", "l40s", "--max-gpus", "4")
HELD = ("--ttft", "1s", "--tpot", "40ms")
ASSESSED = ("--risk", "--worlds", "8", "--growth", "5%±2%/month")

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "plain": (*L40S, *HELD, "--budget", "30k/month"),
    "risk": (*L40S, *HELD, *ASSESSED, "--explain", "recommended"),
    "infeasible": (*L40S, *HELD, "--budget", "1k/month"),
    "nowhere": (*L40S, "--ttft", "1ms", "--rate", "×100", "--explain", "recommended"),
    "pools": (
        *(*SMALL, *ASSESSED, "--gpu", "l40s,h100_sxm", "--max-gpus", "6", "--request-rate", "6"),
        *("--input-len", "median=500,p99=6000", "--output-len", "150", "--num-requests", "400"),
        *("--class", "short:input<=600,ttft=150ms,tpot=12ms", "--class", "long:e2el=120s"),
    ),
    "fixed": (*HELD, *ASSESSED),
    "late": ("--ttft", "50ms", "--rate", "×3"),
}
"""``plain``: without risk; ``nowhere``: nothing to simulate;
``fixed``: what ``risk`` recommends, judged as deployed; ``late``: the same, missing a promise."""

JUDGED = frozenset({"fixed", "late"})


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """``run_folder("risk")``: the folder of one of :data:`ARGUMENTS`. Nobody writes into it; :func:`changed` makes copies."""
    known: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in known:
            arguments = ARGUMENTS[name]
            if name in JUDGED:
                arguments = ("--fixed", str(make("risk") / "scenario.yaml"), *arguments)
            parent = tmp_path_factory.mktemp(name)
            with redirect_stdout(StringIO()):
                main(["plan", *arguments, "--out", str(parent), "--quiet"])
            known[name] = parent / "plan"
        return known[name]

    return make


def changed(folder: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a run folder whose ``plan.json`` was changed in place."""
    shutil.copytree(folder, to)
    plan = json.loads((to / "plan.json").read_text(encoding="utf-8"))
    change(plan)
    (to / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return to
