"""Kubernetes manifests of an option: what runs, what may disturb it, how it scales, and what watches it.

A replica on one node is a pod of a Deployment. A replica on several nodes is a StatefulSet of its own, one pod a node: the
first serves, the others are headless; such a replica is added and removed by hand.
"""

from __future__ import annotations

import math
import re
import shlex
from typing import Any

from twin.base import InputError
from twin.deploy.alerts import rule_groups, unwatched_lines
from twin.deploy.commands import MASTER_PORT, RPC_PORT, Asked, check_ports, router_lines, serve, span_words
from twin.deploy.fleet import Fleet, Pool
from twin.deploy.text import yaml_text

PROBE_S = 10
SHARED_MEMORY_GIB = 2
"""For each GPU, assumed: NCCL and the queues between vLLM's processes take some hundred MiB."""
DRAIN_S = 30
"""Before a pod that ends stops taking requests: endpoints are taken out of Services within seconds."""
SLOW_DOWN_S = 600
"""A replica leaves only when it was not needed for as long as two busiest five minutes."""


def kubernetes_files(fleet: Fleet, asked: Asked) -> dict[str, str]:
    """``serving.yaml``, ``autoscaling.yaml`` (where something scales) and ``monitoring.yaml``.

    Raises :class:`InputError` for hardware that is no GPU and for a namespace that is no DNS label.
    """
    check_ports(asked.port, 1)
    if asked.namespace is not None and not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", asked.namespace):
        raise InputError(f"--namespace {asked.namespace!r} is no DNS label: small letters, digits and dashes")
    for pool in fleet.pools:
        if pool.profile.device != "gpu":
            raise InputError(f"{pool.profile.name} is no GPU to ask Kubernetes for", allowed=["--target vllm"])
    serving = [part for pool in fleet.pools for part in _serving(fleet, pool, asked)]
    scaled = [pool for pool in fleet.pools if pool.nodes == 1]
    watched = [part for pool in fleet.pools for part in (_monitor(pool, asked), _rules(pool, asked))]
    needs = [line for pool in fleet.pools for line in unwatched_lines(pool)]
    needs += ["needs the CRDs of prometheus-operator; it takes up objects by label: see its ruleSelector"]
    head = [*fleet.head, *router_lines(fleet), *_head(fleet)]
    files = {"serving.yaml": yaml_text(*serving, head=head)}
    if scaled:
        scalers = [_autoscaler(pool, asked) for pool in scaled]
        files["autoscaling.yaml"] = yaml_text(*scalers, head=_adapter_lines(scaled))
    return files | {"monitoring.yaml": yaml_text(*watched, head=needs)}


def _head(fleet: Fleet) -> list[str]:
    lines = ["a Service sends connections to pods at random: for the routing that was simulated put a router before it"]
    for pool in fleet.pools:
        key, value = pool.vendor.product_label, product(pool)
        lines.append(f"{pool.name}: nodes with the label {key}={value}, which GPU feature discovery sets; check yours")
        lines.append(
            f"{pool.name}: given up on after {pool.startup_s:.0f} s of starting (download, load, compile; assumed)"
        )
        if pool.nodes > 1:
            lines.append(f"{pool.name}: a replica is {pool.nodes} pods, so there is no autoscaler for it")
    return lines


def product(pool: Pool) -> str:
    """The GPU's name as a node's label has it: what the device reports, spaces as dashes."""
    return pool.profile.label.replace(" ", "-")


def _meta(pool: Pool, asked: Asked, name: str | None = None) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": name or pool.name}
    if asked.namespace is not None:
        meta["namespace"] = asked.namespace
    return meta | {"labels": _labels(pool)}


def _labels(pool: Pool) -> dict[str, str]:
    return {"app.kubernetes.io/name": pool.name, "app.kubernetes.io/managed-by": "twin"}


def _select(pool: Pool) -> dict[str, str]:
    return {"app.kubernetes.io/name": pool.name}


def _serving(fleet: Fleet, pool: Pool, asked: Asked) -> list[dict[str, Any]]:
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _meta(pool, asked),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _select(pool)}},
    }
    if pool.nodes == 1:
        return [_deployment(fleet, pool, asked), _service(pool, asked, _select(pool)), budget]
    groups = [part for replica in range(pool.replicas) for part in _group(fleet, pool, asked, replica)]
    first = _select(pool) | {"apps.kubernetes.io/pod-index": "0"}
    return [*groups, _service(pool, asked, first), budget]


def _service(pool: Pool, asked: Asked, selector: dict[str, str]) -> dict[str, Any]:
    port = {"name": "http", "port": asked.port, "targetPort": "http"}
    spec = {"selector": selector, "ports": [port]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _meta(pool, asked), "spec": spec}


def _deployment(fleet: Fleet, pool: Pool, asked: Asked) -> dict[str, Any]:
    words = serve(pool, [], asked.port)
    command = {"command": words[:2], "args": words[2:]}
    probe = {"httpGet": {"path": "/health", "port": "http"}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(pool, asked),
        "spec": {
            "replicas": pool.replicas,
            "selector": {"matchLabels": _select(pool)},
            # A surge would wait for a GPU that is not there.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "progressDeadlineSeconds": math.ceil(pool.startup_s) + 600,
            "template": _pod(fleet, pool, asked, command, probe),
        },
    }


def _group(fleet: Fleet, pool: Pool, asked: Asked, replica: int) -> list[dict[str, Any]]:
    """A replica on several nodes, and the name by which its pods find the first of them."""
    name = f"{pool.name}-r{replica + 1}"
    labels = {"twin/replica": str(replica + 1)}
    ports = [{"name": "master", "port": MASTER_PORT}, {"name": "rpc", "port": RPC_PORT}]
    headless = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": _select(pool) | labels,
        "ports": ports,
    }
    command = {"command": ["/bin/sh", "-c"], "args": [_group_script(pool, asked, f"{name}-0.{name}")]}
    health = f"import urllib.request as u; u.urlopen('http://localhost:{asked.port}/health', timeout=5)"
    check = f'[ "${{HOSTNAME##*-}}" != 0 ] || python3 -c "{health}"'
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": _meta(pool, asked, name), "spec": headless},
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": _meta(pool, asked, name),
            "spec": {
                "serviceName": name,
                "replicas": pool.nodes,
                "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": _select(pool) | labels},
                "template": _pod(fleet, pool, asked, command, {"exec": {"command": ["/bin/sh", "-c", check]}}, labels),
            },
        },
    ]


def _group_script(pool: Pool, asked: Asked, head: str) -> str:
    """One script for all pods of a replica: the number at the end of a pod's name is its part."""
    words = serve(pool, span_words(pool, "@", head), asked.port)
    line = " ".join('"$RANK"' if word == "@" else shlex.quote(word) for word in words)
    more = "--headless"
    if pool.layout.data_parallel_size > 1:
        local = pool.layout.data_parallel_size // pool.nodes
        more += f" --data-parallel-start-rank $((RANK * {local}))"
    return f'RANK=${{HOSTNAME##*-}}\nif [ "$RANK" -gt 0 ]; then set -- {more}; fi\nexec {line} "$@"\n'


def _pod(
    fleet: Fleet,
    pool: Pool,
    asked: Asked,
    command: dict[str, Any],
    probe: dict[str, Any],
    more: dict[str, str] | None = None,
) -> dict[str, Any]:
    gpus = {pool.vendor.resource: str(pool.gpus // pool.nodes)}
    memory = f"{SHARED_MEMORY_GIB * pool.gpus // pool.nodes}Gi"
    token = {"secretKeyRef": {"name": "huggingface", "key": "token", "optional": True}}
    every = probe | {"periodSeconds": PROBE_S, "timeoutSeconds": 6}
    container = {
        "name": "vllm",
        "image": fleet.image(pool, asked.image),
        **command,
        "env": [{"name": "HF_TOKEN", "valueFrom": token}],
        "ports": [{"name": "http", "containerPort": asked.port}],
        "resources": {"requests": gpus, "limits": gpus},
        "startupProbe": every | {"failureThreshold": math.ceil(pool.startup_s / PROBE_S)},
        "readinessProbe": every | {"failureThreshold": 2},
        "livenessProbe": every | {"failureThreshold": 3},
        # Taken out of the Service first, then stopped.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(DRAIN_S)]}}},
        "volumeMounts": [
            {"name": "huggingface", "mountPath": "/root/.cache/huggingface"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    longest = float(pool.option["metrics"]["max_e2el_ms"]) / 1e3
    spec = {
        "nodeSelector": {pool.vendor.product_label: product(pool)},
        "tolerations": [{"key": pool.vendor.resource, "operator": "Exists", "effect": "NoSchedule"}],
        "terminationGracePeriodSeconds": DRAIN_S + math.ceil(longest),
        "containers": [container],
        "volumes": [
            {"name": "huggingface", "emptyDir": {}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": memory}},
        ],
    }
    return {"metadata": {"labels": _labels(pool) | (more or {})}, "spec": spec}


def _autoscaler(pool: Pool, asked: Asked) -> dict[str, Any]:
    """Between the plan's trough and its growth, on requests that run (the plan's own at the peak) and that wait."""
    waiting = max(float(pool.option["metrics"]["max_num_waiting"]), 1.0)
    targets = {"vllm_num_requests_running": pool.running, "vllm_num_requests_waiting": waiting}
    metrics = [
        {
            "type": "Pods",
            "pods": {"metric": {"name": name}, "target": {"type": "AverageValue", "averageValue": _quantity(value)}},
        }
        for name, value in targets.items()
    ]
    slow = {"stabilizationWindowSeconds": SLOW_DOWN_S, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}]}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _meta(pool, asked),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": pool.name},
            "minReplicas": pool.min_replicas,
            "maxReplicas": pool.max_replicas,
            "metrics": metrics,
            "behavior": {"scaleUp": {"stabilizationWindowSeconds": 0}, "scaleDown": slow},
        },
    }


def _quantity(value: float) -> str:
    """A Kubernetes quantity, to a thousandth."""
    return f"{math.ceil(value * 1000)}m"


def _adapter_lines(pools: list[Pool]) -> list[str]:
    """Where the autoscaler's figures come from, and the rules that prometheus-adapter needs."""
    lines = []
    for pool in pools:
        lines += [
            f"{pool.name}: {pool.min_replicas} replicas carry the quietest five minutes of the plan's trace"
            f" ({pool.quietest_rate_per_s:.4g}/s); at most {pool.max_replicas}: the plan's {pool.replicas}, growth"
            f" ×{pool.growth:.4g}, and one for a lost node",
            f"{pool.name}: {pool.running:.4g} requests run on a replica at the plan's busiest five minutes",
        ]
    rules = [
        {
            "seriesQuery": f'vllm:{name}{{namespace!="",pod!=""}}',
            "resources": {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}},
            "name": {"as": f"vllm_{name}"},
            "metricsQuery": "sum(avg_over_time(<<.Series>>{<<.LabelMatchers>>}[1m])) by (<<.GroupBy>>)",
        }
        for name in ("num_requests_running", "num_requests_waiting")
    ]
    told = yaml_text({"rules": {"custom": rules}}).splitlines()
    return [
        *lines,
        "needs the custom metrics API, e.g. prometheus-adapter with these values:",
        *(f"  {row}" for row in told),
    ]


def _monitor(pool: Pool, asked: Asked) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": _meta(pool, asked),
        "spec": {
            "selector": {"matchLabels": _select(pool)},
            "endpoints": [{"port": "http", "path": "/metrics", "interval": "15s"}],
        },
    }


def _rules(pool: Pool, asked: Asked) -> dict[str, Any]:
    least = pool.min_replicas if pool.nodes == 1 else pool.replicas
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": _meta(pool, asked),
        "spec": rule_groups(pool, least, asked.namespace),
    }
