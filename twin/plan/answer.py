"""The parts of a plan's JSON."""

from __future__ import annotations

from collections import Counter

from twin.plan.asked import objectives_point
from twin.plan.fleet import Pooled
from twin.plan.option import option
from twin.plan.pools import pooled_option
from twin.plan.request import PlanRequest
from twin.results.money import usd_per_month
from twin.search.evaluate import Outcome
from twin.search.figures import NOTHING_ELSE
from twin.search.screen import Screen
from twin.search.workload import Workload

SCHEMA_VERSION = 1
NETWORK = "network time is not in these figures: TTFT and E2EL start when a request reaches the server"


def option_of(request: PlanRequest, outcome: Outcome | Pooled, names: tuple[str, ...]) -> dict[str, object]:
    if isinstance(outcome, Pooled):
        return pooled_option(request, outcome, names, option_of)
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


def point(request: PlanRequest, outcome: Outcome | Pooled) -> dict[str, object]:
    """A point of the front; of a plan with objectives or classes of its own, also what is traded off. What is of all requests
    together is not told of pools here: it would cost a simulation of each point.
    """
    p99_ms = (
        {} if isinstance(outcome, Pooled) else {name: 1e3 * value for name, value in outcome.measured.p99_s.items()}
    )
    return {
        "id": outcome.candidate.id,
        "usd_per_month": usd_per_month(outcome.usd_per_hour),
        "p99_ttft_ms": p99_ms.get("ttft"),
        "p99_tpot_ms": p99_ms.get("tpot"),
        **({"objectives": objectives_point(outcome, request.minimise)} if request.wants != NOTHING_ELSE else {}),
    }


def rejections(refused: Counter[str], judged: Screen) -> list[dict[str, object]]:
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
