"""KV groups and blocks against vLLM's own: its models say what they cache, its functions group it and count the blocks.

Asked through vLLM's own model code (``vllm_kv/oracle.py``) except for Qwen3.5, for which the layers of Qwen3-Next stand, and
Nemotron 3 Nano, whose mixtures (which cache nothing) are replaced by MLPs.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from vllm_kv import recorder as record

from twin.base import InputError
from twin.spec.kv_groups import KvGroup, KvPool, kv_pool
from twin.spec.model import ModelSpec, load_model, model_from_config, model_names

ANSWERS: list[dict[str, Any]] = json.loads(record.ANSWERS.read_text())
KINDS = {"full_attention": "full", "mla_attention": "full", "chunked_local_attention": "chunked_local"}
ASKED_AGAIN = [("openai/gpt-oss-20b", 1, "auto"), ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", 2, "fp8")]


def _pool(model: ModelSpec, tp: int, kv_cache_dtype: str, **more: int) -> KvPool:
    return kv_pool(model, tensor_parallel_size=tp, kv_cache_dtype=kv_cache_dtype, **more)


def _same(pool: KvPool, answer: dict[str, Any]) -> None:
    mine = [group for group in pool.groups for _ in range(group.count)]
    groups = Counter((group.kind, group.window, len(layers)) for group, layers in zip(mine, pool.members, strict=True))
    theirs = Counter()
    for group in answer["groups"]:
        kind = KINDS.get(group["kind"], group["kind"])
        window = group["window"] if kind == "sliding_window" else None
        theirs[kind, window, group["layers"]] += 1
        assert group["block_size"] == pool.block_size
    assert Counter({(k, w if k == "sliding_window" else None, n): c for (k, w, n), c in groups.items()}) == theirs
    assert pool.num_blocks(record.FIXED["available_bytes"]) == answer["num_blocks"]
    assert pool.block_size == answer["block_size"]


@pytest.mark.parametrize("answer", ANSWERS, ids=[f"{a['model']}-tp{a['tp']}-{a['kv_cache_dtype']}" for a in ANSWERS])
def test_groups_and_blocks_are_vllms(answer: dict[str, Any]) -> None:
    _same(_pool(load_model(answer["model"]), answer["tp"], answer["kv_cache_dtype"], block_size=128), answer)


def test_every_shipped_model_was_asked_about() -> None:
    assert [a["model"] for a in ANSWERS if a["tp"] == 1] == model_names()


def test_vllm_still_says_so(oracle: Path) -> None:
    kept = {(a["model"], a["tp"], a["kv_cache_dtype"]): a for a in ANSWERS}
    for case, answer in zip(ASKED_AGAIN, record.ask(oracle, ASKED_AGAIN), strict=True):
        assert {key: kept[case][key] for key in answer} == answer


def test_a_dense_model_has_one_group_of_everything() -> None:
    model = load_model("Qwen3-32B")
    pool = _pool(model, 2, "fp8")
    assert pool.groups == (KvGroup(),)
    assert pool.bytes_per_block == (16 * model.kv_bytes_per_token("fp8", 2),)


def test_stages_hold_their_layers_of_every_group() -> None:
    """Gemma 3 4B: 29 layers with a window in six groups, 5 without in one; vLLM's stages are of 17 layers each."""
    model = load_model("gemma-3-4b-it")
    page = 16 * 2 * 4 * 256 * 2
    pool = kv_pool(model, pipeline_parallel_size=2)
    most = [max(sum(start <= i < start + 17 for i in layers) for layers in pool.members) for start in (0, 17)]
    assert pool.bytes_per_block == tuple(count * page for count in most)
    assert sorted(i for layers in pool.members for i in layers) == list(range(34))
    assert sum(pool.bytes_per_block) >= kv_pool(model).bytes_per_block[0]


def test_a_window_for_every_layer_is_one_group() -> None:
    """As with vLLM's ``--hf-overrides '{"sliding_window": 2048}'``."""
    model = load_model("Llama-3.1-8B", {"sliding_window": 2048})
    assert kv_pool(model).groups == (KvGroup("sliding_window", 2048),)
    assert kv_pool(model).bytes_per_block == kv_pool(load_model("Llama-3.1-8B")).bytes_per_block


def test_a_state_makes_blocks_larger() -> None:
    """A block of attention holds at least one state: 16-token steps, the smallest that do."""
    pool = kv_pool(load_model("Qwen3-Next-80B-A3B"))
    layer = 2 * 2 * 256 * 2
    state = 32 * 128 * 128 * 2 + 3 * 8192 * 2
    assert pool.block_size == 16 * -(-state // (16 * layer))
    assert pool.bytes_per_block == (12 * layer * pool.block_size,)


def test_layers_of_different_width_are_refused() -> None:
    gemma4_like = model_from_config(
        {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 512,
            "intermediate_size": 1024,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "vocab_size": 32000,
            "max_position_embeddings": 8192,
            "sliding_window": 1024,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        name="x",
    )
    narrow, wide = gemma4_like.layers
    assert narrow.mixer is not None
    other = gemma4_like.model_copy(
        update={"layers": (narrow.model_copy(update={"mixer": narrow.mixer.model_copy(update={"head_dim": 32})}), wide)}
    )
    assert len(kv_pool(gemma4_like).groups) == 2
    with pytest.raises(InputError, match="different amounts per token"):
        kv_pool(other)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ({"kind": "sliding_window"}, "needs a window"),
        ({"window": 5}, "has no window"),
        ({"kind": "chunked_local", "window": 0}, "at least one token"),
        ({"count": 0}, "at least once"),
    ],
)
def test_groups_that_cannot_be(group: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        KvGroup(**group)
