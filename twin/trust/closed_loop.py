"""Closed-loop benchmark runs, replayed: the client that InferenceX and ``vllm bench serve --max-concurrency`` are.

``concurrency`` clients start at once, each sends its next request when the last is done, ``10 × concurrency`` prompts in
all, every length drawn uniformly from 80–100 % of nominal, prefix caching off.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from twin.base import Frozen, InputError
from twin.cluster.simulation import Fleet, Simulated, simulate_closed_loop
from twin.cost.memory import memory_budget
from twin.cost.step import HostCosts, Layout, StepModel
from twin.engine.config import EngineConfig
from twin.results.metrics import is_saturated
from twin.spec.hardware import HardwareProfile, load_profile
from twin.spec.model import ModelSpec, load_model
from twin.spec.precision import check_precision

PROMPTS_PER_CLIENT = 10
LEAST_SHARE = 0.8
MAX_NUM_BATCHED_TOKENS = 8192
GPU_MEMORY_UTILIZATION = 0.9
EXTRA_CONTEXT = 200


class BenchmarkRun(Frozen):
    """One row of a closed-loop table: what ran where."""

    system: str
    model: str
    precision: str
    isl: int
    osl: int
    concurrency: int
    tp_size: int
    kv_cache_dtype: str = ""
    num_gpu_blocks: int | None = None

    @property
    def layout(self) -> Layout:
        """fp8 runs keep their KV cache in fp8 too unless the row says otherwise."""
        kv = self.kv_cache_dtype or ("fp8" if self.precision == "fp8" else "auto")
        return Layout(self.tp_size, None if self.precision in ("bf16", "fp16", "bfloat16") else self.precision, kv)


@dataclass(frozen=True)
class Prediction:
    """Means over requests, in seconds, of one simulated run."""

    ttft_s: float
    tpot_s: float
    e2el_s: float
    request_throughput: float
    saturated: bool


def draw_lengths(run: BenchmarkRun, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Input and output lengths as vLLM's random data set draws them: NumPy's legacy generator, seeded, inputs first."""
    rng = np.random.RandomState(seed)
    count = PROMPTS_PER_CLIENT * run.concurrency
    inputs = rng.randint(int(run.isl * LEAST_SHARE), run.isl + 1, size=count)
    outputs = rng.randint(int(run.osl * LEAST_SHARE), run.osl + 1, size=count)
    return np.maximum(inputs, 1).astype(np.int64), np.maximum(outputs, 1).astype(np.int64)


def engine_config(run: BenchmarkRun, model: ModelSpec, profile: HardwareProfile) -> EngineConfig:
    """The engine of a run, with as many KV blocks as vLLM would allocate."""
    layout = run.layout
    max_model_len = run.isl + run.osl + EXTRA_CONTEXT
    tokens = max(MAX_NUM_BATCHED_TOKENS, run.concurrency)
    blocks = run.num_gpu_blocks
    if blocks is None:
        budget = memory_budget(
            model,
            profile,
            tensor_parallel_size=layout.tensor_parallel_size,
            quantization=layout.quantization,
            kv_cache_dtype=layout.kv_cache_dtype,
            block_size=16,
            gpu_memory_utilization=GPU_MEMORY_UTILIZATION,
            max_num_batched_tokens=tokens,
            max_num_seqs=run.concurrency,
        )
        blocks = budget.require(max_model_len).num_gpu_blocks
    return EngineConfig(
        num_gpu_blocks=blocks,
        max_num_seqs=run.concurrency,
        max_num_batched_tokens=tokens,
        max_model_len=max_model_len,
        enable_prefix_caching=False,
        async_scheduling=True,
    )


def simulate_run(run: BenchmarkRun, *, host: HostCosts | None = None, scale: float = 1.0, seed: int = 0) -> Simulated:
    """Replay a run. ``host`` replaces the profile's host times; ``scale`` multiplies every GPU time.

    Raises :class:`InputError` or :class:`twin.base.InfeasibleError` when the run cannot be modelled.
    """
    profile, model = load_profile(run.system), load_model(run.model)
    layout = run.layout
    if layout.quantization not in (None, "fp8"):
        raise InputError(f"precision {run.precision!r} is not modelled", allowed=["bf16", "fp8"])
    check_precision(profile, quantization=layout.quantization, kv_cache_dtype=layout.kv_cache_dtype)
    config = engine_config(run, model, profile)
    cost = _step_model(run.system, run.model, layout, config.max_num_batched_tokens, host, scale)
    inputs, outputs = draw_lengths(run, seed)
    return simulate_closed_loop(inputs.tolist(), outputs.tolist(), run.concurrency, Fleet(config, cost))


def predict(run: BenchmarkRun, *, host: HostCosts | None = None, scale: float = 1.0) -> Prediction:
    """Mean TTFT, TPOT and E2EL of a run, as its client would report them."""
    sim = simulate_run(run, host=host, scale=scale)
    table = sim.table
    return Prediction(
        ttft_s=float(table.ttft_s.mean()),
        tpot_s=float(np.nanmean(table.tpot_s)) if (table["output_tokens"] > 1).any() else float("nan"),
        e2el_s=float(table.e2el_s.mean()),
        request_throughput=len(table) / float(table["finished_s"].max()),
        saturated=is_saturated(sim, run.concurrency),
    )


@lru_cache(maxsize=64)
def _step_model(
    system: str, model: str, layout: Layout, max_tokens: int, host: HostCosts | None, scale: float
) -> StepModel:
    return StepModel(load_model(model), load_profile(system), layout, max_tokens=max_tokens, host=host, scale=scale)
