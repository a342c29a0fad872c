"""vLLM's V1 scheduler: what each step computes, request by request.

Running requests are served first, in the order of their admission, then waiting requests are admitted from the head of
the queue. Where two modelled releases differ, ``config.rules`` says how (:mod:`twin.spec.versions`).

:class:`twin.engine.grouped.GroupedScheduler` gives the same schedule at a cost that follows what changes in a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NoReturn

from twin.base import InputError
from twin.engine.config import EngineConfig
from twin.engine.kv_cache import KVCacheManager
from twin.engine.request import FINISHED, PREEMPTED, RUNNING, WAITING, Request
from twin.engine.request_queue import QUEUES


class SchedulerOutput:
    """What one step computes.

    Attributes:
        chunks: ``(request, tokens, context)`` of each prefill chunk and each verification of drafts; context tokens have
            their KV already.
        num_decodes: requests that compute one token each.
        decode_context: sum of their sequence lengths.
        decodes: ``(request, 1, context)`` of those of them that are kept apart from the decode group.
        ending: members of the decode group whose last token this step computes.
        sampling: requests in ``chunks`` and ``decodes`` that reach the end of their sequence, and so sample.
        drafts: speculative tokens among those scheduled, by request.
        padded: requests whose drafts are only padding, never accepted.
        admitted: waiting requests that start (again).
        preempted: requests that lost their blocks in this step.
        counted: its tokens are in each request's ``num_in_flight_tokens``.
    """

    # What a step seldom has costs nothing: these are replaced, never added to.
    num_decodes = 0
    decode_context = 0
    ending: Sequence[Request] = ()
    drafts: Mapping[Request, int] = MappingProxyType({})
    padded: Sequence[Request] = ()
    admitted: Sequence[Request] = ()
    preempted: Sequence[Request] = ()
    counted = False

    def __init__(self) -> None:
        self.chunks: list[tuple[Request, int, int]] = []
        self.decodes: list[tuple[Request, int, int]] = []
        self.sampling: list[Request] = []

    def __bool__(self) -> bool:
        """Whether it computes anything."""
        return bool(self.num_decodes or self.chunks)

    @property
    def apart(self) -> list[tuple[Request, int, int]]:
        """All that is not the decode group's."""
        return self.chunks + self.decodes


class Scheduler:
    """The scheduler of one replica.

    Attributes:
        waiting: requests without a seat, next first.
        running: requests with a seat, in the order of admission.
        blocked: the last step left a request without seat or KV blocks.
        free_blocks: free KV blocks while the last step ran, before requests that finished with it gave theirs back.
        num_preemptions: so far.
    """

    def __init__(self, config: EngineConfig) -> None:
        rules, speculation = config.rules, config.speculation
        self.config = config
        self.kv = KVCacheManager(
            config.num_gpu_blocks,
            config.block_size,
            enable_prefix_caching=config.enable_prefix_caching,
            unhashed_first=rules.unhashed_blocks_first,
            drop_last_hit=speculation is not None and speculation.method == "eagle",
        )
        self.waiting = QUEUES[config.scheduling_policy]()
        self.running: dict[Request, None] = {}
        self.blocked = False
        self.free_blocks = self.kv.free
        self.num_preemptions = 0
        self._rules = rules
        self._async = config.async_scheduling
        self._counts_flight = config.batch_queue_size > 1
        self._running_served = self._prefill_served = False
        self._step = 0
        self._order = 0
        self._seats = config.max_num_active_seqs or config.max_num_seqs
        self._watermark_blocks = int(config.watermark * config.num_gpu_blocks)
        self._num_spec_tokens = speculation.num_speculative_tokens if speculation else 0
        self._lookahead = speculation.lookahead_tokens if speculation else 0
        self._admission_lookahead = self._lookahead if rules.lookahead_at_admission else 0
        slots = speculation.draft_slots if speculation else 0
        self._draft_slots = slots if rules.draft_slots_per_step else 0
        self._step_budget = config.max_num_batched_tokens
        if slots and not rules.draft_slots_per_step:
            # vLLM takes a limit of 0 for no limit.
            self._step_budget = self._step_budget - slots * config.max_num_seqs or self._step_budget
        self._most_tokens = min(config.max_model_len, self.kv.usable * config.block_size)
        self._budget = 0  # of the step being scheduled
        self._threshold = 0

    def add_request(self, request: Request) -> None:
        """Queue a request. Raises :class:`InputError` when it could never run."""
        if request.total_tokens > self._most_tokens:
            self._refuse(request)
        self.waiting.add(request)

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

    def abort(self, request: Request) -> None:
        """Drop an unfinished request. What it has in flight is computed for nothing; its blocks are free at once."""
        if request.status == RUNNING:
            self.kv.release(request, request.hashed_tokens)
            del self.running[request]
        else:
            self.waiting.remove(request)
        request.status = FINISHED

    def schedule(self) -> SchedulerOutput:
        """Decide one step and allocate its blocks. Its tokens count as computed from here on."""
        output = SchedulerOutput()
        if self._counts_flight:
            output.counted = True
        self._open_step()
        self._run(output)
        if output.preempted:
            self.blocked = True
        elif self.waiting:
            self._admit(output)
        else:
            self.blocked = False
        self.free_blocks = self.kv.free
        return output

    def update_from_output(self, output: SchedulerOutput) -> tuple[list[Request], list[Request]]:
        """The step's output is known: returns (requests that sampled apart from the group, requests that finished)."""
        stale = self._drain(output) if output.counted else ()
        sampled: list[Request] = []
        done: list[Request] = []
        for request in output.ending:
            if request.status != FINISHED:
                request.num_tokens = request.total_tokens
                request.hashed_tokens = request.num_computed_tokens
                done.append(request)
        for request in output.sampling:
            if request.status != FINISHED:
                sampled.append(request)
                if request.end_step < 0 and self._deliver(output, request, stale=request in stale):
                    done.append(request)
        if done:
            self._finish(done)
        return sampled, done

    def _open_step(self) -> None:
        """Budget and long-prefill threshold of the coming step."""
        self._step += 1
        self._budget = self._step_budget
        threshold = self.config.long_prefill_token_threshold
        if threshold:
            config = self.config
            present = len(self.running) + len(self.waiting)
            if config.long_prefill_token_threshold_adaptive:
                threshold = max(threshold, config.max_num_batched_tokens // max(present, 1))
            if present <= 1 and self._rules.threshold_spares_a_lone_request:
                threshold = 0
            self._threshold = threshold

    def _num_new_tokens(self, request: Request, budget: int) -> int:
        """Tokens that a running request gets; 0 when there is nothing to compute for it now."""
        computed, placeholders = request.num_computed_tokens, request.num_output_placeholders
        if placeholders and computed + 2 - placeholders >= request.total_tokens:
            return 0  # its last token is in flight
        tokens = request.num_tokens + request.num_spec_tokens + placeholders - computed
        if 0 < self._threshold < tokens:
            tokens = self._threshold
        return min(tokens, budget, self.config.max_model_len - computed - 1)

    def _run(self, output: SchedulerOutput) -> None:
        """Serve the running requests in order, preempting when blocks run short."""
        kv, slots = self.kv, self._draft_slots
        queue = list(self.running)
        granted: dict[Request, int] = {}
        drafts: dict[Request, int] = {}
        preempted: list[Request] = []
        position = 0
        while position < len(queue) and self._budget > slots:
            request = queue[position]
            tokens = 0
            if self._step >= request.next_decode_step:
                tokens = self._num_new_tokens(request, self._budget - slots)
            if tokens:
                needed = self._blocks_to_grow(request, tokens)
                while needed > kv.free:
                    victim = self._victim(queue)
                    at = queue.index(victim)
                    del queue[at]
                    served = granted.pop(victim, 0)
                    if served:
                        self._budget += served + slots
                        drafts.pop(victim, None)
                    if at < position and (served or self._rules.victim_shifts_the_walk):
                        position -= 1
                    self._preempt(victim)
                    preempted.append(victim)
                    if victim is request:
                        break
                if request.status == PREEMPTED:
                    break
                self._grow(request, tokens, needed)
                granted[request] = tokens
                self._budget -= tokens + slots
                if request.num_spec_tokens:
                    drafts[request] = self._take_drafts(request, tokens)
            position += 1
        output.preempted = preempted
        output.drafts = {request: count for request, count in drafts.items() if count}
        self._running_served = bool(granted)
        self._prefill_served = any(request.is_prefill_chunk for request in granted)
        for request, tokens in granted.items():
            self._serve(output, request, tokens)

    def _victim(self, queue: list[Request]) -> Request:
        if self.config.scheduling_policy == "fcfs":
            return queue[-1]
        # No two requests reach an API server at the very same time; those of one instant of a trace come in its order.
        return max(queue, key=lambda request: (request.priority, request.arrival_s, request.index))

    def _preempt(self, request: Request) -> None:
        """Recompute later: all blocks are freed, and what is in flight is stale."""
        self.kv.name_blocks(request, request.hashed_tokens)
        self.kv.release(request, request.hashed_tokens)
        del self.running[request]
        request.status = PREEMPTED
        request.num_computed_tokens = 0
        request.hashed_tokens = 0
        request.num_spec_tokens = 0
        if self._rules.stale_output_holds_back:
            request.num_stale_tokens = request.num_in_flight_tokens
            request.num_output_placeholders = 0
        request.preemptions += 1
        self.num_preemptions += 1
        self.waiting.prepend(request)

    def _blocks_to_grow(self, request: Request, tokens: int) -> int:
        slots = min(request.num_computed_tokens + tokens + self._lookahead, self.config.max_model_len)
        return max(self.kv.blocks_for(slots) - request.num_blocks, 0)

    def _grow(self, request: Request, tokens: int, blocks: int) -> None:
        """Give a running request the blocks for ``tokens`` more, and hash those that known tokens fill."""
        if blocks:
            self.kv.take(blocks)
            request.num_blocks += blocks
        self._hash(request, min(request.num_computed_tokens + tokens, request.num_tokens))

    def _hash(self, request: Request, tokens: int) -> None:
        if tokens > request.hashed_tokens:
            request.hashed_tokens = tokens
            if request.keys and self.kv.enable_prefix_caching:
                self.kv.store(request, tokens)

    def _take_drafts(self, request: Request, tokens: int) -> int:
        """Drafts among the tokens that a request gets."""
        drafts = tokens + request.num_computed_tokens - request.num_tokens - request.num_output_placeholders
        drafts = max(min(drafts, request.num_spec_tokens), 0)
        request.num_spec_tokens = 0
        return drafts

    def _serve(self, output: SchedulerOutput, request: Request, tokens: int) -> None:
        """Put ``tokens`` of a request into the step and count them as computed; one that reaches its end samples."""
        computed = request.num_computed_tokens
        if tokens == 1 and not request.is_prefill_chunk:
            output.decodes.append((request, 1, computed))
            output.num_decodes += 1
            output.decode_context += computed + 1
        else:
            output.chunks.append((request, tokens, computed))
        request.num_computed_tokens = computed = computed + tokens
        if self._counts_flight:
            request.num_in_flight_tokens += tokens
        if computed < request.num_tokens + request.num_output_placeholders:
            request.is_prefill_chunk = True
            return
        request.is_prefill_chunk = False
        output.sampling.append(request)
        if self._async:
            request.num_output_placeholders += 1 + output.drafts.get(request, 0)
            request.num_spec_tokens = self._num_spec_tokens
            request.next_decode_step = self._step + self.config.pipeline_parallel_size

    def _admit(self, output: SchedulerOutput) -> None:
        """Admit waiting requests while seats, tokens and blocks last."""
        self.blocked = False
        waiting, slots = self.waiting, self._draft_slots
        kv, size = self.kv, self.kv.block_size
        held_back: list[Request] = []
        admitted: list[Request] = []
        while waiting and self._budget > slots:
            if len(self.running) >= self._seats:
                self.blocked = True
                break
            request = waiting.peek()
            if request.num_stale_tokens:  # its output in flight may still add a token
                held_back.append(waiting.pop_first())
                continue
            hits = kv.find_hits(request) if request.keys else []
            cached = len(hits) * size
            tokens = self._tokens_to_admit(output, request, cached)
            if not tokens:
                break
            if not self._seat(request, hits, cached + tokens):
                self.blocked = True
                break
            waiting.pop_first()
            kv.queried_tokens += request.num_tokens
            kv.hit_tokens += cached
            known = cached + tokens
            if known > request.num_tokens:
                known = request.num_tokens
                output.padded = (*output.padded, request)
                output.drafts = {**output.drafts, request: self._num_spec_tokens}
            request.num_computed_tokens = request.hashed_tokens = cached
            if request.keys:
                self._hash(request, known)
            request.hashed_tokens = known
            if request.status == WAITING:
                request.cached_tokens = cached
            request.status = RUNNING
            request.is_prefill_chunk = True
            request.order = self._order
            self._order += 1
            self.running[request] = None
            admitted.append(request)
            self._serve(output, request, tokens)
            self._budget -= tokens + slots
        output.admitted = admitted
        for request in reversed(held_back):
            waiting.prepend(request)

    def _seat(self, request: Request, hits: list[int], tokens: int) -> bool:
        """Give the head of the queue the blocks of its first ``tokens``, if those it must find free are there."""
        kv = self.kv
        blocks = -(-min(tokens + self._admission_lookahead, self.config.max_model_len) // kv.block_size)
        if self._blocks_to_admit(request, hits, blocks) > kv.free:
            return False
        if hits:
            kv.touch(request, hits)
        kv.take(blocks - len(hits))
        request.num_blocks = blocks
        return True

    def _tokens_to_admit(self, output: SchedulerOutput, request: Request, cached: int) -> int:
        """Tokens that the head of the queue gets; 0 when it must wait for a step with more budget."""
        budget = self._budget - self._draft_slots
        tokens = request.num_tokens - cached
        if tokens == 1 and self._num_spec_tokens and self._pads(output, cached):
            tokens += self._num_spec_tokens
            if tokens > budget:
                return 0
        if 0 < self._threshold < tokens:
            tokens = self._threshold
        if tokens <= budget:
            return tokens
        return budget if self.config.enable_chunked_prefill else 0

    def _pads(self, output: SchedulerOutput, cached: int) -> bool:
        """Whether a newcomer that misses one token takes the shape of a speculative step, so that all decodes have it."""
        if not self._rules.pads_new_decodes or cached + self._num_spec_tokens + 2 > self.config.max_model_len:
            return False
        return not self._prefill_served and (cached > 0 or self._running_served)

    def _blocks_to_admit(self, request: Request, hits: list[int], blocks: int) -> int:
        """Free blocks that must be there for a waiting request that holds ``blocks`` at first: its whole sequence's."""
        kv = self.kv
        if self.config.scheduler_reserve_full_isl:
            blocks = max(blocks, -(-request.num_tokens // kv.block_size))
        if self.running:
            blocks += self._watermark_blocks
        return blocks - len(hits) + kv.idle_among(hits) if hits else blocks

    def _drain(self, output: SchedulerOutput) -> set[Request]:
        """Take the step's tokens out of flight; the requests that were preempted since."""
        stale: set[Request] = set()
        for request, tokens, _ in output.apart:
            request.num_in_flight_tokens -= tokens
            if request.num_stale_tokens:
                stale.add(request)
                request.num_stale_tokens -= tokens
        return stale

    def _deliver(self, output: SchedulerOutput, request: Request, *, stale: bool) -> bool:
        """Append the sampled tokens, take back what rejected drafts had counted; whether the request is complete.

        Stale output still yields its tokens, but its counters were reset when the request was preempted.
        """
        drafts = output.drafts.get(request, 0)
        accepted = 0
        if drafts:
            if request not in output.padded:
                accepted = min(_at(request.accepted, request.num_tokens - request.input_tokens), drafts)
            if not stale:
                rejected = drafts - accepted
                if request.num_computed_tokens:
                    request.num_computed_tokens -= rejected
                if request.num_output_placeholders:
                    request.num_output_placeholders -= rejected
        tokens = min(1 + accepted, request.total_tokens - request.num_tokens)
        request.num_tokens += tokens
        if self._async:
            if not stale:
                request.num_output_placeholders -= tokens
            if request.status == RUNNING:
                self._hash(request, request.num_computed_tokens - request.num_output_placeholders)
        elif self._num_spec_tokens and not request.is_prefill_chunk:
            request.num_spec_tokens = self._offered(request)
        return request.num_tokens == request.total_tokens

    def _offered(self, request: Request) -> int:
        """Drafts for the next step: what n-gram finds in the text so far, or all that a drafting model may write."""
        speculation = self.config.speculation
        if speculation is not None and speculation.method == "ngram":
            return min(_at(request.drafts, request.num_tokens - request.input_tokens), self._num_spec_tokens)
        return self._num_spec_tokens

    def _finish(self, done: list[Request]) -> None:
        """Free the blocks of complete requests, in running order."""
        if len(done) > 1:
            done.sort(key=_running_order)
        for request in done:
            if request.status == RUNNING:
                self.kv.release(request, request.hashed_tokens)
                del self.running[request]
            else:  # preempted while its last token was in flight
                self.waiting.remove(request)
            request.status = FINISHED


def _at(values: Sequence[int], position: int) -> int:
    return values[position % len(values)] if values else 0


def _running_order(request: Request) -> int:
    return request.order
