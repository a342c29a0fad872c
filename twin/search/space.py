"""The decisions of a plan, and what of their product can start at all, each refusal with its reason.

An *engine setting* is everything about a replica: GPU, layout, precisions, ``max_num_seqs`` and
``max_num_batched_tokens``. A *candidate* is an engine setting and a number of replicas.

Layouts (:func:`layouts`): tensor parallelism within a node; for a mixture of experts also ranks with their own attention
over one set of experts; pipeline stages where no other layout starts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from twin.base import InputError
from twin.cost.layout import Layout
from twin.cost.memory import MemoryBudget, memory_budget
from twin.cost.spread import spread_step_model
from twin.cost.step import StepModel
from twin.search.precisions import Precisions
from twin.spec.hardware import HardwareProfile
from twin.spec.layout import broken_rule, replica_gpus
from twin.spec.model import ModelSpec

TENSOR_PARALLEL_SIZES = (1, 2, 4, 8)
PIPELINE_PARALLEL_SIZES = (1, 2, 4)
DATA_PARALLEL_SIZES = (1, 2, 4, 8)
MAX_NUM_SEQS = (64, 128, 256, 512, 1024)
MAX_NUM_BATCHED_TOKENS = (2048, 4096, 8192, 16384)
USUAL_PRECISIONS = Precisions()


@dataclass(frozen=True)
class Settings:
    """What the user admits of a replica: at most ``max_num_seqs`` seats, and these ``tensor_parallel_sizes`` (empty: any)."""

    max_num_seqs: int | None = None
    tensor_parallel_sizes: tuple[int, ...] = ()

    @property
    def seats(self) -> tuple[int, ...]:
        """Those of ``MAX_NUM_SEQS`` within the limit; a limit below all of them is the only one tried."""
        limit = self.max_num_seqs
        return tuple(size for size in MAX_NUM_SEQS if limit is None or size <= limit) or (limit or MAX_NUM_SEQS[0],)

    def refusals(self) -> dict[str, int]:
        """Per seats beyond the limit a reason, and how many settings of a layout it refuses."""
        beyond = [size for size in MAX_NUM_SEQS if size not in self.seats]
        return {
            f"max_num_seqs {n} is above --max-num-seqs {self.max_num_seqs}": len(MAX_NUM_BATCHED_TOKENS) for n in beyond
        }

    def obstacle(self, layout: Layout) -> str | None:
        """Why a layout is not admitted, in one clause; ``None`` if it is."""
        sizes = self.tensor_parallel_sizes
        if sizes and layout.tensor_parallel_size not in sizes:
            asked = ",".join(map(str, sizes))
            return f"tensor_parallel_size {layout.tensor_parallel_size} is not among --tensor-parallel-size {asked}"
        return None


ANY_SETTINGS = Settings()


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
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False

    @property
    def num_gpus(self) -> int:
        return replica_gpus(self) * self.replicas

    @property
    def layout(self) -> Layout:
        return Layout(
            self.tensor_parallel_size,
            self.quantization,
            self.kv_cache_dtype,
            pipeline_parallel_size=self.pipeline_parallel_size,
            data_parallel_size=self.data_parallel_size,
            enable_expert_parallel=self.enable_expert_parallel,
        )

    @property
    def id(self) -> str:
        """Unique within a plan: ``h100_sxm-tp2x3-fp8-kvauto-s256-b8192``, ``…-tp8pp2x1-…``, ``…-tp1dp8epx1-…``."""
        sizes = (
            ("tp", self.tensor_parallel_size),
            ("pp", self.pipeline_parallel_size),
            ("dp", self.data_parallel_size),
        )
        cut = "".join(f"{name}{size}" for name, size in sizes if size > 1 or name == "tp")
        return (
            f"{self.gpu}-{cut}{'ep' * self.enable_expert_parallel}x{self.replicas}-{self.quantization or 'bf16'}"
            f"-kv{self.kv_cache_dtype}-s{self.max_num_seqs}-b{self.max_num_batched_tokens}"
        )


@dataclass(frozen=True, eq=False)
class ReplicaKind:
    """A replica's GPU and layout, with the KV blocks of each engine setting; ``memory`` tells how they are used (of one
    setting that starts; ``None``: full attention in blocks of ``block_size`` tokens).

    ``num_gpu_blocks`` int64 (len(seats), len(MAX_NUM_BATCHED_TOKENS)); 0 where the engine cannot start.
    """

    model: ModelSpec
    profile: HardwareProfile
    layout: Layout
    num_gpu_blocks: NDArray[np.int64]
    block_size: int = 16
    max_tokens: int = max(MAX_NUM_BATCHED_TOKENS)
    memory: MemoryBudget | None = None
    seats: tuple[int, ...] = MAX_NUM_SEQS

    @property
    def num_gpus(self) -> int:
        """Of one replica."""
        return replica_gpus(self.layout)

    @property
    def batches(self) -> int:
        """Batches that a replica runs at a time: one for each data-parallel rank or pipeline stage."""
        return self.layout.pipeline_parallel_size * self.layout.data_parallel_size

    @cached_property
    def step(self) -> StepModel:
        """Prices steps for every setting of this kind: its tables reach to the largest token budget."""
        return spread_step_model(self.model, self.profile, self.layout, max_tokens=self.max_tokens)

    def candidate(self, seqs: int, tokens: int, replicas: int) -> Candidate:
        """``seqs`` and ``tokens`` are positions in their tuples."""
        layout = self.layout
        return Candidate(
            self.profile.name,
            layout.tensor_parallel_size,
            replicas,
            layout.quantization,
            layout.kv_cache_dtype,
            self.seats[seqs],
            MAX_NUM_BATCHED_TOKENS[tokens],
            layout.pipeline_parallel_size,
            layout.data_parallel_size,
            layout.enable_expert_parallel,
        )


def replica_kinds(
    model: ModelSpec,
    profiles: Sequence[HardwareProfile],
    *,
    max_model_len: int,
    gpu_memory_utilization: float,
    block_size: int = 16,
    precisions: Precisions = USUAL_PRECISIONS,
    settings: Settings = ANY_SETTINGS,
) -> tuple[list[ReplicaKind], Counter[str]]:
    """Every GPU and layout on which some engine setting starts, and how many settings were refused for
    which reason.
    """
    refused: Counter[str] = Counter()
    found: list[ReplicaKind] = []
    for profile in profiles:
        started: set[int] = set()  # TP sizes without pipeline stages
        for cut in layouts(model, profile, started):
            for quantization, kv in product(*precisions.of(model)):
                layout = replace(cut, quantization=quantization, kv_cache_dtype=kv)
                reason = (
                    settings.obstacle(layout)
                    or layout_obstacle(model, profile, layout)
                    or precisions.obstacle(model, profile, quantization, kv)
                )
                if reason:
                    refused[reason] += len(MAX_NUM_SEQS) * len(MAX_NUM_BATCHED_TOKENS)
                    continue
                blocks, short, memory = _blocks(
                    model, profile, layout, max_model_len, gpu_memory_utilization, block_size, settings.seats
                )
                refused += short
                refused.update(settings.refusals())
                if memory is None:
                    continue
                kind = ReplicaKind(
                    model, profile, layout, blocks, memory.block_size, memory=memory, seats=settings.seats
                )
                if reason := unpriced_kind(kind):
                    refused[reason] += int((blocks > 0).sum())
                    continue
                found.append(kind)
                started.add(layout.tensor_parallel_size)
    return found, refused


def layouts(model: ModelSpec, profile: HardwareProfile, started: Collection[int]) -> Iterator[Layout]:
    """What an engineer would try on this GPU; ``started``, filled by who asks, tells which TP sizes have started so far.

    Pipeline stages come last, and only where no other layout starts: the model needs several nodes, or its heads do not
    divide over enough GPUs, or no all-reduce was measured among them.
    """
    yield from (Layout(tp) for tp in TENSOR_PARALLEL_SIZES)
    if model.num_experts:
        node = profile.facts.num_gpus_per_node
        for dp, tp in product(DATA_PARALLEL_SIZES, TENSOR_PARALLEL_SIZES):
            if 1 < dp * tp <= node:
                yield Layout(tp, data_parallel_size=dp, enable_expert_parallel=True)
    stages = [size for size in PIPELINE_PARALLEL_SIZES if size > 1]
    if not started:
        yield from (Layout(tp, pipeline_parallel_size=size) for tp, size in product(TENSOR_PARALLEL_SIZES, stages))


def _blocks(
    model: ModelSpec,
    profile: HardwareProfile,
    layout: Layout,
    max_model_len: int,
    gpu_memory_utilization: float,
    block_size: int,
    seats: tuple[int, ...],
) -> tuple[NDArray[np.int64], Counter[str], MemoryBudget | None]:
    """KV blocks of each engine setting of a layout, 0 where it cannot start; how many cannot for which reason; and the
    memory of one that can.
    """
    short: Counter[str] = Counter()
    starts: MemoryBudget | None = None
    blocks = np.zeros((len(seats), len(MAX_NUM_BATCHED_TOKENS)), dtype=np.int64)
    for (i, seqs), (j, tokens) in product(enumerate(seats), enumerate(MAX_NUM_BATCHED_TOKENS)):
        budget = memory_budget(
            model,
            profile,
            layout,
            block_size=block_size,
            gpu_memory_utilization=gpu_memory_utilization,
            max_num_batched_tokens=tokens,
            max_num_seqs=seqs,
        )
        reason = "max_num_batched_tokens is below max_num_seqs" if tokens < seqs else budget.shortage(max_model_len)
        if reason:
            short[reason] += 1
        else:
            starts = budget
            blocks[i, j] = budget.num_gpu_blocks
    return blocks, short, starts


def unpriced_kind(kind: ReplicaKind) -> str | None:
    """Which kernels of a kind its GPU was not measured with; ``None`` if it can be priced."""
    try:
        kind.step  # noqa: B018  (priced where it is first asked for)
    except InputError as error:
        return error.what
    return None


def layout_obstacle(model: ModelSpec, profile: HardwareProfile, layout: Layout) -> str | None:
    """Why no replica is laid out so on this GPU, in one clause; ``None`` if one can be."""
    tp = layout.tensor_parallel_size
    if tp > profile.facts.num_gpus_per_node:
        return f"{profile.name} has fewer GPUs in a node than tensor_parallel_size {tp}"
    if tp > 1 and not any(reduce.num_gpus == tp for reduce in profile.kernels.all_reduce):
        return f"{profile.name} has no all-reduce measured among {tp} GPUs"
    broken = broken_rule(model, layout, profile.facts.num_gpus_per_node)
    return broken[1] if broken else None
