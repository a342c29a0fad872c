"""The answer: what to run for this traffic, model, promises and budget.

Memory prunes, the closed form screens, NSGA-II spends simulations on what survives, and the best of it is
simulated on the whole trace. Only that last simulation decides whether an option holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from twin.base import Estimate
from twin.plan.evaluate import Outcome
from twin.plan.option import option
from twin.plan.precisions import Precisions, limit_of
from twin.plan.screen import OVERLOADED, Screen, screen
from twin.plan.search import front, rerun, search
from twin.plan.simulator import Progress, Simulator, silent
from twin.plan.space import PURSE, USUAL_PRECISIONS, Limits, ReplicaKind, replica_kinds
from twin.plan.workload import Workload, bound_text
from twin.results.money import usd_per_month
from twin.spec.hardware import HardwareProfile
from twin.spec.model import ModelSpec
from twin.spec.slo import Budget, Slo
from twin.spec.versions import MODELLED_VLLM, VERSIONS, VersionName

SCHEMA_VERSION = 1
NEAR_MISSES = 3
ABOUT_AS_CHEAP = 1.05
"""The recommended option may cost this much more than the cheapest, if it is faster."""

NO_PROMISES = Slo()

NETWORK = "network time is not in these figures: TTFT and E2EL start when a request reaches the server"


@dataclass(frozen=True, eq=False)
class PlanRequest:
    """A question. ``prices`` in USD per GPU hour by profile name."""

    model: ModelSpec
    load: Workload
    profiles: tuple[HardwareProfile, ...]
    prices: Mapping[str, Estimate]
    slo: Slo = NO_PROMISES
    budget: Budget | None = None
    budget_text: str = ""
    max_gpus: int | None = None
    node_size: int = 1
    headroom: float = 0.2
    gpu_memory_utilization: float = VERSIONS[MODELLED_VLLM].gpu_memory_utilization
    vllm_version: VersionName = MODELLED_VLLM
    seed: int = 0
    jobs: int = 1
    notes: tuple[str, ...] = ()
    precisions: Precisions = USUAL_PRECISIONS

    @property
    def model_name(self) -> str:
        return self.model.name

    @property
    def limits(self) -> Limits:
        budget = self.budget
        return Limits(
            usd_per_gpu_hour={name: price.value for name, price in self.prices.items()},
            gpu_watts={p.name: power.value if (power := p.facts.board_power_w) else np.inf for p in self.profiles},
            usd_per_hour=budget.usd_per_hour if budget and budget.usd_per_hour else np.inf,
            num_gpus=budget.num_gpus if budget and budget.num_gpus else np.inf,
            watts=budget.watts if budget and budget.watts else np.inf,
            max_gpus=self.max_gpus or np.inf,
            node_size=self.node_size,
        )


@dataclass
class Plan:
    """The answer as INTERFACE.md's JSON, and the recommended outcome (``None`` when nothing holds)."""

    payload: dict[str, object]
    recommended: Outcome | None = None


@dataclass
class _Search:
    """What a search leaves: outcomes on the whole trace, and the configurations simulated at all."""

    whole: list[Outcome] = field(default_factory=list)
    front: list[Outcome] = field(default_factory=list)
    simulated: set[str] = field(default_factory=set)

    @property
    def holding(self) -> list[Outcome]:
        return sorted((o for o in self.whole if o.holds), key=_by_cost)


def make_plan(request: PlanRequest, progress: Progress = silent) -> dict[str, object]:
    """The plan as INTERFACE.md's JSON object."""
    return solve(request, progress).payload


def solve(request: PlanRequest, progress: Progress = silent) -> Plan:
    """Screen, search, re-run, choose. Infeasible is an answer too: no options, ``binding`` says which
    constraint binds.
    """
    kinds, refused = replica_kinds(
        request.model,
        request.profiles,
        max_model_len=request.load.max_model_len,
        gpu_memory_utilization=request.gpu_memory_utilization,
        precisions=request.precisions,
    )
    judged = screen(kinds, request.load, request.slo.bounds, request.limits, request.headroom)
    found = _searched(request, judged, judged.alive(), progress)
    chosen = choose(found.holding)
    binding, misses = None, [(o, o.misses) for o in found.whole if not o.holds]
    if not chosen:
        binding, misses = _why_not(request, kinds, refused, judged, found, progress)
    payload = {
        "schema_version": SCHEMA_VERSION,
        "model": request.model_name,
        "traffic": traffic(request.load),
        "options": [_option(request, o, names) for o, names in chosen],
        "recommended": next((o.candidate.id for o, names in chosen if "recommended" in names), None),
        "near_misses": [
            {**_option(request, o, ()), "misses": list(said)} for o, said in sorted(misses, key=_nearness)[:NEAR_MISSES]
        ],
        "front": [_point(o) for o in found.front],
        "rejected": _rejected(refused, judged),
        "screened": len(judged),
        "simulated": len(found.simulated),
        "simulated_on_whole_trace": len(found.whole),
        "gpus_on_whole_trace": sorted({o.candidate.gpu for o in found.whole}),
        "binding": binding,
        "seed": request.seed,
        "vllm_version_modelled": request.vllm_version,
        "notes": notes_of(request, len(chosen)),
    }
    return Plan(payload, next((o for o, names in chosen if "recommended" in names), None))


def choose(holding: list[Outcome]) -> list[tuple[Outcome, tuple[str, ...]]]:
    """The named options among outcomes that hold: cheapest, best latency, recommended; each outcome once,
    by cost.

    Recommended is the fastest of those that cost at most 5 % more than the cheapest. The cheapest is the
    fastest of equal cost.
    """
    if not holding:
        return []
    cheapest = min(holding, key=_by_cost)
    afford = [o for o in holding if o.usd_per_hour <= ABOUT_AS_CHEAP * cheapest.usd_per_hour]
    named = {
        "recommended": min(afford, key=lambda o: (o.latency_score, *_by_cost(o))),
        "cheapest": cheapest,
        "best_latency": min(holding, key=lambda o: (o.latency_score, *_by_cost(o))),
    }
    names: dict[str, tuple[str, ...]] = {}
    for name, outcome in named.items():
        names[outcome.candidate.id] = (*names.get(outcome.candidate.id, ()), name)
    picked = {outcome.candidate.id: outcome for outcome in named.values()}
    return [(o, names[o.candidate.id]) for o in sorted(picked.values(), key=_by_cost)]


def _by_cost(outcome: Outcome) -> tuple[float, float, str]:
    return round(outcome.usd_per_hour, 9), outcome.latency_score, outcome.candidate.id


def _nearness(miss: tuple[Outcome, tuple[str, ...]]) -> tuple[float, float, str]:
    outcome, _ = miss
    over = max(outcome.worst, outcome.deployment.utilisation / (1 - outcome.headroom))
    return (over + (outcome.load == "overloaded"), outcome.usd_per_hour, outcome.candidate.id)


def _searched(request: PlanRequest, judged: Screen, rows: Any, progress: Progress) -> _Search:
    if not rows.size:
        return _Search()
    simulator = Simulator(judged, request.load, request.slo.bounds, request.headroom, progress, request.vllm_version)
    with simulator.workers(request.jobs):
        search(simulator, rows, request.seed)
        rerun(simulator)
    whole = [simulator.whole[row] for row in sorted(simulator.whole)]
    kept = [simulator.whole[row] for row in front(simulator.whole)]
    return _Search(whole, kept, {o.candidate.id for o in [*simulator.sliced.values(), *whole]})


def _why_not(
    request: PlanRequest,
    kinds: list[ReplicaKind],
    refused: Counter[str],
    judged: Screen,
    found: _Search,
    progress: Progress,
) -> tuple[str, list[tuple[Outcome, tuple[str, ...]]]]:
    """Which constraint binds, in a sentence that begins with its name, and the outcomes nearest to
    holding.
    """
    misses = [(outcome, outcome.misses) for outcome in found.whole]
    if not kinds:
        why = refused.most_common(1)[0][0]
        return f"{limit_of(why) or 'memory'}: {request.model_name} runs on none of these GPUs: {why}", misses
    beyond = judged.alive(within_limits=False)
    beyond = beyond[judged.reason[beyond] > 0]
    if beyond.size:
        relaxed = _searched(request, judged, beyond, progress)
        found.simulated |= relaxed.simulated
        found.whole += relaxed.whole
        if relaxed.holding:
            least = relaxed.holding[0]
            return _purse(request, judged, beyond, least), [(least, (_purse_miss(request, least),)), *misses]
        misses += [(o, (*o.misses, _purse_miss(request, o))) for o in relaxed.whole]
    if not misses:
        nearest = _searched_nearest(request, judged)
        found.simulated |= {o.candidate.id for o in nearest}
        found.whole += nearest
        misses = [(o, o.misses) for o in nearest if o.misses]
    return _bound_or_load(judged, misses), misses


def _purse(request: PlanRequest, judged: Screen, beyond: Any, least: Outcome) -> str:
    cost = usd_per_month(least.usd_per_hour)
    candidate = least.candidate
    row = next(int(r) for r in beyond.tolist() if judged.candidate(int(r)) == candidate)
    name = "budget" if judged.reasons[int(judged.reason[row])] == PURSE[0] else "max_gpus"
    return (
        f"{name}: the cheapest option that holds costs ${cost:,.0f}/month"
        f" ({candidate.num_gpus} × {candidate.gpu}, {_power_kw(request, least):.1f} kW of boards)"
    )


def _purse_miss(request: PlanRequest, outcome: Outcome) -> str:
    asked = request.budget_text or f"--max-gpus {request.max_gpus}"
    return f"${usd_per_month(outcome.usd_per_hour):,.0f}/month for {outcome.candidate.num_gpus} GPU(s) is over {asked}"


def _power_kw(request: PlanRequest, outcome: Outcome) -> float:
    return outcome.candidate.num_gpus * request.limits.gpu_watts[outcome.candidate.gpu] / 1e3


def _searched_nearest(request: PlanRequest, judged: Screen) -> list[Outcome]:
    """Per GPU, the rejected row of least estimated latency that could be bought, simulated: near misses to
    show.
    """
    simulator = Simulator(judged, request.load, request.slo.bounds, request.headroom, vllm_version=request.vllm_version)
    limits = request.limits
    rows = np.flatnonzero(judged.utilisation < 1)
    bought = [judged.candidate(row) for row in rows.tolist()]
    rows = rows[np.array([limits.violation(c.gpu, c.num_gpus) is None for c in bought], dtype=bool)]
    score = judged.ttft_s[rows] + judged.tpot_s[rows]
    nearest: dict[str, int] = {}
    for row in rows[np.lexsort((rows, judged.usd_per_hour[rows], score))].tolist():
        nearest.setdefault(judged.candidate(row).gpu, row)
    return simulator.many(list(nearest.values())[: simulator.max_whole], "whole")


def _bound_or_load(judged: Screen, misses: list[tuple[Outcome, tuple[str, ...]]]) -> str:
    if misses:
        outcome, _ = min(misses, key=_nearness)
        if outcome.worst > 1.0:
            ratio = [v / b.seconds for v, b in zip(outcome.values_s, outcome.bounds, strict=True)]
            bound, value = outcome.bounds[int(np.argmax(ratio))], outcome.values_s[int(np.argmax(ratio))]
            reached = f"the nearest option reaches {value * 1e3:.0f} ms"
            return f"{bound.metric}: {bound_text(bound)} is missed; {reached}"
        return f"load: {outcome.misses[0]}" if outcome.misses else "budget: nothing within it holds"
    top = judged.rejected().most_common(1)
    return f"load: {top[0][0] if top else OVERLOADED}"


def _option(request: PlanRequest, outcome: Outcome, names: tuple[str, ...]) -> dict[str, object]:
    gpu = outcome.candidate.gpu
    return option(
        outcome,
        model=request.model,
        model_name=request.model_name,
        profile=next(profile for profile in request.profiles if profile.name == gpu),
        load=request.load,
        price=request.prices[gpu],
        gpu_memory_utilization=request.gpu_memory_utilization,
        names=names,
    )


def _point(outcome: Outcome) -> dict[str, object]:
    summary = outcome.summary
    return {
        "id": outcome.candidate.id,
        "usd_per_month": usd_per_month(outcome.usd_per_hour),
        "p99_ttft_ms": summary["p99_ttft_ms"],
        "p99_tpot_ms": summary["p99_tpot_ms"],
    }


def _rejected(refused: Counter[str], judged: Screen) -> list[dict[str, object]]:
    """Reasons with counts: of engine settings that cannot start, and of configurations that the screen
    ruled out.
    """
    stages = (("memory", refused), ("screen", judged.rejected()))
    return [
        {"reason": reason, "count": count, "stage": stage}
        for stage, counts in stages
        for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def traffic(load: Workload) -> dict[str, object]:
    """What the plan was made for."""
    trace = load.trace
    return {
        "name": trace.name,
        "requests": len(trace),
        "duration_s": trace.duration_s,
        "mean_rate_per_s": len(trace) / trace.duration_s,
        "busiest_5min_rate_per_s": load.peak_rate_per_s,
        "mean_input_tokens": float(trace.input_tokens.mean()),
        "mean_output_tokens": float(trace.output_tokens.mean()),
        "max_model_len": load.max_model_len,
        "notes": list(trace.notes),
    }


def notes_of(request: PlanRequest, options: int = 3) -> list[str]:
    """What every plan must say beside its figures."""
    notes = [f"models vLLM {request.vllm_version}; {NETWORK}", *request.notes]
    if not request.slo.bounds:
        notes.append("no latency was promised: an option holds if it keeps up with its traffic")
    if 0 < options < 3:
        plural = "s" if options > 1 else ""
        notes.append(f"only {options} distinct option{plural}: one is the best in several ways")
    return notes
