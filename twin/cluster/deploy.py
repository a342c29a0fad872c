"""From a scenario to what the simulation takes: its trace and its fleet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from twin.base import InputError
from twin.cluster.frontend import ApiServers, core_share, stretched
from twin.cluster.simulation import Fleet, Simulated, replay, simulate
from twin.cost.layout import HostCosts, Layout
from twin.cost.levered import step_model
from twin.cost.levers import Levers
from twin.cost.memory import GIB, MemoryBudget, memory_budget
from twin.cost.spread import spread_step_model, spreads
from twin.cost.step import StepModel
from twin.engine.config import EngineConfig
from twin.spec.engine import EngineSettings
from twin.spec.kv_groups import KvGroup
from twin.spec.layout import steps_together
from twin.spec.scenario import Client, Deployment, Scenario, Traffic
from twin.traffic.readers import read_trace
from twin.traffic.synthetic import synthesize
from twin.traffic.trace import Trace


def trace_of(scenario: Scenario) -> Trace:
    """The requests of a resolved scenario, at its rate, as far as they fit its context.

    Raises :class:`InputError` for an unreadable trace or, by default, requests longer than the context.
    """
    trace = asked_trace(scenario.traffic, scenario.seed)
    length = scenario.engine.max_model_len
    assert length is not None, "a resolved scenario has a max_model_len"
    if scenario.engine.kv_cache != "paged" or scenario.engine.batching != "continuous":
        trace = replace(trace, prefix_hashes=None)
    return trace.fit_context(length, scenario.traffic.too_long)[0]


def asked_trace(asked: Traffic, seed: int) -> Trace:
    """The requests of a trace file or a recipe, at the rate asked for. Raises :class:`InputError` as their readers do."""
    recipe = asked.synthetic
    trace = read_trace(Path(str(asked.trace))) if recipe is None else synthesize(recipe, seed)
    return trace if asked.rate == 1.0 else trace.scaled(asked.rate)


def fleet_of(scenario: Scenario) -> Fleet:
    """The fleet of a resolved scenario, with as many KV blocks as vLLM would allocate unless it says how many.

    Raises :class:`twin.base.InfeasibleError` when the model does not fit.
    """
    settings, deployment = scenario.engine, scenario.deployment
    assert settings.max_num_seqs is not None
    assert settings.max_num_batched_tokens is not None
    assert settings.max_model_len is not None
    assert settings.async_scheduling is not None
    together = steps_together(scenario.model_spec, deployment)
    _check_baseline(settings, several=together or deployment.pipeline_parallel_size > 1)
    budget = memory_of(scenario)
    blocks = settings.num_gpu_blocks
    if blocks is None:
        blocks = budget.require(None if settings.kv_cache == "none" else settings.max_model_len).num_gpu_blocks
    blocks, block_size, kv_groups = _reserved(settings, blocks, budget)
    config = EngineConfig(
        num_gpu_blocks=blocks,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_model_len=settings.max_model_len,
        block_size=block_size,
        kv_groups=kv_groups,
        enable_prefix_caching=settings.enable_prefix_caching,
        enable_chunked_prefill=settings.enable_chunked_prefill,
        long_prefill_token_threshold=settings.long_prefill_token_threshold,
        long_prefill_token_threshold_adaptive=settings.long_prefill_token_threshold_adaptive,
        max_num_active_seqs=settings.max_num_active_seqs,
        scheduling_policy=settings.scheduling_policy,
        async_scheduling=settings.async_scheduling,
        pipeline_parallel_size=deployment.pipeline_parallel_size,
        vllm_version=settings.vllm_version,
        watermark=settings.watermark,
        scheduler_reserve_full_isl=settings.scheduler_reserve_full_isl,
        batching=settings.batching,
        max_batch_wait_s=settings.max_batch_wait_s,
        recomputes=settings.kv_cache == "none",
    )
    layout = layout_of(scenario)
    host = HostCosts.of(scenario.profile, async_scheduling=settings.async_scheduling)
    api = _api_servers(deployment, host)
    host = stretched(host, api.share if api is not None else 1.0)
    cost = _step_model(scenario, layout, host, settings.max_num_batched_tokens)
    return Fleet(
        config,
        cost,
        deployment.replicas,
        deployment.routing,
        data_parallel_size=deployment.data_parallel_size,
        lockstep=together,
        api=api,
    )


def _step_model(scenario: Scenario, layout: Layout, host: HostCosts, max_tokens: int) -> StepModel:
    """Raises :class:`InputError` for a lever that is pulled on stages or ranks, which levers are not priced for."""
    model, profile, levers = scenario.model_spec, scenario.profile, levers_of(scenario)
    if not spreads(model, layout):
        return step_model(model, profile, layout, levers, max_tokens=max_tokens, host=host)
    if levers.priced:
        raise InputError("levers are priced for one pipeline stage and independent ranks only", where="engine")
    fabric = scenario.deployment.inter_node
    return spread_step_model(model, profile, layout, max_tokens=max_tokens, host=host, fabric=fabric)


def memory_of(scenario: Scenario) -> MemoryBudget:
    """The memory of one GPU of a resolved scenario, whether the model fits or not."""
    settings = scenario.engine
    assert settings.max_num_seqs is not None
    assert settings.max_num_batched_tokens is not None
    assert settings.gpu_memory_utilization is not None
    assert settings.block_size is not None
    return memory_budget(
        scenario.model_spec,
        scenario.profile,
        layout_of(scenario),
        block_size=settings.block_size,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_num_seqs=settings.max_num_seqs,
        enforce_eager=settings.enforce_eager,
        cpu_offload_bytes=int(settings.cpu_offload_gb * GIB),
    )


def _api_servers(deployment: Deployment, host: HostCosts) -> ApiServers | None:
    """Those that requests wait for, where the deployment says how few they or their cores are."""
    count, cores = deployment.api_server_count or 1, deployment.cpu_cores
    if cores is None and deployment.api_server_count is None:
        return None
    share = 1.0 if cores is None else core_share(cores, count, deployment.tensor_parallel_size)
    return ApiServers(count * deployment.replicas, host, share)


def levers_of(scenario: Scenario) -> Levers:
    """How its engines run their kernels. On a CPU every kernel is launched by itself anyway, and was measured so."""
    settings = scenario.engine
    return Levers(
        enforce_eager=settings.enforce_eager and scenario.profile.device == "gpu",
        cpu_offload_bytes=int(settings.cpu_offload_gb * GIB),
        fuse_norm_quant=settings.fuse_norm_quant,
        fuse_act_quant=settings.fuse_act_quant,
    )


def _check_baseline(settings: EngineSettings, *, several: bool) -> None:
    """Raises :class:`InputError` for a baseline where ``several`` stages or ranks would have to run it in step."""
    for field, baseline in (("batching", settings.batching), ("kv_cache", settings.kv_cache)):
        if several and baseline not in ("continuous", "paged"):
            raise InputError(
                f"{baseline} {field} is modelled for one pipeline stage and one rank only", where=f"engine.{field}"
            )


def _reserved(settings: EngineSettings, blocks: int, budget: MemoryBudget) -> tuple[int, int, tuple[KvGroup, ...]]:
    """KV blocks, their size in tokens, and their groups: vLLM's, or a baseline's, which knows no windows.

    A contiguous cache is one of blocks as long as the longest sequence, one for each request; without a cache (``none``) memory
    is no limit: there are as many of them as seats. Block 0 is vLLM's null block.
    """
    size, length, seats = budget.block_size, settings.max_model_len, settings.max_num_seqs
    assert length is not None
    assert seats is not None
    if settings.kv_cache == "paged" and settings.batching == "continuous":
        return blocks, size, budget.kv_groups
    blocks //= sum(group.count for group in budget.kv_groups)
    if settings.kv_cache != "paged":
        blocks, size = 1 + (seats if settings.kv_cache == "none" else blocks * size // length), length
    return blocks, size, (KvGroup(),)


def layout_of(scenario: Scenario) -> Layout:
    """What fixes the kernels of one of its replicas."""
    where = scenario.deployment
    return Layout(
        where.tensor_parallel_size,
        where.quantization,
        where.kv_cache_dtype,
        scenario.engine.vllm_version,
        fuse_allreduce_rms=scenario.engine.fuse_allreduce_rms,
        pipeline_parallel_size=where.pipeline_parallel_size,
        data_parallel_size=where.data_parallel_size,
        enable_expert_parallel=where.enable_expert_parallel,
    )


def run_scenario(scenario: Scenario) -> Simulated:
    """Simulate a resolved scenario: its trace as it arrives, or its closed-loop client sending the trace's requests."""
    trace, fleet, client = trace_of(scenario), fleet_of(scenario), scenario.client
    if client is None:
        return simulate(trace, fleet)
    return replay(prompts_of(client, trace), fleet, client.concurrency)


def prompts_of(client: Client, trace: Trace) -> Trace:
    """What a closed-loop client sends. Raises :class:`InputError` where the trace has not as many requests."""
    if len(trace) < client.num_prompts:
        raise InputError(f"client.num_prompts is {client.num_prompts}, but the traffic has {len(trace)} requests")
    return replace(trace.take(np.arange(client.num_prompts)), prefix_hashes=None)
