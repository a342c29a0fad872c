"""What is deployed: the pools of a plan's option, with the figures of the plan that probes, limits and alerts come from."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twin.base import InputError, parse_share
from twin.results.run import Run
from twin.spec.hardware import HardwareProfile, load_profile
from twin.spec.layout import replica_gpus
from twin.spec.model import ModelSpec
from twin.spec.precision import weight_format

HEADROOM = 0.2
"""``twin plan``'s default, for plans that do not say theirs."""

DOWNLOAD_BYTES_PER_S = 125e6
READ_BYTES_PER_S = 1e9
COMPILE_S = 300.0
STARTUP_MARGIN = 2.0
"""A first start, assumed: weights over 1 Gb/s and off a disk of 1 GB/s, five minutes for compiling and CUDA graphs; a
replica is given up on after twice that."""


@dataclass(frozen=True)
class Vendor:
    """What a container platform calls a maker's GPUs."""

    visible: str
    resource: str
    product_label: str
    image: str


NVIDIA = Vendor("CUDA_VISIBLE_DEVICES", "nvidia.com/gpu", "nvidia.com/gpu.product", "vllm/vllm-openai")
AMD = Vendor("HIP_VISIBLE_DEVICES", "amd.com/gpu", "amd.com/gpu.product-name", "vllm/vllm-openai-rocm")


@dataclass(frozen=True)
class Layout:
    """A replica's ranks: vLLM's parallel sizes, under the names of :class:`twin.spec.layout.Parallel`."""

    tensor_parallel_size: int
    pipeline_parallel_size: int
    data_parallel_size: int
    enable_expert_parallel: bool


@dataclass(frozen=True)
class Pool:
    """Equal replicas behind one name. ``option`` is the plan's object of it; rates are requests a second of the pool."""

    name: str
    option: Mapping[str, Any]
    words: tuple[str, ...]
    layout: Layout
    replicas: int
    nodes: int
    profile: HardwareProfile
    vendor: Vendor
    startup_s: float
    busiest_rate_per_s: float
    mean_rate_per_s: float
    quietest_rate_per_s: float
    growth: float
    headroom: float
    vllm_version: str

    @property
    def routing(self) -> str:
        """How a replica was chosen for a request."""
        return str(self.option.get("routing", "least_loaded"))

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return replica_gpus(self.layout)

    @property
    def replicas_per_node(self) -> int:
        """Replicas that share a node; 1 where a replica needs several."""
        return max(self.profile.facts.num_gpus_per_node // self.gpus, 1)

    @property
    def running(self) -> float:
        """Running requests of a replica at the busiest five minutes: the plan's mean, scaled with the rate (Little)."""
        mean = float(self.option["metrics"]["mean_num_running"]) / self.replicas
        return max(mean * self.busiest_rate_per_s / self.mean_rate_per_s, 1.0)

    @property
    def min_replicas(self) -> int:
        """Enough for the quietest five minutes at the utilisation that the plan has at the busiest."""
        return max(1, min(self.replicas, math.ceil(self.replicas * self.quietest_rate_per_s / self.busiest_rate_per_s)))

    @property
    def max_replicas(self) -> int:
        """The plan's with its growth, and one more, for a node that is lost at the peak."""
        return math.ceil(self.replicas * max(self.growth, 1.0) - 1e-9) + 1


def classes_of(pool: Pool) -> list[str | None]:
    """The request classes that a pool serves, ``None`` for requests of no class; empty where one pool serves everything."""
    return list(pool.option.get("serves") or [])


@dataclass(frozen=True)
class Fleet:
    """All pools of an option; ``head`` says in lines where they come from, ``vllm_version`` is the release modelled."""

    name: str
    pools: tuple[Pool, ...]
    vllm_version: str
    head: tuple[str, ...]

    def image(self, pool: Pool, asked: str | None) -> str:
        """The user's image, or vLLM's own of the release whose rules were simulated."""
        return asked or f"{pool.vendor.image}:v{self.vllm_version}.0"


def fleet_of(run: Run, name: str = "recommended") -> Fleet:
    """The option ``name`` of a plan's run folder. Raises :class:`InputError` for what cannot be deployed."""
    option = run.option(name)
    parts = list(option.get("pools") or [option])
    for part in parts:
        if part["vllm_command"].startswith("#"):
            raise InputError(f"cannot be deployed: {part['vllm_command'].lstrip('# ')}", where=run.name)
    base = slug(run.question.model_spec.name)
    names = [base] if len(parts) == 1 else [f"{base}-{n}-{slug(part['gpu'])}" for n, part in enumerate(parts, 1)]
    pools = tuple(_pool(run, pool, option, part) for pool, part in zip(names, parts, strict=True))
    return Fleet(
        name=base,
        pools=pools,
        vllm_version=str(run.manifest["vllm_version_modelled"]),
        head=_head(run, option, parts),
    )


def slug(text: str) -> str:
    """A DNS label of a name: ``Qwen/Qwen3-32B`` → ``qwen3-32b``, at most 40 characters."""
    bare = re.sub(r"[^a-z0-9]+", "-", text.lower().rsplit("/", 1)[-1]).strip("-")
    return bare[:40].rstrip("-") or "model"


def _pool(run: Run, name: str, option: Mapping[str, Any], part: Mapping[str, Any]) -> Pool:
    model, plan = run.question.model_spec, run.plan or {}
    try:
        sizes = [int(part[f"{axis}_parallel_size"]) for axis in ("tensor", "pipeline", "data")]
        layout = Layout(sizes[0], sizes[1], sizes[2], bool(part["enable_expert_parallel"]))
        share = part["metrics"]["completed"] / option["metrics"]["completed"]
        replicas = int(part["replicas"])
    except KeyError as error:
        raise InputError(f"another schema wrote this: option without {error}", where=f"{run.name}/plan.json") from None
    profile = _profile(run, part["gpu"])
    traffic = plan["traffic"]
    return Pool(
        name=name,
        option=part,
        words=tuple(shlex.split(part["vllm_command"])),
        layout=layout,
        replicas=replicas,
        nodes=nodes_of(layout, profile.facts.num_gpus_per_node),
        profile=profile,
        vendor=AMD if profile.label.startswith("AMD") else NVIDIA,
        startup_s=startup_s(model, part.get("quantization")),
        busiest_rate_per_s=traffic["busiest_5min_rate_per_s"] * share,
        mean_rate_per_s=traffic["mean_rate_per_s"] * share,
        quietest_rate_per_s=quietest_rate_per_s(run) * share,
        growth=_growth(option),
        headroom=parse_share(str(run.flags.get("headroom", HEADROOM)), what="headroom") or 0.0,
        vllm_version=str(run.manifest["vllm_version_modelled"]),
    )


def _profile(run: Run, gpu: str) -> HardwareProfile:
    """Of the scenario where it is its GPU (which may be a file), else of the shipped ones."""
    return run.question.profile if gpu == run.question.profile.name else load_profile(gpu)


def nodes_of(layout: Layout, gpus_per_node: int) -> int:
    """Nodes of a replica, all with the same number of GPUs, as vLLM asks; whole tensor-parallel groups on each.

    Raises :class:`InputError` for data-parallel ranks that span nodes themselves.
    """
    rank = layout.tensor_parallel_size * layout.pipeline_parallel_size
    if layout.data_parallel_size > 1 and rank > gpus_per_node:
        raise InputError(
            f"cannot be deployed: a data-parallel rank of {rank} GPUs spans nodes of {gpus_per_node}, for which there is no"
            " command here"
        )
    groups = layout.data_parallel_size if layout.data_parallel_size > 1 else layout.pipeline_parallel_size
    size = replica_gpus(layout) // groups
    return next(n for n in range(1, groups + 1) if groups % n == 0 and groups // n * size <= gpus_per_node)


def startup_s(model: ModelSpec, quantization: str | None) -> float:
    """Seconds that a first start may take: the checkpoint fetched and read, compiling, and a margin, all assumed.

    A format that vLLM makes itself (fp8 by its flag) reads the checkpoint as published.
    """
    made_here = quantization is None or weight_format(quantization).checkpoint is None
    size = model.weight_bytes(None if made_here else quantization)
    return STARTUP_MARGIN * (size / DOWNLOAD_BYTES_PER_S + size / READ_BYTES_PER_S + COMPILE_S)


def quietest_rate_per_s(run: Run) -> float:
    """Requests a second in the quietest whole five minutes of the run's requests; the mean of a shorter trace.

    Raises :class:`InputError` when the requests of the run are missing.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        arrivals = pq.read_table(run.path / "requests.parquet", columns=["arrival_s"])["arrival_s"].to_numpy()
    except (OSError, pa.ArrowException):
        raise InputError("half-written run folder: requests.parquet is missing or torn", where=str(run.path)) from None
    window, span = 300.0, float(arrivals.max() - arrivals.min())
    if span < window:
        return len(arrivals) / max(span, 1.0)
    edges = arrivals.min() + window * np.arange(int(span / window) + 1)
    return float(np.histogram(arrivals, edges)[0].min()) / window


def _growth(option: Mapping[str, Any]) -> float:
    """Replicas that would hold at the end of the horizon (the 95th percentile of the plan's risk) over today's; else 1."""
    growth = (option.get("risk") or {}).get("growth") or {}
    replicas = (growth.get("replicas_at_end") or {}).get("p95")
    today = sum(part["replicas"] for part in option.get("pools") or [option])
    return float(replicas) / today if replicas else 1.0


def _head(run: Run, option: Mapping[str, Any], parts: list[Any]) -> tuple[str, ...]:
    names = option.get("names") or ["a near miss"]
    lines = [
        f"twin deploy: option {option['id']} ({', '.join(names).replace('_', ' ')}) of run {run.name}",
        f"{option['num_gpus']} GPUs, ${option['usd_per_month']:,.0f}/month; figures are the plan's (plan.json)",
        *(f"it misses: {miss}" for miss in option.get("misses", [])),
    ]
    for part in parts:
        lines += [f"note: {note}" for note in (part.get("precision") or {}).get("notes", [])]
    return tuple(line.replace("\n", " ") for line in lines)
