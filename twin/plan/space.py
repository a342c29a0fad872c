"""The decisions of a plan, and what of their product can start at all, each refusal with its reason.

An *engine setting* is everything about a replica: GPU, tensor parallelism, precisions, ``max_num_seqs`` and
``max_num_batched_tokens``. A *candidate* is an engine setting and a number of replicas.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from twin.cost.memory import memory_budget
from twin.cost.step import Layout, StepModel
from twin.spec.hardware import HardwareProfile
from twin.spec.model import ModelSpec
from twin.spec.precision import precision_obstacle

TENSOR_PARALLEL_SIZES = (1, 2, 4, 8)
QUANTIZATIONS: tuple[str | None, ...] = (None, "fp8")
KV_CACHE_DTYPES = ("auto", "fp8")
MAX_NUM_SEQS = (64, 128, 256, 512, 1024)
MAX_NUM_BATCHED_TOKENS = (2048, 4096, 8192, 16384)


@dataclass(frozen=True)
class Candidate:
    """One configuration, under vLLM's names."""

    gpu: str
    tensor_parallel_size: int
    replicas: int
    quantization: str | None
    kv_cache_dtype: str
    max_num_seqs: int
    max_num_batched_tokens: int

    @property
    def num_gpus(self) -> int:
        return self.tensor_parallel_size * self.replicas

    @property
    def layout(self) -> Layout:
        return Layout(self.tensor_parallel_size, self.quantization, self.kv_cache_dtype)

    @property
    def id(self) -> str:
        """Unique within a plan: ``h100_sxm-tp2x3-fp8-kvauto-s256-b8192``."""
        return (
            f"{self.gpu}-tp{self.tensor_parallel_size}x{self.replicas}-{self.quantization or 'bf16'}"
            f"-kv{self.kv_cache_dtype}-s{self.max_num_seqs}-b{self.max_num_batched_tokens}"
        )


@dataclass(frozen=True)
class Limits:
    """What a plan may use: most USD per hour, GPUs and watts; ``usd_per_gpu_hour`` and ``gpu_watts`` by
    GPU.
    """

    usd_per_gpu_hour: Mapping[str, float]
    gpu_watts: Mapping[str, float]
    usd_per_hour: float = np.inf
    num_gpus: float = np.inf
    watts: float = np.inf
    max_gpus: float = np.inf
    node_size: int = 1

    def violation(self, gpu: str, num_gpus: int) -> str | None:
        """Why ``num_gpus`` of this GPU may not be bought; ``None`` if they may."""
        over = (
            num_gpus * self.usd_per_gpu_hour[gpu] > self.usd_per_hour * (1 + 1e-9)
            or num_gpus > self.num_gpus
            or num_gpus * self.gpu_watts[gpu] > self.watts * (1 + 1e-9)
        )
        if over:
            return OVER_BUDGET
        if num_gpus > self.max_gpus:
            return OVER_MAX_GPUS
        return NOT_WHOLE_NODES if num_gpus % self.node_size else None


OVER_BUDGET = "over the budget"
OVER_MAX_GPUS = "more GPUs than --max-gpus"
NOT_WHOLE_NODES = "leaves GPUs of a node unused"
PURSE = (OVER_BUDGET, OVER_MAX_GPUS)
"""Refusals that more money or more GPUs would lift."""


@dataclass(frozen=True, eq=False)
class ReplicaKind:
    """A replica's GPU and layout, with the KV blocks of each engine setting.

    ``num_gpu_blocks`` int64 (len(MAX_NUM_SEQS), len(MAX_NUM_BATCHED_TOKENS)); 0 where the engine cannot
    start.
    """

    model: ModelSpec
    profile: HardwareProfile
    layout: Layout
    num_gpu_blocks: NDArray[np.int64]
    block_size: int = 16
    max_tokens: int = max(MAX_NUM_BATCHED_TOKENS)

    @cached_property
    def step(self) -> StepModel:
        """Prices steps for every setting of this kind: its tables reach to the largest token budget."""
        return StepModel(self.model, self.profile, self.layout, max_tokens=self.max_tokens)

    def candidate(self, seqs: int, tokens: int, replicas: int) -> Candidate:
        """``seqs`` and ``tokens`` are positions in their tuples."""
        layout = self.layout
        return Candidate(
            self.profile.name,
            layout.tensor_parallel_size,
            replicas,
            layout.quantization,
            layout.kv_cache_dtype,
            MAX_NUM_SEQS[seqs],
            MAX_NUM_BATCHED_TOKENS[tokens],
        )


def replica_kinds(
    model: ModelSpec,
    profiles: Sequence[HardwareProfile],
    *,
    max_model_len: int,
    gpu_memory_utilization: float,
    block_size: int = 16,
) -> tuple[list[ReplicaKind], Counter[str]]:
    """Every GPU and layout on which some engine setting starts, and how many settings were refused for
    which reason.
    """
    refused: Counter[str] = Counter()
    kinds: list[ReplicaKind] = []
    settings = len(MAX_NUM_SEQS) * len(MAX_NUM_BATCHED_TOKENS)
    for profile, tp, quantization, kv in product(profiles, TENSOR_PARALLEL_SIZES, QUANTIZATIONS, KV_CACHE_DTYPES):
        layout = Layout(tp, quantization, kv)
        reason = _layout_obstacle(model, profile, layout)
        if reason:
            refused[reason] += settings
            continue
        blocks = np.zeros((len(MAX_NUM_SEQS), len(MAX_NUM_BATCHED_TOKENS)), dtype=np.int64)
        for (i, seqs), (j, tokens) in product(enumerate(MAX_NUM_SEQS), enumerate(MAX_NUM_BATCHED_TOKENS)):
            budget = memory_budget(
                model,
                profile,
                tensor_parallel_size=tp,
                quantization=quantization,
                kv_cache_dtype=kv,
                block_size=block_size,
                gpu_memory_utilization=gpu_memory_utilization,
                max_num_batched_tokens=tokens,
                max_num_seqs=seqs,
            )
            reason = "max_num_batched_tokens is below max_num_seqs" if tokens < seqs else budget.shortage(max_model_len)
            if reason:
                refused[reason] += 1
            else:
                blocks[i, j] = budget.num_gpu_blocks
        if blocks.any():
            kinds.append(ReplicaKind(model, profile, layout, blocks, block_size))
    return kinds, refused


def _layout_obstacle(model: ModelSpec, profile: HardwareProfile, layout: Layout) -> str | None:
    tp = layout.tensor_parallel_size
    if tp > profile.facts.num_gpus_per_node:
        return f"{profile.name} has fewer GPUs in a node than tensor_parallel_size {tp}"
    if tp > 1 and not any(reduce.num_gpus == tp for reduce in profile.kernels.all_reduce):
        return f"{profile.name} has no all-reduce measured among {tp} GPUs"
    return model.tensor_parallel_obstacle(tp) or precision_obstacle(
        profile, quantization=layout.quantization, kv_cache_dtype=layout.kv_cache_dtype
    )
