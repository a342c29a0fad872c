"""What a user sets on a vLLM engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from twin.spec.batching import Batching
from twin.spec.kv_groups import KvGroup
from twin.spec.versions import MODELLED_VLLM, VERSIONS, VersionName, VllmVersion


@dataclass(frozen=True)
class Speculation:
    """Speculative decoding: ``num_speculative_tokens`` drafts a step at most, by ``method``.

    EAGLE and a draft model write KV for their drafts (lookahead slots), n-gram does not. A draft model also takes one
    slot of the token budget per request. EAGLE recomputes the last block of a prefix hit.
    """

    method: Literal["ngram", "eagle", "draft_model"]
    num_speculative_tokens: int

    @property
    def lookahead_tokens(self) -> int:
        """KV slots reserved past the tokens that a step computes."""
        return 0 if self.method == "ngram" else self.num_speculative_tokens

    @property
    def draft_slots(self) -> int:
        """Budget that a scheduled request takes beyond its tokens."""
        return 1 if self.method == "draft_model" else 0


@dataclass(frozen=True)
class EngineConfig:
    """Engine arguments under vLLM's names; sizes in tokens and blocks."""

    num_gpu_blocks: int
    max_num_seqs: int = 1024
    max_num_batched_tokens: int = 8192
    max_model_len: int = 131072
    block_size: int = 16
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    long_prefill_token_threshold_adaptive: bool = False
    watermark: float = 0.0
    scheduler_reserve_full_isl: bool = True
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    async_scheduling: bool = False
    pipeline_parallel_size: int = 1
    max_num_active_seqs: int | None = None
    speculation: Speculation | None = None
    kv_groups: tuple[KvGroup, ...] = (KvGroup(),)
    vllm_version: VersionName = MODELLED_VLLM
    batching: Batching = "continuous"  # others: twin.engine.batching
    max_batch_wait_s: float = 0.0
    recomputes: bool = False  # no KV cache at all

    @property
    def rules(self) -> VllmVersion:
        """Those of the modelled release."""
        return VERSIONS[self.vllm_version]

    @property
    def is_hybrid(self) -> bool:
        """Whether layers keep different things of a sequence, or there is more than one table of blocks."""
        return self.kv_groups != (KvGroup(),)

    @property
    def batch_queue_size(self) -> int:
        """Steps that may be scheduled before the output of the first of them is known (1: none but itself)."""
        stages = self.pipeline_parallel_size
        if self.async_scheduling and (stages == 1 or self.rules.async_with_pipeline):
            return stages + 1
        return stages
