"""Which layers a ``config.json`` means: one function per family of architectures, and one line in a table for each.

A function says what one layer of a model is made of. Source of every rule: the model's own file under
vllm/model_executor/models (0.32) and its published ``config.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pydantic import NonNegativeInt, PositiveInt, ValidationError

from twin.base import Frozen, InputError
from twin.spec.config_json import Config
from twin.spec.layers import (
    Attention,
    Experts,
    Ffn,
    LatentAttention,
    Layer,
    LinearAttention,
    Mamba,
    Mlp,
)

Family = Callable[[Config, int], Layer]
"""The layer of an index, alone (``count`` 1)."""


class Architecture(Frozen):
    """What a ``config.json`` says of a decoder.

    ``layers``: kinds of layers, each with how many there are; ``order``: which kind every layer is, from the first on (empty
    where all are alike). ``left_out``: what else the model has (a vision tower, drafting layers).
    """

    architecture: str
    hidden_size: PositiveInt
    vocab_size: PositiveInt
    max_position_embeddings: PositiveInt
    layers: tuple[Layer, ...]
    order: tuple[NonNegativeInt, ...] = ()
    tie_word_embeddings: bool = False
    quantization: str | None = None
    left_out: tuple[str, ...] = ()


def _attention(config: Config, index: int, **changes: Any) -> Attention:
    heads, hidden = config.whole("num_attention_heads"), config.whole("hidden_size")
    sizes: dict[str, Any] = {
        "num_heads": heads,
        "num_kv_heads": config.whole("num_key_value_heads", heads),
        "head_dim": config.whole("head_dim", hidden // heads),
        "qkv_bias": config.flag("attention_bias"),
        "window": _window(config, index),
    }
    return Attention(**sizes | changes)


def _window(config: Config, index: int) -> int | None:
    """Of a layer: of those that ``layer_types`` or a pattern (every n-th sees all) names, or of all from some index on."""
    kind, pattern = config.entry("layer_types", index), config.count("sliding_window_pattern")
    if kind not in (None, "sliding_attention", "full_attention"):
        raise InputError(f"layers of type {kind!r} are not modelled for this architecture", where=config.where)
    if not config.count("sliding_window") or not config.flag("use_sliding_window", default=True):
        return None
    if "max_window_layers" in config.data and config.flag("use_sliding_window"):
        sliding = index >= config.count("max_window_layers")
    elif kind is not None:
        sliding = kind == "sliding_attention"
    else:
        sliding = not pattern or (index + 1) % pattern != 0
    return config.whole("sliding_window") if sliding else None


def _mlp(config: Config) -> Mlp:
    return Mlp(intermediate_size=config.whole("intermediate_size"), bias=config.flag("mlp_bias"))


def _dense(config: Config, index: int, *, norms: int = 2, **attention: Any) -> Layer:
    """Llama and its like."""
    return Layer(count=1, mixer=_attention(config, index, **attention), mlp=_mlp(config), norms=norms)


def _llama(config: Config, index: int) -> Layer:
    return _dense(config, index, o_bias=config.flag("attention_bias"))


def _glm4_moe(config: Config, index: int) -> Layer:
    mixer = _attention(config, index, qk_norm="head" if config.flag("use_qk_norm") else None)
    return Layer(count=1, mixer=mixer, mlp=_deepseek_mlp(config, index))


def _mixtral(config: Config, index: int, **changes: Any) -> Layer:
    """Every layer a mixture: of Mixtral's, MiniMax's and gpt-oss's."""
    attention = {name: changes.pop(name) for name in list(changes) if name in Attention.model_fields}
    experts = Experts(
        num_experts=config.whole("num_local_experts"),
        experts_per_token=config.whole("num_experts_per_tok"),
        intermediate_size=config.whole("intermediate_size"),
        **changes,
    )
    return Layer(count=1, mixer=_attention(config, index, **attention), mlp=experts)


def _minimax_m2(config: Config, index: int) -> Layer:
    """q and k are normed over all their channels."""
    norm = "all" if config.flag("use_qk_norm") else None
    return _mixtral(config, index, qk_norm=norm, router_bias=config.flag("use_routing_bias"), router_fp32=True)


def _gpt_oss(config: Config, index: int) -> Layer:
    """Biases and attention sinks everywhere, windows on every other layer."""
    return _mixtral(config, index, qkv_bias=True, o_bias=True, sinks=True, bias=True, router_bias=True)


def _qwen_mlp(config: Config, index: int) -> Ffn:
    """Qwen's mixtures: every ``decoder_sparse_step``-th layer, with a gated shared expert in some."""
    dense = index in (config.data.get("mlp_only_layers") or []) or not config.count("num_experts")
    if dense or (index + 1) % config.whole("decoder_sparse_step", 1):
        return _mlp(config)
    shared = config.count("shared_expert_intermediate_size")
    return Experts(
        num_experts=config.whole("num_experts"),
        experts_per_token=config.whole("num_experts_per_tok"),
        intermediate_size=config.whole("moe_intermediate_size"),
        shared_intermediate_size=shared,
        shared_gate=shared > 0,
    )


def _qwen_moe(config: Config, index: int, **attention: Any) -> Layer:
    config.whole("num_experts")  # without it, it would pass for a dense model
    return Layer(count=1, mixer=_attention(config, index, **attention), mlp=_qwen_mlp(config, index))


def _qwen3_next(config: Config, index: int) -> Layer:
    """Three layers of gated delta net for each one of gated attention (Qwen3-Next, Qwen3.5)."""
    every = config.whole("full_attention_interval", 4)
    default = "linear_attention" if (index + 1) % every else "full_attention"
    if (config.entry("layer_types", index) or default) == "linear_attention":
        # Qwen3.5 names the dtype of the state, Qwen3-Next leaves it to vLLM, which takes the model's own.
        state = 4 if config.data.get("mamba_ssm_dtype") == "float32" else 2
        linear = LinearAttention(
            num_k_heads=config.whole("linear_num_key_heads"),
            num_v_heads=config.whole("linear_num_value_heads"),
            head_k_dim=config.whole("linear_key_head_dim"),
            head_v_dim=config.whole("linear_value_head_dim"),
            conv_kernel=config.whole("linear_conv_kernel_dim", 4),
            state_dtype_bytes=state,
        )
        return Layer(count=1, mixer=linear, mlp=_qwen_mlp(config, index))
    gated = config.flag("attn_output_gate", default=True)
    mixer = _attention(config, index, gated=gated, qk_norm="head", window=None)
    return Layer(count=1, mixer=mixer, mlp=_qwen_mlp(config, index))


def _llama4(config: Config, index: int) -> Layer:
    """Chunks on all but every fourth layer, which has no positions; mixtures on every n-th, with one shared expert."""
    step = config.whole("interleave_moe_layer_step")
    no_rope = (index + 1) % config.whole("no_rope_layer_interval") == 0
    chunk = config.count("attention_chunk_size")
    mixer = _attention(
        config, index, window=None if no_rope or not chunk else chunk, chunked=bool(chunk) and not no_rope
    )
    if (index + 1) % step:
        return Layer(count=1, mixer=mixer, mlp=Mlp(intermediate_size=config.whole("intermediate_size_mlp")))
    experts = Experts(
        num_experts=config.whole("num_local_experts"),
        experts_per_token=config.whole("num_experts_per_tok"),
        intermediate_size=config.whole("intermediate_size"),
        shared_intermediate_size=config.whole("intermediate_size"),
    )
    return Layer(count=1, mixer=mixer, mlp=experts)


def _deepseek(config: Config, index: int) -> Layer:
    """Latent attention; mixtures but for the first layers (DeepSeek-V2, V3, R1, Kimi-K2)."""
    mixer = LatentAttention(
        num_heads=config.whole("num_attention_heads"),
        q_lora_rank=config.count("q_lora_rank") or None,
        kv_lora_rank=config.whole("kv_lora_rank"),
        qk_nope_head_dim=config.whole("qk_nope_head_dim"),
        qk_rope_head_dim=config.whole("qk_rope_head_dim"),
        v_head_dim=config.whole("v_head_dim"),
    )
    return Layer(count=1, mixer=mixer, mlp=_deepseek_mlp(config, index))


def _deepseek_mlp(config: Config, index: int) -> Ffn:
    if index < config.count("first_k_dense_replace") or not config.count("n_routed_experts"):
        return _mlp(config)
    inter = config.whole("moe_intermediate_size")
    return Experts(
        num_experts=config.whole("n_routed_experts"),
        experts_per_token=config.whole("num_experts_per_tok"),
        intermediate_size=inter,
        shared_intermediate_size=inter * config.count("n_shared_experts"),
        # The correction of the choice (auxiliary-loss-free balancing) came with V3.
        router_bias=config.data.get("topk_method") == "noaux_tc" or config.data.get("model_type") == "glm4_moe",
        router_fp32=config.data.get("model_type") == "glm4_moe",
    )


def _nemotron_h(config: Config, index: int) -> Layer:
    """One kind of thing each: M a state space, * attention, - an MLP, E a mixture; all with squared ReLU, not gated."""
    kind = config.entry("hybrid_override_pattern", index)
    if kind == "M":
        mixer = Mamba(
            num_heads=config.whole("mamba_num_heads"),
            head_dim=config.whole("mamba_head_dim"),
            num_groups=config.whole("n_groups"),
            state_size=config.whole("ssm_state_size"),
            conv_kernel=config.whole("conv_kernel", 4),
            conv_bias=config.flag("use_conv_bias", default=True),
            state_dtype_bytes=2 if config.data.get("mamba_ssm_cache_dtype") in ("bfloat16", "float16") else 4,
        )
        return Layer(count=1, mixer=mixer, norms=1)
    if kind == "*":
        head_dim = config.whole("head_dim", config.count("attention_head_dim") or None)
        return Layer(count=1, mixer=_attention(config, index, head_dim=head_dim), norms=1)
    if kind == "-":
        mlp = Mlp(intermediate_size=config.whole("intermediate_size"), gated=False, bias=config.flag("mlp_bias"))
        return Layer(count=1, mlp=mlp, norms=1)
    if kind != "E" or config.count("moe_latent_size"):
        raise InputError(
            "'hybrid_override_pattern' is made of M, *, - and E without moe_latent_size", where=config.where
        )
    experts = Experts(
        num_experts=config.whole("n_routed_experts"),
        experts_per_token=config.whole("num_experts_per_tok"),
        intermediate_size=config.whole("moe_intermediate_size"),
        shared_intermediate_size=config.count("moe_shared_expert_intermediate_size") * config.count("n_shared_experts"),
        gated=False,
        router_bias=True,
    )
    return Layer(count=1, mlp=experts, norms=1)


FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": partial(_dense, qkv_bias=False),
    "Mistral3ForConditionalGeneration": partial(_dense, qkv_bias=False),
    "Qwen2ForCausalLM": partial(_dense, qkv_bias=True),
    "Qwen3ForCausalLM": partial(_dense, qk_norm="head"),
    "GraniteForCausalLM": _llama,
    "Phi3ForCausalLM": partial(_dense, qkv_bias=False),
    "Gemma2ForCausalLM": partial(_dense, norms=4),
    "Gemma3ForCausalLM": partial(_dense, norms=4, qk_norm="head"),
    "Gemma3ForConditionalGeneration": partial(_dense, norms=4, qk_norm="head"),
    "MixtralForCausalLM": _mixtral,
    "MiniMaxM2ForCausalLM": _minimax_m2,
    "GptOssForCausalLM": _gpt_oss,
    "Qwen2MoeForCausalLM": partial(_qwen_moe, qkv_bias=True),
    "Qwen3MoeForCausalLM": partial(_qwen_moe, qk_norm="head"),
    "Qwen3NextForCausalLM": _qwen3_next,
    "Qwen3_5ForConditionalGeneration": _qwen3_next,
    "Qwen3_5MoeForConditionalGeneration": _qwen3_next,
    "Llama4ForConditionalGeneration": _llama4,
    "DeepseekV2ForCausalLM": _deepseek,
    "DeepseekV3ForCausalLM": _deepseek,
    "Glm4MoeForCausalLM": _glm4_moe,
    "NemotronHForCausalLM": _nemotron_h,
}


def read_architecture(data: Mapping[str, Any], where: str, overrides: Mapping[str, Any] | None = None) -> Architecture:
    """``overrides``: fields to replace, as with vLLM's ``--hf-overrides``.

    Raises :class:`InputError` for an architecture or a field that is not modelled, with what to give instead.
    """
    name = str((data.get("architectures") or ["(no architecture)"])[0])
    family = FAMILIES.get(name)
    if family is None:
        allowed = ", ".join(known.removesuffix("ForCausalLM") for known in FAMILIES)
        raise InputError(f"{name} is not modelled; give the config.json of one of: {allowed}", where=where)
    config = Config(data, where, overrides)
    try:
        every = [family(config, index) for index in range(config.whole("num_hidden_layers"))]
    except ValidationError as error:
        raise InputError(error.errors()[0]["msg"].removeprefix("Value error, "), where=where) from None
    kinds = list(dict.fromkeys(every))
    return Architecture(
        architecture=name,
        hidden_size=config.whole("hidden_size"),
        vocab_size=config.whole("vocab_size"),
        max_position_embeddings=config.max_model_len(),
        layers=tuple(kind.model_copy(update={"count": every.count(kind)}) for kind in kinds),
        order=tuple(kinds.index(layer) for layer in every) if len(kinds) > 1 else (),
        tie_word_embeddings=config.flag("tie_word_embeddings"),
        quantization=config.checkpoint_format(),
        left_out=config.left_out(),
    )
