"""The KV cache that the installed vLLM would set up, on questions that arrive as JSON lines; runs inside vLLM's environment.

The model is vLLM's own, built from the ``config.json`` on the meta device (no weights), and its layers say what they cache;
grouping, alignment and the number of blocks are vLLM's functions too. In: ``config``, ``tp``, ``block_size``,
``kv_cache_dtype``, ``available_bytes``. Out: ``block_size``, ``groups`` and ``num_blocks``.

What stands for a GPU where the CPU platform would decide otherwise: it makes recurrent states fp32 on some processors, and a
rank among ``tp`` is told so without there being others.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}

import torch
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel, parallel_state
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.platforms import current_platform
from vllm.platforms.interface import Platform
from vllm.v1.core.kv_cache_utils import get_kv_cache_configs
from vllm.v1.kv_cache_interface import get_kv_cache_spec_kind, get_kv_cache_spec_sliding_window

MAX_MODEL_LEN = 2048


def decoder(config: dict[str, Any]) -> dict[str, Any]:
    """What is cached, without what a CPU cannot load and which has no part in it: weight formats, vision towers, mixtures
    that are not gated (Nemotron's, for which MLPs stand). Qwen3.5 needs an image library; Qwen3-Next has the same layers.
    """
    text = config.get("text_config")
    if text:
        name = (
            config["architectures"][0].replace("ForConditionalGeneration", "ForCausalLM").replace("Mistral3", "Mistral")
        )
        config = {**text, "architectures": [name], "tie_word_embeddings": False}
    if "Qwen3_5" in config["architectures"][0]:
        config = {**config, "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next"}
    if "hybrid_override_pattern" in config:
        config = {**config, "hybrid_override_pattern": config["hybrid_override_pattern"].replace("E", "-")}
    return {key: value for key, value in config.items() if key != "quantization_config"}


def vllm_config(question: dict[str, Any], folder: str) -> VllmConfig:
    config = decoder(question["config"])
    (Path(folder) / "config.json").write_text(json.dumps(config))
    found = VllmConfig(
        model_config=ModelConfig(
            model=folder, tokenizer=folder, skip_tokenizer_init=True, dtype="bfloat16", max_model_len=MAX_MODEL_LEN
        ),
        cache_config=CacheConfig(block_size=question["block_size"], cache_dtype=question["kv_cache_dtype"]),
        scheduler_config=SchedulerConfig(
            max_num_seqs=64, max_num_batched_tokens=2048, max_model_len=MAX_MODEL_LEN, is_encoder_decoder=False
        ),
        device_config=DeviceConfig(device="cpu"),
    )
    found.cache_config.block_size = question["block_size"]  # latent attention on a CPU takes 16 alone
    text = found.model_config.hf_text_config
    if all(kind == "sliding_attention" for kind in getattr(text, "layer_types", None) or ["sliding_attention"]):
        found.cache_config.sliding_window = found.model_config.get_sliding_window()  # as EngineArgs does
    found.cache_config.kv_cache_layout = "LBNHC"  # of one layer after another, as FlashAttention has it
    if "mamba_ssm_dtype" in config:  # Qwen3.5's own rule
        found.cache_config.mamba_ssm_cache_dtype = config["mamba_ssm_dtype"]
    found.parallel_config.tensor_parallel_size = question["tp"]
    return found


def answer(question: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = vllm_config(question, folder)
        parallel_state.get_tp_group().world_size = question["tp"]
        with set_current_vllm_config(config):
            with torch.device("meta"):
                initialize_model(config)
            Platform.update_block_size_for_backend.__func__(type(current_platform), config)
            layers = config.compilation_config.static_forward_context
            specs = {
                name: spec
                for name, layer in layers.items()
                if hasattr(layer, "get_kv_cache_spec") and (spec := layer.get_kv_cache_spec(config)) is not None
            }
        cache = get_kv_cache_configs(config, [specs], [question["available_bytes"]])[0]
    groups = [
        {
            "kind": get_kv_cache_spec_kind(group.kv_cache_spec).value,
            "window": get_kv_cache_spec_sliding_window(group.kv_cache_spec),
            "layers": len(group.layer_names),
            "block_size": group.kv_cache_spec.block_size,
        }
        for group in cache.kv_cache_groups
    ]
    return {"block_size": config.cache_config.block_size, "groups": groups, "num_blocks": cache.num_blocks}


def main() -> None:
    torch.cpu._is_avx512_bf16_supported = lambda: False
    with tempfile.NamedTemporaryFile() as rendezvous:
        init_distributed_environment(1, 0, f"file://{rendezvous.name}", 0, backend="gloo")
        with set_current_vllm_config(VllmConfig(device_config=DeviceConfig(device="cpu"))):
            initialize_model_parallel(1, 1)
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
