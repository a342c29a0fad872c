"""Models with made-up weights: small ones to stand in for large ones of their family, and any as a ``config.json``."""

from __future__ import annotations

from typing import Any

from twin.base import InputError
from twin.spec.layers import Attention, Layer, Mlp
from twin.spec.model import ModelSpec

SHAPES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8,
              "num_key_value_heads": 4, "head_dim": 64},
    "wide": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4, "num_attention_heads": 16,
             "num_key_value_heads": 4, "head_dim": 64},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128},
}  # fmt: skip
"""Two that a CPU steps in milliseconds, and one for a GPU."""
VOCAB_SIZE = 32_000
CONTEXT = 40_960


def stand_in(model: ModelSpec, shape: str) -> ModelSpec:
    """A model of the same family in another size. Raises :class:`InputError` as :func:`hf_config`."""
    sizes = SHAPES[shape]
    attention, mlp = dense_layer(model)
    heads = {"num_heads": "num_attention_heads", "num_kv_heads": "num_key_value_heads", "head_dim": "head_dim"}
    mixer = attention.model_copy(update={own: sizes[published] for own, published in heads.items()})
    layer = Layer(
        count=sizes["num_hidden_layers"],
        mixer=mixer,
        mlp=mlp.model_copy(update={"intermediate_size": sizes["intermediate_size"]}),
    )
    changes = {
        "name": f"{family(model)}-{shape}",
        "hidden_size": sizes["hidden_size"],
        "layers": (layer,),
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
    }
    return model.model_copy(update=changes)


def dense_layer(model: ModelSpec) -> tuple[Attention, Mlp]:
    """What every layer of a dense model is made of.

    Raises :class:`InputError` for a model whose layers differ, or are of another kind.
    """
    mixer, mlp = model.layers[0].mixer, model.layers[0].mlp
    if len(model.layers) > 1 or not isinstance(mixer, Attention) or mixer.window or not isinstance(mlp, Mlp):
        raise InputError(f"{model.name} is not a dense model with full attention, the only kind that is verified")
    return mixer, mlp


def family(model: ModelSpec) -> str:
    """Hugging Face's ``model_type`` of its architecture."""
    return model.architecture.removesuffix("ForCausalLM").lower()


def hf_config(model: ModelSpec) -> dict[str, Any]:
    """A ``config.json`` from which vLLM builds a model of these very sizes, in bf16; the context is plain, not stretched."""
    attention, mlp = dense_layer(model)
    return {
        "architectures": [model.architecture],
        "model_type": family(model),
        "hidden_size": model.hidden_size,
        "intermediate_size": mlp.intermediate_size,
        "num_hidden_layers": model.num_hidden_layers,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.max_position_embeddings,
        "tie_word_embeddings": model.tie_word_embeddings,
        "mlp_bias": mlp.bias,
        "attention_bias": attention.o_bias if model.architecture == "LlamaForCausalLM" else attention.qkv_bias,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
        "sliding_window": None,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
    }
