"""The batching that people come from: whole batches that run to their end, as before vLLM's continuous batching.

*Static*: a batch starts when ``max_num_seqs`` requests are queued (or no more will come). *Dynamic* (Triton, TorchServe):
also when the oldest has waited ``max_batch_wait_s``. Either way prompts are padded to the longest, every sequence keeps its
slot until the longest output is done, nobody joins, and the answers come when the batch is done.

:class:`BatchCore` is driven like :class:`twin.engine.core.EngineCore` and priced by the same kernels: what differs is the
batching alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import inf

from twin.engine.config import EngineConfig
from twin.engine.core import EngineCore, StepCost
from twin.engine.request import FINISHED, RUNNING, Request
from twin.engine.scheduler import Scheduler

IDLE, WAITS, PREFILLS, DECODES = range(4)


class BatchCore:
    """One replica that runs whole batches. Attributes as of :class:`twin.engine.core.EngineCore`.

    ``log`` counts padded slots: ``prefill_tokens`` of a batch are its size times its longest prompt, ``num_decodes`` its
    size as long as it runs; without a KV cache ``prefill_tokens`` of its decodes are what it recomputes. A wait for more
    requests is no step, and stands in no row.
    """

    def __init__(self, config: EngineConfig, cost: StepCost) -> None:
        self.scheduler = Scheduler(config)
        self.cost = cost
        self.log = array("d")
        self.finished = array("d")
        self.gaps: list[float] = []
        self._config = config
        self._wait_s = config.max_batch_wait_s if config.batching == "dynamic" else inf
        self._phase = IDLE
        self._batch: list[Request] = []
        self._drains = False
        self._start = self._end = 0.0
        self._first_step = 0.0
        self._waiting = 0

    @property
    def num_unfinished(self) -> int:
        """Requests waiting or running."""
        return len(self.scheduler.waiting) + len(self.scheduler.running)

    def drain(self) -> bool:
        """No more requests will come before these have run: whether there are any, and so a batch to start."""
        self._drains = bool(self.scheduler.waiting)
        return self._drains

    def begin(self, now: float, horizon: float = inf) -> float | None:
        """Start to wait, to prefill or to decode at ``now``; when that ends, or None when there is nothing to do."""
        self._start = now
        if self._phase == IDLE:
            waiting = self.scheduler.waiting
            if not waiting:
                return None
            deadline: float = waiting.peek().queued_s + self._wait_s
            if len(waiting) < self._config.max_num_seqs and now < deadline and not self._drains:
                if deadline == inf:
                    return None
                self._phase = WAITS
                self._end = deadline
                return deadline
            self._take_batch()
        self._waiting = len(self.scheduler.waiting)
        size, prompt = len(self._batch), max(request.input_tokens for request in self._batch)
        if self._phase == PREFILLS:
            self._first_step = seconds = passes_s(self.cost, size, prompt, self._config.max_num_batched_tokens)
        else:
            self._first_step, seconds = decodes_s(self.cost, size, size * (prompt + 1), self._longest - 1)
        self._end = now + seconds
        return self._end

    def cut(self, now: float) -> float:
        """An arrival at ``now``: a wait ends when the batch is full. Returns the (new) end."""
        if self._phase == WAITS and len(self.scheduler.waiting) >= self._config.max_num_seqs:
            self._end = now
        return self._end

    def end(self) -> list[Request]:
        """Settle what began last; returns the requests of a batch that is done."""
        if self._phase == WAITS:
            self._phase = IDLE
            return []
        self._write_row()
        if self._phase == PREFILLS:
            for request in self._batch:
                request.first_token_s = self._end
            if self._longest > 1:
                self._phase = DECODES
                return []
        return self._finish_batch()

    @property
    def _longest(self) -> int:
        """Output tokens of the request that holds the batch up."""
        return max(request.output_tokens for request in self._batch)

    def _take_batch(self) -> None:
        """The next requests in line, as many as there are seats and memory for, each as long as the longest."""
        waiting, kv = self.scheduler.waiting, self.scheduler.kv
        batch: list[Request] = []
        prompt = output = 0
        while waiting and len(batch) < self._config.max_num_seqs:
            request = waiting.peek()
            prompt, output = max(prompt, request.input_tokens), max(output, request.output_tokens)
            if batch and (len(batch) + 1) * kv.blocks_for(prompt + output) > kv.usable:
                break
            batch.append(waiting.pop_first())
        longest = max(request.input_tokens for request in batch) + max(request.output_tokens for request in batch)
        for request in batch:
            request.status = RUNNING
            request.scheduled_s = self._start
            request.num_blocks = min(kv.blocks_for(longest), kv.free)
            kv.take(request.num_blocks)
            self.scheduler.running[request] = None
        self._batch, self._phase, self._drains = batch, PREFILLS, False

    def _finish_batch(self) -> list[Request]:
        done, self._batch, self._phase = self._batch, [], IDLE
        for request in done:
            request.status = FINISHED
            self.scheduler.kv.release(request, 0)
            del self.scheduler.running[request]
            times = (request.arrival_s, request.queued_s, request.scheduled_s, request.first_token_s, self._end)
            self.finished.extend(
                (request.index, *times, request.input_tokens, request.output_tokens, 0, 0, request.replica)
            )
        return done

    def _write_row(self) -> None:
        size, free = len(self._batch), self.scheduler.kv.free
        prompt, steps = max(request.input_tokens for request in self._batch), self._longest - 1
        work = (1, 0, size * prompt)
        if self._phase == DECODES:
            again = size * (steps * prompt + steps * (steps - 1) // 2) if self._config.recomputes else 0
            work = (steps, size, again)
        state = (size, self._waiting, free, self._first_step, self._waiting > 0, free)
        self.log.extend((self._start, self._end, *work, *state))


def engine_of(config: EngineConfig, cost: StepCost, *, leaps: bool = True) -> EngineCore | BatchCore:
    """The engine that ``config`` asks for: vLLM's, or whole batches; without a KV cache where it says so."""
    if config.recomputes:
        cost = Recomputing(cost, config.max_num_batched_tokens)
    return EngineCore(config, cost, leaps=leaps) if config.batching == "continuous" else BatchCore(config, cost)


def passes_s(cost: StepCost, size: int, length: int, max_tokens: int) -> float:
    """Seconds to compute ``size`` sequences of ``length`` tokens from nothing, in passes of at most ``max_tokens``."""
    none = Request(-1, 0.0, length, 1)
    if length > max_tokens:
        pieces = [(none, min(max_tokens, length - done), done) for done in range(0, length, max_tokens)]
        return size * sum(cost.step_s([piece], 0, 0) for piece in pieces)
    whole, rest = divmod(size, max_tokens // length)
    seconds = whole * cost.step_s([(none, length, 0)] * (max_tokens // length), 0, 0) if whole else 0.0
    return seconds + (cost.step_s([(none, length, 0)] * rest, 0, 0) if rest else 0.0)


def decodes_s(cost: StepCost, n: int, context: int, steps: int) -> tuple[float, float]:
    """Seconds of the first and of all of ``steps`` decode steps of ``n`` sequences, from ``context`` tokens in sum on."""
    first, total = -1.0, 0.0
    while steps:
        seconds, slope, limit = cost.decode_segment(n, context)
        inside = min(int((limit - context) // n) + 1, steps)
        total += inside * seconds + slope * n * (inside * (inside - 1) // 2)
        first = seconds if first < 0.0 else first
        context, steps = context + inside * n, steps - inside
    return first, total


class Recomputing:
    """Prices steps without a KV cache: a sequence that decodes is computed anew, from its first token, in every step.

    Decodes are priced at their mean length, in passes of at most ``max_tokens``; chunks of a prompt stay as they are.
    """

    def __init__(self, cost: StepCost, max_tokens: int) -> None:
        self._cost, self._max_tokens = cost, max_tokens

    def decode_segment(self, num_decodes: int, context: int) -> tuple[float, float, float]:
        """See :class:`twin.engine.core.StepCost`: every step is a segment of its own."""
        return self.step_s((), num_decodes, context), 0.0, context

    def step_s(self, chunks: Sequence[tuple[Request, int, int]], num_decodes: int, context: int) -> float:
        """See :class:`twin.engine.core.StepCost`."""
        seconds = self._cost.step_s(chunks, 0, 0) if chunks else 0.0
        if num_decodes:
            seconds += passes_s(self._cost, num_decodes, context // num_decodes, self._max_tokens)
        return seconds
