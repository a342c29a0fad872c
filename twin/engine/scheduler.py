"""vLLM's V1 scheduler (rules 1 to 6 of its 0.32 release), at a cost that follows what changes in a step.

Running requests are served first, in the order of their admission, then waiting requests are admitted from the head of
the queue. Decodes are held as a group (:mod:`twin.engine.decode_group`), so the usual step touches only the requests that
prefill. When tokens or blocks run short the order of the whole running list decides, and :meth:`Scheduler.schedule` walks
it request by request as vLLM does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from twin.base import InputError
from twin.engine.decode_group import DecodeGroup
from twin.engine.kv_cache import KVCacheManager
from twin.engine.request import Request


@dataclass(frozen=True)
class EngineConfig:
    """What a user sets on a vLLM engine, under vLLM's names; sizes in tokens and blocks."""

    num_gpu_blocks: int
    max_num_seqs: int = 1024
    max_num_batched_tokens: int = 8192
    max_model_len: int = 131072
    block_size: int = 16
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    watermark: float = 0.0
    scheduler_reserve_full_isl: bool = True


class SchedulerOutput:
    """What one step computes.

    Attributes:
        chunks: ``(request, tokens, context)`` of each prefill chunk; context tokens have their KV already.
        num_decodes: requests that compute one token each.
        decode_context: sum of their sequence lengths.
        held: running decodes that got no token.
        preempted: requests that lost their blocks in this step.
    """

    __slots__ = ("chunks", "decode_context", "held", "num_decodes", "preempted")

    def __init__(self, num_decodes: int, decode_context: int) -> None:
        self.chunks: list[tuple[Request, int, int]] = []
        self.num_decodes = num_decodes
        self.decode_context = decode_context
        self.held: Sequence[Request] = ()
        self.preempted: Sequence[Request] = ()


class Scheduler:
    """The scheduler of one replica.

    Attributes:
        blocked: the last step left a request without seat or KV blocks.
        free_blocks: free KV blocks while the last step ran, before requests that finished with it gave theirs back.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.kv = KVCacheManager(
            config.num_gpu_blocks, config.block_size, enable_prefix_caching=config.enable_prefix_caching
        )
        self.waiting: deque[Request] = deque()
        self.running: dict[Request, None] = {}
        self.prefills: list[Request] = []
        self.decodes = DecodeGroup(config.block_size)
        self.blocked = False
        self.free_blocks = self.kv.free
        self.num_preemptions = 0
        self._order = 0
        self._watermark_blocks = int(config.watermark * config.num_gpu_blocks)
        self._threshold = config.long_prefill_token_threshold
        self._most_tokens = min(config.max_model_len, self.kv.usable * config.block_size)

    def add_request(self, request: Request) -> None:
        """Queue a request. Raises :class:`InputError` when it could never run."""
        if request.input_tokens + request.output_tokens > self._most_tokens:
            self._refuse(request)
        self.waiting.append(request)

    def _refuse(self, request: Request) -> NoReturn:
        if request.total_tokens > self.config.max_model_len:
            raise InputError(
                f"request {request.index} needs {request.total_tokens} tokens of context, more than max_model_len"
                f" {self.config.max_model_len}"
            )
        raise InputError(
            f"request {request.index} needs {self.kv.blocks_for(request.total_tokens)} KV blocks, more than the"
            f" {self.kv.usable} that the engine has"
        )

    def leap_steps(self) -> int:
        """How many coming steps are sure to be decodes alone and the same as the next, up to the first that ends one."""
        group = self.decodes
        if self.prefills or not group.n or group.n > self.config.max_num_batched_tokens:
            return 0
        free = self.kv.free
        if self.waiting and not (self.blocked and self._head_is_blocked()):
            return 0
        steps = group.steps_to_first_end()
        if (steps // self.config.block_size + 1) * group.n > free and group.blocks_needed(steps) > free:
            steps = group.steps_within(free)
        return steps

    def take_leap(self, steps: int) -> list[Request]:
        """Do ``steps`` decode steps; returns the requests that finish with the last."""
        group = self.decodes
        needed = group.blocks_needed(steps)
        if needed:
            self.kv.take(needed)
        self.free_blocks = self.kv.free
        done = group.advance(steps)
        if len(done) > 1:
            done.sort(key=_running_order)
        for request in done:
            self._finish(request)
        return done

    def schedule(self) -> SchedulerOutput:
        """Decide one step and allocate its blocks."""
        output = self._run_all()
        if output is None:
            output = self._run_in_order()
        if not output.preempted:
            self._admit(output)
        else:
            self.blocked = True
        self.free_blocks = self.kv.free
        return output

    def update_from_output(self, output: SchedulerOutput) -> tuple[list[Request], list[Request]]:
        """The step is done: returns (requests that sampled a token after prefill, requests that finished)."""
        group = self.decodes
        done: list[Request] = []
        if output.num_decodes or output.held:
            for request in output.held:
                group.leave(request)
            done = group.advance(1)
            for request in output.held:
                group.join(request)
        sampled: list[Request] = []
        for request, _, _ in output.chunks:
            if request.num_computed_tokens == request.num_tokens:
                request.num_tokens += 1
                sampled.append(request)
                self.prefills.remove(request)
                if request.num_tokens == request.input_tokens + request.output_tokens:
                    done.append(request)
                else:
                    group.join(request)
        if len(done) > 1:
            done.sort(key=_running_order)
        for request in done:
            self._finish(request)
        return sampled, done

    def _finish(self, request: Request) -> None:
        self.kv.release(request, request.num_tokens - 1)
        del self.running[request]

    def _head_is_blocked(self) -> bool:
        """No seat, no token or no blocks for the first waiting request, as long as nothing but decodes runs."""
        if len(self.running) >= self.config.max_num_seqs:
            return True
        budget = self.config.max_num_batched_tokens - self.decodes.n
        request = self.waiting[0]
        hits = self.kv.find_hits(request) if request.keys else []
        chunk = self._chunk(request.num_tokens - len(hits) * self.config.block_size, budget)
        if chunk == 0:
            return True
        free = self.kv.free
        if not self.kv.idle_among(hits):  # otherwise a decode may take the very block that the head would hit
            free -= self.decodes.blocks_needed_now()
        return self._blocks_to_admit(request, hits, chunk) > free

    def _chunk(self, remaining: int, budget: int) -> int:
        """Tokens that a prefill gets; 0 when it must wait for a step with more budget."""
        if 0 < self._threshold < remaining and len(self.running) + len(self.waiting) > 1:
            remaining = self._threshold
        if remaining <= budget:
            return remaining
        return budget if self.config.enable_chunked_prefill else 0

    def _blocks_to_admit(self, request: Request, hits: list[int], chunk: int) -> int:
        """Free blocks that must be there for a waiting request (rule 3)."""
        kv = self.kv
        tokens = request.num_tokens if self.config.scheduler_reserve_full_isl else len(hits) * kv.block_size + chunk
        reserve = self._watermark_blocks if self.running else 0
        blocks = -(-tokens // kv.block_size) + reserve
        return blocks - len(hits) + kv.idle_among(hits) if hits else blocks

    def _run_all(self) -> SchedulerOutput | None:
        """Serve every running request in full, or None when tokens or blocks are too short for that."""
        group, kv = self.decodes, self.kv
        budget = self.config.max_num_batched_tokens - group.n
        needed_now = blocks = group.blocks_needed_now()
        grants: list[tuple[Request, int]] = []
        for request in self.prefills:
            chunk = self._chunk(request.num_tokens - request.num_computed_tokens, budget)
            if chunk >= budget and request is not next(reversed(self.running)):
                return None
            grants.append((request, chunk))
            budget -= chunk
            blocks += kv.blocks_for(request.num_computed_tokens + chunk) - request.num_blocks
        if budget < 0 or blocks > kv.free:
            return None
        output = SchedulerOutput(group.n, group.context)
        if needed_now:
            kv.take(needed_now)
        for request, chunk in grants:
            if chunk:
                self._grant(output, request, chunk)
        return output

    def _run_in_order(self) -> SchedulerOutput:
        """Walk the running list as vLLM does: budget in order, preempting from the end when blocks run short (rule 4)."""
        group, kv = self.decodes, self.kv
        budget = self.config.max_num_batched_tokens
        output = SchedulerOutput(0, 0)
        preempted: list[Request] = []
        held: list[Request] = []
        queue = list(self.running)
        position = 0
        while position < len(queue):
            request = queue[position]
            decoding = request.end_step >= 0
            if decoding:
                chunk = 1 if budget else 0
                needed = chunk if group.computed_tokens(request) % kv.block_size == 0 else 0
            else:
                chunk = self._chunk(request.num_tokens - request.num_computed_tokens, budget)
                needed = max(kv.blocks_for(request.num_computed_tokens + chunk) - request.num_blocks, 0)
            while needed > kv.free:
                victim = queue.pop()
                self._preempt(victim)
                preempted.append(victim)
                if victim is request:
                    break
            if preempted and preempted[-1] is request:
                break
            position += 1
            budget -= chunk
            if decoding and chunk:
                kv.take(needed)
                output.num_decodes += 1
                output.decode_context += group.computed_tokens(request) + 1
            elif decoding:
                held.append(request)
            elif chunk:
                self._grant(output, request, chunk)
        output.held = held
        output.preempted = preempted
        return output

    def _preempt(self, request: Request) -> None:
        if request.end_step >= 0:
            self.decodes.leave(request)
        else:
            self.prefills.remove(request)
        self.kv.name_blocks(request, request.num_computed_tokens)
        self.kv.release(request, request.num_computed_tokens)
        del self.running[request]
        request.num_computed_tokens = 0
        request.preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(request)

    def _grant(self, output: SchedulerOutput, request: Request, chunk: int) -> None:
        """Allocate the blocks of a prefill chunk; its tokens count as computed from here on (rule 6)."""
        kv = self.kv
        context = request.num_computed_tokens
        computed = context + chunk
        blocks = -(-computed // kv.block_size)
        kv.take(blocks - request.num_blocks)
        request.num_blocks = blocks
        request.num_computed_tokens = computed
        if request.keys and kv.enable_prefix_caching:
            kv.store(request, computed)
        output.chunks.append((request, chunk, context))

    def _admit(self, output: SchedulerOutput) -> None:
        """Admit waiting requests while seats, tokens and blocks last (rules 2 and 3)."""
        self.blocked = False
        waiting, kv = self.waiting, self.kv
        if not waiting:
            return
        seats = self.config.max_num_seqs - len(self.running)
        budget = self.config.max_num_batched_tokens - output.num_decodes
        for _, tokens, _ in output.chunks:
            budget -= tokens
        while waiting and budget > 0:
            if seats <= 0:
                self.blocked = True
                return
            request = waiting[0]
            hits = kv.find_hits(request) if request.keys else []
            cached = len(hits) * kv.block_size
            chunk = self._chunk(request.num_tokens - cached, budget)
            if chunk == 0:
                return
            if self._blocks_to_admit(request, hits, chunk) > kv.free:
                self.blocked = True
                return
            waiting.popleft()
            if hits:
                kv.touch(request, hits)
            kv.queried_tokens += request.num_tokens
            kv.hit_tokens += cached
            if not request.preemptions:
                request.cached_tokens = cached
            request.num_computed_tokens = cached
            request.order = self._order
            self._order += 1
            self.running[request] = None
            self.prefills.append(request)
            seats -= 1
            budget -= chunk
            self._grant(output, request, chunk)


def _running_order(request: Request) -> int:
    return request.order
