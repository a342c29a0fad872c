"""Random cases: an engine configuration and a workload that puts pressure on it, from a seed."""

from __future__ import annotations

import random
from typing import Any

MAX_MODEL_LEN = 420
Case = dict[str, Any]


def draw(seed: int, version: str) -> Case:
    """A case that vLLM accepts; small, so that a step is cheap, and short of blocks, seats or tokens more often than not."""
    rng = random.Random(f"{version} {seed}")
    size = rng.choice([1, 2, 3, 4, 8, 16, 16, 32, 128])
    mode = rng.random()
    speculative, stages, overlapped = None, 1, rng.random() < 0.5
    if mode < 0.2:
        method = rng.choice(["ngram", "eagle", "draft_model"])
        speculative = {"method": method, "num_speculative_tokens": rng.randint(1, 5)}
        overlapped &= method != "ngram"  # n-gram proposals on the CPU switch asynchronous scheduling off
    elif mode < 0.35:
        stages = rng.choice([2, 4])
        overlapped &= version != "0.19"
    requests = _requests(rng, size, speculative)
    config = _config(rng, version, size, requests, speculative)
    config |= {"async_scheduling": overlapped, "pipeline_parallel_size": stages, "speculative": speculative}
    config |= {"kv_groups": None} | _groups(random.Random(f"groups {version} {seed}"), version, config, requests)
    return {"version": version, "config": config, "requests": requests}


def _requests(rng: random.Random, size: int, speculative: Case | None) -> list[Case]:
    longest_prompt, longest_output = rng.choice([(90, 60), (20, 120), (250, 20), (40, 150)])
    count, spread = rng.randint(1, 45), rng.choice([0, 20, 200, 2000])
    arrivals = sorted(rng.randint(0, spread) for _ in range(count))
    content, families = rng.choice(["keys", "stems", "unique"]), rng.randint(1, 3)
    drafts = speculative["num_speculative_tokens"] if speculative else 0
    aborts, capped = rng.random() < 0.25, rng.random() < 0.1
    requests: list[Case] = []
    for index, arrival in enumerate(arrivals):
        prompt = min(rng.choice([1, rng.randint(1, 20), rng.randint(1, longest_prompt), rng.randint(1, 6) * size]), 250)
        output = rng.choice([1, 2, rng.randint(1, longest_output)])
        if capped and rng.random() < 0.3:
            prompt, output = rng.randint(MAX_MODEL_LEN - 60, MAX_MODEL_LEN - 1), 200  # runs into max_model_len
        keys = []
        if content != "unique":
            stem = min(rng.choice([0, rng.randint(0, 12), prompt // size]), prompt // size)
            family = rng.randint(1, families)
            keys = [10_000 * family + block for block in range(stem)]
        if content == "keys":
            if requests and rng.random() < 0.4:  # the next turn: an earlier prompt and its answer, and something more
                turn = rng.choice(requests)
                prompt = min(turn["input_tokens"] + turn["output_tokens"] + rng.randint(1, 40), 300)
                keys = turn["keys"][: prompt // size]
            whole = min(prompt + output, MAX_MODEL_LEN) // size
            keys = keys + [1_000_000 * (index + 1) + block for block in range(len(keys), whole)]
        requests.append(
            {
                "arrival": arrival,
                "input_tokens": prompt,
                "output_tokens": output,
                "priority": rng.choice([0, 0, 1, 2]),
                "keys": keys,
                "abort": arrival + rng.randint(0, 60) if aborts and rng.random() < 0.3 else None,
                "drafts": [rng.randint(0, drafts) for _ in range(rng.randint(1, 7))] if drafts else [],
                "accepted": [rng.randint(0, drafts) for _ in range(rng.randint(1, 7))] if drafts else [],
            }
        )
    return requests


def _config(
    rng: random.Random, version: str, size: int, requests: list[Case], speculative: Case | None
) -> dict[str, Any]:
    drafts = speculative["num_speculative_tokens"] if speculative else 0
    slots = 1 if speculative and speculative["method"] == "draft_model" else 0
    seats = rng.randint(1, 40 if rng.random() < 0.5 else 8)
    chunked = rng.random() < 0.85
    if chunked:
        budget = max(seats, rng.choice([rng.randint(1, 80), seats, seats + 1, rng.randint(80, 2000)]))
    else:
        budget = rng.choice([MAX_MODEL_LEN, 500, 2000])
    # one request must get a whole speculative step, beside what drafting takes of the budget
    budget = max(budget, 1 + drafts + slots * (1 + seats))
    longest = max(min(row["input_tokens"] + row["output_tokens"] + 2 * drafts + 1, MAX_MODEL_LEN) for row in requests)
    threshold = rng.choice([0, 0, 1, 5, 25, 100])
    if threshold <= drafts:
        threshold = 0  # would cut a padded step, which vLLM's own assertion refuses
    newer = version != "0.19"
    return {
        "num_gpu_blocks": 1 - (-longest // size) + rng.choice([0, 0, 1, 3, 3, 10, 40, 200]),
        "block_size": size,
        "max_num_seqs": seats,
        "max_num_batched_tokens": budget,
        "max_model_len": MAX_MODEL_LEN,
        "enable_prefix_caching": rng.random() < 0.75,
        "enable_chunked_prefill": chunked,
        "long_prefill_token_threshold": threshold,
        "long_prefill_token_threshold_adaptive": newer and rng.random() < 0.2,
        "watermark": rng.choice([0.0, 0.0, 0.05, 0.3]) if newer else 0.0,
        "scheduler_reserve_full_isl": rng.random() < 0.6,
        "policy": rng.choice(["fcfs", "fcfs", "priority"]),
        "max_num_active_seqs": rng.choice([None, None, None, max(1, seats - 1)]) if newer else None,
    }


def _groups(rng: random.Random, version: str, config: Case, requests: list[Case]) -> Case:
    """What a case with several KV groups has otherwise; nothing for two in three cases."""
    size, speculative = config["block_size"], config["speculative"]
    if rng.random() < 2 / 3 or (version == "0.19" and speculative and speculative["method"] == "eagle"):
        return {}
    others = ["sliding_window", "sliding_window", "sliding_window"]
    if not (speculative and speculative["method"] == "eagle"):
        others.append("chunked_local")
    if not speculative and version != "0.19":
        others.append("mamba")
    groups: list[Case] = []
    kinds = [rng.choice(others) for _ in range(rng.choice([1, 1, 1, 2]))]
    for kind in kinds + ["full"] * ("chunked_local" in kinds or rng.random() < 0.75):
        window = None
        if kind == "sliding_window":
            window = rng.choice([2, rng.randint(2, 20), rng.randint(2, 150), size, size + 1, 4 * size])
        elif kind == "chunked_local":
            window = size * rng.randint(1, 8)
        if (kind, window) not in [(group["kind"], group["window"]) for group in groups]:
            groups.append({"kind": kind, "window": window, "count": rng.choice([1, 1, 1, 2, 3])})
    rng.shuffle(groups)
    if version == "0.19" and len(groups) == 1:
        groups[0]["count"] = 1  # several groups of one kind are nothing that 0.19 takes
    chunked = config["enable_chunked_prefill"] or any(group["kind"] == "mamba" for group in groups)
    longest = max(row["input_tokens"] + row["output_tokens"] for row in requests)
    longest = min(longest + 2 * (speculative["num_speculative_tokens"] if speculative else 0) + 1, MAX_MODEL_LEN)
    needed = sum(group["count"] * _peak(group, version, config, longest) for group in groups)
    return {
        "kv_groups": groups,
        "enable_chunked_prefill": chunked,
        "num_gpu_blocks": 1 + needed + rng.choice([0, 0, 1, 3, 3, 10, 40, 200]),
    }


def _peak(group: Case, version: str, config: Case, longest: int) -> int:
    """Blocks of one group that a request must be able to have, or vLLM would wait for them for ever."""
    size = config["block_size"]
    whole = -(-longest // size)
    if group["kind"] == "mamba":
        return min(whole, 3 + config["pipeline_parallel_size"])
    if group["kind"] == "full" or version == "0.19":
        return whole
    batches = config["pipeline_parallel_size"] + config["async_scheduling"]
    return min(whole, -(-(group["window"] + batches * config["max_num_batched_tokens"]) // size) + 1)
