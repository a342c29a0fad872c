"""vLLM's whole engine in one process on the CPU, on cases that arrive as JSON lines; runs inside vLLM's environment.

Nothing is stood in for: LLMEngine, its CPU worker and attention kernels, its n-gram proposer; only the weights are made up.
One line in, one line out: ``{"case": ..., "steps": [...], "seconds": [...], "totals": {...}}`` or ``{"error": ...}``, in the
shapes of the scheduler's own comparison. The case that comes back is what really happened: the settings vLLM ended with,
and per request a key for each full block of its tokens, and the drafts that the proposer offered and the model accepted.
A request may name an earlier one in ``turn_of``: its prompt then starts with that one's prompt and answer. ``seconds``
holds, per step, the wall time from the start of ``schedule()`` to the end of ``update_from_output()``. An engine serves all
cases in a row that share its configuration. The CPU platform switches asynchronous scheduling off: every case is
synchronous.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}

import vllm
from vllm.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.llm_engine import LLMEngine

VERSION = ".".join(vllm.__version__.split(".")[:2])
VOCAB = 32000
MODEL = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "max_position_embeddings": 40960,
    "vocab_size": VOCAB,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
SCHEDULING = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "enable_chunked_prefill",
    "long_prefill_token_threshold",
    "scheduler_reserve_full_isl",
    "policy",
)
NEWER = ("long_prefill_token_threshold_adaptive", "watermark", "max_num_active_seqs") if VERSION != "0.19" else ()


def number(request_id: str) -> int:
    """A request's index in the case; vLLM adds a random ending to the id."""
    return int(request_id[:6])


class RecordingScheduler(Scheduler):
    """vLLM's scheduler, which writes down what it decides and what the model then does."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._preempted: list[int] = []
        pool = self.kv_cache_manager.block_pool
        evict = pool._maybe_evict_cached_block

        def counting(block: Any) -> bool:
            evicted = bool(evict(block))
            self.evictions += evicted
            return evicted

        pool._maybe_evict_cached_block = counting
        self.begin({})

    def begin(self, case: dict[str, Any]) -> None:
        """Forget the last case."""
        self.rows = case.get("requests", [])
        self.steps: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        self.evictions = self.clock = 0
        self.tokens: dict[int, list[int]] = {}

    def _preempt_request(self, request: Any, *args: Any, **more: Any) -> None:
        self._preempted.append(number(request.request_id))
        super()._preempt_request(request, *args, **more)

    def schedule(self, *args: Any, **more: Any) -> Any:
        self._preempted.clear()
        start = time.perf_counter()
        output = super().schedule(*args, **more)
        if output.num_scheduled_tokens or self._preempted:
            self.steps.append(self._record(output))
            self.seconds.append(start)
        return output

    def _record(self, output: Any) -> dict[str, Any]:
        again = output.scheduled_cached_reqs
        computed = zip(again.req_ids, again.num_computed_tokens, strict=True)
        started = {data.req_id: data.num_computed_tokens for data in output.scheduled_new_reqs}
        started |= {name: tokens for name, tokens in computed if name in again.resumed_req_ids}
        hits = {name: (self.requests[name].num_preemptions > 0, hit) for name, hit in started.items()}
        queues = ("kv_holding_waiting", "skipped_waiting", "waiting")
        waiting = [request for name in queues for request in getattr(self, name, ())]
        return {
            "scheduled": {number(name): tokens for name, tokens in output.num_scheduled_tokens.items()},
            "new": {number(name): hit for name, (resumed, hit) in hits.items() if not resumed},
            "resumed": {number(name): hit for name, (resumed, hit) in hits.items() if resumed},
            "preempted": list(self._preempted),
            "drafts": {number(name): len(drafts) for name, drafts in output.scheduled_spec_decode_tokens.items()},
            "free": self.kv_cache_manager.block_pool.get_num_free_blocks(),
            "running": [number(request.request_id) for request in self.running],
            "waiting": [number(request.request_id) for request in waiting],
            "finished": [],
        }

    def update_from_output(self, output: Any, runner: Any) -> Any:
        requests = {name: self.requests[name] for name in output.num_scheduled_tokens if name in self.requests}
        for name in output.scheduled_spec_decode_tokens:
            sampled = runner.sampled_token_ids[runner.req_id_to_index[name]]
            accepted = self.rows[number(name)]["accepted"]
            accepted[requests[name].num_output_tokens] = max(len(sampled) - 1, 0)
        result = super().update_from_output(output, runner)
        for name, request in requests.items():
            self.tokens[number(name)] = list(request.all_token_ids)
        if output.num_scheduled_tokens:
            self.steps[-1]["finished"] = sorted(number(n) for n, request in requests.items() if request.is_finished())
            self.seconds[-1] = time.perf_counter() - self.seconds[-1]
            self.clock += 1
        return result

    def update_draft_token_ids(self, draft_token_ids: Any) -> None:
        for name, drafts in zip(draft_token_ids.req_ids, draft_token_ids.draft_token_ids, strict=True):
            request = self.requests.get(name)
            if request is not None and not request.is_prefill_chunk:
                self.rows[number(name)]["drafts"][request.num_output_tokens] = len(drafts)
        super().update_draft_token_ids(draft_token_ids)


class Engine:
    """A running LLMEngine of one configuration."""

    def __init__(self, config: dict[str, Any], folder: str) -> None:
        Path(folder, "config.json").write_text(json.dumps(MODEL))
        named = {name: config[name] for name in (*SCHEDULING, *NEWER) if name != "policy"}
        arguments = EngineArgs(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            enforce_eager=True,
            seed=0,
            scheduler_cls=RecordingScheduler,
            disable_log_stats=True,
            scheduling_policy=config["policy"],
            block_size=config["block_size"],
            num_gpu_blocks_override=config["num_gpu_blocks"],
            enable_prefix_caching=config["enable_prefix_caching"],
            speculative_config=config["speculative"],
            **named,
        )
        self.llm = LLMEngine.from_engine_args(arguments)
        # Once is enough, and a second time trips over llvmlite, which the first engine's numba has loaded.
        current_platform.register_triton_kernel_overrides = lambda: None
        self.core = self.llm.engine_core.engine_core
        self.scheduler: RecordingScheduler = self.core.scheduler

    def settings(self) -> dict[str, Any]:
        """The configuration that vLLM ended with, read back from the running engine."""
        whole = self.scheduler.vllm_config
        scheduling, cache, speculative = whole.scheduler_config, whole.cache_config, whole.speculative_config
        named = {name: getattr(scheduling, name) for name in (*SCHEDULING, *NEWER) if name != "max_model_len"}
        return {
            "num_gpu_blocks": self.scheduler.kv_cache_manager.block_pool.num_gpu_blocks,
            "block_size": self.scheduler.block_size,
            "long_prefill_token_threshold_adaptive": False,
            "watermark": 0.0,
            "max_num_active_seqs": None,
            **named,
            "max_model_len": whole.model_config.max_model_len,
            "enable_prefix_caching": cache.enable_prefix_caching,
            "async_scheduling": bool(scheduling.async_scheduling),
            "pipeline_parallel_size": whole.parallel_config.pipeline_parallel_size,
            "speculative": speculative
            and {"method": speculative.method, "num_speculative_tokens": speculative.num_speculative_tokens},
        }

    def run(self, case: dict[str, Any]) -> dict[str, Any]:
        scheduler, rows, ids = self.scheduler, case["requests"], Tokens()
        for row in rows:
            row["drafts"] = [0] * (row["output_tokens"] + 1)
            row["accepted"] = [0] * (row["output_tokens"] + 1)
        while scheduler.has_requests():  # what is left of the last case goes before the cache can be emptied
            self.llm.engine_core.get_output()
        assert scheduler.reset_prefix_cache(), "the last case holds blocks"
        scheduler.begin(case)
        events = sorted(
            [(row["arrival"], 0, index) for index, row in enumerate(rows)]
            + [(row["abort"], 1, index) for index, row in enumerate(rows) if row["abort"] is not None]
        )
        position = 0
        internal: dict[int, str] = {}
        while position < len(events) or self.llm.has_unfinished_requests():
            while position < len(events) and events[position][0] <= scheduler.clock:
                _, abort, index = events[position]
                position += 1
                if abort:
                    if index in internal:
                        self.llm.abort_request([internal[index]], internal=True)
                else:
                    internal[index] = self._add(index, case, ids)
            if self.llm.has_unfinished_requests():
                self.llm.step()
            elif position < len(events):
                scheduler.clock = max(scheduler.clock, events[position][0])
        chains = Chains(scheduler.block_size)
        for index, row in enumerate(rows):
            row["keys"] = chains.keys(scheduler.tokens.get(index, [])) if index in scheduler.tokens else []
        return {
            "case": {"version": VERSION, "config": self.settings(), "requests": rows},
            "steps": scheduler.steps,
            "seconds": scheduler.seconds,
            "totals": {"evictions": scheduler.evictions},
        }

    def _add(self, index: int, case: dict[str, Any], ids: Tokens) -> str:
        row, size = case["requests"][index], self.scheduler.block_size
        earlier = row.pop("turn_of", None)
        prompt = [] if earlier is None else self.scheduler.tokens.get(earlier, [])[: row["input_tokens"] - 1]
        prompt = prompt + [
            ids.of(row["keys"][place // size] if place // size < len(row["keys"]) else (index, place))
            for place in range(len(prompt), row["input_tokens"])
        ]
        return self.llm.add_request(
            f"{index:06d}",
            {"prompt_token_ids": prompt},
            SamplingParams(
                temperature=row.get("temperature", 0.0),
                max_tokens=row["output_tokens"],
                ignore_eos=True,
                detokenize=False,
            ),
            arrival_time=float(index),
            priority=row["priority"],
        )

    def stop(self) -> None:
        self.llm.engine_core.shutdown()
        del self.llm, self.core, self.scheduler
        destroy_model_parallel()
        destroy_distributed_environment()
        gc.collect()


class Tokens:
    """A token of its own for every key and every unshared place."""

    def __init__(self) -> None:
        self._ids: dict[object, int] = {}

    def of(self, what: object) -> int:
        return self._ids.setdefault(what, 3 + len(self._ids) % (VOCAB - 3))


class Chains:
    """A key for each full block of tokens; equal keys mean equal tokens up to there, as vLLM's block hashes do."""

    def __init__(self, block_size: int) -> None:
        self._size = block_size
        self._keys: dict[tuple[int, tuple[int, ...]], int] = {}

    def keys(self, tokens: list[int]) -> list[int]:
        keys, parent = [], 0
        for start in range(0, len(tokens) - self._size + 1, self._size):
            block = tuple(tokens[start : start + self._size])
            parent = self._keys.setdefault((parent, block), 1 + len(self._keys))
            keys.append(parent)
        return keys


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries print to stdout, which belongs to the results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def main() -> None:
    engine: Engine | None = None
    running: dict[str, Any] | None = None
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            with quiet():
                try:
                    case = json.loads(line)
                    if case["version"] != VERSION:
                        raise ValueError(f"this is vLLM {VERSION}, the case asks for {case['version']}")
                    if case["config"] != running:
                        if engine is not None:
                            engine.stop()
                            engine = running = None
                        engine = Engine(case["config"], folder)
                        running = case["config"]
                    assert engine is not None
                    result = engine.run(case)
                except (
                    ArithmeticError,
                    AssertionError,
                    AttributeError,
                    LookupError,
                    RuntimeError,
                    TypeError,
                    ValueError,
                ):
                    result = {"error": traceback.format_exc()}
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
