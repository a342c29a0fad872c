"""The real scheduler of the vLLM that is installed, on cases that arrive as JSON lines; runs inside vLLM's environment.

No model and no executor: a fake runner samples a token wherever vLLM's would. One line in, one line out:
``{"steps": [...], "totals": {...}}`` or ``{"error": ...}``. The shapes are described in ``README.md`` beside this file.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}

import torch
import vllm
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.core import kv_cache_utils
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import (
    ChunkedLocalAttentionSpec,
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    MambaSpec,
    SlidingWindowSpec,
)
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

VERSION = ".".join(vllm.__version__.split(".")[:2])
MODEL = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 40960,
    "vocab_size": 32000,
    "torch_dtype": "bfloat16",
}


class Speculation:
    """Stands in for vLLM's SpeculativeConfig, which would load a draft model: the few facts that the scheduler reads."""

    num_speculative_tokens_per_batch_size = None
    parallel_drafting = False

    def __init__(self, method: str, num_speculative_tokens: int) -> None:
        self.method = method
        self.num_speculative_tokens = num_speculative_tokens
        self.max_num_new_slots_for_drafting = 1 if method == "draft_model" else 0

    def use_eagle(self) -> bool:
        return self.method == "eagle"

    use_eagle_block_drop = use_eagle

    def uses_draft_model(self) -> bool:
        return self.method == "draft_model"

    def use_dflash(self) -> bool:
        return False

    use_dspark = use_multi_module_mtp = use_dflash


class Item(NamedTuple):
    """A scheduled step on its way through the batch queue."""

    output: Any
    samples: list[bool]
    record: dict[str, Any] | None
    padded: set[int]


def digest(value: object) -> bytes:
    return hashlib.sha1(pickle.dumps(value)).digest()


def base_config() -> VllmConfig:
    init_none_hash(digest)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(MODEL))
        model = ModelConfig(model=folder, skip_tokenizer_init=True, dtype="bfloat16", enforce_eager=True)
        return VllmConfig(
            model_config=model,
            scheduler_config=SchedulerConfig(max_model_len=40960, is_encoder_decoder=False, async_scheduling=False),
            cache_config=CacheConfig(block_size=16),
            device_config=DeviceConfig("cpu"),
        )


class Engine:
    """EngineCore's loop (``step``, ``step_with_batch_queue``, ``post_step``) around a real scheduler."""

    def __init__(self, base: VllmConfig, case: dict[str, Any]) -> None:
        config = self.config = case["config"]
        self.rows = case["requests"]
        self.requests: dict[int, Request] = {}
        self.steps: list[dict[str, Any]] = []
        self.queue: deque[Item] = deque()
        self.clock = self.evictions = 0
        self._preempted: list[int] = []
        self._events = sorted(
            [(row["arrival"], 0, index) for index, row in enumerate(self.rows)]
            + [(row["abort"], 1, index) for index, row in enumerate(self.rows) if row["abort"] is not None]
        )
        self._position = 0
        self._hasher = get_request_block_hasher(config["block_size"], digest)
        self._build(base)

    def _build(self, base: VllmConfig) -> None:
        config, stages = self.config, self.config["pipeline_parallel_size"]
        own = ("watermark", "long_prefill_token_threshold_adaptive", "max_num_active_seqs") if VERSION != "0.19" else ()
        same = ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "enable_chunked_prefill", "policy")
        more = ("long_prefill_token_threshold", "scheduler_reserve_full_isl")
        scheduling = SchedulerConfig(is_encoder_decoder=False, **{name: config[name] for name in (*same, *more, *own)})
        scheduling.async_scheduling = config["async_scheduling"]  # the CPU platform would reset it
        cache = CacheConfig(block_size=config["block_size"], enable_prefix_caching=config["enable_prefix_caching"])
        cache.num_gpu_blocks = config["num_gpu_blocks"]
        base.scheduler_config, base.cache_config = scheduling, cache
        base.model_config.max_model_len = config["max_model_len"]
        base.parallel_config.pipeline_parallel_size = stages
        speculative = config["speculative"]
        base.speculative_config = Speculation(**speculative) if speculative else None
        if VERSION == "0.19" and speculative and speculative["method"] == "draft_model":
            # VllmConfig._set_max_num_scheduled_tokens, which runs when a config is made with a draft model
            scheduling.max_num_scheduled_tokens = config["max_num_batched_tokens"] - config["max_num_seqs"]
        kv = self._kv_config(base)
        scheduler_block = hash_block = kv.kv_cache_groups[0].kv_cache_spec.block_size
        if len(kv.kv_cache_groups) > 1 and VERSION != "0.19":
            scheduler_block, hash_block = kv_cache_utils.resolve_kv_cache_block_sizes(kv, base)
        second_runner = VERSION != "0.19" and config["async_scheduling"] and stages > 1
        self.depth = stages + 1 if config["async_scheduling"] and (stages == 1 or second_runner) else stages
        VllmConfig.max_concurrent_batches = self.depth  # as on a GPU; the CPU has no second runner
        kind = AsyncScheduler if config["async_scheduling"] else Scheduler
        structured = StructuredOutputManager(base)
        sizes = {"block_size": scheduler_block} | ({} if VERSION == "0.19" else {"hash_block_size": hash_block})
        self.scheduler = kind(base, kv, structured, log_stats=False, **sizes)
        self.scheduler.use_v2_model_runner = second_runner
        self._watch()

    def _kv_config(self, base: VllmConfig) -> KVCacheConfig:
        """The KV groups of the case; one of full attention where it names none."""
        config = self.config
        groups = config.get("kv_groups") or [{"kind": "full", "window": None, "count": 1}]
        caching = config["enable_prefix_caching"]
        if VERSION != "0.19":  # MambaModelConfig
            base.cache_config.mamba_cache_mode = "align" if caching else "none"
        layers = {"block_size": config["block_size"], "num_kv_heads": 1, "head_size": 1, "dtype": torch.float32}
        specs = []
        for group in groups:
            if group["kind"] == "mamba":
                state_block = config["block_size"] if caching else config["max_model_len"]
                mode = base.cache_config.mamba_cache_mode
                spec = MambaSpec(block_size=state_block, shapes=((1,),), dtypes=(torch.float32,), mamba_cache_mode=mode)
            elif group["kind"] == "chunked_local":
                spec = ChunkedLocalAttentionSpec(**layers, attention_chunk_size=group["window"])
            elif group["kind"] == "sliding_window":
                spec = SlidingWindowSpec(**layers, sliding_window=group["window"])
            else:
                spec = FullAttentionSpec(**layers)
            specs += group["count"] * [spec]
        named = [KVCacheGroupSpec([f"layer {index}"], spec) for index, spec in enumerate(specs)]
        sparse = {} if VERSION == "0.19" else {"prefix_cache_retention_interval": 0}  # CacheConfig's default
        return KVCacheConfig(config["num_gpu_blocks"], kv_cache_tensors=[], kv_cache_groups=named, **sparse)

    def _watch(self) -> None:
        """Count evictions and note preemptions, which no output of the scheduler tells."""
        pool = self.scheduler.kv_cache_manager.block_pool
        evict, preempt = pool._maybe_evict_cached_block, self.scheduler._preempt_request

        def counting(block: Any) -> bool:
            evicted = evict(block)
            self.evictions += bool(evicted)
            return evicted

        def noting(request: Request, *args: Any, **more: Any) -> None:
            self._preempted.append(int(request.request_id))
            preempt(request, *args, **more)

        pool._maybe_evict_cached_block = counting
        self.scheduler._preempt_request = noting

    def token(self, index: int, position: int) -> int:
        """Blocks with a key hold the key; all other tokens are like no other."""
        keys, block = self.rows[index]["keys"], position // self.config["block_size"]
        return keys[block] + 10**6 if block < len(keys) else 10**9 + index * 10**5 + position

    def run(self) -> None:
        scheduler, queue = self.scheduler, self.queue
        while True:
            self._take_in()
            if not scheduler.has_unfinished_requests() and not any(item.output.num_scheduled_tokens for item in queue):
                while queue or scheduler.has_requests():  # what is left in the queue goes before the engine waits
                    if scheduler.has_requests():
                        queue.appendleft(self._schedule())
                    self._update(queue.pop())
                if self._position == len(self._events):
                    return
                self.clock = max(self.clock, self._events[self._position][0])
                continue
            if scheduler.has_requests():
                item = self._schedule()
                queue.appendleft(item)
                executed = bool(item.output.num_scheduled_tokens)
                if len(queue) < self.depth and self._goes_on(executed):
                    continue
            self._update(queue.pop())

    def _goes_on(self, executed: bool) -> bool:
        """Whether another step is scheduled before the engine waits for an output."""
        if VERSION != "0.19":
            return executed or self.scheduler.has_requests()
        return executed and bool(self.queue[-1].output.num_scheduled_tokens)  # the oldest is not done yet

    def _take_in(self) -> None:
        while self._position < len(self._events) and self._events[self._position][0] <= self.clock:
            _, abort, index = self._events[self._position]
            self._position += 1
            if not abort:
                self._add(index)
            elif index in self.requests and not self.requests[index].is_finished():
                self.scheduler.finish_requests(f"{index:06d}", RequestStatus.FINISHED_ABORTED)

    def _add(self, index: int) -> None:
        row = self.rows[index]
        request = Request(
            request_id=f"{index:06d}",
            prompt_token_ids=[self.token(index, position) for position in range(row["input_tokens"])],
            sampling_params=SamplingParams(max_tokens=row["output_tokens"], ignore_eos=True),
            pooling_params=None,
            block_hasher=self._hasher,
            priority=row["priority"],
            arrival_time=float(index),
        )
        self.requests[index] = request
        self.scheduler.add_request(request)

    def _schedule(self) -> Item:
        self._preempted.clear()
        output = self.scheduler.schedule()
        record = None
        if output.num_scheduled_tokens or self._preempted:
            record = self._record(output)
            self.steps.append(record)
        samples = [not self.requests[int(name)].is_prefill_chunk for name in output.num_scheduled_tokens]
        drafted = {int(name) for name in output.scheduled_spec_decode_tokens}
        newcomers = {*record["new"], *record["resumed"]} if record else set()
        return Item(output, samples, record, drafted & newcomers)

    def _record(self, output: Any) -> dict[str, Any]:
        started = {int(data.req_id): data.num_computed_tokens for data in output.scheduled_new_reqs}
        again = output.scheduled_cached_reqs
        for name, computed in zip(again.req_ids, again.num_computed_tokens, strict=True):
            if name in again.resumed_req_ids:
                started[int(name)] = computed
        scheduler = self.scheduler
        names = ("kv_holding_waiting", "skipped_waiting", "waiting")
        waiting = [request for name in names for request in getattr(scheduler, name, ())]
        return {
            "scheduled": {int(name): tokens for name, tokens in output.num_scheduled_tokens.items()},
            "new": {i: hit for i, hit in started.items() if not self.requests[i].num_preemptions},
            "resumed": {i: hit for i, hit in started.items() if self.requests[i].num_preemptions},
            "preempted": list(self._preempted),
            "drafts": {int(name): len(drafts) for name, drafts in output.scheduled_spec_decode_tokens.items()},
            "free": scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
            "running": [int(request.request_id) for request in scheduler.running],
            "waiting": [int(request.request_id) for request in waiting],
            "finished": [],
        }

    def _update(self, item: Item) -> None:
        names = list(item.output.num_scheduled_tokens)
        sampled = [
            self._sample(int(name), item) if ends else [] for name, ends in zip(names, item.samples, strict=True)
        ]
        alive = {int(name) for name in names if not self.requests[int(name)].is_finished()}
        order = {name: position for position, name in enumerate(names)}
        runner = ModelRunnerOutput(req_ids=names, req_id_to_index=order, sampled_token_ids=sampled)
        self.scheduler.update_from_output(item.output, runner)
        if item.record:
            item.record["finished"] = sorted(index for index in alive if self.requests[index].is_finished())
        if names:
            self.clock += 1
            if self.config["speculative"] and not self.config["async_scheduling"]:
                drafts = [[7] * self._offered(int(name)) for name in names]
                self.scheduler.update_draft_token_ids(DraftTokenIds(names, drafts))

    def _sample(self, index: int, item: Item) -> list[int]:
        """The token after the last, and those drafts that the case says are accepted at this length."""
        request, accepted = self.requests[index], self.rows[index]["accepted"]
        drafts = len(item.output.scheduled_spec_decode_tokens.get(f"{index:06d}", ()))
        good = 0
        if drafts and accepted and index not in item.padded:
            good = min(accepted[request.num_output_tokens % len(accepted)], drafts)
        return [self.token(index, request.num_tokens + offset) for offset in range(1 + good)]

    def _offered(self, index: int) -> int:
        speculative, drafts = self.config["speculative"], self.rows[index]["drafts"]
        most = speculative["num_speculative_tokens"]
        if speculative["method"] != "ngram":
            return most
        return min(drafts[self.requests[index].num_output_tokens % len(drafts)], most) if drafts else 0


def answer(base: VllmConfig, case: dict[str, Any]) -> dict[str, Any]:
    if case["version"] != VERSION:
        return {"error": f"this is vLLM {VERSION}, the case asks for {case['version']}"}
    engine = Engine(base, case)
    start = time.perf_counter()
    engine.run()
    return {"steps": engine.steps, "totals": {"evictions": engine.evictions, "seconds": time.perf_counter() - start}}


def main() -> None:
    base = base_config()
    for line in sys.stdin:
        try:
            result = answer(base, json.loads(line))
        except (
            AssertionError,
            ValueError,
            RuntimeError,
            LookupError,
            TypeError,
        ):  # the case asks for what vLLM refuses
            result = {"error": traceback.format_exc()}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
