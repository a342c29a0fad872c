"""The engine against a plain re-implementation of the rules, step by step: the same tokens for the same requests."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Job, ReferenceScheduler, Step

from twin.engine.config import EngineConfig
from twin.engine.grouped import GroupedScheduler as Scheduler
from twin.engine.request import Request

Drawn = tuple[int, int, tuple[int, ...]]
"""Prompt tokens, output tokens, keys of the prompt's first blocks."""


@dataclass
class Totals:
    steps: int = 0
    leaps: int = 0
    tokens: int = 0
    preemptions: int = 0
    evictions: int = 0
    hits: int = 0


def draw_requests(rng: random.Random, size: int) -> list[Drawn]:
    """Prompts of two families begin alike; some come with all their keys, some with the shared ones, some with none."""
    longest, most = rng.choice([(90, 60), (20, 120), (200, 20), (40, 150)])
    sharing = rng.random() < 0.7
    named = rng.choice(["all", "shared", "none"])
    requests = []
    for row in range(rng.randint(1, 45)):
        prompt = min(rng.choice([1, rng.randint(1, 20), rng.randint(1, longest), size * rng.randint(1, 6)]), 200)
        full = prompt // size
        stem = min(rng.choice([0, rng.randint(0, 12), full]), full) if sharing else 0
        keys = [10_000 * rng.randint(1, 2) + k for k in range(stem)]
        keys = [keys[0] + k for k in range(stem)] if keys else []
        own = [1_000_000 * (row + 1) + k for k in range(stem, full)]
        requests.append(
            (
                prompt,
                rng.choice([1, 2, rng.randint(1, most)]),
                {"all": (*keys, *own), "shared": tuple(keys), "none": ()}[named],
            )
        )
    return requests


def draw_config(rng: random.Random, size: int, requests: list[Drawn]) -> EngineConfig:
    seqs = rng.choice([1, rng.randint(1, 8), rng.randint(1, 40)])
    chunked = rng.random() < 0.85
    budget = max(seqs, rng.choice([rng.randint(1, 80), seqs, seqs + 1, rng.randint(80, 1000)]))
    most = max(-(-(prompt + output) // size) for prompt, output, _ in requests)
    return EngineConfig(
        num_gpu_blocks=1 + most + rng.choice([0, 1, 3, 10, 40, 200]),
        max_num_seqs=seqs,
        max_num_batched_tokens=budget if chunked else rng.choice([350, 1000]),
        max_model_len=350,
        block_size=size,
        enable_prefix_caching=rng.random() < 0.75,
        enable_chunked_prefill=chunked,
        long_prefill_token_threshold=rng.choice([0, 0, 1, 5, 25, 100]),
        watermark=rng.choice([0.0, 0.0, 0.05, 0.3]),
        scheduler_reserve_full_isl=rng.random() < 0.6,
    )


class Pair:
    """Engine and reference side by side on one workload; ``arrivals`` are numbers of steps."""

    def __init__(self, config: EngineConfig, requests: list[Drawn], arrivals: list[int]) -> None:
        self.config, self.requests, self.arrivals = config, requests, arrivals
        self.engine, self.reference = Scheduler(config), ReferenceScheduler(config)
        self.rng, self.totals = random.Random(0), Totals()
        self.number = self.sent = 0

    @classmethod
    def draw(cls, rng: random.Random, totals: Totals) -> Pair:
        size = rng.choice([1, 2, 3, 4, 8, 16, 32])
        requests = draw_requests(rng, size)
        spread = rng.choice([0, 20, 200])
        arrivals = sorted(rng.randint(0, spread) for _ in requests)
        pair = cls(draw_config(rng, size, requests), requests, arrivals)
        pair.rng, pair.totals = rng, totals
        return pair

    def run(self, *, leaps: bool = False) -> None:
        while self.sent < len(self.requests) or self.reference.waiting or self.reference.running:
            self._arrive()
            steps = self.engine.leap_steps() if leaps else 0
            if steps:
                self._leap(steps)
            else:
                self._step()
            assert [request.index for request in self.engine.running] == [job.index for job in self.reference.running]
            assert [request.index for request in self.engine.waiting] == [job.index for job in self.reference.waiting]
            assert self.engine.kv.free == len(self.reference.free)
            assert self.number < 50_000, f"does not end: {self.config}"
        assert self.engine.kv.free == self.engine.kv.usable

    def _arrive(self) -> None:
        while self.sent < len(self.requests) and self.arrivals[self.sent] <= self.number:
            prompt, output, keys = self.requests[self.sent]
            self.engine.add_request(Request(self.sent, 0.0, prompt, output, keys))
            self.reference.waiting.append(Job(self.sent, prompt, output, keys))
            self.sent += 1

    def _theirs(self) -> Step:
        step = self.reference.step()
        self.number += 1
        totals = self.totals
        totals.steps += 1
        totals.tokens += sum(step.scheduled.values())
        totals.preemptions += len(step.preempted)
        totals.evictions += step.evictions
        totals.hits += step.hits > 0
        step.evictions = 0  # the engine counts only the blocks that something could still hit
        return step

    def _step(self) -> None:
        """One step of the engine, its decode group expanded to requests."""
        engine, kv = self.engine, self.engine.kv
        hits = kv.hit_tokens
        members = {
            request: engine.decodes.computed_tokens(request) + 1 for request in engine.running if request.end_step >= 0
        }
        output = engine.schedule()
        if output.num_decodes == len(output.decodes):  # the group, if there was one, had to dissolve
            scheduled = {request.index: 1 for request, _, _ in output.decodes}
        else:
            assert (len(members), sum(members.values())) == (output.num_decodes, output.decode_context)
            scheduled = {request.index: 1 for request in members}
        scheduled |= {request.index: tokens for request, tokens, _ in output.chunks}
        _, finished = engine.update_from_output(output)
        ours = Step(
            scheduled=scheduled,
            preempted=[request.index for request in output.preempted],
            finished=[request.index for request in finished],
            free=engine.free_blocks,
            hits=kv.hit_tokens - hits,
        )
        theirs = self._theirs()
        assert ours == theirs, f"step {self.number}, {self.config}\n  engine    {ours}\n  reference {theirs}"

    def _leap(self, steps: int) -> None:
        """A leap, whole or cut short as by an arrival, stands for that many equal steps of the reference."""
        if self.sent < len(self.requests):
            steps = min(steps, self.arrivals[self.sent] - self.number)
        steps = self.rng.choice([1, steps, self.rng.randint(1, steps)])
        everyone = {request.index: 1 for request in self.engine.running}
        _, done = self.engine.update_from_output(self.engine.leap(steps))
        finished = [request.index for request in done]
        for _ in range(steps - 1):
            step = self._theirs()
            assert (step.scheduled, step.preempted, step.finished) == (everyone, [], []), (
                f"{steps} steps, {self.config}"
            )
        last = Step(scheduled=everyone, finished=finished, free=self.engine.free_blocks)
        assert self._theirs() == last, f"{steps} steps, {self.config}"
        self.totals.leaps += 1


@pytest.mark.parametrize("leaps", [False, True], ids=["steps", "leaps"])
def test_every_step_schedules_the_same(leaps: bool) -> None:
    totals = Totals()
    for seed in range(150):
        Pair.draw(random.Random(seed), totals).run(leaps=leaps)
    assert totals.steps > 20_000
    assert totals.tokens > 2 * totals.steps, "steps that batch"
    assert min(totals.preemptions, totals.evictions, totals.hits) > 200, "the rules under pressure were reached"
    assert not leaps or totals.leaps > 1_000


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans())
def test_hypothesis_finds_no_other_step(rng: random.Random, leaps: bool) -> None:
    """The same on workloads that Hypothesis chooses, and shrinks should one differ."""
    Pair.draw(rng, Totals()).run(leaps=leaps)


def test_serving_all_at_once_is_the_walk() -> None:
    """The short cut for the usual step and the walk through the running list decide the same."""
    totals = Totals()
    for seed in range(1000, 1050):
        pair = Pair.draw(random.Random(seed), totals)
        pair.engine._run = pair.engine._walk  # type: ignore[method-assign]
        pair.run()
    assert totals.steps > 10_000


def test_a_leap_ends_where_eviction_moves_the_heads_hit() -> None:
    """Two requests of one step hold a copy each of the same block. The idle copy is the next to be evicted, and the
    waiting request, that would have to take it, finds the one in use instead and fits a block sooner."""
    config = EngineConfig(num_gpu_blocks=8, max_num_batched_tokens=100, max_num_seqs=8, block_size=1)
    shared = 1
    requests: list[Drawn] = [
        (1, 1, (shared,)),
        (1, 3, (shared,)),
        (3, 2, (11, 12, 13)),
        (5, 1, (shared, 21, 22, 23, 24)),
    ]
    pair = Pair(config, requests, [0, 0, 0, 1])
    pair.run(leaps=True)
    assert pair.totals.hits


def test_a_leap_ends_where_eviction_of_the_heads_hit_lets_it_in() -> None:
    """A preempted request, admitted by chunks, need not take back the idle block that a decode has evicted."""
    config = EngineConfig(
        num_gpu_blocks=12, max_num_seqs=5, max_num_batched_tokens=5, block_size=1, scheduler_reserve_full_isl=False
    )
    lengths = [*[(1, 1)] * 14, (1, 4), (1, 5), (1, 1), (1, 7), (4, 1)]
    pair = Pair(config, [(prompt, output, ()) for prompt, output in lengths], [0] * len(lengths))
    pair.run(leaps=True)
    assert pair.totals.preemptions == 2


def test_requests_that_end_with_the_same_leap_finish_in_running_order() -> None:
    """Preempted while nothing decoded, and back with the same last step: its old place in the queue of ends is void."""
    config = EngineConfig(
        num_gpu_blocks=12,
        max_num_seqs=4,
        max_num_batched_tokens=100,
        block_size=1,
        enable_prefix_caching=False,
        long_prefill_token_threshold=1,
    )
    requests: list[Drawn] = [(1, 6, ()), (1, 6, ()), (2, 2, ()), (1, 5, ()), (1, 5, ())]
    pair = Pair(config, requests, [2, 5, 5, 5, 5])
    pair.rng = random.Random(248998)  # the lengths of its leaps
    pair.run(leaps=True)
    assert pair.totals.preemptions
