"""The KV cache groups of a model: layers that keep the same kind of state share one block table.

Which groups vLLM forms, how many tokens a block holds and how many bytes it takes are rules of vLLM 0.32:
``get_kv_cache_groups`` and ``_get_kv_cache_bytes_per_block`` in v1/core/kv_cache_utils.py, and ``_align_hybrid_block_size`` in
platforms/interface.py for models that also keep a recurrent state.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from twin.base import InputError
from twin.spec.layers import Attention, Mixer
from twin.spec.layout import pipeline_layers
from twin.spec.model import ModelSpec, layer_kv_bytes

KvGroupKind = Literal["full", "sliding_window", "chunked_local", "mamba"]
WINDOWED: tuple[KvGroupKind, ...] = ("sliding_window", "chunked_local")


@dataclass(frozen=True)
class KvGroup:
    """``count`` groups of layers whose block tables are alike; every group takes its blocks from the one shared pool.

    What a layer keeps of a sequence, by ``kind``: all tokens (``full``), the last ``window`` of them
    (``sliding_window``), those of the current chunk of ``window`` tokens (``chunked_local``), or one state (``mamba``).

    Raises:
        InputError: a window where the kind has none, or none where it needs one; a count below 1.
    """

    kind: KvGroupKind = "full"
    window: int | None = None
    count: int = 1

    def __post_init__(self) -> None:
        if (self.kind in WINDOWED) != (self.window is not None):
            raise InputError(
                f"a KV group of kind {self.kind} {'needs a' if self.kind in WINDOWED else 'has no'} window"
            )
        if self.window is not None and self.window < 1:
            raise InputError(f"a window has at least one token, not {self.window}")
        if self.count < 1:
            raise InputError(f"a KV group occurs at least once, not {self.count} times")


@dataclass(frozen=True)
class KvPool:
    """How the KV cache of one GPU is divided: groups, tokens in a block, and bytes of a block by pipeline stage.

    ``members``: the layers (from 0) of each single group, in the order of ``groups``.
    """

    groups: tuple[KvGroup, ...]
    members: tuple[tuple[int, ...], ...]
    block_size: int
    bytes_per_block: tuple[int, ...]

    def num_blocks(self, kv_bytes: int, stage: int = 0) -> int:
        """Blocks that fit in the KV memory of a GPU of one stage; the fewest of all stages is what a replica has."""
        return max(0, kv_bytes // self.bytes_per_block[stage])


@dataclass(frozen=True)
class _Kept:
    """What one layer keeps: of what kind, and in how many bytes per block."""

    kind: KvGroupKind
    window: int | None
    page_bytes: int


@lru_cache(maxsize=1024)
def kv_pool(
    model: ModelSpec,
    *,
    tensor_parallel_size: int = 1,
    pipeline_parallel_size: int = 1,
    kv_cache_dtype: str = "auto",
    quantization: str | None = None,
    block_size: int = 16,
) -> KvPool:
    """The groups that vLLM forms of a model's layers, with the bytes of a block on each of the GPUs.

    ``block_size`` in tokens is what is asked for; a model with recurrent layers gets the smallest multiple of it whose
    page of attention holds a whole state, and every state is padded to that page.
    """
    tp = tensor_parallel_size
    mixers = {index: layer.mixer for index, layer in enumerate(model.in_order) if layer.mixer is not None}
    per_token = {index: layer_kv_bytes(mixer, kv_cache_dtype, tp, quantization) for index, mixer in mixers.items()}
    size = _block_size(mixers, per_token, tp, block_size)
    page = max(per_token.values()) * size
    kept = {index: _Kept(*_kind(mixer), per_token[index] * size or page) for index, mixer in mixers.items()}
    members = _members(kept, model.name)
    first = [kept[layers[0]] for layers in members]
    alike = Counter((one.kind, one.window) for one in first)
    bounds = _stage_of(model.num_hidden_layers, pipeline_parallel_size)
    stages = range(pipeline_parallel_size)
    held = [[sum(kept[i].page_bytes for i in layers if bounds[i] == stage) for layers in members] for stage in stages]
    return KvPool(
        groups=tuple(KvGroup(kind, window, count) for (kind, window), count in alike.items()),
        members=members,
        block_size=size,
        bytes_per_block=tuple(max(bytes_of) for bytes_of in held),
    )


def _kind(mixer: Mixer) -> tuple[KvGroupKind, int | None]:
    if not isinstance(mixer, Attention):
        return ("full", None) if mixer.kv_per_token(1) else ("mamba", None)
    if mixer.window is None:
        return "full", None
    return "chunked_local" if mixer.chunked else "sliding_window", mixer.window


def _block_size(mixers: dict[int, Mixer], per_token: dict[int, int], tp: int, asked: int) -> int:
    """Tokens of a block: at least as many as give attention a page of a state's size (attention's kernels take any multiple
    of 16)."""
    state = max(mixer.state_bytes(tp) for mixer in mixers.values())
    return asked * max(1, -(-state // (asked * max(per_token.values())))) if state else asked


def _members(kept: dict[int, _Kept], name: str) -> tuple[tuple[int, ...], ...]:
    """The layers of each group; kinds follow one another in the order of their first layers.

    Layers that all keep as many tokens are one group. Else groups are made equal: of as many layers as the rarest kind has,
    or the commonest where it has less than half as many again; the last ones of a kind may be short.
    """
    buckets: dict[tuple[KvGroupKind, int | None], list[int]] = {}
    for index, one in kept.items():
        buckets.setdefault((one.kind, one.window), []).append(index)
    if len(buckets) == 1:
        return (tuple(kept),)
    if len({one.page_bytes for one in kept.values()}) > 1:
        raise InputError(
            f"the layers of {name} keep different amounts per token of different kinds, which is not modelled"
        )
    sizes = [len(layers) for layers in buckets.values()]
    size = max(sizes) if max(sizes) < 1.5 * min(sizes) else min(sizes)
    return tuple(
        tuple(layers[start :: -(-len(layers) // size)])
        for layers in buckets.values()
        for start in range(-(-len(layers) // size))
    )


def _stage_of(num_layers: int, stages: int) -> list[int]:
    """The pipeline stage of every layer."""
    return [stage for stage, size in enumerate(pipeline_layers(num_layers, stages)) for _ in range(size)]
