"""The step of a replica of several pipeline stages, or of ranks that share experts: :class:`StepModel` and what passes between.

Stages have their share of the layers (vLLM's split; where layers differ, each stage has its share of every kind). Each stage
pays the host's time per step, as each has workers of its own (assumed). A stage sends hidden states and residual, cut over
its GPUs, and the next gathers them (``send_tensor_dict``, vllm/distributed/parallel_state.py).

Ranks that share experts gather the tokens of all before them and scatter the sums behind them (``all2all_backend``
``allgather_reducescatter``, vLLM's default), in 16 bits.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from twin.cost.collectives import all_gather_s, reduce_scatter_s, send_s
from twin.cost.layer import LayerCost
from twin.cost.layout import HostCosts, Layout
from twin.cost.step import StepModel
from twin.cost.tables import Floats
from twin.spec.hardware import HardwareProfile
from twin.spec.layout import Fabric, num_nodes, pipeline_layers, steps_together
from twin.spec.model import ModelSpec

BF16_BYTES = 2
NETWORK = Fabric()
EXACT_TOKENS, TOKEN_NODES = 64, 160
"""Tokens up to which experts are priced one by one, and nodes beyond, linear between."""


def spreads(model: ModelSpec, layout: Layout) -> bool:
    """Whether its steps are more than those of one :class:`StepModel`."""
    return layout.pipeline_parallel_size > 1 or steps_together(model, layout)


def spread_step_model(
    model: ModelSpec,
    profile: HardwareProfile,
    layout: Layout,
    *,
    max_tokens: int,
    host: HostCosts | None = None,
    fabric: Fabric = NETWORK,
) -> StepModel:
    """Prices steps of any layout. Raises :class:`InputError` for kernels that were not measured."""
    if steps_together(model, layout):
        return RanksModel(model, profile, layout, max_tokens=max_tokens, host=host, fabric=fabric)
    if layout.pipeline_parallel_size > 1:
        return PipelineModel(model, profile, layout, max_tokens=max_tokens, host=host, fabric=fabric)
    return StepModel(model, profile, layout, max_tokens=max_tokens, host=host)


class PipelineModel(StepModel):
    """A step's price is that of the whole way through. Implements :class:`twin.engine.pipeline.StageCost`."""

    def __init__(
        self,
        model: ModelSpec,
        profile: HardwareProfile,
        layout: Layout,
        *,
        max_tokens: int,
        host: HostCosts | None = None,
        fabric: Fabric = NETWORK,
    ) -> None:
        super().__init__(model, profile, layout, max_tokens=max_tokens, host=host)
        stages = layout.pipeline_parallel_size
        layers = pipeline_layers(model.num_hidden_layers, stages)
        self._shares = [count / model.num_hidden_layers for count in layers]
        tp, node = layout.tensor_parallel_size, profile.facts.num_gpus_per_node
        tokens = np.arange(max_tokens + 1, dtype=np.float64)
        message = BF16_BYTES * model.hidden_size * tokens
        gathered = 2 * all_gather_s(profile, tp, message)
        near, far = (send_s(profile, 2 * message / tp, over) + gathered for over in (None, fabric))
        hops = [far if (stage + 1) * tp % node == 0 else near for stage in range(stages - 1)]
        self._hops = [array("d", np.where(tokens > 0, hop, 0.0)) for hop in hops]
        self._between_s = array("d", (stages - 1) * self.host.step_s + np.sum(self._hops, axis=0))
        self.linear_s = array("d", np.add(self.linear_s, self._between_s))

    def stages_s(self, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: int) -> list[float]:
        """See :class:`twin.engine.pipeline.StageCost`: they add up to ``step_s``."""
        tokens = num_decodes + sum(chunk[1] for chunk in chunks)
        host_s, head_s = self.host.step_s, self.head_s[num_decodes + len(chunks)]
        layers_s = self.step_s(chunks, num_decodes, context) - head_s - host_s - self._between_s[tokens]
        seconds = [layers_s * share + host_s for share in self._shares]
        for stage, hop in enumerate(self._hops):
            seconds[stage] += hop[tokens]
        seconds[-1] += head_s
        return seconds


class _WithoutExperts(LayerCost):
    """A layer whose experts are priced by all ranks together."""

    has_experts = False


class RanksModel(StepModel):
    """Prices steps in which every rank computes the same. Implements :class:`twin.engine.rank.SharedCost`."""

    def __init__(
        self,
        model: ModelSpec,
        profile: HardwareProfile,
        layout: Layout,
        *,
        max_tokens: int,
        host: HostCosts | None = None,
        fabric: Fabric = NETWORK,
    ) -> None:
        super().__init__(model, profile, layout, max_tokens=max_tokens, host=host)
        ranks, nodes = layout.data_parallel_size, num_nodes(layout, profile.facts.num_gpus_per_node)
        together = ranks * layout.tensor_parallel_size // nodes  # GPUs of a node
        exact = np.arange(1.0, EXACT_TOKENS)
        tokens: Floats = np.unique(np.concatenate([exact, np.geomspace(EXACT_TOKENS, ranks * max_tokens, TOKEN_NODES)]))
        message = BF16_BYTES * model.hidden_size * tokens
        exchange = all_gather_s(profile, together, message, nodes, fabric)
        exchange = exchange + reduce_scatter_s(profile, together, message, nodes, fabric)
        seconds, compute = np.zeros_like(tokens), np.zeros_like(tokens)
        for cost in self._layers:
            if cost.has_experts:
                experts, bound = cost.experts_s(tokens)
                seconds = seconds + cost.layer.count * (experts * self.host.gemm_stretch + exchange)
                compute = compute + cost.layer.count * bound * self.host.gemm_stretch
        every = np.arange(ranks * max_tokens + 1)
        shared = np.interp(every, tokens, seconds * self._scale)
        self._shared_s = array("d", shared)
        self.linear_s = array("d", np.add(self.linear_s, shared[::ranks]))
        bound_s = np.interp(every[::ranks], tokens, compute * self._scale)
        self._compute_s = array("d", np.add(self._compute_s, np.where(every[::ranks] > 0, bound_s, 0.0)))

    def shared_s(self, tokens: int) -> float:
        """See :class:`twin.engine.rank.SharedCost`."""
        return float(self._shared_s[tokens])

    def _layer(self, cost: LayerCost, m: Floats) -> tuple[Floats, Floats, float]:
        return super()._layer(_WithoutExperts(cost.layer, cost.hidden, cost.profile, cost.shard), m)
