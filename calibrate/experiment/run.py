"""Starts the experiment in vLLM's own environment and sees to its end."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calibrate.experiment import design
from calibrate.measure.machine import memory_bytes
from twin.base import InputError, TwinError, unknown_name
from twin.trust.live.runtime import CPU_ENV, ENV, engine_version, runtime
from twin.trust.live.server import SERVE, end_group

DRIVER = Path(__file__).parent / "inside" / "drive.py"
IDENTITY = ("device", "name", "mode", "model", "threads", "vllm_version", "engine_args", "quick", "seed")
PATIENCE_S = 30.0
PROGRESS = re.compile(r"\d+/\d+ .* left$")


def plan(
    device: str,
    mode: str,
    model: str,
    *,
    threads: int,
    quick: bool,
    seed: int,
    vllm_version: str,
    name: str,
    memory: int,
) -> dict[str, Any]:
    """Everything the driver needs, as JSON. Raises :class:`InputError` for an unknown model."""
    if model not in design.MODELS:
        raise unknown_name("model", model, design.MODELS)
    size = design.SIZES[device, quick]
    config = design.model_config(model)
    on_cpu = device == "cpu"
    engine_args = {
        "enforce_eager": on_cpu,
        "max_model_len": size.prompt + 512,
        "max_num_batched_tokens": min(size.prompt, 8192) // (2 if on_cpu else 1),
        "max_num_seqs": size.seqs,
        "enable_prefix_caching": False,
    }
    return {
        "mode": mode,
        "serve": str(SERVE),
        "model": config,
        "env": ENV | (CPU_ENV | {"OMP_NUM_THREADS": str(threads)} if on_cpu else {}),
        "async_scheduling": not on_cpu,
        "engine_args": engine_args,
        "engine": {
            "schema_version": 1,
            "device": device,
            "name": name,
            "memory_bytes": memory,
            "threads": threads,
            "mode": mode,
            "model": config,
            "vllm_version": vllm_version,
            "async_scheduling": not on_cpu,
            "cuda_graphs": not on_cpu,
            "engine_args": engine_args,
            "quick": quick,
            "seed": seed,
        },
        "probe": design.probe_lengths(device, quick=quick),
        "runs": design.as_rows(design.runs(device, quick=quick, closed=mode == "in_process", seed=seed)),
        "done": [],
    }


def run(
    python: Path, device: str, mode: str, model: str, out: Path, *, threads: int, quick: bool, seed: int,
    tell: Callable[[str], None] = lambda _: None,
) -> None:  # fmt: skip
    """Run what ``out`` does not hold yet, and append it there, whole runs only.

    Raises :class:`InputError` for a device that vLLM cannot use here or a log of another machine or engine,
    :class:`TwinError` when the engine fails.
    """
    version = engine_version(python, device)
    here = runtime(python)
    name, memory = here.cpu, memory_bytes()
    if device == "cuda":
        name, memory = here.name, here.gpu_memory_bytes or 0
    todo = plan(
        device, mode, model, threads=threads, quick=quick, seed=seed, vllm_version=version, name=name, memory=memory
    )
    todo["done"] = _done(out, todo["engine"])
    if len(todo["done"]) == len(todo["runs"]):
        tell(f"all {len(todo['runs'])} runs are in {out} already")
        return
    tell(f"vLLM {version}, {model}, {mode.replace('_', ' ')}: {len(todo['runs']) - len(todo['done'])} runs")
    _drive(python, todo, out, tell)


def _done(out: Path, engine: dict[str, Any]) -> list[str]:
    """Runs that a log of this very engine holds."""
    if not out.exists():
        return []
    from calibrate.step_log import read_steps

    _drop_torn_run(out)

    log = read_steps(out)
    for name in IDENTITY:
        if log.engine.get(name) != engine[name]:
            raise InputError(
                f"this log is of another engine: its {name} is {log.engine.get(name)!r}, here it is {engine[name]!r}",
                where=out.name,
            )
    return sorted(set(log.steps["run"]))


def _drop_torn_run(out: Path) -> None:
    """A run is written in one piece: where the last line is torn, its whole run is."""
    raw = out.read_bytes()
    if raw and not raw.endswith(b"\n"):
        with out.open("r+b") as file:
            file.truncate(max(raw.rfind(b'\n{"run"') + 1, 0))


def _drive(python: Path, todo: dict[str, Any], out: Path, tell: Callable[[str], None]) -> None:
    """The driver in a process group of its own, which ends with us, also when we are interrupted."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        file.write_text(json.dumps(todo), encoding="utf-8")
        process = subprocess.Popen(
            [python, DRIVER, file, out],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        said: deque[str] = deque(maxlen=3)
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if PROGRESS.match(line):
                    tell(line.rstrip())
                elif line.strip():
                    said.append(line.strip())
            code = process.wait()
        finally:
            end_group(process, PATIENCE_S)
        if code:
            raise TwinError(f"the experiment ended with {code}: {' | '.join(said) or 'no message'}")
