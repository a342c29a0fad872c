"""vLLM's V1 scheduling rules once more, slowly: every running request walked each step, every block an object.

Written from the rules alone, sharing no code with ``twin.engine``, so that a test can hold one against the other.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Block:
    key: Hashable | None = None
    users: int = 0


@dataclass(eq=False)
class Job:
    index: int
    prompt: int
    output: int
    shared: tuple[int, ...]
    tokens: int = 0
    computed: int = 0
    blocks: list[Block] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokens = self.prompt

    def key(self, position: int) -> Hashable:
        return self.shared[position] if position < len(self.shared) else (self.index, position)


@dataclass
class Step:
    scheduled: dict[int, int] = field(default_factory=dict)
    preempted: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    free: int = 0
    hits: int = 0
    evictions: int = 0


class ReferenceScheduler:
    """Takes the same settings as ``EngineConfig``, by keyword."""

    def __init__(self, config: object) -> None:
        self.c = config
        self.free = [Block() for _ in range(config.num_gpu_blocks - 1)]  # type: ignore[attr-defined]
        self.cached: dict[Hashable, list[Block]] = {}
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self.step_now = Step()

    def step(self) -> Step:
        self.step_now = now = Step()
        budget = self._serve_running(self.c.max_num_batched_tokens)
        if not now.preempted:
            self._admit(budget)
        now.free = len(self.free)  # as a step leaves it, before its output is known
        self._finish()
        return now

    def _wanted(self, job: Job) -> int:
        wanted = job.tokens - job.computed
        if 0 < self.c.long_prefill_token_threshold < wanted and len(self.running) + len(self.waiting) > 1:
            wanted = self.c.long_prefill_token_threshold
        return wanted

    def _serve_running(self, budget: int) -> int:
        position = 0
        while position < len(self.running) and budget > 0:
            job = self.running[position]
            count = min(self._wanted(job), budget)
            while not self._allocate(job, count):
                victim = self.running.pop()
                self._release(victim)
                victim.computed = 0
                self.waiting.insert(0, victim)
                self.step_now.preempted.append(victim.index)
                if victim is job:
                    return budget
            self._schedule(job, count)
            budget -= count
            position += 1
        return budget

    def _admit(self, budget: int) -> None:
        size = self.c.block_size
        while self.waiting and budget > 0 and len(self.running) < self.c.max_num_seqs:
            job = self.waiting[0]
            hits = self._hits(job)
            job.computed = len(hits) * size
            count = self._wanted(job)
            if count > budget and not self.c.enable_chunked_prefill:
                job.computed = 0
                return
            count = min(count, budget)
            tokens = job.tokens if self.c.scheduler_reserve_full_isl else job.computed + count
            needed = -(-tokens // size) - len(hits) + sum(block.users == 0 for block in hits)
            reserve = int(self.c.watermark * self.c.num_gpu_blocks) if self.running else 0
            if needed + reserve > len(self.free):
                job.computed = 0
                return
            self.waiting.pop(0)
            for block in hits:
                if block.users == 0:
                    self.free.remove(block)
                block.users += 1
            job.blocks = list(hits)
            self.step_now.hits += job.computed
            assert self._allocate(job, count)
            self.running.append(job)
            self._schedule(job, count)
            budget -= count

    def _hits(self, job: Job) -> list[Block]:
        hits: list[Block] = []
        if self.c.enable_prefix_caching:
            for position in range((job.tokens - 1) // self.c.block_size):
                copies = self.cached.get(job.key(position))
                if not copies:
                    break
                hits.append(copies[0])
        return hits

    def _allocate(self, job: Job, count: int) -> bool:
        needed = -(-(job.computed + count) // self.c.block_size) - len(job.blocks)
        if needed > len(self.free):
            return False
        for _ in range(needed):
            block = self.free.pop(0)
            if block.key is not None:
                copies = self.cached[block.key]
                copies.remove(block)
                if not copies:
                    del self.cached[block.key]
                block.key = None
                self.step_now.evictions += 1
            block.users = 1
            job.blocks.append(block)
        return True

    def _schedule(self, job: Job, count: int) -> None:
        if count:
            self.step_now.scheduled[job.index] = count
        job.computed += count
        if self.c.enable_prefix_caching:
            for position in range(job.computed // self.c.block_size):
                block = job.blocks[position]
                if block.key is None:
                    block.key = job.key(position)
                    self.cached.setdefault(block.key, []).append(block)

    def _finish(self) -> None:
        for job in list(self.running):
            if job.index in self.step_now.scheduled and job.computed == job.tokens:
                job.tokens += 1
                if job.tokens == job.prompt + job.output:
                    self.running.remove(job)
                    self._release(job)
                    self.step_now.finished.append(job.index)

    def _release(self, job: Job) -> None:
        for block in reversed(job.blocks):
            block.users -= 1
            if block.users == 0:
                if block.key is None:
                    self.free.insert(0, block)
                else:
                    self.free.append(block)
        job.blocks = []
