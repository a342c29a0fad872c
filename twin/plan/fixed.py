"""What is deployed today: whether it keeps its promises, and up to which rate."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

from twin.cluster.deploy import fleet_of
from twin.cluster.simulation import Fleet
from twin.plan.annexes import Annexes, explanation, money, price_book, risk
from twin.plan.answer import SCHEMA_VERSION, notes_of, traffic
from twin.plan.highest import highest_factor
from twin.plan.load_curve import load_curve
from twin.plan.option import option
from twin.plan.plan import Plan
from twin.plan.power import power
from twin.plan.request import PlanRequest
from twin.plan.served import Served, candidate_of, sustained_per_s
from twin.search.evaluate import Deployment, Outcome, evaluate
from twin.search.space import Candidate
from twin.search.workload import Workload
from twin.spec.engine import EngineSettings
from twin.spec.scenario import Scenario


@dataclass(frozen=True)
class _Today:
    """The deployed fleet and what one of its replicas sustains, in requests per second."""

    request: PlanRequest
    candidate: Candidate
    fleet: Fleet
    capacity_per_s: float

    def at(self, load: Workload) -> Outcome:
        candidate, request = self.candidate, self.request
        usd = candidate.num_gpus * request.prices[candidate.gpu].value
        rate = load.peak_rate_per_s / candidate.replicas
        deployment = Deployment(
            candidate, self.fleet.config, self.fleet.cost, usd, rate / self.capacity_per_s, self.fleet.routing
        )
        bounds, span = request.slo.bounds, load.busiest_span_s
        return evaluate(
            deployment,
            load.trace,
            bounds,
            headroom=request.headroom,
            busiest_span_s=span,
            full=True,
            wants=request.wants,
        )


def evaluate_fixed(request: PlanRequest, scenario: Scenario, asked: Annexes | None = None) -> Plan:
    """INTERFACE.md's plan object with the deployment of a resolved ``scenario`` as its only option (or near
    miss).

    ``fixed`` adds whether it holds and the highest rate it holds on the busiest five minutes: their
    arrivals are sped up or slowed down, found by bisection. Raises :class:`twin.base.InfeasibleError` when
    the model does not fit.
    """
    today = _today(request, scenario)
    outcome = today.at(request.load)
    misses = list(outcome.misses)
    over = request.limits.violation(outcome.candidate.gpu, outcome.candidate.num_gpus)
    where = scenario.deployment
    limited = request.precisions.refusal(request.model, where.quantization, where.kv_cache_dtype)
    misses += [reason for reason in (over, limited) if reason]
    shown = option(
        outcome,
        model=request.model,
        model_name=request.model_name,
        profile=scenario.profile,
        load=request.load,
        price=request.prices[outcome.candidate.gpu],
        gpu_memory_utilization=scenario.engine.gpu_memory_utilization or request.gpu_memory_utilization,
        names=("deployed",),
    )
    asked, named = asked or Annexes(), [(outcome, ("deployed",))]
    risks, of_plan = risk(
        asked, request, [outcome], lambda _: (outcome, [outcome]), lambda some: next(iter(some), None)
    )
    shown |= money(asked, request, outcome, risks) | power(request, outcome, asked.book)
    if risks:
        shown["risk"] = risks[outcome.candidate.id]
    shown["vllm_command"] = _command(str(shown["vllm_command"]), scenario.engine)
    factor, tried = highest_factor(lambda load: today.at(load).holds, request.load, outcome)
    payload: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "model": request.model_name,
        "traffic": traffic(request.load),
        "options": [] if misses else [shown],
        "recommended": None if misses else outcome.candidate.id,
        "near_misses": [{**shown, "misses": misses}] if misses else [],
        "rejected": [],
        "screened": 0,
        "simulated": 1 + tried,
        "binding": misses[0] if misses else None,
        "fixed": {
            "id": outcome.candidate.id,
            "holds": not misses,
            "misses": misses,
            "highest_rate_factor": factor,
            "highest_request_rate_per_s": None if factor is None else factor * request.load.peak_rate_per_s,
        },
        **of_plan,
        **price_book(asked, [shown]),
        **explanation(asked, request, named, [outcome], ()),
        "load_curve": load_curve(replace(Served.of_outcome(outcome, request), profile=scenario.profile)),
        "seed": request.seed,
        "vllm_version_modelled": request.vllm_version,
        "notes": notes_of(request),
    }
    return Plan(payload, None if misses else outcome, outcome)


def _command(command: str, settings: EngineSettings) -> str:
    """``command`` with the levers that are pulled; for a baseline that there is none."""
    if settings.baseline is not None:
        return f"# vLLM has no {settings.baseline}"
    return " ".join([command, *(shlex.quote(word) for word in settings.lever_flags())])


def _today(request: PlanRequest, scenario: Scenario) -> _Today:
    fleet = fleet_of(scenario)
    sustained = sustained_per_s(scenario, fleet, request.load)
    return _Today(request, candidate_of(scenario, fleet), fleet, sustained)
