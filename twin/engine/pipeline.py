"""One replica whose layers are spread over pipeline stages: several scheduled steps are on their way at once.

A step enters the first stage once that is free, goes from stage to stage, and its output is there when the last is done
(vLLM's ``step_with_batch_queue``; the ranks of each stage run what they are sent in order). A decode enters only when its
last token has come out at the other end, so one request alone sees the sum of all stages and as many microbatches as
stages fill them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import inf
from typing import Protocol

from twin.engine.config import EngineConfig
from twin.engine.core import EngineCore, StepCost
from twin.engine.request import Request
from twin.engine.scheduler import SchedulerOutput


class StageCost(StepCost, Protocol):
    """``step_s`` and ``decode_segment`` price the whole way through: the sum of all stages."""

    def stages_s(self, chunks: Sequence[tuple[Request, int, int]], num_decodes: int, context: int) -> Sequence[float]:
        """Seconds of a step in each stage, with the send to the next, which occupies the stage that sends."""


class PipelineCore(EngineCore):
    """:class:`EngineCore` for ``pipeline_parallel_size`` > 1. A row of ``log`` is the time between two outputs.

    ``gaps`` are all inter-token gaps here, one per token that follows another: they do not follow from ``log``, as the steps
    between two tokens of a request serve others.
    """

    def __init__(self, config: EngineConfig, cost: StageCost) -> None:
        super().__init__(config, cost, leaps=False)
        self.gaps = array("d")
        self._stages_s = cost.stages_s
        self._free_at = [0.0] * config.pipeline_parallel_size
        self._output_at: dict[SchedulerOutput, float] = {}
        self._token_at: dict[Request, float] = {}  # the last token of each request, known or on its way

    def begin(self, now: float, horizon: float = inf) -> float | None:
        """See :meth:`EngineCore.begin`; until the oldest step that is on its way comes out."""
        self._start = now
        step = self._next_step()
        if step is None:
            return None
        for scheduled in self._queue:
            if scheduled and scheduled not in self._output_at:
                self._output_at[scheduled] = self._send(scheduled, now)
        scheduler = self.scheduler
        self._waiting = len(scheduler.waiting)
        self._first_free = scheduler.free_blocks
        self._end = max(now, self._output_at.pop(step))
        self._first_step = self._end - now
        return self._end

    def _send(self, step: SchedulerOutput, now: float) -> float:
        """Pass a step that was scheduled ``now`` through the stages; when its output is there."""
        token_at, free_at = self._token_at, self._free_at
        at = max([now, *(token_at.get(request, 0.0) for request, _, _ in step.decodes)])
        for stage, seconds in enumerate(self._stages_s(step.chunks, step.num_decodes, step.decode_context)):
            at = max(at, free_at[stage]) + seconds
            free_at[stage] = at
        for request in step.sampling:
            before = token_at.get(request)
            if before is not None:
                self.gaps.append(at - before)
            token_at[request] = at
        return at

    def end(self) -> list[Request]:
        """See :meth:`EngineCore.end`."""
        self._preempted.clear()  # their gaps are known
        done = super().end()
        for request in done:
            del self._token_at[request]
        return done
