"""The baselines that people come from, beside vLLM's own batching and paged KV cache: their names and their rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Batching = Literal["continuous", "static", "dynamic"]
"""vLLM's; whole batches of ``max_num_seqs``; whole batches that also start when the oldest request has waited long enough."""

KvCache = Literal["paged", "contiguous", "none"]
"""vLLM's blocks; ``max_model_len`` tokens reserved for every request (FasterTransformer, Orca); every step recomputes."""

STEPWISE_ONLY: Mapping[str, object] = {
    "long_prefill_token_threshold": 0,
    "long_prefill_token_threshold_adaptive": False,
    "max_num_active_seqs": None,
    "scheduling_policy": "fcfs",
    "watermark": 0.0,
    "scheduler_reserve_full_isl": True,
}
"""Settings of a scheduler that decides every step, with the values at which they ask for nothing: whole batches have none."""
