"""A fleet and the traffic that it serves, of a plan's outcome or of a scenario: what both say of latency against load."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twin.base import InputError
from twin.cluster.deploy import fleet_of, layout_of, memory_of, trace_of
from twin.cluster.simulation import Fleet
from twin.cost.layout import Layout
from twin.plan.request import PlanRequest
from twin.search.evaluate import Outcome
from twin.search.screen import DECODES, capacity_per_s, curve, most_decodes
from twin.search.simulator import HASH_WORK, HYBRID_WORK, PIPELINE_WORK
from twin.search.space import Candidate, ReplicaKind
from twin.search.workload import Workload, make_workload
from twin.spec.hardware import HardwareProfile
from twin.spec.model import ModelSpec
from twin.spec.scenario import Scenario
from twin.spec.slo import Bound


@dataclass(frozen=True, eq=False)
class Served:
    """A fleet and the traffic that it serves, of a plan or of a scenario.

    ``capacity_per_s``: requests per second that all its replicas sustain in closed form, whatever the latency.
    """

    id: str
    model: ModelSpec
    profile: HardwareProfile
    layout: Layout
    fleet: Fleet
    load: Workload
    bounds: tuple[Bound, ...]
    capacity_per_s: float

    @classmethod
    def of_outcome(cls, outcome: Outcome, request: PlanRequest) -> Served:
        candidate, deployment, load = outcome.candidate, outcome.deployment, request.load
        profile = next(profile for profile in request.profiles if profile.name == candidate.gpu)
        sustained = load.peak_rate_per_s / deployment.utilisation
        fleet = deployment.fleet
        return cls(candidate.id, request.model, profile, candidate.layout, fleet, load, outcome.bounds, sustained)

    @classmethod
    def of_scenario(cls, scenario: Scenario, load: Workload | None = None) -> Served:
        """``load``: its traffic, where it was read before. Raises :class:`InputError` for a closed-loop client, which knows no
        rate, and for traffic that arrives in one instant; :class:`twin.base.InfeasibleError` when the model does not fit.
        """
        if scenario.client is not None:
            raise InputError("a closed-loop client has no rate, so there is no latency against it", where="client")
        fleet = fleet_of(scenario)
        if load is None:
            load = make_workload(trace_of(scenario), scenario.model_spec, max_model_len=fleet.config.max_model_len)
        each = sustained_per_s(scenario, fleet, load)
        promised = scenario.slo.bounds
        return cls(
            candidate_of(scenario, fleet).id,
            scenario.model_spec,
            scenario.profile,
            layout_of(scenario),
            fleet,
            load,
            promised,
            each * fleet.replicas,
        )

    @property
    def work(self) -> float:
        """Of simulating one request, in usual ones."""
        config, hashes = self.fleet.config, self.load.trace.prefix_hashes
        work = PIPELINE_WORK if config.pipeline_parallel_size > 1 else HYBRID_WORK if config.is_hybrid else 1
        return work * (1 + HASH_WORK * (sum(map(len, hashes)) / len(hashes) if hashes else 0.0))


def candidate_of(scenario: Scenario, fleet: Fleet) -> Candidate:
    """The deployment of a resolved scenario as a plan names it."""
    where, config = scenario.deployment, fleet.config
    return Candidate(
        where.gpu,
        where.tensor_parallel_size,
        where.replicas,
        where.quantization,
        where.kv_cache_dtype,
        config.max_num_seqs,
        config.max_num_batched_tokens,
        where.pipeline_parallel_size,
        where.data_parallel_size,
        where.enable_expert_parallel,
    )


def kind_of(scenario: Scenario, fleet: Fleet) -> ReplicaKind:
    """A replica of a resolved scenario's ``fleet`` for the closed form, with its one engine setting."""
    config, tokens = fleet.config, max(fleet.config.max_num_batched_tokens, 2 * int(DECODES[-1]))
    blocks, memory = np.array([[config.num_gpu_blocks]]), memory_of(scenario) if config.is_hybrid else None
    model, layout, size = scenario.model_spec, layout_of(scenario), config.block_size
    kind = ReplicaKind(model, scenario.profile, layout, blocks, size, tokens, memory, (config.max_num_seqs,))
    if config.max_num_batched_tokens == tokens:
        kind.__dict__["step"] = fleet.cost  # priced already, levers and all: fills the cached property
    return kind


def sustained_per_s(scenario: Scenario, fleet: Fleet, load: Workload) -> float:
    """Requests per second of one replica of a resolved scenario's ``fleet``, in closed form."""
    kind, config = kind_of(scenario, fleet), fleet.config
    most = most_decodes(kind, load, np.array([config.max_num_seqs]), kind.num_gpu_blocks[0])
    return float(capacity_per_s(kind, curve(kind, load, config.max_num_batched_tokens), most)[0])
