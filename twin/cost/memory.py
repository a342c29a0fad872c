"""What fits on a GPU: vLLM's start-up accounting, from its settings to the number of KV blocks.

KV bytes = total × gpu_memory_utilization − weights − peak activations − non-torch memory − CUDA graphs, on
each GPU alike; blocks = KV bytes // bytes per block (vllm/v1/worker/gpu_worker.py,
``determine_available_memory``; CUDA graphs count since 0.21). The constants are fitted to start-up logs of
vLLM 0.19 on H100, which ``tests/cost/test_memory.py`` fits again, and checked on one of 0.31 on A100.
Versions before 0.19 differ: the sampler of 0.11 took 2.5 times the memory.
"""

from __future__ import annotations

import math

from twin.base import Estimate, Frozen, InfeasibleError, InputError
from twin.cost.layout import Layout
from twin.cost.levers import offloaded_weight_bytes
from twin.spec.hardware import HardwareProfile
from twin.spec.kv_groups import KvGroup, kv_pool
from twin.spec.layers import Experts, Mamba
from twin.spec.model import ModelSpec
from twin.spec.precision import weight_format

GIB = 2**30
ONE_GPU = Layout()
BF16_BYTES = 2
FP32_BYTES = 4

_LOGS = "vLLM 0.19.0 start-up logs on H100, github.com/llm-d-incubation/llm-d-planner accuracy/results/v0.19.0"


def _fitted(value: float, stderr: float, n: int) -> Estimate:
    return Estimate(value=value, stderr=stderr, n=n, origin="fitted", source=_LOGS, date="2026-04")


LOGITS_COPIES = _fitted(3.59, 0.04, 14)
"""Peak of the sampler's trial run in multiples of fp32 logits: bf16 logits ½, fp32, probabilities, noise."""

WORKSPACE_BYTES = _fitted(76 * 2**20, 20 * 2**20, 14)
"""Whatever else PyTorch holds at its peak (cuBLAS and attention workspaces)."""

CUDA_GRAPH_BYTES_PER_LAYER = _fitted(0.0223 * GIB, 0.002 * GIB, 16)
"""All 51 piecewise and 51 full graphs; half as many graphs take half of it."""

NON_TORCH_BYTES = {
    1: _fitted(0.25 * GIB, 0.02 * GIB, 8),
    2: _fitted(2.08 * GIB, 0.02 * GIB, 4),
    4: _fitted(2.17 * GIB, 0.04 * GIB, 4),
}
"""By TP: kernels loaded on first use and, among GPUs, NCCL and the workspace of the fused all-reduce."""

UNFUSED_NON_TORCH_BYTES = Estimate(
    value=0.67 * GIB,
    origin="assumed",
    source="0.25 GiB as at TP 1, and 0.42 GiB that NCCL added at TP 2 on vLLM 0.11, before the all-reduce "
    "was fused: github.com/llm-d-incubation/llm-d-planner@e50305a docs/empirical-vllm-memory-results.md",
    date="2026-04",
)
"""Several GPUs without the fused all-reduce, which needs Hopper or later and NVLink."""

BATCHES_IN_FLIGHT = 2
"""Steps that async scheduling has under way, vLLM's default on GPUs: blocks out of a window are freed only after them."""

STATE_BLOCKS = 2
"""Of a request in every group of states, with prefix caching: that at the last boundary, and the running one. Mamba 2 saves
another in the middle of a prefill (``num_prefill_checkpoint_blocks``)."""

_CAPTURE_LIMIT = 512  # vLLM captures graphs up to min(512, 2 · max_num_seqs) tokens


class MemoryBudget(Frozen):
    """Bytes on each GPU, as vLLM accounts for them at start-up; ``kv_bytes`` may be negative."""

    total_bytes: int
    requested_bytes: int
    weight_bytes: int
    activation_bytes: int
    non_torch_bytes: int
    cuda_graph_bytes: int
    kv_bytes: int
    bytes_per_block: int
    block_size: int
    num_gpu_blocks: int
    kv_groups: tuple[KvGroup, ...] = (KvGroup(),)
    in_flight_tokens: int = 0
    offloaded_bytes: int = 0
    state_blocks: int = 0

    @property
    def kv_tokens(self) -> int:
        """Tokens that fit in the KV cache, of one sequence where its layers keep different things of it."""
        if self.kv_groups == (KvGroup(),):
            return self.num_gpu_blocks * self.block_size
        fixed, growing = self._blocks(0), sum(group.count for group in self.kv_groups if group.kind == "full")
        return max(0, self.num_gpu_blocks - fixed) // growing * self.block_size if growing else 0

    def blocks_per_request(self, length: int) -> int:
        """Blocks that a sequence of so many tokens may need at once (vLLM's ``max_memory_usage_bytes`` of each group)."""
        return self._blocks(length)

    def max_concurrency(self, length: int) -> float:
        """Sequences of so many tokens that fit at once, as vLLM logs it."""
        return self.num_gpu_blocks / self._blocks(length)

    def _blocks(self, length: int) -> int:
        windowed = min(length, self.in_flight_tokens)
        per_group = {
            "full": math.ceil(length / self.block_size),
            "mamba": self.state_blocks,
        }
        return sum(
            group.count
            * (
                per_group[group.kind]
                if group.window is None
                else math.ceil(min(group.window - 1 + windowed, length) / self.block_size) + 1
            )
            for group in self.kv_groups
        )

    def shortage(self, max_model_len: int | None = None) -> str | None:
        """Why vLLM would refuse to start, in one clause that groups alike cases; ``None`` if it starts.

        ``max_model_len`` in tokens: one sequence of that length must fit (vLLM's ``check_enough_kv_cache``).
        """
        if self.weight_bytes > self.requested_bytes:
            return "the weights do not fit in GPU memory"
        if self.num_gpu_blocks < 1:
            return "the weights leave no room for a KV cache"
        if max_model_len is not None and self.blocks_per_request(max_model_len) > self.num_gpu_blocks:
            return "the KV cache is smaller than one sequence of max_model_len"
        return None

    def require(self, max_model_len: int | None = None) -> MemoryBudget:
        """Itself. Raises :class:`InfeasibleError`, with figures, where :meth:`shortage` finds a reason."""
        reason = self.shortage(max_model_len)
        if reason is None:
            return self
        asked = "" if max_model_len is None else f", {max_model_len} tokens asked for"
        raise InfeasibleError(
            f"{reason}: of {self.requested_bytes / GIB:.1f} GiB usable per GPU, weights take "
            f"{self.weight_bytes / GIB:.1f} GiB and {max(0, self.kv_bytes) / GIB:.1f} GiB are left for KV "
            f"({self.kv_tokens} tokens{asked})"
        )


def memory_budget(
    model: ModelSpec,
    profile: HardwareProfile,
    layout: Layout = ONE_GPU,
    *,
    block_size: int = 16,
    gpu_memory_utilization: float = 0.92,
    max_num_batched_tokens: int = 8192,
    max_num_seqs: int = 1024,
    enforce_eager: bool = False,
    cpu_offload_bytes: int = 0,
) -> MemoryBudget:
    """The memory of one GPU of a replica: of the pipeline stage with the fewest KV blocks, which is how many all take.

    Never raises for want of memory: see :meth:`MemoryBudget.require`. Raises :class:`InputError` when the model cannot be
    sharded so, or for a utilization outside (0, 1].
    """
    tp, stages, ep = layout.tensor_parallel_size, layout.pipeline_parallel_size, layout.expert_parallel_size
    ranks, quantization = layout.data_parallel_size, layout.quantization
    model.check_tensor_parallel(tp, enable_expert_parallel=layout.enable_expert_parallel)
    if not 0 < gpu_memory_utilization <= 1:
        raise InputError(f"gpu_memory_utilization is above 0 and at most 1, not {gpu_memory_utilization}")
    total = int(profile.facts.memory_bytes.value)
    requested = int(total * gpu_memory_utilization)
    on_gpu = profile.device == "gpu"  # a CPU has neither a context of its own nor graphs
    pool = kv_pool(
        model,
        tensor_parallel_size=tp,
        pipeline_parallel_size=stages,
        kv_cache_dtype=layout.kv_cache_dtype,
        quantization=quantization,
        block_size=block_size,
    )
    budgets = []
    for stage in range(stages):
        part, last = model if stages == 1 else model.stage(stage, stages), stage == stages - 1
        weights = part.weight_bytes(quantization, tp, ep, embedding=stage == 0, head=last) + _rope_bytes(model)
        offloaded = _offloaded_bytes(part, quantization, tp, ep, cpu_offload_bytes)
        activation = activation_bytes(
            part, tp, max_num_batched_tokens, max_num_seqs, ep=ep, data_parallel_size=ranks, samples=last
        )
        non_torch = non_torch_bytes(profile, tp) if on_gpu else 0
        graphs = cuda_graph_bytes(part, max_num_seqs) if on_gpu and not enforce_eager else 0
        kv = requested - (weights - offloaded) - activation - non_torch - graphs
        budgets.append(
            MemoryBudget(
                total_bytes=total,
                requested_bytes=requested,
                weight_bytes=weights - offloaded,
                activation_bytes=activation,
                non_torch_bytes=non_torch,
                cuda_graph_bytes=graphs,
                kv_bytes=kv,
                bytes_per_block=pool.bytes_per_block[stage],
                block_size=pool.block_size,
                num_gpu_blocks=pool.num_blocks(kv, stage),
                kv_groups=pool.groups,
                in_flight_tokens=BATCHES_IN_FLIGHT * max_num_batched_tokens,
                offloaded_bytes=offloaded,
                state_blocks=STATE_BLOCKS + any(isinstance(layer.mixer, Mamba) for layer in model.layers),
            )
        )
    return min(budgets, key=lambda budget: (budget.num_gpu_blocks, budget.kv_bytes))


def activation_bytes(
    model: ModelSpec,
    tp: int,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    *,
    ep: int = 1,
    data_parallel_size: int = 1,
    samples: bool = True,
) -> int:
    """PyTorch's peak in vLLM's profile run: the widest point of a layer, or the sampler's trial run.

    A layer holds the residual, its normed copy and the attention output (hidden each), and the MLP's gate, up
    and product (intermediate / TP each), or of experts what :func:`experts_workspace_bytes` says. The trial run samples for
    ``max_num_seqs`` requests over the whole vocabulary, gathered from all GPUs, while the last hidden states of every token
    are still held; ``samples``: it runs on the last stage of a pipeline.
    """
    tokens = max_num_batched_tokens
    layer = tokens * BF16_BYTES * (3 * model.mlp_width / tp + 3 * model.hidden_size)
    experts = [
        3 * tokens * BF16_BYTES * model.hidden_size
        + experts_workspace_bytes(layer.mlp, model.hidden_size, tokens * data_parallel_size, 1 if ep > 1 else tp)
        for layer in model.layers
        if isinstance(layer.mlp, Experts)
    ]
    sampled = min(max_num_seqs, tokens)
    sampler = LOGITS_COPIES.value * sampled * model.vocab_size * FP32_BYTES + tokens * BF16_BYTES * model.hidden_size
    return int(max(layer, *experts, sampler if samples else 0.0) + WORKSPACE_BYTES.value)


def experts_workspace_bytes(experts: Experts, hidden_size: int, tokens: int, shards: int) -> int:
    """Both workspaces of the fused experts: a row for every token and expert it goes to, in each (``workspace_shapes`` of
    TritonExperts, vLLM 0.32). With data-parallel ranks, ``tokens`` are those of all of them, which are gathered first.
    """
    inner = experts.intermediate_size / shards
    rows = tokens * experts.experts_per_token
    columns = max(inner, hidden_size) + max((experts.matrices - 1) * inner, hidden_size)
    return int(rows * BF16_BYTES * columns)


def _offloaded_bytes(model: ModelSpec, quantization: str | None, tp: int, ep: int, limit: int) -> int:
    """Weights left in the host's memory, counted role by role of every layer."""
    if not limit:
        return 0
    stored = weight_format(quantization or model.quantization)
    each = (layer.weights(model.hidden_size, tp, ep) for layer in model.in_order)
    sizes = (count * stored.bytes_each(role) for weights in each for role, count in weights.items())
    return offloaded_weight_bytes(sizes, limit)


def non_torch_bytes(profile: HardwareProfile, tp: int) -> int:
    """What the profile run allocates outside PyTorch; beyond the largest TP measured, as at that one."""
    facts = profile.facts
    link, pcie = facts.intra_node_link_bytes_per_s, facts.pcie_bytes_per_s
    hopper_with_nvlink = (
        facts.flops.fp8 is not None and link is not None and pcie is not None and link.value > pcie.value
    )
    if tp > 1 and not hopper_with_nvlink:
        return int(UNFUSED_NON_TORCH_BYTES.value)
    measured = max(size for size in NON_TORCH_BYTES if size <= tp)
    return int(NON_TORCH_BYTES[measured].value)


def cuda_graph_bytes(model: ModelSpec, max_num_seqs: int) -> int:
    """What vLLM sets aside for CUDA graphs: piecewise up to twice ``max_num_seqs`` tokens, full up to it."""
    captured = _num_captures(2 * max_num_seqs) + _num_captures(max_num_seqs)
    share = captured / (2 * _num_captures(_CAPTURE_LIMIT))
    return int(CUDA_GRAPH_BYTES_PER_LAYER.value * model.num_hidden_layers * share)


def _num_captures(largest: int) -> int:
    """How many of the sizes 1, 2, 4, 8, 16 … 256, 272 … 512 are at most ``largest``."""
    sizes = [1, 2, 4, *range(8, 257, 8), *range(272, _CAPTURE_LIMIT + 1, 16)]
    return sum(size <= largest for size in sizes)


def _rope_bytes(model: ModelSpec) -> int:
    """One table of cosines and sines, shared by all layers, loaded with the weights."""
    return model.max_position_embeddings * model.rotary_dim * BF16_BYTES
