"""Simulations of a screen's rows, each done once per fidelity, wherever the executor runs them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from twin.engine.config import EngineConfig
from twin.search.evaluate import Deployment, Measured, Outcome, measure
from twin.search.executors import Executor, ExecutorName, Lost, open_executor
from twin.search.figures import NOTHING_ELSE, Wants
from twin.search.journal import Journal, trace_digest
from twin.search.screen import Screen
from twin.search.workload import BUSIEST_S, Workload
from twin.spec.kv_groups import KvGroup
from twin.spec.slo import Bound
from twin.spec.versions import MODELLED_VLLM, VersionName
from twin.traffic.trace import Trace

Fidelity = Literal["slice", "peak_hour", "whole"]
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

LEAST_WHOLE, MOST_WHOLE = 12, 16
HOUR_S = 3600.0
STAGES: dict[Fidelity, str] = {"slice": "busiest minutes", "peak_hour": "busiest hour", "whole": "whole trace"}


def silent(stage: str, done: int, total: int) -> None:
    """The progress of nobody watching."""


@dataclass
class Simulator:
    """Turns rows of a screen into outcomes, each simulated once per fidelity: the busiest minutes (``slice``), the busiest
    hour from an empty fleet (``peak_hour``), or the ``whole`` trace.

    ``journal`` keeps every simulation's figures; what it has already is not simulated again.
    """

    screen: Screen
    load: Workload
    bounds: tuple[Bound, ...]
    headroom: float
    progress: Progress = silent
    vllm_version: VersionName = MODELLED_VLLM
    journal: Journal = field(default_factory=lambda: Journal({}))
    done: dict[Fidelity, dict[int, Outcome]] = field(
        default_factory=lambda: {"slice": {}, "peak_hour": {}, "whole": {}}
    )
    lost: list[str] = field(default_factory=list)
    wants: Wants = NOTHING_ELSE
    _keys: dict[Fidelity, str] = field(default_factory=dict, init=False, repr=False)
    _executor: Executor[tuple[int, Fidelity], Measured] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        staged = any(kind.layout.pipeline_parallel_size > 1 for kind in self.screen.kinds)
        hybrid = any(kind.memory is not None and len(kind.memory.kv_groups) > 1 for kind in self.screen.kinds)
        work = PIPELINE_WORK if staged else HYBRID_WORK if hybrid else 1
        trace = self.load.trace
        self.traces: dict[Fidelity, Trace] = {
            "slice": busiest_slice(self.load, SLICE_REQUESTS // work),
            "peak_hour": trace if trace.duration_s <= HOUR_S else trace.busiest_window(HOUR_S),
            "whole": trace,
        }
        hashes = sum(map(len, trace.prefix_hashes or ())) / len(trace)
        weight = work * (1 + HASH_WORK * hashes)
        evaluations = SEARCH_REQUESTS // (weight * len(self.traces["slice"]))
        whole = WHOLE_REQUESTS // (weight * len(trace))
        self.max_evaluations = int(np.clip(evaluations, LEAST_EVALUATIONS, MOST_EVALUATIONS))
        self.max_whole = int(np.clip(whole, LEAST_WHOLE, MOST_WHOLE))

    @property
    def sliced(self) -> dict[int, Outcome]:
        return self.done["slice"]

    @property
    def whole(self) -> dict[int, Outcome]:
        return self.done["whole"]

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

    def key(self, fidelity: Fidelity) -> str:
        """Under which the journal keeps simulations: what beside the candidate decides their figures."""
        if fidelity not in self._keys:
            said = f"{trace_digest(self.traces[fidelity])} {self.load.busiest_span_s} {self.bounds} {self.wants}"
            self._keys[fidelity] = f"{fidelity}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"
        return self._keys[fidelity]

    def outcome(self, row: int, measured: Measured) -> Outcome:
        return Outcome(self.deployment(row), measured, self.bounds, self.headroom)

    def many(self, rows: Sequence[int], fidelity: Fidelity = "slice") -> list[Outcome]:
        """Outcomes of ``rows``, in their order. One whose workers kept dying keeps no promise, and is named in ``lost``."""
        cache, total = self.done[fidelity], self.max_whole if fidelity == "whole" else self.max_evaluations
        names = {row: self.screen.candidate(row).id for row in dict.fromkeys(rows) if row not in cache}
        for row, name in names.items():
            if (known := self.journal.get(self.key(fidelity), name)) is not None:
                cache[row] = self.outcome(row, known)
        missing = [row for row in names if row not in cache]

        def keep(at: int, measured: Measured) -> None:
            row = missing[at]
            cache[row] = self.outcome(row, measured)
            self.journal.put(self.key(fidelity), names[row], measured)
            self.progress(STAGES[fidelity], len(cache), total)

        if self._executor is None or len(missing) == 1:
            for at, row in enumerate(missing):
                keep(at, self.run(row, fidelity))
        elif missing:
            for row, found in zip(missing, self._executor.map([(row, fidelity) for row in missing], keep), strict=True):
                if isinstance(found, Lost):
                    cache[row] = self.outcome(row, Measured.lost(len(self.bounds)))
                    self.lost.append(names[row])
        return [cache[row] for row in rows]

    def run(self, row: int, fidelity: Fidelity) -> Measured:
        """One simulation. Of the whole trace also against its busiest five minutes, and with every metric."""
        whole = fidelity == "whole"
        span = self.load.busiest_span_s if whole else None
        deployment, trace = self.deployment(row), self.traces[fidelity]
        return measure(deployment, trace, self.bounds, busiest_span_s=span, full=whole, wants=self.wants)

    @contextmanager
    def workers(self, jobs: int, executor: ExecutorName = "local", address: str | None = None) -> Iterator[None]:
        """Simulate on ``jobs`` processes, or on a cluster, while inside. The results are the same for any number."""
        if jobs <= 1 and executor == "local":
            yield
            return
        alone = replace(self, progress=silent, journal=Journal({}), done={"slice": {}, "peak_hour": {}, "whole": {}})
        with open_executor(executor, _evaluated, alone, jobs=jobs, address=address) as self._executor:
            try:
                yield
            finally:
                self._executor = None


def _evaluated(simulator: Simulator, item: tuple[int, Fidelity]) -> Measured:
    return simulator.run(*item)


def busiest_slice(load: Workload, requests: int = SLICE_REQUESTS) -> Trace:
    """The busiest five minutes; of busy traffic as many seconds of them as hold so many requests."""
    if len(load.busiest) <= requests:
        return load.busiest
    return load.busiest.busiest_window(min(BUSIEST_S, requests / load.peak_rate_per_s))
