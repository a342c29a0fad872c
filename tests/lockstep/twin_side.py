"""twin's engine on one case of the comparison, every step written out request by request.

The engine is the one that ``twin plan`` runs: :class:`twin.engine.core.EngineCore` with its decode groups and its leaps,
on a clock on which every step takes one second. Only the scheduler is wrapped, to write down what it decides.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from twin.engine.config import EngineConfig, Speculation
from twin.engine.core import EngineCore
from twin.engine.grouped import GroupedScheduler
from twin.engine.request import Request
from twin.engine.scheduler import Scheduler, SchedulerOutput
from twin.spec.kv_groups import KvGroup

Step = dict[str, Any]
Case = dict[str, Any]


class UnitCost:
    """Every step takes a second."""

    def decode_segment(self, num_decodes: int, context: int) -> tuple[float, float, float]:
        return 1.0, 0.0, 1e18

    def step_s(self, chunks: Sequence[tuple[Request, int, int]], num_decodes: int, context: int) -> float:
        return 1.0


class Recorder:
    """Stands before a scheduler and writes down each of its steps, those of a leap too."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.steps: list[Step] = []
        self._leaping = True
        self._record_of: dict[int, Step] = {}
        self._outputs: list[SchedulerOutput] = []  # kept alive, so that ids stay unique
        plain = scheduler.schedule, scheduler.update_from_output
        self._schedule, self._update = plain
        scheduler.schedule = self.schedule  # type: ignore[method-assign]
        scheduler.update_from_output = self.update_from_output  # type: ignore[method-assign]
        if isinstance(scheduler, GroupedScheduler):
            self._leap = scheduler.leap
            scheduler.leap = self.leap  # type: ignore[method-assign]

    def schedule(self) -> SchedulerOutput:
        scheduler = self.scheduler
        members = [request.index for request in scheduler.running if request.end_step >= 0]
        self._leaping = False
        output = self._schedule()
        self._leaping = True
        if not output and not output.preempted:
            return output
        group = members if output.num_decodes > len(output.decodes) else []
        scheduled = dict.fromkeys(group, 1)
        scheduled |= {request.index: 1 for request, _, _ in output.decodes}
        scheduled |= {request.index: tokens for request, tokens, _ in output.chunks}
        assert len(scheduled) == output.num_decodes + len(output.chunks)
        hits = {request: context for request, _, context in output.chunks}
        step = self._write(output, scheduled)
        for request in output.admitted:
            step["resumed" if request.preemptions else "new"][request.index] = hits[request]
        step["preempted"] = [request.index for request in output.preempted]
        step["drafts"] = {request.index: drafts for request, drafts in output.drafts.items()}
        return output

    def leap(self, steps: int) -> SchedulerOutput:
        """All members compute a token in each of ``steps`` steps; blocks are taken as the group counts them."""
        scheduler = self.scheduler
        assert isinstance(scheduler, GroupedScheduler)
        if not self._leaping:  # a step of decodes alone is a leap of one
            return self._leap(steps)
        free = scheduler.kv.free
        everyone = dict.fromkeys((request.index for request in scheduler.running if request.end_step >= 0), 1)
        for step in range(1, steps):
            self._write(None, everyone)["free"] = free - scheduler.decodes.blocks_needed(step)
        output = self._leap(steps)
        self._write(output, everyone)
        return output

    def update_from_output(self, output: SchedulerOutput) -> tuple[list[Request], list[Request]]:
        sampled, done = self._update(output)
        if done:
            self._record_of[id(output)]["finished"] = sorted(request.index for request in done)
        return sampled, done

    def _write(self, output: SchedulerOutput | None, scheduled: dict[int, int]) -> Step:
        step: Step = {
            "scheduled": scheduled,
            "new": {},
            "resumed": {},
            "preempted": [],
            "drafts": {},
            "free": self.scheduler.kv.free,
            "running": [request.index for request in self.scheduler.running],
            "waiting": [request.index for request in self.scheduler.waiting],
            "finished": [],
        }
        self.steps.append(step)
        if output is not None:
            self._outputs.append(output)
            self._record_of[id(output)] = step
        return step


def engine_config(case: Case) -> EngineConfig:
    """The configuration of a case as the engine takes it."""
    config = dict(case["config"])
    config["scheduling_policy"] = config.pop("policy")
    speculative = config.pop("speculative")
    groups = config.pop("kv_groups", None)
    if groups:
        config["kv_groups"] = tuple(KvGroup(**group) for group in groups)
    return EngineConfig(
        **config, speculation=Speculation(**speculative) if speculative else None, vllm_version=case["version"]
    )


def requests_of(case: Case) -> list[Request]:
    """The requests of a case. The API server cuts ``max_tokens`` to what ``max_model_len`` leaves."""
    limit = case["config"]["max_model_len"]
    return [
        Request(
            index,
            float(index),
            row["input_tokens"],
            min(row["output_tokens"], limit - row["input_tokens"]),
            tuple(row["keys"]),
            priority=row["priority"],
            drafts=row["drafts"],
            accepted=row["accepted"],
        )
        for index, row in enumerate(case["requests"])
    ]


def run(case: Case, *, leaps: bool = True, core: EngineCore | None = None) -> list[Step]:
    """Steps of ``case`` in the shape that the oracle writes."""
    core = core or EngineCore(engine_config(case), UnitCost(), leaps=leaps)
    recorder = Recorder(core.scheduler)
    drive(case, core)
    assert core.scheduler.kv.free == core.scheduler.kv.usable, "blocks lost"
    return recorder.steps


def drive(case: Case, core: EngineCore) -> None:
    """Run ``case`` to its end. What is due at clock ``c`` comes while the step before ends, as an event at ``c - 1/2``."""
    requests = requests_of(case)
    events = [(row["arrival"], 0, index) for index, row in enumerate(case["requests"])]
    events += [(row["abort"], 1, index) for index, row in enumerate(case["requests"]) if row["abort"] is not None]
    events.sort()
    arrived: set[int] = set()
    position, clock = 0, 0
    while True:
        while position < len(events) and events[position][0] <= clock:
            _, abort, index = events[position]
            position += 1
            if not abort:
                arrived.add(index)
                core.scheduler.add_request(requests[index])
            elif index in arrived and requests[index].status != 3:
                core.scheduler.abort(requests[index])
        end = core.begin(float(clock))
        if end is None:
            if position == len(events):
                return
            clock = max(clock, events[position][0])
            continue
        if position < len(events):
            end = core.cut(max(events[position][0] - 0.5, clock + 0.5))
        core.end()
        clock = round(end)


def time_engine(case: Case, *, leaps: bool = True) -> float:
    """Seconds that the engine takes for ``case``, nothing written down."""
    core = EngineCore(engine_config(case), UnitCost(), leaps=leaps)
    start = time.perf_counter()
    drive(case, core)
    return time.perf_counter() - start
