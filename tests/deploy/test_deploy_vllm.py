"""Every command that is printed, and every metric that is watched, against the real vLLM."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_folders import edited, laid_out, option_of

from twin.deploy.alerts import rule_groups
from twin.deploy.buckets import EDGES_S
from twin.deploy.commands import Asked
from twin.deploy.fleet import fleet_of
from twin.deploy.targets import TARGETS
from twin.results.run import read_run

SHAPES = {
    "as planned": {},
    "side by side": {"replicas": 6, "tensor": 2},
    "pipeline over nodes": {"replicas": 2, "tensor": 8, "pipeline": 2},
    "uneven pipeline": {"replicas": 1, "tensor": 4, "pipeline": 3},
    "ranks over nodes": {"replicas": 1, "tensor": 4, "data": 4},
}

PARSE = """
import json, os, sys
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.metrics import buckets
parser = make_arg_parser(FlexibleArgumentParser())
found = []
for words in json.load(sys.stdin):
    args = vars(parser.parse_args(words))
    keep = ["model_tag", "port", "headless", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "nnodes",
            "node_rank", "master_addr", "data_parallel_size_local", "data_parallel_start_rank", "data_parallel_address",
            "max_num_seqs", "max_num_batched_tokens", "custom_histogram_buckets"]
    found.append({name: args[name] for name in keep})
edges = {"ttft": buckets.TIME_TO_FIRST_TOKEN_BUCKETS, "tpot": buckets.INTER_TOKEN_LATENCY_BUCKETS,
         "e2el": buckets.REQUEST_LATENCY_BUCKETS}
print("RESULT", json.dumps({"parsed": found, "edges": edges, "families": sorted(buckets.BUCKET_FAMILY_KEYS)}))
"""


def shaped(plan_folder: Path, tmp_path: Path, shape: str) -> Path:
    if not SHAPES[shape]:
        return plan_folder
    place = tmp_path / shape.replace(" ", "-")
    return edited(plan_folder, place, lambda answer: laid_out(option_of(answer), **SHAPES[shape]))


def printed(text: str, tmp_path: Path, name: str, hostname: str | None = None) -> list[list[str]]:
    """What a script really starts: it runs with a ``vllm`` that writes its arguments down."""
    folder = tmp_path / f"bin-{name}"
    folder.mkdir()
    fake = folder / "vllm"
    fake.write_text(
        '#!/bin/sh\nout=$(mktemp "$CALLS/XXXXXX")\nfor word in "$@"; do printf "%s\\n" "$word" >> "$out"; done\n'
    )
    fake.chmod(0o755)
    calls = folder / "calls"
    calls.mkdir()
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(calls), "NODE_1": "10.0.0.1", "NODE_3": "10.0.0.3"}
    subprocess.run(["sh", "-c", text], env=env | ({"HOSTNAME": hostname} if hostname else {}), check=True, timeout=30)
    return [path.read_text().splitlines() for path in sorted(calls.iterdir())]


def pods(document: dict[str, Any], tmp_path: Path) -> list[list[str]]:
    """The commands of a Deployment's or StatefulSet's pods."""
    container = document["spec"]["template"]["spec"]["containers"][0]
    if document["kind"] == "Deployment":
        return [[*container["command"][1:], *container["args"]]]
    name = document["metadata"]["name"]
    return [
        printed(container["args"][0], tmp_path, f"{name}-{part}", f"{name}-{part}")[0]
        for part in range(document["spec"]["replicas"])
    ]


def commands(run: Path, tmp_path: Path) -> list[list[str]]:
    """The arguments of every ``vllm`` of every target."""
    fleet, found = fleet_of(read_run(run)), []
    for name, text in TARGETS["vllm"](fleet, Asked()).items():
        found += printed(text, tmp_path, name)
    if fleet.pools[0].nodes == 1:
        for text in TARGETS["compose"](fleet, Asked()).values():
            services = yaml.safe_load(text)["services"].values()
            found += [[*s["entrypoint"][1:], *s["command"]] for s in services if "entrypoint" in s]
    for document in yaml.safe_load_all(TARGETS["kubernetes"](fleet, Asked())["serving.yaml"]):
        found += pods(document, tmp_path) if document["kind"] in ("Deployment", "StatefulSet") else []
    return found


def asked_of_vllm(oracle: Path, words: list[list[str]]) -> dict[str, Any]:
    done = subprocess.run(
        [str(oracle), "-c", PARSE], input=json.dumps(words), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return found


def test_vllm_parses_every_printed_command(oracle: Path, plan_folder: Path, tmp_path: Path) -> None:
    by_shape = {}
    for shape in SHAPES:
        (tmp_path / shape).mkdir()
        by_shape[shape] = commands(shaped(plan_folder, tmp_path, shape), tmp_path / shape)
    every = [words for found in by_shape.values() for words in found]
    assert all(words[0] == "serve" for words in every)
    answer = asked_of_vllm(oracle, [words[1:] for words in every])
    parsed = iter(answer["parsed"])
    for shape, found in by_shape.items():
        sizes = SHAPES[shape]
        for args in [next(parsed) for _ in found]:
            assert args["model_tag"] == "Qwen/Qwen3-0.6B"
            for axis in ("tensor", "pipeline", "data"):
                assert args[f"{axis}_parallel_size"] == sizes.get(axis, 1), shape
            assert (args["max_num_seqs"], args["max_num_batched_tokens"]) == (64, 2048)
            assert set(args["custom_histogram_buckets"]) <= set(answer["families"])
            assert 2.0 in args["custom_histogram_buckets"]["time_to_first_token"]
    assert {metric: tuple(edges) for metric, edges in answer["edges"].items()} == EDGES_S


def test_parts_of_a_replica_over_nodes(plan_folder: Path, tmp_path: Path) -> None:
    scripts = TARGETS["vllm"](fleet_of(read_run(shaped(plan_folder, tmp_path, "pipeline over nodes"))), Asked())
    assert list(scripts) == [f"node-{n}.sh" for n in (1, 2, 3, 4)]
    found = [printed(text, tmp_path, name)[0] for name, text in scripts.items()]
    assert [words[words.index("--node-rank") + 1] for words in found] == ["0", "1", "0", "1"]
    assert ["--headless" in words for words in found] == [False, True, False, True]
    heads = [words[words.index("--master-addr") + 1] for words in found]
    assert heads == ["10.0.0.1", "10.0.0.1", "10.0.0.3", "10.0.0.3"]
    ranks = TARGETS["vllm"](fleet_of(read_run(shaped(plan_folder, tmp_path, "ranks over nodes"))), Asked())
    second = printed(ranks["node-2.sh"], tmp_path, "ranks")[0]
    assert second[second.index("--data-parallel-start-rank") + 1] == "2"
    assert second[second.index("--data-parallel-size-local") + 1] == "2"


def test_a_pipeline_of_three_stands_on_nodes_of_equal_size(plan_folder: Path, tmp_path: Path) -> None:
    """vLLM asks that nodes share a replica evenly: 12 GPUs as TP4 PP3 are three nodes of 4, not 8 and 4."""
    pool = fleet_of(read_run(shaped(plan_folder, tmp_path, "uneven pipeline"))).pools[0]
    assert pool.nodes == 3


def test_replicas_share_a_node_without_sharing_gpus_or_ports(plan_folder: Path, tmp_path: Path) -> None:
    scripts = TARGETS["vllm"](fleet_of(read_run(shaped(plan_folder, tmp_path, "side by side"))), Asked(port=9000))
    gpus, ports = [], []
    for text in scripts.values():
        here = re.findall(r"^CUDA_VISIBLE_DEVICES=(\S+) (vllm .*) &$", text, re.M)
        gpus.append([index for devices, _ in here for index in devices.split(",")])
        ports.append([shlex.split(line)[shlex.split(line).index("--port") + 1] for _, line in here])
    assert gpus == [["0", "1", "2", "3", "4", "5", "6", "7"], ["0", "1", "2", "3"]]
    assert ports == [["9000", "9001", "9002", "9003"], ["9000", "9001"]]


def test_every_metric_is_in_the_source_of_vllm(oracle: Path, plan_folder: Path) -> None:
    pool = fleet_of(read_run(plan_folder)).pools[0]
    text = (
        json.dumps(rule_groups(pool, 1))
        + TARGETS["kubernetes"](fleet_of(read_run(plan_folder)), Asked())["autoscaling.yaml"]
    )
    names = set(re.findall(r"vllm:(\w+)", text))
    assert len(names) >= 7
    site = next((oracle.parent.parent / "lib").glob("python3*")) / "site-packages" / "vllm"
    for root in (site, oracle.parent.parent / "0.19" / "vllm"):
        source = "".join(path.read_text() for path in sorted((root / "v1" / "metrics").glob("*.py")))
        known = set(re.findall(r'"vllm:(\w+)"', source))
        assert {re.sub(r"_(bucket|total)$", "", name) for name in names} <= known


def test_0_19_is_not_given_a_flag_that_it_lacks(plan_folder: Path, tmp_path: Path) -> None:
    """There a threshold is raised to vLLM's own next edge, as no quantile below the first edge can be told."""
    run = edited(plan_folder, tmp_path / "old", lambda answer: None)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"vllm_version_modelled": "0.19"}))
    fleet = fleet_of(read_run(run))
    assert "--custom-histogram-buckets" not in next(iter(TARGETS["vllm"](fleet, Asked()).values()))
    rules = rule_groups(fleet.pools[0], 1)["groups"][0]["rules"]
    drift = [r["expr"] for r in rules if r["alert"].startswith("TwinBeyondPredictionTpot")]
    assert drift
    assert all(float(expr.split("> ")[1]) in EDGES_S["tpot"] for expr in drift)


@pytest.mark.parametrize("target", ["vllm", "compose", "kubernetes"])
def test_the_same_run_gives_the_same_bytes(plan_folder: Path, target: str) -> None:
    one, other = (TARGETS[target](fleet_of(read_run(plan_folder)), Asked()) for _ in range(2))
    assert one == other
    assert str(plan_folder.parent) not in "".join(one.values())
