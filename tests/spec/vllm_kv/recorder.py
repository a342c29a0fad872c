"""Asks vLLM about every shipped model and keeps its answers: ``python tests/spec/vllm_kv/recorder.py VLLM_PYTHON``.

The answers stand in ``answers.json`` for machines without vLLM; ``test_kv_groups.py`` asks some of them again where it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODELS = HERE.parents[2] / "twin" / "spec" / "models"
ANSWERS = HERE / "answers.json"

# The CPU's attention takes blocks of 128 tokens at the least that it likes; 60 GiB are as good as any.
FIXED = {"block_size": 128, "available_bytes": 60 * 2**30}
SHARDED = (
    "Qwen/Qwen3-8B",
    "openai/gpt-oss-20b",
    "deepseek-ai/DeepSeek-V2-Lite",
    "google/gemma-3-4b-it",
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
    "MiniMaxAI/MiniMax-M2.5",
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2",
    "Qwen/Qwen3-Next-80B-A3B-Instruct",
)


def cases() -> list[tuple[str, int, str]]:
    """Model, tensor_parallel_size, kv_cache_dtype."""
    names = sorted(path.stem.replace("--", "/") for path in MODELS.glob("*.json"))
    return [(name, 1, "auto") for name in names] + [(name, 2, "fp8") for name in SHARDED]


def ask(python: Path, asked: Iterable[tuple[str, int, str]]) -> list[dict[str, Any]]:
    """vLLM's answers, in order."""
    lines = []
    for name, tp, kv_cache_dtype in asked:
        config = json.loads((MODELS / f"{name.replace('/', '--')}.json").read_text())
        lines.append(json.dumps({"config": config, "tp": tp, "kv_cache_dtype": kv_cache_dtype, **FIXED}))
    done = subprocess.run(
        [python, HERE / "oracle.py"], input="\n".join(lines), capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def main() -> None:
    asked = cases()
    answers = ask(Path(sys.argv[1]), asked)
    lines = [
        json.dumps({"model": name, "tp": tp, "kv_cache_dtype": kv, **answer})
        for (name, tp, kv), answer in zip(asked, answers, strict=True)
    ]
    ANSWERS.write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
