"""The two schedulers for models with several KV groups (:mod:`twin.engine.kv_groups`).

What differs from one full group: slots are given after what left the windows has been freed, admission counts every group,
and chunks of a prompt end where the state of a linear layer is to be saved.
"""

from __future__ import annotations

from twin.base import InputError
from twin.engine.config import EngineConfig
from twin.engine.group_decodes import GroupDecodes
from twin.engine.grouped import GroupedScheduler
from twin.engine.kv_groups import GroupedKVCacheManager
from twin.engine.request import Request
from twin.engine.scheduler import Scheduler, SchedulerOutput


class HybridScheduler(Scheduler):
    """A :class:`Scheduler` whose requests have a block table in every KV group.

    Raises:
        InputError: what this engine does not follow: states with speculation, chunked local attention with EAGLE or alone.
    """

    kv: GroupedKVCacheManager

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self._refuse_unknown(config)
        self.kv = GroupedKVCacheManager(config)
        self.free_blocks = self.kv.free
        self._most_tokens = 0  # every request is looked at
        self._splits = any(group.kind == "mamba" for group in config.kv_groups) and config.enable_prefix_caching
        self._frees_processed = config.rules.frees_processed_only

    @staticmethod
    def _refuse_unknown(config: EngineConfig) -> None:
        kinds, speculation = {group.kind for group in config.kv_groups}, config.speculation
        eagle = speculation is not None and speculation.method == "eagle"
        older, version = not config.rules.sparse_checkpoints, config.vllm_version
        refused = (
            (speculation and "mamba" in kinds, "speculative decoding of a model with linear or Mamba layers"),
            (
                eagle and "chunked_local" in kinds,
                "EAGLE for a model with chunked local attention, which vLLM lacks too,",
            ),
            (
                "chunked_local" in kinds and "full" not in kinds,
                "chunked local attention without full attention beside it",
            ),
            (
                older and "mamba" in kinds and config.enable_prefix_caching,
                f"prefix caching of linear or Mamba layers in vLLM {version}",
            ),
            (older and eagle, f"EAGLE for a model with several KV groups in vLLM {version}"),
        )
        for applies, what in refused:
            if applies:
                raise InputError(f"{what} is not simulated")

    def add_request(self, request: Request) -> None:
        """See :meth:`Scheduler.add_request`."""
        request.junction = 0
        if (
            request.total_tokens > self.config.max_model_len
            or self.kv.blocks_for(request.total_tokens) > self.kv.usable
        ):
            self._refuse(request)
        self.waiting.add(request)

    def _open_step(self) -> None:
        super()._open_step()
        self.kv.new_step()

    def _processed(self, request: Request) -> int:
        """Tokens whose blocks no step in flight reads."""
        computed = request.num_computed_tokens
        return max(computed - request.num_in_flight_tokens, 0) if self._frees_processed else computed

    def _slots(self, request: Request, tokens: int) -> int:
        return min(request.num_computed_tokens + tokens + self._lookahead, self.config.max_model_len)

    def _num_new_tokens(self, request: Request, budget: int) -> int:
        return self._split(request, request.num_computed_tokens, super()._num_new_tokens(request, budget))

    def _tokens_to_admit(self, output: SchedulerOutput, request: Request, cached: int) -> int:
        return self._split(request, cached, super()._tokens_to_admit(output, request, cached))

    def _split(self, request: Request, start: int, tokens: int) -> int:
        """End a chunk of a prompt where a state is saved: ``Scheduler._mamba_block_aligned_split``."""
        prefill_end = max(request.input_tokens, request.num_tokens - 1)
        if not self._splits or start >= prefill_end or not tokens:
            return tokens
        size, end = self.config.block_size, start + tokens
        if end < prefill_end:
            most = self._step_budget
            if self.config.long_prefill_token_threshold:
                most = min(most, self.config.long_prefill_token_threshold)
            aligned = end // size * size
            if aligned > start or size <= most:
                end = aligned
        stops = [(request.num_tokens - 1) // size * size]
        if start % size:
            stops.append((start // size + 1) * size)
        if start < request.junction < end:
            stops.append(start + (request.junction - start) // size * size)
        end = min((stop for stop in stops if start < stop < end), default=end)
        return max(end - start, 0)

    def _blocks_to_grow(self, request: Request, tokens: int) -> int:
        self.kv.slide(request, self._processed(request))
        return self.kv.growth(request, self._slots(request, tokens))

    def _grow(self, request: Request, tokens: int, blocks: int) -> None:
        self.kv.grow(request, self._slots(request, tokens))
        self._hash(request, min(request.num_computed_tokens + tokens, request.num_tokens))

    def _hash(self, request: Request, tokens: int) -> None:
        super()._hash(request, tokens)
        if self._splits and request.keys:
            self.kv.save_again(request, tokens)

    def _seat(self, request: Request, hits: list[int], tokens: int) -> bool:
        whole = min(request.num_tokens, self.config.max_model_len) if self.config.scheduler_reserve_full_isl else 0
        slots = min(tokens + self._admission_lookahead, self.config.max_model_len)
        return self.kv.seat(request, hits, slots, whole, self._watermark_blocks if self.running else 0)


class GroupedHybridScheduler(HybridScheduler, GroupedScheduler):
    """A :class:`GroupedScheduler` whose requests have a block table in every KV group.

    While what is taken was never cached, and nothing cached is freed, only numbers matter, and decodes are leapt over in
    closed form. Otherwise it matters who takes and frees first: then the members that do are walked step by step.
    """

    decodes: GroupDecodes

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self._counts_flight = config.async_scheduling
        self.decodes = GroupDecodes(self.kv, self._lag if self._frees_processed else 0)

    def _steps_with_blocks(self, steps: int) -> int:
        if self.kv.ordered and self.decodes.sharing:
            return 0
        # A waiting request that lacks blocks must not find them within the leap.
        rising = not self.waiting or len(self.running) >= self._seats
        return self.decodes.steps_that_fit(steps, self.kv.free, rising=rising)

    def _head_lacks_blocks(self, request: Request, hits: list[int], tokens: int) -> bool:
        if self.kv.idle_in(hits):  # a decode may take what the head would hit, and a shorter hit may need less
            return False
        whole = request.num_tokens if self.config.scheduler_reserve_full_isl else 0
        return self.kv.lacks(hits, tokens, whole, self._watermark_blocks if self.running else 0)

    def leap(self, steps: int) -> SchedulerOutput:
        """See :meth:`GroupedScheduler.leap`."""
        if not self._order_matters(steps):
            return super().leap(steps)
        for _ in range(steps - 1):
            self._move({})
            self.decodes.advance(1)
        self._move({})
        self.free_blocks = self.kv.free
        output = SchedulerOutput()
        output.num_decodes, output.decode_context = self.decodes.n, self.decodes.context
        output.ending = self.decodes.advance(1)
        self._in_flight = output
        return output

    def _order_matters(self, steps: int, others: int = 0) -> bool:
        """Whether members free cached blocks in the next ``steps``, or they, or ``others``, take some."""
        group, kv = self.decodes, self.kv
        if group.caching:
            return True
        return kv.ordered and group.steps_that_fit(steps, kv.front - others, rising=True) < steps

    def _move(self, grants: dict[Request, int]) -> None:
        """Free and take the blocks of one step in running order: of members that have any to, and of ``grants``."""
        kv, decodes = self.kv, self.decodes
        members = dict.fromkeys(decodes.movers(), 1)
        for request in sorted([*members, *grants], key=lambda request: request.order):
            if request in grants:
                self._blocks_to_grow(request, grants[request])
                self._grow(request, grants[request], 0)
                continue
            computed = decodes.computed_tokens(request)
            kv.settle(request, computed, decodes.in_flight)
            request.hashed_tokens = max(request.hashed_tokens, computed - self._lag)
            kv.slide(request, computed - decodes.in_flight)
            kv.grow(request, computed + 1)
            if request in decodes.caching:
                decodes.look_at(request)

    def _run(self, output: SchedulerOutput) -> None:
        group, kv = self.decodes, self.kv
        budget, blocks = self._budget - group.n, group.most_needed_now()
        grants: dict[Request, int] = {}
        last = next(reversed(self.running), None)
        for request in self.ungrouped:
            tokens = Scheduler._num_new_tokens(self, request, budget)
            if tokens >= budget and request is not last:
                budget = -1  # those behind it would get less: the order decides
                break
            tokens = self._split(request, request.num_computed_tokens, tokens)
            if tokens:
                blocks += kv.growth(request, self._slots(request, tokens))
                grants[request] = tokens
                budget -= tokens
        if budget < 0 or blocks > kv.free:
            self._walk(output)
            return
        self._budget = budget
        ordered = self._order_matters(1, blocks - group.most_needed_now())
        if ordered:
            self._move(grants)
        elif group.n:
            kv.take(group.blocks_needed_now())
        if group.n:
            output.num_decodes, output.decode_context = group.n, group.context
            output.ending = group.advance(1)
        for request, tokens in grants.items():
            if not ordered:
                self._blocks_to_grow(request, tokens)
                self._grow(request, tokens, 0)
            self._serve(output, request, tokens)


def scheduler_of(config: EngineConfig) -> Scheduler:
    """The scheduler for ``config``: by its KV groups, and whether its decodes are one token a step."""
    grouped = config.speculation is None and config.pipeline_parallel_size == 1
    if config.is_hybrid:
        return GroupedHybridScheduler(config) if grouped else HybridScheduler(config)
    return GroupedScheduler(config) if grouped else Scheduler(config)
