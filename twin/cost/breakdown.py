"""Where the seconds of one engine step go: by piece of work, and by the resource that a piece waits for.

Pieces are priced as :class:`twin.cost.step.StepModel` prices them and add up to its ``step_s``. A kernel takes
``launch + p-norm(FLOPs / rate, bytes / bandwidth)`` times a table, which is homogeneous of degree one in its three times; by
Euler's theorem it is the sum of each time with the derivative by it. That is the split: what of the kernel would go away
in proportion if that resource were a little faster. A kernel well on one side of its roofline counts there alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeVar, get_args

import numpy as np

from twin.cost import operators as ops
from twin.cost.attention import window_pairs
from twin.cost.collectives import all_reduce_s
from twin.cost.layer import LayerCost
from twin.cost.levered import LeveredStepModel
from twin.cost.parts import LABELLED
from twin.cost.spread import PipelineModel, RanksModel, _WithoutExperts
from twin.cost.step import StepModel, _graph_padding
from twin.cost.tables import Floats
from twin.spec.hardware import HardwareProfile
from twin.spec.kernels import Copy, Kernel

Resource = Literal["compute", "memory_bandwidth", "network", "host", "latency"]
RESOURCES: tuple[Resource, ...] = get_args(Resource)
"""``network``: links among GPUs, in the node or beyond, and ranks waiting for each other. ``latency``: kernels that start,
which no faster rate shortens. A device held back by its power limit counts as ``compute``."""

Piece = Literal[
    "gemm", "experts", "attention", "elementwise", "exchanges", "head", "host", "throttle", "launches", "levers"
]
PIECES: tuple[Piece, ...] = get_args(Piece)
"""``attention``: and what takes its place; latent attention with its projections, which were timed together. ``exchanges``:
all-reduces, exchanges of experts, messages between stages. ``launches``: what a step waits for kernels that the host starts one
by one. ``levers``: what offloaded weights and unfused quantisation add."""

COEFFICIENTS: dict[Resource, str] = {"compute": "flops_per_s", "memory_bandwidth": "bytes_per_s", "latency": "launch_s"}
SLOWER = 1e-6
"""Relative change in a coefficient that derivatives are taken over."""

Seconds = dict[Resource, float]
Fit = TypeVar("Fit", Kernel, Copy)


@dataclass(frozen=True)
class Breakdown:
    """Seconds of one step by piece and resource: ``parts[piece][resource]``; pieces that take no time are left out."""

    parts: Mapping[Piece, Mapping[Resource, float]]

    @cached_property
    def seconds(self) -> float:
        return sum(self.by_piece.values())

    @cached_property
    def by_piece(self) -> dict[Piece, float]:
        return {piece: sum(self.parts[piece].values()) for piece in PIECES if piece in self.parts}

    @cached_property
    def by_resource(self) -> dict[Resource, float]:
        """Every resource, in the order of :data:`RESOURCES`."""
        return {name: sum(part.get(name, 0.0) for part in self.parts.values()) for name in RESOURCES}

    @property
    def binding(self) -> Resource:
        """What most of the step waits for."""
        return max(self.by_resource, key=lambda name: self.by_resource[name])

    def share(self, resource: Resource) -> float:
        return self.by_resource[resource] / self.seconds if self.seconds else 0.0

    @classmethod
    def total(cls, steps: Sequence[Breakdown], times: float = 1.0) -> Breakdown:
        """Of several steps together, ``times`` over."""
        ledger = _Ledger()
        for step in steps:
            for piece, seconds in step.parts.items():
                ledger.add(piece, seconds, times)
        return ledger.breakdown()


class _Ledger:
    """Seconds by piece and resource that are still being added up."""

    def __init__(self) -> None:
        self.parts: dict[Piece, Seconds] = {}

    def add(self, piece: Piece, seconds: Mapping[Resource, float], times: float = 1.0) -> None:
        into = self.parts.setdefault(piece, {})
        for name, value in seconds.items():
            into[name] = into.get(name, 0.0) + value * times

    def breakdown(self) -> Breakdown:
        return Breakdown({piece: found for piece, found in self.parts.items() if any(found.values())})


def breakdown(
    step: StepModel, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: float
) -> Breakdown:
    """Where the seconds of ``step.step_s(chunks, num_decodes, context)`` go; arguments as there, sizes in tokens.

    Of pipeline stages the whole way through; of ranks that share experts one rank, with as many tokens on the others.
    """
    tokens = num_decodes + sum(chunk[1] for chunk in chunks)
    rows = num_decodes + len(chunks)
    host, ledger, split = step.host, _Ledger(), _Split(step._profile)
    padded = float(_graph_padding(len(step.linear_s) - 1, step._captured)[tokens]) if step._padded else float(tokens)
    for cost in step._layers:
        of_layer = _layer(step, cost, np.array([max(padded, 1.0)]), split)
        for piece, seconds in of_layer.parts.items():
            ledger.add(piece, seconds, cost.layer.count * step._scale)
    _spread(step, tokens, ledger, split)
    _head(step, rows, ledger, split)
    ledger.add("host", {"host": host.step_s + host.token_s * tokens + host.sequence_s * rows})
    if isinstance(step, LeveredStepModel):
        plain = sum(sum(part.values()) for part in ledger.parts.values()) - step.head_s[rows]
        ledger.add("levers", {"host": step.linear_s[tokens] - plain})
    _attention(step, chunks, num_decodes, context, ledger, split)
    _waits(step, chunks, tokens, rows, ledger)
    return ledger.breakdown()


class _Split:
    """Divides what a kernel takes among the resources, by repricing it on profiles where one of them is a little slower."""

    def __init__(self, profile: HardwareProfile) -> None:
        self.profile = profile
        self.slower = {resource: slower(profile, name) for resource, name in COEFFICIENTS.items()}

    @property
    def profiles(self) -> list[HardwareProfile]:
        """As it is, then slower in each resource."""
        return [self.profile, *self.slower.values()]

    def of(self, price: Callable[[HardwareProfile], float]) -> Seconds:
        return self.among([price(profile) for profile in self.profiles])

    def among(self, priced: Sequence[float]) -> Seconds:
        """Of the price on each of :attr:`profiles`."""
        base = priced[0]
        more = [max(price - base, 0.0) for price in priced[1:]]
        total = sum(more)
        if total <= 0.0:  # nothing there, or a kernel without any figure of its own
            return {"latency": base}
        return {name: base * part / total for name, part in zip(self.slower, more, strict=True)}


def slower(profile: HardwareProfile, coefficient: str, by: float = SLOWER) -> HardwareProfile:
    """The profile with every kernel's ``flops_per_s``, ``bytes_per_s`` or ``launch_s`` taking (1 + ``by``) times as long."""

    def fit(kernel: Fit) -> Fit:
        found = getattr(kernel, coefficient, None)
        if found is None:
            return kernel
        value = found.value * (1 + by) if coefficient == "launch_s" else found.value / (1 + by)
        return kernel.model_copy(update={coefficient: found.model_copy(update={"value": value})})

    kernels = profile.kernels
    update: dict[str, object] = {
        "gemm": {dtype: fit(kernel) for dtype, kernel in kernels.gemm.items()},
        "elementwise": fit(kernels.elementwise),
    }
    for family in ("decode_attention", "prefill_attention", *LABELLED):
        update[family] = tuple(one.model_copy(update={"kernel": fit(one.kernel)}) for one in getattr(kernels, family))
    return profile.model_copy(update={"kernels": kernels.model_copy(update=update)})


def _layer(step: StepModel, cost: LayerCost, m: Floats, split: _Split) -> _Ledger:
    """One layer without attention for ``m`` tokens: as ``StepModel._layer`` adds it up."""
    host, ledger = step.host, _Ledger()
    if isinstance(step, RanksModel):
        cost = _WithoutExperts(cost.layer, cost.hidden, cost.profile, cost.shard)
    works = [replace(cost, profile=profile).per_token(m) for profile in split.profiles]
    ledger.add("gemm", split.among([float(work.products[0]) for work in works]), host.gemm_stretch)
    ledger.add("elementwise", split.among([float(work.light[0]) for work in works]), host.elementwise_stretch)
    both, count = step._norms(cost.layer, m)
    kernels = float(count[0]) + works[0].kernels + cost.has_experts
    several = step._layout.tensor_parallel_size > 1
    ends = (cost.layer.mixer is not None) + (cost.layer.mlp is not None)
    apart = float(count[0]) - ends * several  # norms that are kernels of their own
    norms = split.of(lambda profile: float(ops.elementwise_s(profile, m * (8 * cost.hidden))[0]))
    ledger.add("elementwise", norms, apart * host.elementwise_stretch)
    if several:
        alone = apart * host.elementwise_stretch * sum(norms.values())
        ledger.add("exchanges", {"network": float(both[0]) - alone})
    if cost.has_experts:
        ledger.add("experts", split.of(lambda profile: _experts_s(cost, profile, m)), host.gemm_stretch)
    _hide(ledger, host.kernel_overlap_s * kernels)
    return ledger


def _experts_s(cost: LayerCost, profile: HardwareProfile, m: Floats) -> float:
    return float(replace(cost, profile=profile).experts_s(m)[0][0])


def _hide(ledger: _Ledger, overlap_s: float) -> None:
    """Take what launches hide under the kernel before them (negative: what they add) off the latencies, and where there is
    more of it than those, off all in proportion; at most half a layer.
    """
    total = sum(sum(part.values()) for part in ledger.parts.values())
    waiting = sum(part.get("latency", 0.0) for part in ledger.parts.values())
    hidden = min(overlap_s, total / 2)
    covered = hidden if waiting > 0.0 and hidden <= waiting else waiting
    latency = 1.0 - covered / waiting if waiting else 1.0
    others = 1.0 - (hidden - covered) / (total - waiting) if total > waiting else 1.0
    for part in ledger.parts.values():
        for name in part:
            part[name] *= latency if name == "latency" else others


def _spread(step: StepModel, tokens: int, ledger: _Ledger, split: _Split) -> None:
    """What stages and ranks add to the layers: messages, the host of every stage, and experts that all ranks share."""
    if isinstance(step, PipelineModel):
        hops = sum(hop[tokens] for hop in step._hops)
        ledger.add("exchanges", {"network": hops})
        ledger.add("host", {"host": step._between_s[tokens] - hops})
    if isinstance(step, RanksModel):
        every = tokens * step._layout.data_parallel_size
        shared, m, experts = step.shared_s(every), np.array([max(every, 1.0)]), _Ledger()
        for cost in step._layers:
            if cost.has_experts:
                found = split.of(lambda profile, cost=cost: _experts_s(cost, profile, m))  # type: ignore[misc]
                experts.add("experts", found, cost.layer.count * step.host.gemm_stretch * step._scale)
        worked = sum(experts.parts.get("experts", {}).values())
        # Both are priced at nodes and linear between, so a wiggle of the kernels can leave less than nothing.
        ledger.add("experts", experts.parts.get("experts", {}), min(shared / worked, 1.0) if worked else 0.0)
        ledger.add("exchanges", {"network": max(shared - worked, 0.0)})


def _head(step: StepModel, rows: int, ledger: _Ledger, split: _Split) -> None:
    """As ``StepModel._head``: the product, two passes over the logits, and their gather."""
    if rows == 0:
        return
    model, tp, host = step._model, step._layout.tensor_parallel_size, step.host
    vocab, at = model.padded_vocab_size, float(rows)
    product = split.of(lambda profile: float(ops.gemm_s(profile, "bf16", at, vocab / tp, model.hidden_size)))
    logits = split.of(lambda profile: float(ops.elementwise_s(profile, at * vocab * 6)))
    ledger.add("head", product, host.gemm_stretch * step._scale)
    ledger.add("head", logits, 2 * host.elementwise_stretch * step._scale)
    gather = all_reduce_s(step._profile, tp, 2.0 * at * vocab, step._layout.vllm_version) / 2
    ledger.add("head", {"network": float(gather) * step._scale})


def _attention(
    step: StepModel,
    chunks: Sequence[tuple[object, int, int]],
    num_decodes: int,
    context: float,
    ledger: _Ledger,
    split: _Split,
) -> None:
    """The step model's own seconds, from its tables; divided as the layers' kernels are at this very size."""
    if num_decodes:
        mean = np.array([max(context / num_decodes, 1.0)])
        found = split.of(
            lambda profile: sum(
                float(replace(cost, profile=profile).decode_s(num_decodes, mean)[0]) * cost.layer.count
                for cost in step._layers
            )
        )
        _scaled(ledger, found, step.decode_attention_s(num_decodes, context))
    if chunks:
        found = split.of(
            lambda profile: sum(
                _prefill_s(replace(cost, profile=profile), chunks) * cost.layer.count for cost in step._layers
            )
        )
        _scaled(ledger, found, step.prefill_attention_s(chunks))


def _prefill_s(cost: LayerCost, chunks: Sequence[tuple[object, int, int]]) -> float:
    window, chunked = cost.window
    tokens = sum(chunk for _, chunk, _ in chunks)
    pairs = sum(float(window_pairs(chunk, before, window, chunked=chunked)) for _, chunk, before in chunks)
    return float(cost.prefill_s(np.array([float(tokens)]), np.array([2.0 * pairs / tokens]))[0])


def _scaled(ledger: _Ledger, found: Seconds, seconds: float) -> None:
    total = sum(found.values())
    ledger.add("attention", found if total else {"latency": 1.0}, seconds / (total or 1.0))


def _waits(step: StepModel, chunks: Sequence[tuple[object, int, int]], tokens: int, rows: int, ledger: _Ledger) -> None:
    """What the power limit and the host's launches add to the work itself."""
    worked = sum(sum(part.values()) for part in ledger.parts.values())
    if chunks:
        ledger.add("throttle", {"compute": step.throttle_s(tokens, step.prefill_attention_s(chunks), worked)})
        ledger.add("launches", {"host": step.launching_s(tokens, worked)})
    if isinstance(step, LeveredStepModel):
        now = sum(sum(part.values()) for part in ledger.parts.values())
        ledger.add("launches", {"host": max(step._floor_s(tokens, rows) - now, 0.0)})
