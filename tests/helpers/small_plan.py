"""A plan that takes seconds, with risk, growth and an explanation: what pages and reports have to show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

QUESTION = {
    "traffic": "",
    "request_rate": "3",
    "input_len": "800",
    "output_len": "100",
    "num_requests": "120",
    "model": "Qwen/Qwen3-8B",
    "ttft": "1s",
    "gpu": "l40s",
    "max_gpus": "2",
    "growth": "5%/month",
    "risk": "true",
    "worlds": "8",
}
"""As parameters of the Plan page, on top of its defaults."""


def make(argv: list[str], out: Path) -> subprocess.CompletedProcess[str]:
    """``twin`` with ``argv`` (``plan …``), its run folder in ``out``."""
    command = [sys.executable, "-m", "twin", *argv, "--jobs", "1", "--out", str(out), "--format", "json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)
