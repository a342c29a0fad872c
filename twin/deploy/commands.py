"""``vllm serve`` of every replica and node, as shell scripts, one for each node.

The flags of several nodes are vLLM's own (``engine/arg_utils.py``): ``--nnodes`` and ``--node-rank`` where pipeline stages
stand on several, ``--data-parallel-size-local`` and ``--data-parallel-start-rank`` where data-parallel ranks do; all but the
first are ``--headless``.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from twin.base import InputError
from twin.deploy.alerts import metric_words
from twin.deploy.fleet import Fleet, Pool, classes_of

MASTER_PORT = 29501
RPC_PORT = 29550
"""vLLM's defaults of ``--master-port`` and ``--data-parallel-rpc-port`` (``config/parallel.py``)."""


@dataclass(frozen=True)
class Asked:
    """What the command line says beside the option."""

    image: str | None = None
    namespace: str | None = None
    port: int = 8000


@dataclass(frozen=True)
class Placed:
    """One process: a part of a replica on a node, both counted from 0 over the pool; ``gpus`` are the node's."""

    pool: Pool
    replica: int
    part: int
    node: int
    gpus: tuple[int, ...]


def placed(pool: Pool, first_node: int = 0) -> list[Placed]:
    """Replicas side by side on nodes, filled in order, from ``first_node`` on."""
    if pool.nodes > 1:
        each = tuple(range(pool.gpus // pool.nodes))
        return [
            Placed(pool, replica, part, first_node + replica * pool.nodes + part, each)
            for replica in range(pool.replicas)
            for part in range(pool.nodes)
        ]
    found = []
    for replica in range(pool.replicas):
        node, slot = divmod(replica, pool.replicas_per_node)
        gpus = tuple(range(slot * pool.gpus, (slot + 1) * pool.gpus))
        found.append(Placed(pool, replica, 0, first_node + node, gpus))
    return found


def placement(fleet: Fleet) -> list[Placed]:
    """Every pool on nodes of its own."""
    found: list[Placed] = []
    for pool in fleet.pools:
        found += placed(pool, found[-1].node + 1 if found else 0)
    return found


def span_words(pool: Pool, part: str, head: str, rpc_port: int = RPC_PORT, master_port: int = MASTER_PORT) -> list[str]:
    """The flags that make ``part`` (0, 1, … or a shell's ``$RANK``) of a replica on several nodes, whose first is ``head``.

    ``--headless`` of the others, and their ``--data-parallel-start-rank``, are not in it.
    """
    if pool.nodes == 1:
        return []
    if pool.layout.data_parallel_size > 1:
        local = pool.layout.data_parallel_size // pool.nodes
        rpc = ["--data-parallel-address", head, "--data-parallel-rpc-port", str(rpc_port)]
        return ["--data-parallel-size-local", str(local), *rpc]
    master = ["--master-addr", head, "--master-port", str(master_port)]
    return ["--nnodes", str(pool.nodes), "--node-rank", part, *master]


def rest_words(pool: Pool, part: int) -> list[str]:
    """What the parts of a replica after the first have besides."""
    if part == 0:
        return []
    local = pool.layout.data_parallel_size // pool.nodes
    start = ["--data-parallel-start-rank", str(part * local)] if pool.layout.data_parallel_size > 1 else []
    return ["--headless", *start]


def serve(pool: Pool, more: list[str], port: int) -> list[str]:
    """The plan's command, where it listens, edges for its alerts, and ``more``. Without ``--host`` vLLM listens everywhere."""
    return [*pool.words, "--port", str(port), *metric_words(pool), *more]


def shell_scripts(fleet: Fleet, asked: Asked) -> dict[str, str]:
    """``node-1.sh``, …: every command of the fleet, and the router that it assumes in front."""
    places = placement(fleet)
    nodes = sorted({place.node for place in places})
    check_ports(asked.port, max(sum(place.node == node for place in places) for node in nodes))
    return {f"node-{node + 1}.sh": _script(fleet, asked, places, node) for node in nodes}


def check_ports(port: int, count: int) -> None:
    """Raises :class:`InputError` unless ``count`` ports from ``port`` on are ports."""
    if not 1 <= port <= 65536 - count:
        raise InputError(f"--port {port}: {count} ports from it on must lie between 1 and 65535")


def _script(fleet: Fleet, asked: Asked, places: list[Placed], node: int) -> str:
    here = [place for place in places if place.node == node]
    kind = here[0].pool.profile
    lines = ["#!/bin/sh", *(f"# {line}" for line in fleet.head)]
    lines += [f"# node {node + 1} of {places[-1].node + 1}: {kind.facts.num_gpus_per_node} × {kind.label}"]
    lines += [f"# {line}" for line in router_lines(fleet)]
    heads = {places_first(places, place): None for place in here if place.pool.nodes > 1}
    lines += [f': "${{NODE_{head + 1}:?address of node {head + 1}}}"' for head in heads]
    for slot, place in enumerate(here):
        lines += ["", f"# {place.pool.name}, replica {place.replica + 1} of {place.pool.replicas}" + _part(place)]
        lines.append(_command(place, places, asked.port + slot))
    return "\n".join([*lines, "", "wait", ""])


def _part(place: Placed) -> str:
    return f", part {place.part + 1} of {place.pool.nodes}" if place.pool.nodes > 1 else ""


def places_first(places: list[Placed], place: Placed) -> int:
    """The node of the first part of a replica."""
    return next(p.node for p in places if p.pool is place.pool and p.replica == place.replica and p.part == 0)


def _command(place: Placed, places: list[Placed], port: int) -> str:
    pool = place.pool
    head = f"@{places_first(places, place) + 1}@"
    more = [*span_words(pool, str(place.part), head), *rest_words(pool, place.part)]
    line = shlex.join(serve(pool, more, port))
    number = head.strip("@")
    line = line.replace(shlex.quote(head), f'"$NODE_{number}"')
    visible = f"{pool.vendor.visible}={','.join(map(str, place.gpus))} " if pool.profile.device == "gpu" else ""
    return f"{visible}{line} &"


def router_lines(fleet: Fleet) -> list[str]:
    """What stands before the replicas, in words."""
    lines = []
    for pool in fleet.pools:
        if pool.replicas > 1:
            rule = "in turn" if pool.routing == "round_robin" else "to the replica with the fewest requests in flight"
            lines.append(f"router assumed before {pool.name}: it sends each request {rule} ({pool.routing})")
    if len(fleet.pools) > 1:
        lines.append("each pool serves its classes of requests, and the router must send them there:")
        lines += [
            f"  {pool.name}: {', '.join(name or 'requests of no class' for name in classes_of(pool))}"
            for pool in fleet.pools
        ]
    return lines
