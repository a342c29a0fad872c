"""A dense decoder as its Hugging Face ``config.json`` describes it, and the sizes that follow.

Shipped configurations lie in ``models/`` as ``org--name.json``, with the published fields that sizes depend
on. Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import PositiveInt

from twin.base import Frozen, InputError, unknown_name
from twin.spec.precision import kv_bytes_each, weight_bytes_each

BF16_BYTES = 2
VOCAB_PADDING = 64
"""vLLM pads the vocabulary to a multiple of this before it shards it (``DEFAULT_VOCAB_PADDING_SIZE``)."""

SCALE_BYTES = 8
"""An fp8 linear layer keeps one fp32 scale for its weight and one for its input."""

_MODELS = Path(__file__).resolve().parent / "models"


class _Family(NamedTuple):
    """What an architecture's code decides; ``None`` means that the config's ``attention_bias`` does."""

    qkv_bias: bool | None = None
    o_bias: bool | None = False
    qk_norm: bool = False


_FAMILIES = {
    "LlamaForCausalLM": _Family(o_bias=None),
    "MistralForCausalLM": _Family(qkv_bias=False),
    "Qwen2ForCausalLM": _Family(qkv_bias=True),
    "Qwen3ForCausalLM": _Family(qk_norm=True),
}

# A config field that is set, and what it makes of the model. None of these is modelled yet.
_NOT_DENSE = {
    "num_local_experts": "a mixture of experts",
    "num_experts": "a mixture of experts",
    "n_routed_experts": "a mixture of experts",
    "kv_lora_rank": "multi-head latent attention",
    "vision_config": "a model with a vision tower",
    "audio_config": "a model with an audio tower",
    "text_config": "a multimodal model",
    "ssm_cfg": "a state-space model",
    "mamba_d_state": "a hybrid state-space model",
    "linear_num_key_heads": "a hybrid of linear and full attention",
    "is_encoder_decoder": "an encoder-decoder",
    "quantization_config": "an already quantised checkpoint",
}

_INSTEAD = (
    "give the config.json of a dense decoder in bf16 with full attention "
    f"({', '.join(name.removesuffix('ForCausalLM') for name in _FAMILIES)})"
)

# Rope types whose max_position_embeddings is already the stretched one (vllm/config/model.py).
_STRETCHED = frozenset({"default", "llama3", "longrope", "su", "mrope"})


class ModelSpec(Frozen):
    """Sizes of a dense decoder: numbers of layers and heads, widths in elements, lengths in tokens."""

    name: str
    architecture: str
    num_hidden_layers: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt
    vocab_size: PositiveInt
    max_position_embeddings: PositiveInt
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model, a tied head counted once."""
        return _count(self, tp=1, vocab=self.vocab_size).total

    def weight_bytes(self, quantization: str | None = None, tp: int = 1) -> int:
        """Bytes of weights on each of ``tp`` GPUs; fp8 applies to the decoder's linear layers only."""
        count = _count(self, tp=tp, vocab=self.padded_vocab_size)
        scales = SCALE_BYTES * 4 * self.num_hidden_layers if quantization == "fp8" else 0
        return count.linear * weight_bytes_each(quantization) + count.other * BF16_BYTES + scales

    def kv_bytes_per_token(self, kv_cache_dtype: str = "auto", tp: int = 1) -> int:
        """Bytes of one token's keys and values, all layers, on each of ``tp`` GPUs."""
        heads = self.kv_heads_per_gpu(tp)
        return self.num_hidden_layers * 2 * heads * self.head_dim * kv_bytes_each(kv_cache_dtype)

    def kv_heads_per_gpu(self, tp: int) -> int:
        """KV heads are replicated once there are more GPUs than heads."""
        return max(1, self.num_key_value_heads // tp)

    @property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // VOCAB_PADDING) * VOCAB_PADDING

    def tensor_parallel_obstacle(self, tp: int) -> str | None:
        """Why vLLM cannot shard this model over ``tp`` GPUs, in one clause; ``None`` if it can."""
        for what, size in [
            ("attention heads", self.num_attention_heads),
            ("rows of its MLP", self.intermediate_size),
            ("rows of its padded vocabulary", self.padded_vocab_size),
        ]:
            if size % tp:
                return f"the {size} {what} of {self.name} do not divide by tensor_parallel_size {tp}"
        kv = self.num_key_value_heads
        if kv % tp and tp % kv:
            return f"the {kv} KV heads of {self.name} neither divide by tensor_parallel_size {tp} nor it by them"
        return None

    def check_tensor_parallel(self, tp: int) -> None:
        """Raises :class:`InputError` when vLLM cannot shard this model over ``tp`` GPUs."""
        if tp < 1:
            raise InputError(f"tensor_parallel_size is a whole number of at least 1, not {tp}")
        obstacle = self.tensor_parallel_obstacle(tp)
        if obstacle:
            raise InputError(obstacle)


class _Count(NamedTuple):
    """Parameters on one GPU: the decoder's linear weights, and everything else."""

    linear: int
    other: int

    @property
    def total(self) -> int:
        return self.linear + self.other


def _count(model: ModelSpec, *, tp: int, vocab: int) -> _Count:
    hidden, inter = model.hidden_size, model.intermediate_size // tp
    q = model.num_attention_heads * model.head_dim // tp
    kv = model.kv_heads_per_gpu(tp) * model.head_dim
    linear = hidden * (q + 2 * kv) + q * hidden + 3 * hidden * inter
    biases = model.qkv_bias * (q + 2 * kv) + model.o_bias * hidden + model.mlp_bias * (2 * inter + hidden)
    norms = 2 * hidden + model.qk_norm * 2 * model.head_dim
    embeddings = (1 if model.tie_word_embeddings else 2) * hidden * (vocab // tp)
    layers = model.num_hidden_layers
    return _Count(layers * linear, layers * (biases + norms) + embeddings + hidden)


def model_names() -> list[str]:
    """Shipped models as ``org/name``, sorted; other spellings are accepted, these are the ones listed."""
    return sorted(path.stem.replace("--", "/") for path in _MODELS.glob("*.json"))


def load_model(name_or_path: str | Path) -> ModelSpec:
    """A shipped model by name (with or without organisation and ``-Instruct``), or from a ``config.json``.

    A path is a ``config.json`` or the folder that holds one. Raises :class:`InputError` for an unknown name
    (with the nearest), an unreadable file, or an architecture not modelled, with what to give instead.
    """
    text = str(name_or_path)
    path = Path(text)
    if path.is_dir():
        path = path / "config.json"
        return _read(path, name=path.resolve().parent.name)
    if path.suffix == ".json":
        stem = path.resolve().parent.name if path.name == "config.json" else path.stem
        return _read(path, name=stem)
    return _shipped(text)


@lru_cache(maxsize=64)
def _shipped(asked: str) -> ModelSpec:
    names = model_names()
    for spell in (str.lower, _plain):
        for name in names:
            if spell(asked) in (spell(name), spell(name.partition("/")[2])):
                chosen = asked if "/" in asked and spell is _plain else name
                return _read(_MODELS / f"{name.replace('/', '--')}.json", name=chosen)
    error = unknown_name("model", asked, names)
    raise InputError(
        f"unknown model {asked!r} (nothing is downloaded)",
        allowed=[*names, "the path of its config.json"],
        nearest=error.nearest,
    )


def _plain(name: str) -> str:
    """Spelling without what does not change the sizes: ``Meta-Llama-3.1-8B-Instruct`` → ``llama-3.1-8b``."""
    organisation, slash, base = name.lower().rpartition("/")
    base = base.replace("-instruct", "").removeprefix("meta-").removesuffix("-v0.3")
    return f"{organisation}{slash}{base}"


def _read(path: Path, *, name: str) -> ModelSpec:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the model's config.json: {error.strerror}", where=str(path)) from None
    except ValueError as error:
        raise InputError(f"not valid JSON: {error}", where=str(path)) from None
    if not isinstance(config, dict):
        raise InputError("not a config.json: it holds no object", where=str(path))
    return model_from_config(config, name=name, where=str(path))


def model_from_config(config: Mapping[str, Any], *, name: str, where: str = "config.json") -> ModelSpec:
    """The sizes in a parsed ``config.json``. Raises :class:`InputError` as :func:`load_model`."""
    architecture = str((config.get("architectures") or ["(no architecture)"])[0])
    family = _FAMILIES.get(architecture)
    reason = _not_modelled(config)
    if family is None or reason:
        said = f" ({reason})" if reason else ""
        raise InputError(f"{architecture}{said} is not modelled; {_INSTEAD}", where=where)
    heads = _whole(config, "num_attention_heads", where)
    hidden = _whole(config, "hidden_size", where)
    bias = bool(config.get("attention_bias", False))
    return ModelSpec(
        name=name,
        architecture=architecture,
        num_hidden_layers=_whole(config, "num_hidden_layers", where),
        hidden_size=hidden,
        intermediate_size=_whole(config, "intermediate_size", where),
        num_attention_heads=heads,
        num_key_value_heads=_whole(config, "num_key_value_heads", where, default=heads),
        head_dim=_whole(config, "head_dim", where, default=hidden // heads),
        vocab_size=_whole(config, "vocab_size", where),
        max_position_embeddings=_max_model_len(config, where),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=bias if family.qkv_bias is None else family.qkv_bias,
        o_bias=bias if family.o_bias is None else family.o_bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        qk_norm=family.qk_norm,
    )


def _not_modelled(config: Mapping[str, Any]) -> str | None:
    for field, reason in _NOT_DENSE.items():
        if config.get(field):
            return reason
    window = config.get("sliding_window")
    if window and config.get("use_sliding_window", True):
        return f"attention with a sliding window of {window}"
    if set(config.get("layer_types") or ()) - {"full_attention"}:
        return "layers with other than full attention"
    return None


def _whole(config: Mapping[str, Any], field: str, where: str, *, default: int | None = None) -> int:
    value = config.get(field)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        said = "is missing" if value is None else f"is {value!r}"
        raise InputError(f"{field!r} {said}; it must be a whole number of at least 1", where=where)
    return value


def _max_model_len(config: Mapping[str, Any], where: str) -> int:
    """The context that vLLM derives: the config's, stretched where the rope scaling is not in it yet.

    Source: vllm/config/model.py, ``_get_and_verify_max_len``: linear, dynamic … multiply by ``factor``; yarn
    multiplies the original length.
    """
    length = _whole(config, "max_position_embeddings", where)
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    factor = rope.get("factor", 1.0) if isinstance(rope, dict) else None
    if not isinstance(factor, int | float) or factor <= 0:
        raise InputError("'rope_scaling' is not an object with a positive 'factor'", where=where)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in _STRETCHED:
        return length
    if kind == "yarn":
        length = _whole(rope, "original_max_position_embeddings", where, default=length)
    return int(length * factor)
