"""What a plan may use, and what of it contradicts itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from twin.base import InputError
from twin.search.precisions import Precisions
from twin.search.space import ANY_SETTINGS, TENSOR_PARALLEL_SIZES, USUAL_PRECISIONS, Settings
from twin.spec.model import ModelSpec
from twin.spec.slo import Budget


@dataclass(frozen=True)
class Limits:
    """What a plan may use: most USD per hour, GPUs and watts; ``usd_per_gpu_hour`` and ``gpu_watts`` by
    GPU.
    """

    usd_per_gpu_hour: Mapping[str, float]
    gpu_watts: Mapping[str, float]
    usd_per_hour: float = np.inf
    num_gpus: float = np.inf
    watts: float = np.inf
    max_gpus: float = np.inf
    node_size: int = 1

    def violation(self, gpu: str, num_gpus: int) -> str | None:
        """Why ``num_gpus`` of this GPU may not be bought; ``None`` if they may."""
        return self.violation_of(((gpu, num_gpus),))

    def violation_of(self, groups: Sequence[tuple[str, int]]) -> str | None:
        """The same of several groups of GPUs, each with nodes of its own."""
        total = sum(count for _, count in groups)
        over = (
            sum(count * self.usd_per_gpu_hour[gpu] for gpu, count in groups) > self.usd_per_hour * (1 + 1e-9)
            or total > self.num_gpus
            or sum(count * self.gpu_watts[gpu] for gpu, count in groups) > self.watts * (1 + 1e-9)
        )
        if over:
            return OVER_BUDGET
        if total > self.max_gpus:
            return OVER_MAX_GPUS
        return NOT_WHOLE_NODES if any(count % self.node_size for _, count in groups) else None


OVER_BUDGET = "over the budget"
OVER_MAX_GPUS = "more GPUs than --max-gpus"
NOT_WHOLE_NODES = "leaves GPUs of a node unused"
PURSE = (OVER_BUDGET, OVER_MAX_GPUS)
"""Refusals that more money or more GPUs would lift."""


def check_limits(
    model: ModelSpec,
    *,
    budget: Budget | None = None,
    max_gpus: int | None = None,
    node_size: int = 1,
    settings: Settings = ANY_SETTINGS,
    precisions: Precisions = USUAL_PRECISIONS,
) -> None:
    """Raises :class:`InputError`, naming both, for limits that no deployment on any GPU can keep together.

    Limits that only some GPU, or only this traffic, cannot keep are no contradiction: the plan says what they rule out.
    """
    _check_sizes(settings)
    purse = {"--max-gpus": max_gpus, "--budget": budget.num_gpus if budget else None}
    least = min(settings.tensor_parallel_sizes, default=1)
    for flag, most in purse.items():
        if most is None:
            continue
        asked = f"{flag} {most}{'gpu' if flag == '--budget' else ''}"
        if most < node_size:
            raise InputError(f"{asked} and --node-size {node_size} contradict each other: a node is more than that")
        if most < least:
            said = ",".join(map(str, settings.tensor_parallel_sizes))
            raise InputError(
                f"{asked} and --tensor-parallel-size {said} contradict each other: a replica takes at least {least}"
            )
    _check_precisions(model, precisions)


def _check_sizes(settings: Settings) -> None:
    for size in settings.tensor_parallel_sizes:
        if size not in TENSOR_PARALLEL_SIZES:
            raise InputError(
                f"--tensor-parallel-size {size} is not a size that is planned", allowed=TENSOR_PARALLEL_SIZES
            )
    if settings.max_num_seqs is not None and settings.max_num_seqs < 1:
        raise InputError(f"--max-num-seqs {settings.max_num_seqs}: a batch holds at least 1 request")


def _check_precisions(model: ModelSpec, precisions: Precisions) -> None:
    """Formats that were asked for, none of which keeps the limits on bits and loss."""
    if not (precisions.quantizations or precisions.kv_cache_dtypes):
        return
    reasons = [precisions.refusal(model, *formats) for formats in product(*precisions.of(model))]
    if not all(reasons):
        return
    names = {"--quantization": precisions.quantizations, "--kv-cache-dtype": precisions.kv_cache_dtypes}
    asked = " ".join(f"{flag} {','.join(name or 'none' for name in given)}" for flag, given in names.items() if given)
    raise InputError(f"{asked} leaves nothing within the limits: {reasons[0]}")
