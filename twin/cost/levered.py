"""The step model of an engine that pulls a lever (:class:`twin.cost.levers.Levers`); without one it is :class:`StepModel`."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from twin.base import InputError
from twin.cost.layer import QUANTISED, LayerCost
from twin.cost.layout import HostCosts, Layout
from twin.cost.levers import (
    EAGER_LAUNCH_S,
    EAGER_MORE_LAUNCHES,
    Levers,
    floored_segment,
    layer_parameter_bytes,
    offload_s,
    offloaded_weight_bytes,
    unfused_quant_s,
)
from twin.cost.step import StepModel
from twin.cost.tables import Floats
from twin.spec.hardware import HardwareProfile
from twin.spec.layers import Experts, Mlp
from twin.spec.model import ModelSpec

HEAD_LAUNCHES = 4
"""Kernels after the last layer: norm, head, and two over the logits."""


def step_model(
    model: ModelSpec,
    profile: HardwareProfile,
    layout: Layout,
    levers: Levers,
    *,
    max_tokens: int,
    host: HostCosts,
) -> StepModel:
    """What prices an engine's steps. Raises :class:`InputError` where a lever is not priced or cannot be."""
    if not levers.priced:
        return StepModel(model, profile, layout, max_tokens=max_tokens, host=host)
    if layout.pipeline_parallel_size > 1:
        raise InputError("levers are priced for one pipeline stage only", where="engine")
    return LeveredStepModel(model, profile, layout, levers, max_tokens=max_tokens, host=host)


class LeveredStepModel(StepModel):
    """Adds what offloaded weights and unfused quantisation take to every step; without graphs no step is faster than the
    host launches its kernels one by one, nothing is padded, and no launch hides under the kernel before it.
    """

    def __init__(
        self,
        model: ModelSpec,
        profile: HardwareProfile,
        layout: Layout,
        levers: Levers,
        *,
        max_tokens: int,
        host: HostCosts,
    ) -> None:
        if levers.enforce_eager:
            host = replace(host, kernel_overlap_s=min(host.kernel_overlap_s, 0.0))
        graphs = False if levers.enforce_eager else None
        super().__init__(model, profile, layout, max_tokens=max_tokens, host=host, cuda_graphs=graphs)
        m = np.maximum(np.arange(max_tokens + 1, dtype=np.float64), 1.0)
        more = sum((_unfused_s(cost, levers, m) for cost in self._layers), np.zeros_like(m))
        if levers.cpu_offload_bytes:
            more = more + self._offload_s(levers, m)
        self.linear_s = array("d", np.asarray(self.linear_s) + more)
        launches = self._launches + sum(_more_launches(cost, levers) for cost in self._layers) + HEAD_LAUNCHES
        self.launch_s = launches * EAGER_LAUNCH_S.value if levers.enforce_eager else 0.0

    def _offload_s(self, levers: Levers, m: Floats) -> Floats:
        """What products of offloaded weights wait for PCIe; they are a share of all products, as they are of the weights."""
        layout = self._layout
        tp, ep = layout.tensor_parallel_size, layout.expert_parallel_size
        every = list(layer_parameter_bytes(self._model, layout.quantization, tp, ep))
        offloaded = offloaded_weight_bytes(every, levers.cpu_offload_bytes)
        products = np.zeros_like(m)
        for cost in self._layers:
            one = cost.per_token(m).products
            if cost.has_experts:
                one = one + cost.experts_s(m)[0]
            products = products + one * cost.layer.count * self.host.gemm_stretch
        return offload_s(self._profile, offloaded, products * offloaded / sum(every))

    def _floor_s(self, tokens: int, rows: int) -> float:
        """Seconds that a step of so many tokens and sampled rows takes at least: its launches and the host's own work."""
        host = self.host
        return self.launch_s + host.step_s + host.token_s * tokens + host.sequence_s * rows

    def decode_segment(self, num_decodes: int, context: int) -> tuple[float, float, float]:
        """See :class:`twin.engine.core.StepCost`."""
        seconds, slope, limit = super().decode_segment(num_decodes, context)
        return floored_segment(seconds, slope, context, limit, self._floor_s(num_decodes, num_decodes))

    def step_s(self, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: int) -> float:
        """See :class:`twin.engine.core.StepCost`."""
        tokens = num_decodes + sum(chunk[1] for chunk in chunks)
        seconds = super().step_s(chunks, num_decodes, context)
        return max(seconds, self._floor_s(tokens, num_decodes + len(chunks)))


def _quantised_width(cost: LayerCost) -> tuple[bool, float]:
    """Whether a layer's products take quantised activations, and how wide its dense MLP's are on one GPU."""
    quantised = any(cost.shard.weights.dtype(role) in QUANTISED for role in ("attention", "mlp"))
    match cost.layer.mlp:
        case Mlp() as mlp:
            width = mlp.intermediate_size
        case Experts() as mlp:
            width = mlp.shared_intermediate_size
        case None:
            width = 0
    return quantised, width / cost.shard.tp


def _unfused_s(cost: LayerCost, levers: Levers, m: Floats) -> Floats:
    quantised, width = _quantised_width(cost)
    if not quantised:
        return np.zeros_like(m)
    return unfused_quant_s(cost.profile, levers, m, cost.hidden, width)[0] * cost.layer.count


def _more_launches(cost: LayerCost, levers: Levers) -> int:
    """Kernels of all layers of this kind that are launched only without fusion, or that a graphed price has in another."""
    quantised, width = _quantised_width(cost)
    unfused = unfused_quant_s(cost.profile, levers, 1.0, cost.hidden, width)[1] if quantised else 0
    return (EAGER_MORE_LAUNCHES + unfused) * cost.layer.count
