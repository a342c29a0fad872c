"""Models with made-up weights: small ones to stand in for large ones of their family, and any as a ``config.json``."""

from __future__ import annotations

from typing import Any

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
    """A model of the same family in another size."""
    sizes = SHAPES[shape] | {"vocab_size": VOCAB_SIZE, "max_position_embeddings": CONTEXT}
    return model.model_copy(update=sizes | {"name": f"{family(model)}-{shape}", "tie_word_embeddings": False})


def family(model: ModelSpec) -> str:
    """Hugging Face's ``model_type`` of its architecture."""
    return model.architecture.removesuffix("ForCausalLM").lower()


def hf_config(model: ModelSpec) -> dict[str, Any]:
    """A ``config.json`` from which vLLM builds a model of these very sizes, in bf16; the context is plain, not stretched."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
             "head_dim", "vocab_size", "max_position_embeddings", "tie_word_embeddings", "mlp_bias")  # fmt: skip
    return {
        "architectures": [model.architecture],
        "model_type": family(model),
        **{name: getattr(model, name) for name in sizes},
        "attention_bias": model.o_bias if model.architecture == "LlamaForCausalLM" else model.qkv_bias,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
        "sliding_window": None,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
    }
