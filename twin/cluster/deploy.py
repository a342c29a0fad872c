"""From a scenario to what the simulation takes: its trace and its fleet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from twin.base import InputError
from twin.cluster.simulation import Fleet, Simulated, replay, simulate
from twin.cost.memory import memory_budget
from twin.cost.step import HostCosts, Layout, StepModel
from twin.engine.config import EngineConfig
from twin.spec.scenario import Client, Scenario
from twin.traffic.readers import read_trace
from twin.traffic.synthetic import synthesize
from twin.traffic.trace import Trace


def trace_of(scenario: Scenario) -> Trace:
    """The requests of a resolved scenario, at its rate, as far as they fit its context.

    Raises :class:`InputError` for an unreadable trace or, by default, requests longer than the context.
    """
    traffic = scenario.traffic
    if traffic.synthetic is not None:
        trace = synthesize(traffic.synthetic, scenario.seed)
    else:
        trace = read_trace(Path(str(traffic.trace)))
    if traffic.rate != 1.0:
        trace = trace.scaled(traffic.rate)
    length = scenario.engine.max_model_len
    assert length is not None, "a resolved scenario has a max_model_len"
    return trace.fit_context(length, traffic.too_long)[0]


def fleet_of(scenario: Scenario) -> Fleet:
    """The fleet of a resolved scenario, with as many KV blocks as vLLM would allocate unless it says how many.

    Raises :class:`twin.base.InfeasibleError` when the model does not fit.
    """
    settings, deployment = scenario.engine, scenario.deployment
    assert settings.max_num_seqs is not None
    assert settings.max_num_batched_tokens is not None
    assert settings.max_model_len is not None
    assert settings.gpu_memory_utilization is not None
    assert settings.async_scheduling is not None
    assert settings.block_size is not None
    blocks = settings.num_gpu_blocks
    if blocks is None:
        budget = memory_budget(
            scenario.model_spec,
            scenario.profile,
            tensor_parallel_size=deployment.tensor_parallel_size,
            quantization=deployment.quantization,
            kv_cache_dtype=deployment.kv_cache_dtype,
            block_size=settings.block_size,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            max_num_seqs=settings.max_num_seqs,
        )
        blocks = budget.require(settings.max_model_len).num_gpu_blocks
    config = EngineConfig(
        num_gpu_blocks=blocks,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_model_len=settings.max_model_len,
        block_size=settings.block_size,
        enable_prefix_caching=settings.enable_prefix_caching,
        enable_chunked_prefill=settings.enable_chunked_prefill,
        long_prefill_token_threshold=settings.long_prefill_token_threshold,
        long_prefill_token_threshold_adaptive=settings.long_prefill_token_threshold_adaptive,
        max_num_active_seqs=settings.max_num_active_seqs,
        scheduling_policy=settings.scheduling_policy,
        async_scheduling=settings.async_scheduling,
        vllm_version=settings.vllm_version,
        watermark=settings.watermark,
        scheduler_reserve_full_isl=settings.scheduler_reserve_full_isl,
    )
    layout = layout_of(scenario)
    host = HostCosts.of(scenario.profile, async_scheduling=settings.async_scheduling)
    cost = StepModel(
        scenario.model_spec, scenario.profile, layout, max_tokens=settings.max_num_batched_tokens, host=host
    )
    return Fleet(config, cost, deployment.replicas, deployment.routing)


def layout_of(scenario: Scenario) -> Layout:
    """What fixes the kernels of one of its replicas."""
    where = scenario.deployment
    return Layout(where.tensor_parallel_size, where.quantization, where.kv_cache_dtype, scenario.engine.vllm_version)


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
