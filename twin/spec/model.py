"""A decoder as its Hugging Face ``config.json`` describes it, and the sizes that follow.

A model is a tuple of layers (:mod:`twin.spec.layers`); which ones a ``config.json`` means is in
:mod:`twin.spec.architectures`. Shipped configurations lie in ``models/`` as ``org--name.json``, with the published fields
that sizes depend on. Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from twin.base import InputError, unknown_name
from twin.spec.architectures import Architecture, read_architecture
from twin.spec.layers import Attention, Experts, Layer, Mixer, Mlp, Weights
from twin.spec.layout import pipeline_layers
from twin.spec.precision import kv_bytes_each, weight_format

VOCAB_PADDING = 64
"""vLLM pads the vocabulary to a multiple of this before it shards it (``DEFAULT_VOCAB_PADDING_SIZE``)."""

FP8_BLOCK = 128
"""Rows and columns that share a scale in an fp8_block checkpoint; vLLM cuts none (``validate_fp8_block_shape_moe``)."""

_MODELS = Path(__file__).resolve().parent / "models"


class ModelSpec(Architecture):
    """Sizes of a decoder: layers, widths in elements, lengths in tokens.

    ``quantization``: the format of the published checkpoint, ``None`` for 16 bits.
    """

    name: str

    @property
    def num_hidden_layers(self) -> int:
        return sum(layer.count for layer in self.layers)

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model, a tied head counted once."""
        return self.weights(padded=False).total()

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes through: of the routed experts only those it is sent to."""
        idle = sum(
            layer.count * (mlp.num_experts - mlp.experts_per_token) * mlp.expert_parameters(self.hidden_size)
            for layer in self.layers
            if isinstance(mlp := layer.mlp, Experts)
        )
        return self.num_parameters - idle

    @property
    def num_experts(self) -> int:
        """Routed experts of a layer; 0 for a dense model."""
        return max((layer.mlp.num_experts for layer in self.layers if isinstance(layer.mlp, Experts)), default=0)

    @property
    def mlp_width(self) -> int:
        """Rows of the widest dense MLP; 0 where there is none."""
        return max((layer.mlp.intermediate_size for layer in self.layers if isinstance(layer.mlp, Mlp)), default=0)

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that turn with the position; 0 without attention."""
        return max((layer.mixer.rotary_dim for layer in self.layers if layer.mixer is not None), default=0)

    @property
    def in_order(self) -> tuple[Layer, ...]:
        """The kind of every layer, from the first on."""
        if not self.order:
            return tuple(layer for layer in self.layers for _ in range(layer.count))
        return tuple(self.layers[kind] for kind in self.order)

    def stage(self, stage: int, stages: int) -> ModelSpec:
        """The layers of one of several pipeline stages, with the embedding in the first and the head in the last.

        As vLLM cuts them (:func:`twin.spec.layout.pipeline_layers`). What a stage lacks is told by :meth:`weights`.
        """
        sizes = pipeline_layers(self.num_hidden_layers, stages)
        start = sum(sizes[:stage])
        mine = self.in_order[start : start + sizes[stage]]
        kinds = list(dict.fromkeys(mine))
        layers = tuple(kind.model_copy(update={"count": mine.count(kind)}) for kind in kinds)
        return self.model_copy(update={"layers": layers, "order": tuple(kinds.index(layer) for layer in mine)})

    def weights(
        self, tp: int = 1, ep: int = 1, *, padded: bool = True, embedding: bool = True, head: bool = True
    ) -> Weights:
        """Parameters by role on each GPU of ``tp``, with experts spread whole over ``ep`` (1: cut like the rest).

        ``embedding`` and ``head``: whether they are there; both are with a tied one, which counts once.
        """
        found: Weights = Counter()
        for layer in self.layers:
            one = layer.weights(self.hidden_size, tp, ep)
            found += Counter({role: count * layer.count for role, count in one.items()})
        vocab = self.padded_vocab_size if padded else self.vocab_size
        ends = min(1, embedding + head) if self.tie_word_embeddings else embedding + head
        found["embedding"] = ends * self.hidden_size * (vocab // tp)
        found["other"] += head * self.hidden_size  # the last norm
        return found

    def weight_bytes(
        self, quantization: str | None = None, tp: int = 1, ep: int = 1, *, embedding: bool = True, head: bool = True
    ) -> int:
        """Bytes of weights on each GPU, in a format that is not the checkpoint's own where ``quantization`` says so."""
        stored = weight_format(quantization or self.quantization)
        held = self.weights(tp, ep, embedding=embedding, head=head)
        size = sum(count * stored.bytes_each(role) for role, count in held.items())
        return int(size) + stored.scale_bytes_per_layer * self.num_hidden_layers

    def kv_bytes_per_token(self, kv_cache_dtype: str = "auto", tp: int = 1, quantization: str | None = None) -> int:
        """Bytes that one more token takes in the caches of all layers on each of ``tp`` GPUs, while it lies in every window.

        ``quantization`` matters where weights in 32 bits make the cache 32 bits too.
        """
        return sum(
            layer.count * layer_kv_bytes(layer.mixer, kv_cache_dtype, tp, quantization)
            for layer in self.layers
            if layer.mixer is not None
        )

    def state_bytes(self, tp: int = 1) -> int:
        """Bytes of recurrent state that a request holds on each of ``tp`` GPUs, whatever its length."""
        return sum(layer.count * layer.mixer.state_bytes(tp) for layer in self.layers if layer.mixer is not None)

    @property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // VOCAB_PADDING) * VOCAB_PADDING

    def tensor_parallel_obstacle(self, tp: int, *, enable_expert_parallel: bool = False) -> str | None:
        """Why vLLM cannot shard this model over ``tp`` GPUs, in one clause; ``None`` if it can.

        With ``enable_expert_parallel`` experts stay whole, so that their rows need not divide.
        """
        cut = [("rows of its padded vocabulary", self.padded_vocab_size)]
        for layer in self.layers:
            whole_experts = enable_expert_parallel and isinstance(layer.mlp, Experts)
            for part in (None if whole_experts else layer.mlp, layer.mixer):
                cut[:0] = part.cut() if part is not None else ()
        for what, size in cut:
            if size % tp:
                return f"the {size} {what} of {self.name} do not divide by tensor_parallel_size {tp}"
        for layer in self.layers:
            mlp = layer.mlp
            if self.quantization == "fp8_block" and isinstance(mlp, Experts) and not enable_expert_parallel:
                rows = mlp.intermediate_size // tp
                if rows % FP8_BLOCK:
                    return f"{rows} rows of an expert of {self.name} on each of {tp} GPUs are no whole blocks of {FP8_BLOCK}"
        for layer in self.layers:
            kv = layer.mixer.num_kv_heads if isinstance(layer.mixer, Attention) else 1
            if kv % tp and tp % kv:
                return f"the {kv} KV heads of {self.name} neither divide by tensor_parallel_size {tp} nor it by them"
        return None

    def format_obstacle(self, quantization: str | None) -> str | None:
        """Why a weight format means nothing for this model, in one clause; ``None`` if it applies to some of its weights."""
        stored = weight_format(quantization or self.quantization)
        roles = [role for role in ("attention", "mlp", "experts") if role in stored.roles]
        if roles and not any(self.weights()[role] for role in roles):
            return f"{stored.name} is a format of {' and '.join(roles)}, of which {self.name} has none"
        return None

    def check_tensor_parallel(self, tp: int, *, enable_expert_parallel: bool = False) -> None:
        """Raises :class:`InputError` when vLLM cannot shard this model over ``tp`` GPUs."""
        if tp < 1:
            raise InputError(f"tensor_parallel_size is a whole number of at least 1, not {tp}")
        obstacle = self.tensor_parallel_obstacle(tp, enable_expert_parallel=enable_expert_parallel)
        if obstacle:
            raise InputError(obstacle)


def model_names() -> list[str]:
    """Shipped models as ``org/name``, sorted; other spellings are accepted, these are the ones listed."""
    return sorted(path.stem.replace("--", "/") for path in _MODELS.glob("*.json"))


def load_model(name_or_path: str | Path, hf_overrides: Mapping[str, Any] | None = None) -> ModelSpec:
    """A shipped model by name (with or without organisation and ``-Instruct``), or from a ``config.json``.

    A path is a ``config.json`` or the folder that holds one. ``hf_overrides`` replace fields of it, as vLLM's
    ``--hf-overrides`` do: ``{"sliding_window": 2048}`` gives every layer of a dense model a window (in vLLM where its config
    lists no types of layers, as Llama's). Raises :class:`InputError` for an unknown name (with the nearest), an unreadable
    file, or an architecture not modelled, with what to give instead.
    """
    path, name = _found(str(name_or_path))
    if not hf_overrides:
        return _as_published(path, name)
    found = _read(path, name=name, hf_overrides=hf_overrides)
    if hf_overrides.get("sliding_window") is not None and not any(_window(layer) for layer in found.layers):
        asked = hf_overrides["sliding_window"]
        raise InputError(f"sliding_window {asked!r} gives no layer of {name} a window", where="hf_overrides")
    return found


def _window(layer: Layer) -> int | None:
    return layer.mixer.window if isinstance(layer.mixer, Attention) else None


def _found(text: str) -> tuple[Path, str]:
    path = Path(text)
    if path.is_dir():
        return path / "config.json", path.resolve().name
    if path.suffix == ".json":
        return path, path.resolve().parent.name if path.name == "config.json" else path.stem
    return _shipped(text)


def _as_published(path: Path, name: str) -> ModelSpec:
    return _read_shipped(path, name) if path.parent == _MODELS else _read(path, name=name)


@lru_cache(maxsize=64)
def _read_shipped(path: Path, name: str) -> ModelSpec:
    return _read(path, name=name)


def _shipped(asked: str) -> tuple[Path, str]:
    names = model_names()
    for spell in (str.lower, _plain):
        for name in names:
            if spell(asked) in (spell(name), spell(name.partition("/")[2])):
                chosen = asked if "/" in asked and spell is _plain else name
                return _MODELS / f"{name.replace('/', '--')}.json", chosen
    error = unknown_name("model", asked, names)
    raise InputError(
        f"unknown model {asked!r} (nothing is downloaded)",
        allowed=["the names that twin model list prints", "the path of its config.json"],
        nearest=error.nearest,
    )


def _plain(name: str) -> str:
    """Spelling without what does not change the sizes: ``Meta-Llama-3.1-8B-Instruct`` → ``llama-3.1-8b``."""
    organisation, slash, base = name.lower().rpartition("/")
    base = base.replace("-instruct", "").removeprefix("meta-").removesuffix("-v0.3")
    return f"{organisation}{slash}{base}"


def _read(path: Path, *, name: str, hf_overrides: Mapping[str, Any] | None = None) -> ModelSpec:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the model's config.json: {error.strerror}", where=str(path)) from None
    except ValueError as error:
        raise InputError(f"not valid JSON: {error}", where=str(path)) from None
    if not isinstance(config, dict):
        raise InputError("not a config.json: it holds no object", where=str(path))
    return model_from_config(config, name=name, where=str(path), hf_overrides=hf_overrides)


def model_from_config(
    config: Mapping[str, Any],
    *,
    name: str,
    where: str = "config.json",
    hf_overrides: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """The sizes in a parsed ``config.json``. Raises :class:`InputError` as :func:`load_model`."""
    found = read_architecture(config, where, hf_overrides)
    return ModelSpec(name=name, **{field: getattr(found, field) for field in Architecture.model_fields})


def layer_kv_bytes(mixer: Mixer, kv_cache_dtype: str, tp: int, quantization: str | None = None) -> int:
    """Bytes of one token in the cache of one layer on each of ``tp`` GPUs; 0 for a layer that keeps a state instead."""
    head_dim = mixer.head_dim if isinstance(mixer, Attention) else mixer.kv_per_token(tp)
    return round(mixer.kv_per_token(tp) * kv_bytes_each(kv_cache_dtype, quantization, head_dim)) if head_dim else 0
