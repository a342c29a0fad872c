"""A compose file: one service for each replica, a router before several, and Prometheus with the plan's alerts.

Compose starts containers on one host, so a fleet on several nodes gets a file for each: the first holds the router and
Prometheus, and asks for the addresses of the others (``NODE_2``, …).
"""

from __future__ import annotations

from typing import Any

from twin.base import InputError
from twin.deploy.alerts import rule_groups, unwatched_lines
from twin.deploy.commands import Asked, Placed, check_ports, placement, router_lines, serve
from twin.deploy.fleet import AMD, Fleet, Pool, classes_of
from twin.deploy.text import yaml_text

ROUTER_IMAGE = "nginx:1.28-alpine"
PROMETHEUS_IMAGE = "prom/prometheus:v3.5.0"
INSIDE = 8000
"""The port that vLLM listens on inside its container."""


def compose_files(fleet: Fleet, asked: Asked) -> dict[str, str]:
    """``compose.yaml``, and ``compose.node-2.yaml``, … Raises :class:`InputError` for a replica on several nodes."""
    for pool in fleet.pools:
        if pool.nodes > 1:
            raise InputError(
                f"a replica of {pool.name} stands on {pool.nodes} nodes, and compose is for one host",
                allowed=["--target vllm", "--target kubernetes"],
            )
        if pool.profile.device != "gpu":
            raise InputError(f"{pool.profile.name} is no GPU to reserve for a container", allowed=["--target vllm"])
    places = placement(fleet)
    nodes = sorted({place.node for place in places})
    check_ports(asked.port, max(len(places), 1) + 1)
    return {_file(node): _compose(fleet, asked, places, node) for node in nodes}


def _file(node: int) -> str:
    return "compose.yaml" if node == 0 else f"compose.node-{node + 1}.yaml"


def _compose(fleet: Fleet, asked: Asked, places: list[Placed], node: int) -> str:
    here = [place for place in places if place.node == node]
    routed = len(places) > 1
    services: dict[str, Any] = {}
    for slot, place in enumerate(here):
        port = asked.port + slot if node > 0 else None if routed else asked.port
        services[_service(place)] = _replica(fleet, asked, place, port)
    document: dict[str, Any] = {"name": fleet.name, "services": services, "volumes": {"huggingface": {}}}
    if node == 0:
        services |= _front(asked, [_service(place) for place in here], routed)
        document["configs"] = _configs(fleet, asked, places, routed)
    head = [
        *fleet.head,
        f"node {node + 1} of {places[-1].node + 1}: {here[0].pool.profile.label}",
        *router_lines(fleet),
    ]
    others = [f"NODE_{other + 1}" for other in sorted({p.node for p in places}) if other > 0]
    if node == 0:
        head += [line for pool in fleet.pools for line in unwatched_lines(pool)]
        head.append("needs Docker Compose 2.23.1 or later (configs with content)")
    if node == 0 and others:
        head.append(f"set {', '.join(others)} to the addresses of the other nodes; each starts its own file first")
    return yaml_text(document, head=head)


def _service(place: Placed) -> str:
    return f"{place.pool.name}-{place.replica + 1}"


def _replica(fleet: Fleet, asked: Asked, place: Placed, published: int | None) -> dict[str, Any]:
    pool = place.pool
    words = serve(pool, [], INSIDE)
    check = f"import urllib.request as u; u.urlopen('http://localhost:{INSIDE}/health', timeout=5)"
    service: dict[str, Any] = {
        "image": fleet.image(pool, asked.image),
        "entrypoint": words[:2],
        "command": [word.replace("$", "$$") for word in words[2:]],
        "environment": {"HF_TOKEN": "${HF_TOKEN:-}"},
        "volumes": ["huggingface:/root/.cache/huggingface"],
        "ipc": "host",
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", "python3", "-c", check],
            "interval": "10s",
            "timeout": "6s",
            "retries": 3,
            "start_period": f"{pool.startup_s:.0f}s",
        },
    }
    if published is not None:
        service["ports"] = [f"{published}:{INSIDE}"]
    gpus = [str(index) for index in place.gpus]
    if pool.vendor is AMD:
        service["environment"][pool.vendor.visible] = ",".join(gpus)
        service |= {"devices": ["/dev/kfd:/dev/kfd", "/dev/dri:/dev/dri"], "group_add": ["video"]}
    else:
        device = {"driver": "nvidia", "device_ids": gpus, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return service


def _front(asked: Asked, replicas: list[str], routed: bool) -> dict[str, Any]:
    prometheus = {
        "image": PROMETHEUS_IMAGE,
        "configs": [
            {"source": "prometheus", "target": "/etc/prometheus/prometheus.yml"},
            {"source": "alerts", "target": "/etc/prometheus/alerts.yml"},
        ],
        "ports": ["9090:9090"],
        "restart": "unless-stopped",
    }
    if not routed:
        return {"prometheus": prometheus}
    router = {
        "image": ROUTER_IMAGE,
        "configs": [{"source": "router", "target": "/etc/nginx/nginx.conf"}],
        "ports": [f"{asked.port}:80"],
        "depends_on": replicas,
        "restart": "unless-stopped",
    }
    return {"router": router, "prometheus": prometheus}


def _configs(fleet: Fleet, asked: Asked, places: list[Placed], routed: bool) -> dict[str, Any]:
    jobs = [
        {
            "job_name": pool.name,
            "static_configs": [{"targets": [a for p, a in _addresses(asked, places) if p.pool is pool]}],
        }
        for pool in fleet.pools
    ]
    scrape = {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["/etc/prometheus/alerts.yml"],
        "scrape_configs": jobs,
    }
    groups = [group for pool in fleet.pools for group in rule_groups(pool, pool.replicas)["groups"]]
    texts = {"prometheus": yaml_text(scrape), "alerts": yaml_text({"groups": groups}).replace("$", "$$")}
    if routed:
        texts["router"] = _nginx(fleet, asked, places)
    return {name: {"content": text} for name, text in texts.items()}


def _addresses(asked: Asked, places: list[Placed]) -> list[tuple[Placed, str]]:
    """Where the first node reaches each replica: by service on its own, by address and port on another."""
    slots: dict[int, int] = {}
    found = []
    for place in places:
        slot = slots.get(place.node, 0)
        slots[place.node] = slot + 1
        name = f"NODE_{place.node + 1}"
        there = f"${{{name}:?address of node {place.node + 1}}}:{asked.port + slot}"
        found.append((place, f"{_service(place)}:{INSIDE}" if place.node == 0 else there))
    return found


def _nginx(fleet: Fleet, asked: Asked, places: list[Placed]) -> str:
    """nginx as the router that was simulated. The ``zone`` makes all its workers count together; an answer is passed on as it
    comes, and may take as long as it takes. ``$`` is doubled, as compose reads it first.
    """
    upstreams = ""
    for pool in fleet.pools:
        balance = "" if pool.routing == "round_robin" else "    least_conn;\n"
        servers = "".join(f"    server {a} max_fails=3;\n" for p, a in _addresses(asked, places) if p.pool is pool)
        upstreams += (
            f"  upstream {pool.name} {{\n    zone {pool.name} 64k;\n{balance}{servers}    keepalive 64;\n  }}\n"
        )
    target, choice = fleet.pools[0].name, ""
    if len(fleet.pools) > 1:
        target, choice = "$$pool", _choice(fleet.pools)
    return (
        "events { worker_connections 16384; }\n"
        "http {\n"
        f"{upstreams}{choice}"
        "  server {\n"
        "    listen 80;\n"
        "    client_max_body_size 64m;\n"
        "    location / {\n"
        f"      proxy_pass http://{target};\n"
        "      proxy_http_version 1.1;\n"
        '      proxy_set_header Connection "";\n'
        "      proxy_set_header Host $$host;\n"
        "      proxy_buffering off;\n"
        "      proxy_read_timeout 1h;\n"
        "    }\n"
        "  }\n"
        "}\n"
    )


def _choice(pools: tuple[Pool, ...]) -> str:
    """The pool by the header ``X-Request-Class``; a request without it goes to the pool of such requests, else the first."""
    rest = next((pool for pool in pools if None in classes_of(pool)), pools[0])
    rows = "".join(f"    {name} {pool.name};\n" for pool in pools for name in classes_of(pool) if name is not None)
    return f"  map $$http_x_request_class $$pool {{\n    default {rest.name};\n{rows}  }}\n"
