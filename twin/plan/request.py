"""The question that a plan answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from twin.base import Estimate
from twin.search.executors import ExecutorName
from twin.search.figures import NOTHING_ELSE, Wants
from twin.search.limits import Limits
from twin.search.objectives import chosen_of
from twin.search.precisions import Precisions
from twin.search.space import ANY_SETTINGS, USUAL_PRECISIONS, Settings
from twin.search.workload import Workload
from twin.spec.hardware import HardwareProfile
from twin.spec.model import ModelSpec
from twin.spec.objectives import USUAL_OBJECTIVES, Objectives
from twin.spec.slo import Budget, Slo
from twin.spec.versions import MODELLED_VLLM, VERSIONS, VersionName

NO_PROMISES = Slo()


@dataclass(frozen=True, eq=False)
class PlanRequest:
    """A question. ``prices`` in USD per GPU hour by profile name.

    ``classes`` of requests, ``objectives`` and ``wants`` come from :func:`twin.plan.asked.asked_of`.
    """

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
    settings: Settings = ANY_SETTINGS
    classes: tuple[str, ...] = ()
    objectives: Objectives = USUAL_OBJECTIVES
    wants: Wants = NOTHING_ELSE
    algorithm: str = "auto"
    executor: ExecutorName = "local"
    ray_address: str | None = None

    @property
    def model_name(self) -> str:
        return self.model.name

    @property
    def minimise(self) -> tuple[str, ...]:
        """Objectives that the search trades off."""
        return chosen_of(self.objectives)

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

    @property
    def facets(self) -> dict[str, object]:
        """What simulations depend on beside traffic and promises: those of another model, say, answer another question."""
        return {
            "model": hashlib.sha256(self.model.model_dump_json().encode()).hexdigest(),
            "vLLM version": self.vllm_version,
            "GPU memory utilization": self.gpu_memory_utilization,
            "longest sequence": self.load.max_model_len,
            "profiles": {profile.name: profile.digest() for profile in self.profiles},
        }
