"""The engine against a plain re-implementation of the rules, step by step: the same tokens for the same requests."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from reference import Job, ReferenceScheduler, Step

from twin.engine.request import Request
from twin.engine.scheduler import EngineConfig, Scheduler


@dataclass
class Totals:
    steps: int = 0
    preemptions: int = 0
    evictions: int = 0
    hits: int = 0
    finished: int = 0


def one_step(scheduler: Scheduler) -> Step:
    """A step of the engine, its decode group expanded to requests."""
    kv = scheduler.kv
    hits = kv.hit_tokens
    output = scheduler.schedule()
    held = set(output.held)
    scheduled = {r.index: 1 for r in scheduler.running if r.end_step >= 0 and r not in held}
    assert len(scheduled) == output.num_decodes
    scheduled |= {request.index: tokens for request, tokens, _ in output.chunks}
    free = kv.free
    _, finished = scheduler.update_from_output(output)
    return Step(
        scheduled=scheduled,
        preempted=[request.index for request in output.preempted],
        finished=[request.index for request in finished],
        free=free,
        hits=kv.hit_tokens - hits,
    )


def draw_config(rng: random.Random, longest: int) -> EngineConfig:
    size = rng.choice([1, 2, 4, 16])
    seqs = rng.randint(1, 10)
    chunked = rng.random() < 0.85
    return EngineConfig(
        num_gpu_blocks=1 + -(-longest // size) + rng.choice([0, 1, 3, 10, 40]),
        max_num_seqs=seqs,
        max_num_batched_tokens=max(seqs, rng.randint(1, 80) if chunked else longest),
        max_model_len=longest,
        block_size=size,
        enable_prefix_caching=rng.random() < 0.7,
        enable_chunked_prefill=chunked,
        long_prefill_token_threshold=rng.choice([0, 0, 5, 25]) if chunked else 0,
        watermark=rng.choice([0.0, 0.0, 0.05]),
        scheduler_reserve_full_isl=rng.random() < 0.7,
    )


def draw_requests(rng: random.Random, size: int, count: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """(prompt, output, keys): some prompts begin with the same blocks."""
    requests = []
    for row in range(count):
        prompt = rng.choice([1, rng.randint(1, 20), rng.randint(1, 90)])
        stem = rng.randint(0, 4) * rng.randint(0, 1)
        family = rng.randint(0, 1)
        full = prompt // size
        keys = tuple(10_000 * (family + 1) + k if k < stem else 1_000_000 * (row + 1) + k for k in range(full))
        requests.append((prompt, rng.choice([1, 2, rng.randint(1, 60)]), keys))
    return requests


def run_both(seed: int, totals: Totals, forced_walk: bool = False) -> None:
    rng = random.Random(seed)
    config = draw_config(rng, longest=150)
    drawn = draw_requests(rng, config.block_size, rng.randint(1, 30))
    arrivals = sorted(rng.choice([0, rng.randint(0, 60)]) for _ in drawn)
    engine, reference = Scheduler(config), ReferenceScheduler(config)
    if forced_walk:
        engine._run_all = lambda: None  # type: ignore[method-assign]
    waiting = list(zip(range(len(drawn)), arrivals, drawn, strict=True))
    number = 0
    while waiting or reference.waiting or reference.running:
        while waiting and waiting[0][1] <= number:
            index, _, (prompt, output, keys) = waiting.pop(0)
            engine.add_request(Request(index, 0.0, prompt, output, keys))
            reference.waiting.append(Job(index, prompt, output, keys))
        theirs, ours = reference.step(), one_step(engine)
        totals.evictions += theirs.evictions
        theirs.evictions = 0
        assert ours == theirs, f"seed {seed}, step {number}, {config}\n  engine    {ours}\n  reference {theirs}"
        assert [request.index for request in engine.running] == [job.index for job in reference.running]
        assert [request.index for request in engine.waiting] == [job.index for job in reference.waiting]
        totals.steps += 1
        totals.preemptions += len(theirs.preempted)
        totals.hits += theirs.hits > 0
        totals.finished += len(theirs.finished)
        number += 1
        assert number < 50_000, f"seed {seed} does not end"


@pytest.mark.parametrize("block", range(4))
def test_every_step_schedules_the_same(block: int) -> None:
    totals = Totals()
    for seed in range(block * 150, (block + 1) * 150):
        run_both(seed, totals)
    assert totals.steps > 10_000
    assert min(totals.preemptions, totals.evictions, totals.hits) > 200, "the rules under pressure were reached"


def test_serving_all_at_once_is_the_walk() -> None:
    """The short cut for the usual step and the walk through the running list decide the same."""
    totals = Totals()
    for seed in range(1000, 1100):
        run_both(seed, totals, forced_walk=True)
    assert totals.steps > 2_500
