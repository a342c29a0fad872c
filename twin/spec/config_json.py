"""A published ``config.json`` with checked access, and what in it has nothing to do with layers: context and number format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twin.base import InputError, unknown_name

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma2": {"tie_word_embeddings": True, "sliding_window_pattern": 2},
    "gemma3_text": {
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "sliding_window_pattern": 6,
        "tie_word_embeddings": True,
    },
    "llama4_text": {"attention_chunk_size": 8192, "interleave_moe_layer_step": 1, "no_rope_layer_interval": 4},
}
"""By ``model_type``: what its class in transformers 5.19 fills in where a published file leaves a field out."""

_OTHER_PARTS = {"vision_config": "vision tower", "audio_config": "audio tower"}
_DRAFTING = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules")

# Rope types whose max_position_embeddings is already the stretched one (vLLM 0.32 config/model.py,
# _get_and_verify_max_len, which leaves Gemma 3's as it is too).
_STRETCHED = frozenset({"default", "llama3", "longrope", "su", "mrope", "yarn", "deepseek_yarn"})


_OPTIONAL = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "head_dim", "rope_scaling",
             "tie_word_embeddings", "attention_bias", "num_key_value_heads")  # fmt: skip
"""Fields that a file may leave out, and overrides may still set."""


class Config:
    """The decoder's part of a ``config.json``: ``text_config``, where there is one, before what stands around it.

    ``overrides`` replace fields, as vLLM's ``--hf-overrides`` do. ``where``: the file, for errors.
    """

    def __init__(self, data: Mapping[str, Any], where: str, overrides: Mapping[str, Any] | None = None) -> None:
        self.where = where
        self._whole_file = data
        changes = dict(overrides or {})
        changes |= changes.pop("text_config", {})
        if "sliding_window" in changes:  # asked for, so whatever the file's own switch says
            changes = {"use_sliding_window": True, "max_window_layers": 0} | changes
        text = data.get("text_config") or {}
        for field in changes:
            if field not in (known_fields := {*data, *text, *_OPTIONAL}):
                raise unknown_name("field", field, known_fields)
        known = DEFAULTS.get(str(text.get("model_type", data.get("model_type"))), {})
        self.data: dict[str, Any] = {**known, **data, **text, **changes}

    def whole(self, field: str, default: int | None = None) -> int:
        """A whole number of at least 1. Raises :class:`InputError` for anything else."""
        return _whole(self.data, field, self.where, default=default)

    def count(self, field: str) -> int:
        """As :meth:`whole`, and 0 where the field is absent, null or 0."""
        return self.whole(field) if self.data.get(field) else 0

    def flag(self, field: str, default: bool = False) -> bool:
        return bool(self.data.get(field, default))

    def entry(self, field: str, index: int) -> str | None:
        """That of one layer in a list (or string) with one for each; ``None`` where the config has no such list."""
        found = self.data.get(field)
        if found is None:
            return None
        if not isinstance(found, list | str) or index >= len(found):
            raise InputError(f"{field!r} does not have an entry for each layer", where=self.where)
        return str(found[index])

    def left_out(self) -> tuple[str, ...]:
        """Parts of the model that are not its decoder, by name."""
        towers = [name for field, name in _OTHER_PARTS.items() if self._whole_file.get(field)]
        drafting = max((self.data.get(field) or 0 for field in _DRAFTING), default=0)
        return (*towers, *([f"drafting layers (MTP): {drafting}"] if drafting else []))

    def max_model_len(self) -> int:
        """The context in tokens that vLLM derives: the config's, stretched where the rope scaling is not in it yet."""
        length = self.whole("max_position_embeddings")
        rope = self.data.get("rope_scaling") or self.data.get("rope_parameters") or {}
        factor = rope.get("factor", 1.0) if isinstance(rope, dict) else None
        if not isinstance(factor, int | float) or factor <= 0:
            raise InputError("'rope_scaling' is not an object with a positive 'factor'", where=self.where)
        kind = rope.get("rope_type", rope.get("type", "default"))
        stretched = kind in _STRETCHED or "gemma3" in str(self.data.get("model_type"))
        return length if stretched else int(length * factor)

    def checkpoint_format(self) -> str | None:
        """The name under which :mod:`twin.spec.precision` knows the format of the published weights; ``None`` for 16 bits.

        Raises :class:`InputError` for one that is not modelled.
        """
        found = self.data.get("quantization_config") or self.data.get("compression_config")
        if not found:
            return None
        named = _named_format(found)
        if named is None:
            method = found.get("quant_algo") or found.get("quant_method")
            known = ["fp8", "mxfp4", "awq", "gptq", "compressed-tensors", "modelopt (FP8, NVFP4)"]
            raise InputError(f"checkpoints quantised by {method!r} are not modelled", where=self.where, allowed=known)
        return named


def _named_format(found: Mapping[str, Any]) -> str | None:
    match found.get("quant_method"):
        case "fp8" | "fbgemm_fp8":
            return "fp8_block" if found.get("weight_block_size") else "fp8"
        case "mxfp4" | "gpt_oss_mxfp4":
            return "mxfp4"
        case "awq" | "gptq" | "awq_marlin" | "gptq_marlin":
            return {4: "w4a16"}.get(found.get("bits", found.get("w_bit", 4)))
        case "modelopt" | "modelopt_fp4":
            algorithm = found.get("quant_algo") or found.get("quantization", {}).get("quant_algo")
            return {"FP8": "fp8", "NVFP4": "nvfp4"}.get(str(algorithm))
        case "compressed-tensors":
            return _compressed_tensors(found.get("config_groups", {}))
        case _:
            return None


def _compressed_tensors(groups: Mapping[str, Any]) -> str | None:
    """Of the first group, in which all linear layers of the published checkpoints are."""
    group: Mapping[str, Any] = next(iter(groups.values()), {})
    weights = group.get("weights") or {}
    if weights.get("strategy") == "block":
        return "fp8_block"
    activations = "" if group.get("input_activations") is None else " and activations"
    formats = {
        "float 8 and activations": "fp8",
        "int 8 and activations": "int8",
        "int 4": "w4a16",
        "float 4 and activations": "nvfp4",
    }
    return formats.get(f"{weights.get('type')} {weights.get('num_bits')}{activations}")


def _whole(config: Mapping[str, Any], field: str, where: str, *, default: int | None = None) -> int:
    value = config.get(field)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        said = "is missing" if value is None else f"is {value!r}"
        raise InputError(f"{field!r} {said}; it must be a whole number of at least 1", where=where)
    return value
