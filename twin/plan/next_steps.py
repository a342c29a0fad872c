"""What the next step up buys: a fleet beside one with one thing more, both at the promise (:mod:`twin.plan.promise`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from twin.cost.layout import Layout
from twin.cost.memory import MemoryBudget, memory_budget
from twin.plan.highest import highest_rate_per_s
from twin.plan.promise import HEADROOM, Fleet, Promise
from twin.plan.request import PlanRequest
from twin.search.evaluate import Outcome
from twin.search.space import (
    MAX_NUM_BATCHED_TOKENS,
    MAX_NUM_SEQS,
    TENSOR_PARALLEL_SIZES,
    ReplicaKind,
    layout_obstacle,
    unpriced_kind,
)
from twin.spec.hardware import HardwareProfile
from twin.spec.precision import expected_loss, kv_format, weight_format


def fleet_of(outcome: Outcome, request: PlanRequest, kinds: Sequence[ReplicaKind] = ()) -> Fleet:
    """The option itself. ``kinds``: those whose tables of step times are known already."""
    candidate, config = outcome.candidate, outcome.deployment.config
    profile = next(item for item in request.profiles if item.name == candidate.gpu)
    seqs, tokens = config.max_num_seqs, config.max_num_batched_tokens
    kind = _kind(request, profile, candidate.layout, _memory(request, profile, candidate.layout, seqs, tokens), kinds)
    usd = outcome.usd_per_hour / candidate.num_gpus
    return Fleet(kind, seqs, tokens, config.num_gpu_blocks, candidate.replicas, usd, request.load)


def next_steps(outcome: Outcome, request: PlanRequest, kinds: Sequence[ReplicaKind] = ()) -> dict[str, object]:
    """What the option sustains at its promise, and what each step up would: requests per second, USD per month.

    The option's own rate is simulated; others have it times what the closed form makes of the difference.

    ``steps``: each with ``step``, and either ``why_not`` (it cannot start, or there is none) or its figures and differences;
    ``over`` says which limit of the request it breaks.
    """
    now = fleet_of(outcome, request, kinds)
    promise = Promise.of(outcome, now)
    estimated, _ = promise.most(now)
    simulated = highest_rate_per_s(outcome, request.load)
    scale = simulated / estimated if estimated > 0 and simulated > 0 else 1.0
    rate, limit = _scaled(promise, now, scale)
    rows: list[dict[str, object]] = []
    for name, found in _steps(now, request, kinds):
        if isinstance(found, str):
            rows.append({"step": name, "why_not": found})
            continue
        reached, limited = _scaled(promise, found, scale)
        loss = expected_loss(
            found.kind.layout.quantization, found.kind.layout.kv_cache_dtype, checkpoint=request.model.quantization
        )
        rows.append(
            {
                "step": name,
                "id": found.candidate.id,
                "num_gpus": found.num_gpus,
                "requests_per_s": reached,
                "requests_per_s_more": reached - rate,
                "limited_by": limited,
                "usd_per_month": found.usd_per_month,
                "usd_per_month_more": found.usd_per_month - now.usd_per_month,
                "expected_accuracy_loss": loss.value,
                "over": request.limits.violation(found.kind.profile.name, found.num_gpus),
                "why_not": None,
            }
        )
    return {
        "requests_per_s": rate,
        "limited_by": limit,
        "usd_per_month": now.usd_per_month,
        "peak_requests_per_s": request.load.peak_rate_per_s,
        "tails_known": promise.known,
        "tails": [
            {"metric": bound.metric, "quantile": bound.quantile, "excess_over_mean": stretch}
            for bound, stretch in zip(promise.bounds, promise.stretches, strict=True)
        ],
        "steps": rows,
    }


def _scaled(promise: Promise, fleet: Fleet, scale: float) -> tuple[float, str]:
    """The closed form's rate times ``scale``, up to where the head-room ends."""
    rate, limit = promise.most(fleet)
    most = fleet.capacity_per_s * (1.0 - promise.headroom) * fleet.replicas
    return (rate * scale, limit) if rate * scale < most * (1.0 - 1e-6) else (most, HEADROOM)


def _steps(now: Fleet, request: PlanRequest, kinds: Sequence[ReplicaKind]) -> Iterator[tuple[str, Fleet | str]]:
    layout, profile = now.kind.layout, now.kind.profile
    tp = 2 * layout.tensor_parallel_size

    def other(layout: Layout = layout, profile: HardwareProfile = profile, **sizes: int) -> Fleet | str:
        return _started(now, request, kinds, profile, layout, **sizes)

    yield "one replica more", replace(now, replicas=now.replicas + 1)
    yield f"twice the tensor parallelism (TP{tp})", other(replace(layout, tensor_parallel_size=tp))
    seats = next((size for size in MAX_NUM_SEQS if size > now.max_num_seqs), None)
    tokens = next((size for size in MAX_NUM_BATCHED_TOKENS if size > now.max_num_batched_tokens), None)
    yield f"more seats ({seats or 'none'})", other(seqs=seats) if seats else "no plan tries more"
    yield f"more tokens a step ({tokens or 'none'})", other(tokens=tokens) if tokens else "no plan tries more"
    stored = weight_format(layout.quantization or request.model.quantization)
    known = f"the weights are {stored.name} already"
    yield "fp8 weights", other(replace(layout, quantization="fp8")) if stored.bits > 8 else known
    cache = kv_format(layout.kv_cache_dtype)
    narrow = f"the cache is {layout.kv_cache_dtype} already"
    yield "fp8 KV cache", other(replace(layout, kv_cache_dtype="fp8")) if cache.bits > 8 else narrow
    yield _next_gpu(now, request, kinds)


def _next_gpu(now: Fleet, request: PlanRequest, kinds: Sequence[ReplicaKind]) -> tuple[str, Fleet | str]:
    """The next dearer GPU per hour in the same layout; where that does not start, with the TP size nearest above."""
    dearer = [p for p in request.profiles if request.prices[p.name].value > now.usd_per_gpu_hour]
    if not dearer:
        return "the next GPU by price", "no dearer GPU is among those asked for"
    profile = min(dearer, key=lambda p: (request.prices[p.name].value, p.name))
    layout = now.kind.layout
    found = _started(now, request, kinds, profile, layout)
    for tp in TENSOR_PARALLEL_SIZES:
        if isinstance(found, str) and tp > layout.tensor_parallel_size:
            wider = _started(now, request, kinds, profile, replace(layout, tensor_parallel_size=tp))
            found = found if isinstance(wider, str) else wider
    cut = "" if isinstance(found, str) else f" (TP{found.kind.layout.tensor_parallel_size})"
    return f"the next GPU by price, {profile.name}{cut}", found


def _started(
    now: Fleet,
    request: PlanRequest,
    kinds: Sequence[ReplicaKind],
    profile: HardwareProfile,
    layout: Layout,
    *,
    seqs: int | None = None,
    tokens: int | None = None,
) -> Fleet | str:
    """The fleet with another GPU, layout or setting, or in a clause why it cannot start."""
    seqs, tokens = seqs or now.max_num_seqs, tokens or now.max_num_batched_tokens
    refused = layout_obstacle(request.model, profile, layout) or request.precisions.obstacle(
        request.model, profile, layout.quantization, layout.kv_cache_dtype
    )
    if refused:
        return refused
    if tokens < seqs:
        return "max_num_batched_tokens is below max_num_seqs"
    memory = _memory(request, profile, layout, seqs, tokens)
    kind = _kind(request, profile, layout, memory, kinds)
    if short := memory.shortage(request.load.max_model_len) or unpriced_kind(kind):
        return short
    usd = now.usd_per_gpu_hour if profile.name == now.kind.profile.name else request.prices[profile.name].value
    return Fleet(kind, seqs, tokens, memory.num_gpu_blocks, now.replicas, usd, now.load)


def _memory(request: PlanRequest, profile: HardwareProfile, layout: Layout, seqs: int, tokens: int) -> MemoryBudget:
    return memory_budget(
        request.model,
        profile,
        layout,
        gpu_memory_utilization=request.gpu_memory_utilization,
        max_num_batched_tokens=tokens,
        max_num_seqs=seqs,
    )


def _kind(
    request: PlanRequest,
    profile: HardwareProfile,
    layout: Layout,
    memory: MemoryBudget,
    kinds: Sequence[ReplicaKind],
) -> ReplicaKind:
    """The known kind of this GPU and layout, whose step times are tabulated already; else a new one."""
    for known in kinds:
        if known.profile.name == profile.name and known.layout == layout:
            return known
    return ReplicaKind(
        request.model, profile, layout, np.array([[memory.num_gpu_blocks]]), memory.block_size, memory=memory
    )
