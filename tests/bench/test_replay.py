"""Speed of the replay: the whole Azure conversation trace on one replica of Qwen3-8B on an A100, prefix caching on."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from twin.cluster.simulation import Fleet, simulate
from twin.cost.layout import Layout
from twin.cost.memory import memory_budget
from twin.cost.step import StepModel
from twin.engine.config import EngineConfig
from twin.engine.core import LOG_COLUMNS
from twin.results.metrics import summarize
from twin.spec.hardware import load_profile
from twin.spec.model import load_model
from twin.traffic.readers import read_trace
from twin.traffic.trace import Trace

ROOT = Path(__file__).resolve().parents[2]
AISIMULATE = ROOT / ".venv-peer" / "bin" / "aisimulate"
WHOLE_PROCESS = """
import sys
sys.path.insert(0, {tests!r})
import test_replay
trace = test_replay.azure(test_replay.Path({shared!r}))
test_replay.replay(trace.repeated({times}) if {times} > 1 else trace, test_replay.fleet())
"""


def azure(shared: Path) -> Trace:
    return read_trace(shared / "traces" / "AzureLLMInferenceTrace_conv.csv")


def fleet() -> Fleet:
    """vLLM's defaults on an A100: 2048 batched tokens, 256 sequences, prefix caching on."""
    profile, model = load_profile("a100_sxm"), load_model("Qwen/Qwen3-8B")
    budget = memory_budget(model, profile, max_num_batched_tokens=2048, max_num_seqs=256)
    config = EngineConfig(num_gpu_blocks=budget.num_gpu_blocks, max_num_seqs=256, max_num_batched_tokens=2048)
    return Fleet(config, StepModel(model, profile, Layout(), max_tokens=2048))


def replay(trace: Trace, on: Fleet) -> dict[str, object]:
    return summarize(simulate(trace, on), {"ttft": 0.5, "tpot": 0.05})


def cpu_seconds(function: Callable[[], object], rounds: int) -> list[float]:
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return seconds


def child(code: str) -> tuple[float, float]:
    """CPU seconds and peak MB of a fresh process that runs ``code``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, int(done.stdout.split()[-1]) / 1024


def test_replay_requests_per_cpu_second(benchmark, figure, shared: Path) -> None:
    trace, on = azure(shared), fleet()
    replay(trace, on)
    benchmark.pedantic(replay, args=(trace, on), rounds=3)
    seconds = cpu_seconds(lambda: replay(trace, on), 9)
    figure(
        "replay, loaded trace to metrics (median)",
        len(trace) / statistics.median(seconds),
        "requests/s",
        at_least=50_000,
    )
    figure("replay, loaded trace to metrics (best)", len(trace) / min(seconds), "requests/s")
    overlapped = replace(on, config=replace(on.config, async_scheduling=True))
    seconds_async = cpu_seconds(lambda: replay(trace, overlapped), 9)
    figure("the same, asynchronous scheduling (median)", len(trace) / statistics.median(seconds_async), "requests/s")
    long = trace.repeated(10)
    tenfold = cpu_seconds(lambda: replay(long, on), 3)
    figure("ten times the requests take", statistics.median(tenfold) / statistics.median(seconds), "times", at_most=11)


def test_whole_process(benchmark, figure, shared: Path, tmp_path: Path) -> None:
    code = WHOLE_PROCESS.format(tests=str(Path(__file__).parent), shared=str(shared), times=1)
    trace = azure(shared)
    cpu, peak = benchmark.pedantic(child, args=(code,), rounds=3, warmup_rounds=1)
    peer = _aisimulate(trace, tmp_path)
    figure(
        "replay, whole process from file to metrics", len(trace) / cpu, "requests/s",
        **({"peer": "AISimulate, whole process", "peer_value": peer} if peer else {}),
    )  # fmt: skip
    figure("peak memory of that process", peak, "MB", at_most=300)


def _aisimulate(trace: Trace, folder: Path) -> float | None:
    """Requests per CPU second of AISimulate on the same trace, model and GPU; None where it is not installed."""
    if not AISIMULATE.exists():
        return None
    path, used = folder / "trace.jsonl", 0
    with path.open("w") as file:  # as Mooncake: every block of 512 prompt tokens has an id, here all different
        for arrival, tokens, output in zip(trace.arrival_s, trace.input_tokens, trace.output_tokens, strict=True):
            blocks = -(-int(tokens) // 512)
            row = {"timestamp": round(arrival * 1e3), "input_length": int(tokens), "output_length": int(output)}
            file.write(json.dumps(row | {"hash_ids": list(range(used, used + blocks))}) + "\n")
            used += blocks
    config = {
        "traffic": {
            "source": {"type": "trace", "paths": [str(path)], "format": "mooncake", "block_size": 512},
            "load": {"type": "trace_timestamps"},
        },
        "engine": {
            "mode": "aggregated", "model": "Qwen/Qwen3-8B", "hardware": "a100_sxm", "backend": "vllm",
            "workers": {"aggregated": {}},
        },
    }  # fmt: skip
    (folder / "peer.yaml").write_text(json.dumps(config))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [AISIMULATE, "predict", "--config", folder / "peer.yaml", "--output-dir", folder / "peer"], capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        print(done.stderr.decode()[-2000:])
        return None
    return len(trace) / (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def test_price_of_a_step(benchmark, figure, shared: Path) -> None:
    """CPU seconds spent pricing, per engine step that the replay goes through."""
    on, sim = fleet(), simulate(azure(shared), fleet())
    log = dict(zip(LOG_COLUMNS, sim.logs[0].T, strict=True))
    leaps = [
        (int(n), int(n) * 1100) for n, p in zip(log["num_decodes"], log["prefill_tokens"], strict=True) if p == 0 and n
    ]
    mixed = [([(None, int(p), 0)], int(n), int(n) * 1100)
             for n, p in zip(log["num_decodes"], log["prefill_tokens"], strict=True) if p]  # fmt: skip

    def price() -> None:
        for n, context in leaps:
            on.cost.decode_segment(n, context)
        for chunks, n, context in mixed:
            on.cost.step_s(chunks, n, context)

    price()
    benchmark.pedantic(price, rounds=3)
    figure(
        "predicting a step, amortised",
        statistics.median(cpu_seconds(price, 5)) / log["steps"].sum() * 1e6,
        "µs",
        at_most=1,
    )


@pytest.fixture(scope="session")
def dev_table(shared: Path) -> Path:
    return shared / "groundtruth" / "inferencex_vllm_dev.csv"
