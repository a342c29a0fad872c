"""Files against the targets' own validators: the compose specification, Kubernetes' schemas, PromQL's grammar."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_folders import edited, laid_out, option_of

from twin.base import InputError
from twin.deploy.alerts import rule_groups
from twin.deploy.commands import Asked
from twin.deploy.fleet import Fleet, fleet_of, slug
from twin.deploy.targets import TARGETS
from twin.results.run import read_run

SHAPES: dict[str, dict[str, int]] = {
    "one": {},
    "several nodes": {"replicas": 6, "tensor": 2},
    "replica over nodes": {"replicas": 2, "tensor": 8, "pipeline": 2},
}


def in_pools(answer: dict[str, Any]) -> None:
    """Two pools of which each serves a class, and a promise of one class."""
    option = option_of(answer)
    left, right = json.loads(json.dumps(option)), json.loads(json.dumps(option))
    left["serves"], right["serves"] = ["chat"], ["batch", "agent", None]
    right["gpu"] = "h100_sxm"
    for pool in (left, right):
        laid_out(pool, 2)
        pool["metrics"]["completed"] //= 2
        pool["bounds"].append({**pool["bounds"][0], "request_class": pool["serves"][0], "seconds": 1.0})
    option |= {"replicas": None, "vllm_command": None, "routing": "by_class", "gpu": None, "pools": [left, right]}


def fleet(plan_folder: Path, tmp_path: Path, shape: str) -> Fleet:
    if shape == "pools":
        return fleet_of(read_run(edited(plan_folder, tmp_path / "run", in_pools)))
    sizes = SHAPES[shape]
    if not sizes:
        return fleet_of(read_run(plan_folder))
    return fleet_of(
        read_run(edited(plan_folder, tmp_path / "run", lambda answer: laid_out(option_of(answer), **sizes)))
    )


@pytest.mark.parametrize("shape", ["one", "several nodes", "pools"])
def test_compose_files_meet_the_compose_specification(plan_folder: Path, tmp_path: Path, shape: str) -> None:
    pytest.importorskip("check_jsonschema", reason="needs check-jsonschema (extra dev)")
    files = TARGETS["compose"](fleet(plan_folder, tmp_path, shape), Asked(port=8080))
    paths = []
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        paths.append(str(tmp_path / name))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, *paths], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "broken.yaml"
    broken.write_text(next(iter(files.values())).replace("healthcheck:", "healthcheckk:"))
    assert subprocess.run([*check, str(broken)], capture_output=True, timeout=120, check=False).returncode == 1


def test_the_router_of_a_compose_file_reaches_every_replica(plan_folder: Path, tmp_path: Path) -> None:
    files = TARGETS["compose"](fleet(plan_folder, tmp_path, "several nodes"), Asked())
    first, second = (yaml.safe_load(text) for text in files.values())
    router = first["configs"]["router"]["content"]
    servers = re.findall(r"server (.+) max_fails", router)
    assert len(servers) == 6
    inside = [name for name in first["services"] if name not in ("router", "prometheus")]
    assert servers[:4] == [f"{name}:8000" for name in inside]
    published = [service["ports"][0].split(":")[0] for service in second["services"].values()]
    assert servers[4:] == [f"${{NODE_2:?address of node 2}}:{port}" for port in published]
    assert "least_conn;" in router
    assert "$$host" in router
    # compose replaces ${…} itself and would take Prometheus' own $ for its own
    assert not re.search(r"(?<!\$)\$(?![${])", first["configs"]["alerts"]["content"])
    devices = [
        s["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for s in list(first["services"].values())[:4]
    ]
    assert devices == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]]


def test_pools_are_chosen_by_the_class_of_a_request(plan_folder: Path, tmp_path: Path) -> None:
    found = fleet(plan_folder, tmp_path, "pools")
    router = yaml.safe_load(TARGETS["compose"](found, Asked())["compose.yaml"])["configs"]["router"]["content"]
    for name, pool in zip(("chat", "batch", "agent"), (*found.pools, found.pools[1]), strict=True):
        assert f"    {name} {pool.name};" in router
    assert f"    default {found.pools[1].name};" in router
    first, second = ([r["alert"] for r in rule_groups(pool, 1)["groups"][0]["rules"]] for pool in found.pools)
    assert first.count("TwinPromiseTtftP99") == 2, "a pool of one class tells its promise"
    assert second.count("TwinPromiseTtftP99") == 1, "a pool of two cannot"
    assert "no alert on p99 TTFT of class batch" in TARGETS["kubernetes"](found, Asked())["monitoring.yaml"]


CRD_FIELDS: dict[str, dict[str, set[str]]] = {
    # prometheus-operator, Documentation/api-reference (monitoring.coreos.com/v1)
    "ServiceMonitor": {"spec": {"selector", "endpoints"}, "endpoints": {"port", "path", "interval"}},
    "PrometheusRule": {"spec": {"groups"}},
}


@pytest.mark.parametrize("shape", ["one", "several nodes", "replica over nodes", "pools"])
@pytest.mark.parametrize("namespace", [None, "llm"])
def test_manifests_meet_the_schemas_of_kubernetes(
    plan_folder: Path, tmp_path: Path, shape: str, namespace: str | None
) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate (extra dev)")
    files = TARGETS["kubernetes"](fleet(plan_folder, tmp_path, shape), Asked(namespace=namespace))
    documents = [item for text in files.values() for item in yaml.safe_load_all(text)]
    kinds = [item["kind"] for item in documents]
    core = [item for item in documents if not item["apiVersion"].startswith("monitoring.coreos.com")]
    for item in core:
        validator.validate(item, validator.latest_version(), strict=True)
    assert {item["metadata"].get("namespace") for item in documents} == {namespace}
    for item in documents:
        if item["kind"] in CRD_FIELDS:
            assert item["apiVersion"] == "monitoring.coreos.com/v1"
            assert set(item["spec"]) == CRD_FIELDS[item["kind"]]["spec"]
            for endpoint in item["spec"].get("endpoints", []):
                assert set(endpoint) == CRD_FIELDS["ServiceMonitor"]["endpoints"]
            check_groups(item["spec"])
    if shape == "replica over nodes":
        assert kinds.count("StatefulSet") == 2
        assert "HorizontalPodAutoscaler" not in kinds
    else:
        assert kinds.count("HorizontalPodAutoscaler") == kinds.count("Deployment") == (2 if shape == "pools" else 1)
    spoilt = json.loads(json.dumps(core[0]))
    spoilt["spec"]["replicaz"] = 1
    with pytest.raises(validator.ValidationError):
        validator.validate(spoilt, validator.latest_version(), strict=True)


def check_groups(spec: dict[str, Any]) -> None:
    """The fields of a rule file, and that each rule says which figure of the plan it comes from."""
    for group in spec.get("groups", []):
        assert set(group) == {"name", "rules"}
        for rule in group["rules"]:
            assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
            assert re.fullmatch(r"[A-Za-z]\w*", rule["alert"])
            assert re.fullmatch(r"\d+[smh]", rule["for"])
            assert set(rule["labels"]) == {"severity", "pool"}
            assert set(rule["annotations"]) == {"summary", "plan_figure", "plan_option"}


def test_probes_services_and_scaling_fit_together(plan_folder: Path, tmp_path: Path) -> None:
    found = fleet(plan_folder, tmp_path, "several nodes")
    files = TARGETS["kubernetes"](found, Asked(port=9000))
    by_kind = {item["kind"]: item for text in files.values() for item in yaml.safe_load_all(text)}
    pod = by_kind["Deployment"]["spec"]["template"]
    container = pod["spec"]["containers"][0]
    assert by_kind["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert (
        by_kind["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items()
        <= by_kind["Service"]["metadata"]["labels"].items()
    )
    assert container["ports"][0]["containerPort"] == 9000
    assert container["args"][container["args"].index("--port") + 1] == "9000"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert pod["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L40S"}
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= found.pools[0].startup_s
    scaler = by_kind["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == by_kind["Deployment"]["metadata"]["name"]
    assert 1 <= scaler["minReplicas"] <= 6 < scaler["maxReplicas"]
    job = by_kind["Service"]["metadata"]["name"]
    assert all(f'job="{job}"' in rule["expr"] for rule in by_kind["PrometheusRule"]["spec"]["groups"][0]["rules"])


@pytest.mark.parametrize("shape", ["one", "pools"])
def test_alerts_are_promql_and_their_thresholds_the_plans(plan_folder: Path, tmp_path: Path, shape: str) -> None:
    promql = pytest.importorskip("promql_parser", reason="needs promql-parser (extra dev)")
    for pool in fleet(plan_folder, tmp_path, shape).pools:
        groups = rule_groups(pool, pool.replicas, "llm")
        check_groups(groups)
        rules = groups["groups"][0]["rules"]
        for rule in rules:
            promql.parse(rule["expr"])
        by_name = {rule["alert"]: rule for rule in rules}
        assert by_name["TwinPromiseTpotP90"]["expr"].endswith("> 0.05")
        assert "histogram_quantile(0.9," in by_name["TwinPromiseTpotP90"]["expr"]
        assert by_name["TwinPromiseE2elP99"]["expr"].endswith("> 20")
        bound = next(b for b in pool.option["bounds"] if b["metric"] == "ttft")
        error = pool.option["accuracy"]["ttft_error"]
        beyond = float(by_name["TwinBeyondPredictionTtftP99"]["expr"].split("> ")[1])
        assert beyond == pytest.approx(bound["worst_s"] * math.exp(1.645 * error), rel=0.01)
    with pytest.raises(ValueError, match="paren"):
        promql.parse("sum(rate(vllm:x[5m])")


def test_risk_gives_the_interval_and_growth_the_most_replicas(plan_folder: Path, tmp_path: Path) -> None:
    def with_risk(answer: dict[str, Any]) -> None:
        option = option_of(answer)
        bounds = [{**b, "p95_s": b["worst_s"] * 3} for b in option["bounds"]]
        option["risk"] = {"bounds": bounds, "growth": {"replicas_at_end": {"p5": 2.0, "p50": 3.0, "p95": 4.0}}}

    pool = fleet_of(read_run(edited(plan_folder, tmp_path / "run", with_risk))).pools[0]
    rule = next(r for r in rule_groups(pool, 1)["groups"][0]["rules"] if r["alert"] == "TwinBeyondPredictionTtftP99")
    assert float(rule["expr"].split("> ")[1]) == pytest.approx(pool.option["bounds"][0]["worst_s"] * 3, rel=0.01)
    assert "risk.bounds.p95_s" in rule["annotations"]["plan_figure"]
    assert pool.max_replicas == 4 * pool.replicas + 1


def test_what_cannot_be_deployed_says_why(plan_folder: Path, tmp_path: Path) -> None:
    found = fleet(plan_folder, tmp_path, "replica over nodes")
    with pytest.raises(InputError, match="stands on 2 nodes, and compose is for one host"):
        TARGETS["compose"](found, Asked())
    with pytest.raises(InputError, match="no DNS label"):
        TARGETS["kubernetes"](found, Asked(namespace="No Good"))
    with pytest.raises(InputError, match="ports from it on"):
        TARGETS["vllm"](found, Asked(port=70000))

    def spanning(answer: dict[str, Any]) -> None:
        laid_out(option_of(answer), 1, tensor=8, pipeline=2, data=2)

    with pytest.raises(InputError, match="rank of 16 GPUs spans nodes of 8"):
        fleet_of(read_run(edited(plan_folder, tmp_path / "spanning", spanning)))


def test_names_are_dns_labels() -> None:
    assert slug("Qwen/Qwen3-32B") == "qwen3-32b"
    assert slug("some/where/Llama_3.1--70B") == "llama-3-1-70b"
    assert len(slug("x" * 80)) == 40
    assert slug("///") == "model"
