"""Closed-loop benchmark runs, replayed: the client that InferenceX and ``vllm bench serve --max-concurrency`` are.

``concurrency`` clients start at once, each sends its next request when the last is done, ``10 × concurrency`` prompts in
all, every length drawn uniformly from 80–100 % of nominal, prefix caching off.

Runs of 2026 send ``2 × concurrency`` warm-up requests first. The client waits for the last of them before it sends the first
measured one (``asyncio.gather`` in ``benchmark_serving.py``), so the engine is then as empty as a new one: without a prefix
cache they change no time in the simulation, and it does without them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from math import log2
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from twin.base import Frozen, InputError
from twin.cluster.simulation import Fleet, Simulated, simulate_closed_loop
from twin.cost.layout import HostCosts, Layout
from twin.cost.memory import memory_budget
from twin.cost.step import CAPTURED_TOKENS, StepModel
from twin.engine.config import EngineConfig
from twin.results.metrics import is_saturated
from twin.spec.engine import batch_defaults
from twin.spec.hardware import HardwareProfile, load_profile
from twin.spec.model import ModelSpec, load_model
from twin.spec.precision import check_precision
from twin.spec.versions import MODELLED_VLLM, VERSIONS, VersionName

PROMPTS_PER_CLIENT = 10
LEAST_SHARE = 0.8
EXTRA_CONTEXT: Mapping[tuple[int, int], int] = MappingProxyType({(1024, 1024): 20})
"""``max_model_len`` beyond ``isl + osl``, by (isl, osl)."""
EXTRA_CONTEXT_ELSE = 200


class Flags(Frozen):
    """What a benchmark's server was started with; ``None`` is the default of its vLLM on its GPU.

    ``kv_cache_dtype`` None: fp8 beside fp8 weights. ``seats_per_client``: ``--max-num-seqs`` is the number of clients.
    ``warmed_up``: requests were sent before those that were measured.
    """

    seats_per_client: bool = True
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = 8192
    max_model_len: int | None = None
    gpu_memory_utilization: float | None = 0.9
    kv_cache_dtype: str | None = None
    async_scheduling: bool = True
    fuse_allreduce_rms: bool = True
    max_cudagraph_capture_size: int = CAPTURED_TOKENS
    warmed_up: bool = True


SERVED: tuple[tuple[str, str, Mapping[str, object]], ...] = (
    ("*Llama*", "*", {"warmed_up": False, "fuse_allreduce_rms": False}),
    ("*Llama*", "b200*", {"seats_per_client": False, "max_num_seqs": 512, "fuse_allreduce_rms": True}),
    ("*Llama*", "h100*", {"kv_cache_dtype": "auto"}),
    ("openai/gpt-oss-*", "*", {"max_model_len": 10240, "kv_cache_dtype": "auto", "max_cudagraph_capture_size": 2048}),
    (
        "MiniMaxAI/*",
        "*",
        {
            "seats_per_client": False,
            "max_num_batched_tokens": None,
            "gpu_memory_utilization": 0.95,
            "kv_cache_dtype": "auto",
        },
    ),
)
"""Model, GPU, and in which :class:`Flags` their server differs from those before. A column of the table under the flag's name
goes before. Source: the description that comes with the runs (which flags the servers of InferenceX had, and that the Llama
runs of 2025 were not warmed up), and vLLM 0.11's default for the fusion.
One entry is inferred against what is stated: the H100 servers of the Llama runs should have had an fp8 KV cache, but hold
half the tokens of one (32 and 64 clients of 8192/1024 tokens on two GPUs wait 6.5 and 59 s, as with room for 222,000 tokens,
not 445,000) and read twice its bytes per decode; both are those of a 16-bit cache."""

NEWER_HOST, NEWER_SINCE = 16, "2026-02"
"""The release 0.x from which on an engine's host takes less time for each sequence, and its month."""

RELEASED: Mapping[str, str] = MappingProxyType({"0.19": "2026-04", "0.32": "2026-10"})
"""Month in which each modelled release came out, for runs that state a date but no version."""


class BenchmarkRun(Frozen):
    """One row of a closed-loop table: what ran where. ``None`` and an empty text: as :data:`SERVED` says.

    ``older_engine``: before vLLM 0.16, whose host times were others (:func:`is_older`).
    """

    system: str
    model: str
    precision: str
    isl: int
    osl: int
    concurrency: int
    tp_size: int
    pp_size: int = 1
    attention_dp_size: int = 1
    moe_ep_size: int = 1
    kv_cache_dtype: str = ""
    num_gpu_blocks: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    gpu_memory_utilization: float | None = None
    vllm_version: VersionName = MODELLED_VLLM
    older_engine: bool = False

    @property
    def flags(self) -> Flags:
        """Those that :data:`SERVED` knows of, and over them those that the row states."""
        flags = Flags()
        for model, system, changes in SERVED:
            if fnmatchcase(self.model, model) and fnmatchcase(self.system, system):
                flags = flags.model_copy(update=dict(changes))  # later entries go before earlier ones
        stated = {name: value for name in Flags.model_fields if (value := getattr(self, name, None))}
        if "max_num_seqs" in stated:
            stated["seats_per_client"] = False
        return flags.model_copy(update=stated)

    @property
    def layout(self) -> Layout:
        """fp8 runs keep their KV cache in fp8 too unless row or :data:`SERVED` say otherwise; a checkpoint that is published
        quantised runs as it is. Experts that cannot be cut over the GPUs (``moe_ep_size``, or blocks of scales that do not
        divide) are spread whole.
        """
        flags, model = self.flags, load_model(self.model)
        kv = flags.kv_cache_dtype or ("fp8" if self.precision == "fp8" else "auto")
        weights = None if model.quantization or self.precision in ("bf16", "fp16", "bfloat16") else self.precision
        cut = model.tensor_parallel_obstacle(self.tp_size) is None
        spread = model.num_experts > 0 and (self.moe_ep_size > 1 or not cut)
        return Layout(
            self.tp_size,
            weights,
            kv,
            self.vllm_version,
            flags.fuse_allreduce_rms,
            pipeline_parallel_size=self.pp_size,
            data_parallel_size=self.attention_dp_size,
            enable_expert_parallel=spread,
        )


def modelled_version(stated: str, date: str = "") -> VersionName:
    """The modelled release nearest to a stated vLLM version (``0.18.0``), or in time to an ISO date; else the default.

    Raises :class:`InputError` for a version that is none.
    """
    if stated:
        found = re.match(r"v?(\d+)\.(\d+)", stated)
        if not found:
            raise InputError(f"vllm_version {stated!r} is not a version", allowed=[*VERSIONS, "0.18.0", "…"])
        major, minor = map(int, found.groups())
        # Release 1.0 would follow the last 0.x, whatever its number: beyond all that is modelled.
        number = minor if major == 0 else 10**6
        return min(VERSIONS.values(), key=lambda version: abs(int(version.name.split(".")[1]) - number)).name
    month = re.match(r"(\d{4})-(\d{2})", date)
    if not month:
        return MODELLED_VLLM
    return min(VERSIONS.values(), key=lambda v: abs(_months(RELEASED[v.name]) - _months(month[0]))).name


def is_older(stated: str, date: str = "") -> bool:
    """Whether a run's engine came before vLLM 0.16 (of 2026-02), by its stated version or else its date."""
    found = re.match(r"v?0\.(\d+)", stated)
    if found:
        return int(found[1]) < NEWER_HOST
    return not stated and "" < date < NEWER_SINCE


def _months(date: str) -> int:
    year, month = date.split("-")
    return 12 * int(year) + int(month)


@dataclass(frozen=True)
class Prediction:
    """Means over requests in seconds, requests and output tokens per second, of one simulated run."""

    ttft_s: float
    tpot_s: float
    e2el_s: float
    request_throughput: float
    output_throughput: float
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
    layout, flags = run.layout, run.flags
    default_tokens, default_seqs = batch_defaults(profile, run.vllm_version)
    extra = EXTRA_CONTEXT.get((run.isl, run.osl), EXTRA_CONTEXT_ELSE)
    max_model_len = flags.max_model_len or run.isl + run.osl + extra
    seats = run.concurrency if flags.seats_per_client else flags.max_num_seqs or default_seqs
    tokens = max(flags.max_num_batched_tokens or default_tokens, seats)
    budget = memory_budget(
        model,
        profile,
        layout,
        block_size=16,
        gpu_memory_utilization=flags.gpu_memory_utilization or VERSIONS[run.vllm_version].gpu_memory_utilization,
        max_num_batched_tokens=tokens,
        max_num_seqs=seats,
    )
    blocks = run.num_gpu_blocks or budget.require(max_model_len).num_gpu_blocks
    return EngineConfig(
        num_gpu_blocks=blocks,
        kv_groups=budget.kv_groups,
        block_size=budget.block_size,
        max_num_seqs=seats,
        max_num_batched_tokens=tokens,
        max_model_len=max_model_len,
        enable_prefix_caching=False,
        async_scheduling=flags.async_scheduling,
        pipeline_parallel_size=layout.pipeline_parallel_size,
        vllm_version=run.vllm_version,
    )


def simulate_run(run: BenchmarkRun, *, host: HostCosts | None = None, scale: float = 1.0, seed: int = 0) -> Simulated:
    """Replay a run. ``host`` replaces the profile's host times; ``scale`` multiplies every GPU time.

    Raises :class:`InputError` or :class:`twin.base.InfeasibleError` when the run cannot be modelled.
    """
    profile, model = load_profile(run.system), load_model(run.model)
    layout = run.layout
    quantization = layout.quantization or model.quantization
    check_precision(profile, quantization=quantization, kv_cache_dtype=layout.kv_cache_dtype)
    config = engine_config(run, model, profile)
    captured = run.flags.max_cudagraph_capture_size
    if host is None:
        host = HostCosts.of(profile, async_scheduling=run.flags.async_scheduling, older=run.older_engine)
    cost = _step_model(run.system, run.model, layout, config.max_num_batched_tokens, captured, host, scale)
    inputs, outputs = draw_lengths(run, seed)
    cold_s = 0.0 if run.flags.warmed_up else cost.host.cold_start_s * log2(run.tp_size)
    ranks = layout.data_parallel_size
    fleet = Fleet(config, cost, data_parallel_size=ranks, lockstep=ranks > 1 and layout.enable_expert_parallel)
    client_s = cost.host.client_s
    return simulate_closed_loop(inputs.tolist(), outputs.tolist(), run.concurrency, fleet, cold_s, client_s)


def predict(run: BenchmarkRun, *, host: HostCosts | None = None, scale: float = 1.0) -> Prediction:
    """Mean TTFT, TPOT and E2EL of a run, as its client would report them."""
    sim = simulate_run(run, host=host, scale=scale)
    table = sim.table
    duration = float(table["finished_s"].max())
    return Prediction(
        ttft_s=float(table.ttft_s.mean()),
        tpot_s=float(np.nanmean(table.tpot_s)) if (table["output_tokens"] > 1).any() else float("nan"),
        e2el_s=float(table.e2el_s.mean()),
        request_throughput=len(table) / duration,
        output_throughput=float(table["output_tokens"].sum()) / duration,
        saturated=is_saturated(sim, run.concurrency),
    )


@lru_cache(maxsize=64)
def _step_model(
    system: str, model: str, layout: Layout, max_tokens: int, captured: int, host: HostCosts | None, scale: float
) -> StepModel:
    return StepModel(
        load_model(model),
        load_profile(system),
        layout,
        max_tokens=max_tokens,
        captured_tokens=captured,
        host=host,
        scale=scale,
    )
