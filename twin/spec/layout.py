"""How a model is laid out over GPUs: the rules of vLLM, and the network between nodes.

A replica is one ``vllm serve``: ``data_parallel_size`` ranks, each a pipeline of ``pipeline_parallel_size`` stages, each of
``tensor_parallel_size`` GPUs. The rules are those of vLLM 0.32's ``config/parallel.py``, ``config/model.py``
(``verify_with_parallel_config``) and ``distributed/utils.py`` (``get_pp_indices``).
"""

from __future__ import annotations

from typing import Annotated, Any, Protocol

from pydantic import BeforeValidator, Field

from twin.base import Estimate, Frozen, InputError, parse_duration, parse_quantity


class Parallel(Protocol):
    """What a layout says of parallelism: a deployment's fields, or a candidate's."""

    @property
    def tensor_parallel_size(self) -> int: ...
    @property
    def pipeline_parallel_size(self) -> int: ...
    @property
    def data_parallel_size(self) -> int: ...
    @property
    def enable_expert_parallel(self) -> bool: ...


class Sharded(Protocol):
    """What the rules ask of a model."""

    @property
    def name(self) -> str: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_experts(self) -> int: ...
    def tensor_parallel_obstacle(self, tp: int) -> str | None: ...


def replica_gpus(layout: Parallel) -> int:
    """GPUs of one replica."""
    return layout.tensor_parallel_size * layout.pipeline_parallel_size * layout.data_parallel_size


def expert_ranks(layout: Parallel) -> int:
    """GPUs that whole experts are spread over; 1 where every expert is cut over GPUs instead."""
    return layout.tensor_parallel_size * layout.data_parallel_size if layout.enable_expert_parallel else 1


def steps_together(model: Sharded, layout: Parallel) -> bool:
    """Whether data-parallel ranks wait for one another, as they do where they share experts. Ranks of a dense model do
    not (``run_engine_core``, v1/engine/core.py): they are replicas.
    """
    return layout.data_parallel_size > 1 and model.num_experts > 0


def num_nodes(layout: Parallel, gpus_per_node: int) -> int:
    """Nodes that one replica stands on."""
    return -(-replica_gpus(layout) // gpus_per_node)


def fleet_nodes(layout: Parallel, replicas: int, gpus_per_node: int) -> int:
    """Nodes that ``replicas`` stand on: as many as fit share one, and one that needs several shares none."""
    together = gpus_per_node // replica_gpus(layout)
    return -(-replicas // together) if together else replicas * num_nodes(layout, gpus_per_node)


def pipeline_layers(num_layers: int, stages: int) -> tuple[int, ...]:
    """Layers of each stage. What does not divide goes to the stages before the last, from the back: the last has the head
    to compute too, and the first the embedding.

    Source: ``get_pp_indices``, vllm/distributed/utils.py (0.32), without ``VLLM_PP_LAYER_PARTITION``.
    """
    whole, rest = divmod(num_layers, stages)
    return tuple(whole + (stages - 1 - rest <= stage < stages - 1) for stage in range(stages))


def broken_rule(model: Sharded, layout: Parallel, gpus_per_node: int) -> tuple[str, str] | None:
    """Why a model cannot be laid out so: the field that says it, and the rule in one clause; ``None`` if it can."""
    tp, stages, ranks = layout.tensor_parallel_size, layout.pipeline_parallel_size, layout.data_parallel_size
    experts, sharing = model.num_experts, max(tp, expert_ranks(layout))
    rules = (
        (
            "tensor_parallel_size",
            tp > gpus_per_node,
            f"{tp} GPUs are more than the {gpus_per_node} of a node; across nodes use pipeline_parallel_size, as no all-reduce"
            " between nodes was measured",
        ),
        (
            "tensor_parallel_size",
            gpus_per_node % tp != 0 and stages * ranks > 1,
            f"tensor_parallel_size {tp} does not divide the {gpus_per_node} GPUs of a node: a group would span two nodes",
        ),
        (
            "pipeline_parallel_size",
            stages > model.num_hidden_layers,
            f"the {model.num_hidden_layers} layers of {model.name} are fewer than pipeline_parallel_size {stages}",
        ),
        (
            "enable_expert_parallel",
            layout.enable_expert_parallel and not experts,
            f"enable_expert_parallel: {model.name} has no experts (vLLM refuses it for a dense model)",
        ),
        (
            "tensor_parallel_size",
            0 < experts < sharing,
            f"the {experts} experts of {model.name} are fewer than the {sharing} GPUs that share them",
        ),
        (
            "data_parallel_size",
            steps_together(model, layout) and not layout.enable_expert_parallel,
            f"data_parallel_size {ranks} without enable_expert_parallel, where vLLM cuts every expert over the GPUs of all"
            " ranks, is not modelled",
        ),
        (
            "pipeline_parallel_size",
            stages > 1 and steps_together(model, layout),
            "data-parallel ranks that share experts are not modelled with pipeline stages",
        ),
    )
    found = next(((field, why) for field, wrong, why in rules if wrong), None)
    obstacle = None if found else model.tensor_parallel_obstacle(tp)
    return ("tensor_parallel_size", obstacle) if obstacle else found


def check_layout(model: Sharded, layout: Parallel, gpus_per_node: int, where: str = "deployment") -> None:
    """Raises :class:`InputError`, at the field of ``where``, with the rule that a layout breaks."""
    broken = broken_rule(model, layout, gpus_per_node)
    if broken:
        raise InputError(broken[1], where=f"{where}.{broken[0]}")


def _bytes_per_s(value: Any) -> Any:
    """``400 Gb/s`` (bits) or ``50 GB/s`` → bytes/s; other values as they are."""
    if not isinstance(value, str):
        return value
    bits = value.rstrip().endswith("b/s")
    try:
        return parse_quantity(value, unit="b/s" if bits else "B/s", what="bandwidth") / (8 if bits else 1)
    except InputError as error:
        raise ValueError(str(error)) from None


def _seconds(value: Any) -> Any:
    """``5µs`` → 5e-6; other values as they are."""
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value, what="latency", bare="s")
    except InputError as error:
        raise ValueError(str(error)) from None


NETWORK_BYTES_PER_S = 400e9 / 8


class Fabric(Frozen):
    """The network between nodes, as one GPU sees it: ``400 Gb/s`` (or bytes/s), and the latency of a message."""

    bytes_per_s: Annotated[float, BeforeValidator(_bytes_per_s), Field(gt=0, allow_inf_nan=False)] = NETWORK_BYTES_PER_S
    latency_s: Annotated[float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False)] = 5e-6

    @property
    def bandwidth(self) -> Estimate:
        """With where it comes from: the user, or the default."""
        default = self.bytes_per_s == NETWORK_BYTES_PER_S
        source = "one 400 Gb/s port (NDR InfiniBand, 400 GbE) per GPU" if default else "given in the scenario"
        return Estimate(value=self.bytes_per_s, origin="assumed", source=source)
