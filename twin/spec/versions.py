"""The vLLM releases that the engine models, and everything in which they differ.

Each field is one rule or default; a release is one row of :data:`VERSIONS`. The differences were read in the two releases'
``v1/core/sched/scheduler.py``, ``v1/core/block_pool.py``, ``v1/engine/core.py`` and ``engine/arg_utils.py``, and are held
to by the step-by-step comparison with both (``make lockstep``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

VersionName = Literal["0.32", "0.19"]
MODELLED_VLLM: VersionName = "0.32"


@dataclass(frozen=True)
class VllmVersion:
    """The rules and defaults of one release.

    Attributes:
        name: as the scenario names it.
        threshold_spares_a_lone_request: ``long_prefill_token_threshold`` binds only while another request is there.
        unhashed_blocks_first: freed blocks without a hash are reused first; otherwise all queue in the order of freeing.
        lookahead_at_admission: a waiting request is admitted only with room for the drafter's slots too.
        draft_slots_per_step: slots for drafting are taken from the budget by each scheduled request; otherwise from the
            start by every seat.
        pads_new_decodes: a newly admitted request that misses one token only gets the size of a speculative step.
        stale_output_holds_back: a preempted request is resumed only after its output in flight has been delivered.
        victim_shifts_the_walk: preempting by priority a request before the one being served moves the walk back by one,
            whether or not that request had been served in this step.
        fills_with_empty_steps: while the batch queue has room, neither an empty step nor an oldest step that is done keeps
            the engine from scheduling the next.
        frees_processed_only: what has left a window is freed once the steps in flight have read it.
        windows_cap_admission: admission asks for no more blocks than a request holds at once where a window frees some.
        sparse_checkpoints: of windowed layers and states only what a later request may resume at is cached
            (``prefix_cache_retention_interval`` 0, the default); otherwise all.
        async_with_pipeline: asynchronous scheduling works with pipeline parallelism (the V2 model runner).
        gpu_memory_utilization: default.
        large_memory_tier: GPUs of 160 GiB and more have a larger default of ``max_num_batched_tokens``.
        lacks: engine arguments that the newest modelled release has and this one does not.
    """

    name: VersionName
    threshold_spares_a_lone_request: bool
    unhashed_blocks_first: bool
    lookahead_at_admission: bool
    draft_slots_per_step: bool
    pads_new_decodes: bool
    stale_output_holds_back: bool
    victim_shifts_the_walk: bool
    fills_with_empty_steps: bool
    frees_processed_only: bool
    windows_cap_admission: bool
    sparse_checkpoints: bool
    async_with_pipeline: bool
    gpu_memory_utilization: float
    large_memory_tier: bool
    lacks: frozenset[str]


VERSIONS: dict[str, VllmVersion] = {
    "0.32": VllmVersion(
        name="0.32",
        threshold_spares_a_lone_request=True,
        unhashed_blocks_first=True,
        lookahead_at_admission=True,
        draft_slots_per_step=True,
        pads_new_decodes=True,
        stale_output_holds_back=True,
        victim_shifts_the_walk=True,
        fills_with_empty_steps=True,
        frees_processed_only=True,
        windows_cap_admission=True,
        sparse_checkpoints=True,
        async_with_pipeline=True,
        gpu_memory_utilization=0.92,
        large_memory_tier=True,
        lacks=frozenset(),
    ),
    "0.19": VllmVersion(
        name="0.19",
        threshold_spares_a_lone_request=False,
        unhashed_blocks_first=False,
        lookahead_at_admission=False,
        draft_slots_per_step=False,
        pads_new_decodes=False,
        stale_output_holds_back=False,
        victim_shifts_the_walk=False,
        fills_with_empty_steps=False,
        frees_processed_only=False,
        windows_cap_admission=False,
        sparse_checkpoints=False,
        async_with_pipeline=False,
        gpu_memory_utilization=0.9,
        large_memory_tier=False,
        lacks=frozenset({"watermark", "long_prefill_token_threshold_adaptive", "max_num_active_seqs"}),
    ),
}

assert set(VERSIONS) == set(get_args(VersionName))
