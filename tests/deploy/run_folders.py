"""Run folders that several tests read: made once by the program itself, copied where a test changes one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twin.cli.main import main

QUESTION = [
    *("--request-rate", "2", "--num-requests", "60", "--input-len", "500", "--output-len", "50"),
    *("--model", "Qwen/Qwen3-0.6B", "--ttft", "2s", "--tpot", "p90:50ms", "--e2el", "20s"),
    *("--gpu", "l40s", "--max-gpus", "2", "--jobs", "1"),
]


def planned(folder: Path) -> Path:
    """The run folder of a small plan."""
    assert main(["--quiet", "plan", *QUESTION, "--out", str(folder)]) == 0
    return folder / "plan"


def edited(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a plan's run folder whose ``plan.json`` was changed."""
    shutil.copytree(source, target)
    answer = json.loads((target / "plan.json").read_text())
    change(answer)
    (target / "plan.json").write_text(json.dumps(answer))
    return target


def option_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The recommended option of a plan's JSON."""
    found: dict[str, Any] = next(item for item in answer["options"] if item["id"] == answer["recommended"])
    return found


def laid_out(option: dict[str, Any], replicas: int, **sizes: int) -> None:
    """Make another layout of an option: ``tensor=4, pipeline=4``; its command and its GPUs with it."""
    words = option["vllm_command"].split(" --")
    kept = [
        word for word in words if not any(f"{axis}-parallel-size" in word for axis in ("tensor", "pipeline", "data"))
    ]
    gpus = replicas
    for axis in ("tensor", "pipeline", "data"):
        size = sizes.get(axis, 1)
        option[f"{axis}_parallel_size"] = size
        kept.append(f"{axis}-parallel-size {size}")
        gpus *= size
    option |= {"vllm_command": " --".join(kept), "replicas": replicas, "num_gpus": gpus}
