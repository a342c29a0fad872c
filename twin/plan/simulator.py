"""Simulations of a screen's rows, each done once per fidelity, on as many processes as there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from twin.engine.config import EngineConfig
from twin.plan.evaluate import Deployment, Outcome, evaluate
from twin.plan.screen import Screen
from twin.plan.workload import BUSIEST_S, Workload
from twin.spec.kv_groups import KvGroup
from twin.spec.slo import Bound
from twin.spec.versions import MODELLED_VLLM, VersionName
from twin.traffic.trace import Trace

if TYPE_CHECKING:
    from concurrent.futures import Executor

Progress = Callable[[str, int, int], None]

SLICE_REQUESTS = 4000
SEARCH_REQUESTS = 420_000
"""Requests that the search may simulate in all: a bound in work, not in time, so that runs repeat."""

PIPELINE_WORK = 12
"""Work of a request on pipeline stages, in requests on one: no leaps there (measured: 0.96 s against 0.08 s)."""

HYBRID_WORK = 4
"""The same with several KV groups (measured: 0.59 s against 0.145 s for 5,000 requests)."""

LEAST_EVALUATIONS, MOST_EVALUATIONS = 64, 170
WHOLE_REQUESTS = 320_000
HASH_WORK = 0.5
"""Work of one prefix hash (32 KV blocks to look up, keep and evict), in requests without any; measured roughly."""

LEAST_WHOLE, MOST_WHOLE = 5, 16


def silent(stage: str, done: int, total: int) -> None:
    """The progress of nobody watching."""


@dataclass
class Simulator:
    """Turns rows of a screen into outcomes, each simulated once per fidelity."""

    screen: Screen
    load: Workload
    bounds: tuple[Bound, ...]
    headroom: float
    progress: Progress = silent
    vllm_version: VersionName = MODELLED_VLLM
    sliced: dict[int, Outcome] = field(default_factory=dict)
    whole: dict[int, Outcome] = field(default_factory=dict)
    _pool: Executor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        staged = any(kind.layout.pipeline_parallel_size > 1 for kind in self.screen.kinds)
        hybrid = any(kind.memory is not None and len(kind.memory.kv_groups) > 1 for kind in self.screen.kinds)
        work = PIPELINE_WORK if staged else HYBRID_WORK if hybrid else 1
        self.slice = busiest_slice(self.load, SLICE_REQUESTS // work)
        hashes = sum(map(len, self.load.trace.prefix_hashes or ())) / len(self.load.trace)
        weight = work * (1 + HASH_WORK * hashes)
        evaluations = SEARCH_REQUESTS // (weight * len(self.slice))
        whole = WHOLE_REQUESTS // (weight * len(self.load.trace))
        self.max_evaluations = int(np.clip(evaluations, LEAST_EVALUATIONS, MOST_EVALUATIONS))
        self.max_whole = int(np.clip(whole, LEAST_WHOLE, MOST_WHOLE))

    def deployment(self, row: int) -> Deployment:
        screen = self.screen
        kind = screen.kinds[int(screen.kind[row])]
        candidate = screen.candidate(row)
        blocks = int(kind.num_gpu_blocks[screen.seqs[row], screen.tokens[row]])
        config = EngineConfig(
            num_gpu_blocks=blocks,
            max_num_seqs=candidate.max_num_seqs,
            max_num_batched_tokens=candidate.max_num_batched_tokens,
            max_model_len=self.load.max_model_len,
            async_scheduling=True,
            pipeline_parallel_size=candidate.pipeline_parallel_size,
            block_size=kind.block_size,
            kv_groups=kind.memory.kv_groups if kind.memory else (KvGroup(),),
            vllm_version=self.vllm_version,
        )
        return Deployment(candidate, config, kind.step, float(screen.usd_per_hour[row]), float(screen.utilisation[row]))

    def on_slice(self, row: int) -> Outcome:
        """The busiest minutes alone, from an empty fleet."""
        return self.many([row])[0]

    def on_whole(self, row: int) -> Outcome:
        """The whole trace and, in it, its busiest five minutes."""
        return self.many([row], whole=True)[0]

    def many(self, rows: Sequence[int], *, whole: bool = False) -> list[Outcome]:
        """Outcomes of ``rows``, in their order; those not simulated yet on as many processes as there are."""
        cache, total = (self.whole, self.max_whole) if whole else (self.sliced, self.max_evaluations)
        missing = [row for row in dict.fromkeys(rows) if row not in cache]
        outcomes = (self.run(row, whole) for row in missing)
        if self._pool is not None and len(missing) > 1:
            parts = self._pool.map(_in_worker, missing, [whole] * len(missing))
            outcomes = (Outcome(self.deployment(row), *part) for row, part in zip(missing, parts, strict=True))
        for row, outcome in zip(missing, outcomes, strict=True):
            cache[row] = outcome
            self.progress("whole trace" if whole else "searching", len(cache), total)
        return [cache[row] for row in rows]

    def run(self, row: int, whole: bool) -> Outcome:
        """One simulation."""
        trace, span = (self.load.trace, self.load.busiest_span_s) if whole else (self.slice, None)
        deployment = self.deployment(row)
        return evaluate(deployment, trace, self.bounds, headroom=self.headroom, busiest_span_s=span, full=whole)

    @contextmanager
    def workers(self, jobs: int) -> Iterator[None]:
        """Simulate on ``jobs`` processes while inside. The results are the same for any number."""
        if jobs <= 1:
            yield
            return
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        alone = replace(self, progress=silent, sliced={}, whole={})
        context = get_context("spawn")  # a fork would copy the thread that draws the progress bar
        with ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(alone,)) as pool:
            self._pool = pool
            try:
                yield
            finally:
                self._pool = None
                pool.shutdown(cancel_futures=True)


_worker: list[Simulator] = []


def _start_worker(simulator: Simulator) -> None:
    _worker[:] = [simulator]


def _in_worker(row: int, whole: bool) -> tuple[Any, ...]:
    """The fields of an outcome but its deployment: the tables of a step model are dear to send and known anyway."""
    outcome = _worker[0].run(row, whole)
    return tuple(getattr(outcome, item.name) for item in fields(outcome) if item.name != "deployment")


def busiest_slice(load: Workload, requests: int = SLICE_REQUESTS) -> Trace:
    """The busiest five minutes; of busy traffic as many seconds of them as hold so many requests."""
    if len(load.busiest) <= requests:
        return load.busiest
    return load.busiest.busiest_window(min(BUSIEST_S, requests / load.peak_rate_per_s))
