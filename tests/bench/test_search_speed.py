"""What an evaluated candidate costs, here and with the peer; what a second worker brings; the order at five times the load."""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import evaluations
import pytest
from fleet_scale import correlations
from test_replay import AISIMULATE, ROOT, azure, fleet

from twin.plan.plan import screened
from twin.plan.request import PlanRequest
from twin.search.evaluate import Deployment
from twin.search.executors import Executor, open_executor
from twin.search.space import Candidate
from twin.search.workload import make_workload
from twin.spec.hardware import load_profile
from twin.spec.model import load_model
from twin.spec.prices import load_price_book
from twin.spec.slo import Slo
from twin.traffic.trace import Trace

TWIN = ROOT / ".venv" / "bin" / "twin"
MODEL, GPU = "Qwen/Qwen3-8B", "a100_sxm"
GPUS = ("a100_sxm", "h100_sxm", "l40s")
BUSIEST_S = 300.0
PEERS_TRIALS = 3
EVALUATIONS = 8
LONGER = 2
"""The whole Azure trace so many times in a row is an evaluation of at least half a second."""


def test_cost_of_an_evaluated_candidate(benchmark, figure, shared: Path, tmp_path: Path) -> None:
    """Whole commands, start and imports included, on the same requests, model and GPU: the busiest five minutes of the Azure
    conversation trace. A candidate of ours is one configuration of the plan, simulated on all of them (the best of them again,
    with every metric); one of the peer's is one trial of its search: 1 to 4 replicas, TP 1 and 2, three token budgets and three
    numbers of seats, replayed on all of them.
    """
    trace = azure(shared).busiest_window(BUSIEST_S)
    path = as_mooncake(trace, tmp_path / "trace.jsonl")
    command = (
        TWIN, "plan", "--traffic", path, "--model", MODEL, "--gpu", GPU, "--max-gpus", 8, "--ttft", "p90:1s", "--tpot",
        "p90:50ms", "--jobs", 1, "--format", "json", "--out", tmp_path / "plan",
    )  # fmt: skip
    seconds, out = benchmark.pedantic(cpu_seconds, args=command, rounds=1)
    ours = seconds / json.loads(out)["simulated"]
    theirs = peers_cpu_seconds(path, tmp_path)
    peer = {"peer": "AISimulate recommend", "peer_value": theirs} if theirs else {}
    figure("CPU per evaluated candidate, whole command", ours, "s", **peer)
    if theirs:
        figure("that is cheaper than the peer's by", theirs / ours, "times", at_least=20)


@pytest.mark.parametrize("where", ["local", "ray"])
def test_two_workers_against_one(benchmark, figure, shared: Path, where: str) -> None:
    """Wall seconds of the same evaluations once the workers are warm."""
    if where == "ray":
        pytest.importorskip("ray", reason="Ray is not installed (pip install 'twin[ray]')")
    given = deployment(), azure(shared).repeated(LONGER)
    with warm(where, given, 1) as executor:
        alone, expected = timed(executor)
    with warm(where, given, 2) as executor:
        together, found = benchmark.pedantic(timed, args=(executor,), rounds=1)
    assert found == expected
    figure(f"an evaluation of the two workers' ({where})", alone / EVALUATIONS, "s", at_least=0.5)
    figure(f"two workers against one ({where})", alone / together, "times", at_least=1.4)


def test_order_at_five_times_the_load(benchmark, figure, shared: Path) -> None:
    """Spearman's rank correlation over options that the screen leaves, each on its traffic and five times as large on
    five times the requests. ``cost``: USD per million requests that keep their promises.
    """
    load = make_workload(azure(shared).busiest_window(BUSIEST_S), load_model(MODEL))
    book = load_price_book()
    request = PlanRequest(
        model=load_model(MODEL),
        load=load,
        profiles=tuple(load_profile(gpu) for gpu in GPUS),
        prices={gpu: book.price(gpu, "on_demand") for gpu in GPUS},
        slo=Slo.of(ttft="1s", tpot="50ms"),
    )
    assert len(screened(request)[2].alive()) > 100
    found, count = benchmark.pedantic(correlations, args=(request, load.trace, 40), rounds=1)
    for name, value in found.items():
        figure(f"order of {count} options at five times the load, {name}", value, "Spearman", at_least=0.9)


def as_mooncake(trace: Trace, path: Path) -> Path:
    """The trace as both sides read it; every block of 512 prompt tokens has an id, here all different."""
    used = 0
    with path.open("w") as file:
        for arrival, tokens, output in zip(trace.arrival_s, trace.input_tokens, trace.output_tokens, strict=True):
            blocks = -(-int(tokens) // 512)
            row = {"timestamp": round(arrival * 1e3), "input_length": int(tokens), "output_length": int(output)}
            file.write(json.dumps(row | {"hash_ids": list(range(used, used + blocks))}) + "\n")
            used += blocks
    return path


def cpu_seconds(*command: object) -> tuple[float, bytes]:
    """CPU seconds and stdout of a command and its children; it must succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], capture_output=True, check=False, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def peers_cpu_seconds(path: Path, folder: Path) -> float | None:
    """CPU seconds of ``aisimulate recommend`` per trial that it evaluated; None where it is not installed."""
    if not AISIMULATE.exists():
        return None
    ones = dict.fromkeys(("pipeline", "attention_data", "moe_tensor", "moe_expert"), 1)
    layouts = [{"replicas": replicas, "tensor": tensor} | ones for replicas in (1, 2, 3, 4) for tensor in (1, 2)]
    seats = {"max_batched_tokens": {"choices": [2048, 4096, 8192]}, "max_sequences": {"choices": [128, 256, 512]}}
    config = {
        "traffic": {
            "source": {"type": "trace", "paths": [str(path)], "format": "mooncake", "block_size": 512},
            "load": {"type": "trace_timestamps"},
        },
        "engine": {
            "mode": "aggregated", "model": MODEL, "hardware": GPU, "backend": "vllm",
            "workers": {"aggregated": {"parallelism": {"preset": layouts}, "scheduler": seats}},
        },
        "optimization": {"target": "pareto"},
        "optimizer": {"algorithm": "bayesian", "max_trials": PEERS_TRIALS, "parallelism": 1, "seed": 0},
    }  # fmt: skip
    (folder / "recommend.yaml").write_text(json.dumps(config))
    out = folder / "peer"
    seconds, _ = cpu_seconds(AISIMULATE, "recommend", "--config", folder / "recommend.yaml", "--output-dir", out)
    with (out / "recommendation.csv").open() as file:
        evaluated = sum(bool(row["metrics_json"].strip("{} ")) for row in csv.DictReader(file))
    return seconds / evaluated


def deployment() -> Deployment:
    """One replica with vLLM's defaults, as the replay's."""
    on, candidate = fleet(), Candidate(GPU, 1, 1, None, "auto", 256, 2048)
    return Deployment(candidate, on.config, on.cost, 1.0, 0.5)


@contextmanager
def warm(where: str, given: tuple[Deployment, Trace], workers: int) -> Iterator[Executor[int, object]]:
    """An executor whose workers have evaluated once. One of a local executor is this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT / "tests" / "helpers"))
        with open_executor(where, evaluations.simulated, given, jobs=workers) as executor:
            executor.map(range(2 * workers))
            yield executor


def timed(executor: Executor[int, object]) -> tuple[float, list[object]]:
    start = time.perf_counter()
    found = executor.map(range(EVALUATIONS))
    return time.perf_counter() - start, found
