"""Traffic through a fleet of equal replicas, in simulated time."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from simpy import Environment
from simpy.events import Event, Timeout

from twin.base import InputError
from twin.cluster.replica import Replica
from twin.cluster.requests import RequestTable
from twin.cluster.router import ROUTERS
from twin.cost.step import HostCosts, StepModel
from twin.engine.config import EngineConfig
from twin.engine.core import LOG_COLUMNS, EngineCore
from twin.engine.request import Request
from twin.traffic.trace import Trace

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fleet:
    """Equal replicas behind one router."""

    config: EngineConfig
    cost: StepModel
    replicas: int = 1
    routing: str = "round_robin"
    leaps: bool = True

    @property
    def host(self) -> HostCosts:
        return self.cost.host


@dataclass(frozen=True)
class Simulated:
    """What happened. ``table``: every request, in order of arrival; ``logs``: one row per step or leap, per replica.

    A row of ``logs`` has the columns ``LOG_COLUMNS``. ``gaps`` are inter-token gaps in seconds that preemption stretched.
    """

    table: RequestTable
    logs: tuple[Floats, ...]
    gaps: Floats
    usable_blocks: int
    num_preemptions: int
    evictions: int
    hit_tokens: int
    queried_tokens: int


def requests_of(trace: Trace, host: HostCosts, block_size: int) -> Iterator[Request]:
    """The requests of ``trace`` in the order in which they are queued at an engine, once the host has prepared them.

    They are made as they are asked for, so that only those in flight take memory.
    """
    queued = trace.arrival_s + host.request_s + host.input_token_s * trace.input_tokens
    order = np.argsort(queued, kind="stable")
    keys = prefix_keys(trace, block_size)
    columns = (trace.arrival_s, trace.input_tokens, trace.output_tokens, queued)
    for start in range(0, len(order), 4096):
        rows = order[start : start + 4096]
        for index, arrival, tokens_in, tokens_out, queued_at in zip(
            rows.tolist(), *(column[rows].tolist() for column in columns), strict=True
        ):
            yield Request(index, arrival, tokens_in, tokens_out, keys[index] if keys else (), queued_at)


def prefix_keys(trace: Trace, block_size: int) -> list[tuple[int, ...]] | None:
    """Per request, a key for each full KV block of its prompt that occurs in another request too.

    A 512-token hash block is 32 blocks of 16. A block that occurs once in the whole trace can never be hit, so it needs no
    key; that saves work and changes nothing.
    """
    if trace.prefix_hashes is None:
        return None
    if trace.hash_block_tokens % block_size:
        raise InputError(
            f"hash blocks of {trace.hash_block_tokens} tokens cannot be cut into KV blocks of block_size {block_size}"
        )
    per_hash = trace.hash_block_tokens // block_size
    uses = Counter(item for hashes in trace.prefix_hashes for item in hashes)
    names = {item: number for number, item in enumerate(item for item, count in uses.items() if count > 1)}
    full_blocks = (trace.input_tokens // block_size).tolist()
    keys = []
    for hashes, full in zip(trace.prefix_hashes, full_blocks, strict=True):
        own: list[int] = []
        for item in hashes:
            number = names.get(item)
            if number is None:
                break
            own.extend(range(number * per_hash, (number + 1) * per_hash))
        keys.append(tuple(own[:full]))
    return keys


def simulate(trace: Trace, fleet: Fleet) -> Simulated:
    """Open loop: every request arrives when the trace says, whatever the fleet does."""
    upcoming = requests_of(trace, fleet.host, fleet.config.block_size)

    def drive(env: Environment, submit: Callable[[Request], None]) -> None:
        request = next(upcoming, None)

        def arrive(_: Event) -> None:
            nonlocal request
            now = env.now
            while request is not None and request.queued_s <= now:
                submit(request)
                request = next(upcoming, None)
            if request is not None:
                wait(request.queued_s - now)

        def wait(delay: float) -> None:
            Timeout(env, delay).callbacks.append(arrive)

        if request is not None:
            wait(request.queued_s)

    return _run(fleet, drive)


def simulate_closed_loop(
    input_tokens: Sequence[int], output_tokens: Sequence[int], concurrency: int, fleet: Fleet, cold_start_s: float = 0.0
) -> Simulated:
    """Closed loop: ``concurrency`` clients, each sending its next request when the last is done, all starting at 0.

    ``cold_start_s``: what the first request of each waits besides, while an engine that nothing warmed up sets itself up.
    """
    lengths = zip(input_tokens, output_tokens, strict=True)
    pending = (Request(index, 0.0, int(i), int(o)) for index, (i, o) in enumerate(lengths))
    host = fleet.host

    def drive(env: Environment, submit: Callable[[Request], None]) -> Callable[[Request], None]:
        def send(_: object = None) -> None:
            request = next(pending, None)
            if request is None:
                return
            request.arrival_s = env.now
            delay = host.request_s + host.input_token_s * request.input_tokens
            if request.index < concurrency:
                delay += cold_start_s
            request.queued_s = env.now + delay
            Timeout(env, delay).callbacks.append(lambda _: submit(request))

        for _ in range(concurrency):
            send()
        return send

    return _run(fleet, drive)


def replay(trace: Trace, fleet: Fleet, concurrency: int | None) -> Simulated:
    """A trace when it arrives, or in its order by as many clients of a closed loop."""
    if concurrency is None:
        return simulate(trace, fleet)
    return simulate_closed_loop(trace.input_tokens.tolist(), trace.output_tokens.tolist(), concurrency, fleet)


def _run(
    fleet: Fleet,
    drive: Callable[[Environment, Callable[[Request], None]], Callable[[Request], None] | None],
) -> Simulated:
    env = Environment()
    engines = [EngineCore(fleet.config, fleet.cost, leaps=fleet.leaps) for _ in range(fleet.replicas)]
    listener: list[Callable[[Request], None]] = []
    replicas = [
        Replica(env, engine, index, lambda request: listener[0](request), alone=len(engines) == 1)
        for index, engine in enumerate(engines)
    ]
    route = ROUTERS[fleet.routing](replicas)
    submit = replicas[0].submit if len(replicas) == 1 else lambda request: route().submit(request)
    on_finish = drive(env, submit)
    if on_finish is None:
        for replica in replicas:
            replica._on_finish = None
    else:
        listener.append(on_finish)
    with _no_cyclic_gc():
        env.run()
    schedulers = [engine.scheduler for engine in engines]
    return Simulated(
        table=RequestTable.of(engine.finished for engine in engines),
        logs=tuple(np.frombuffer(engine.log, dtype=np.float64).reshape(-1, len(LOG_COLUMNS)) for engine in engines),
        gaps=np.array([gap for engine in engines for gap in engine.gaps], dtype=np.float64),
        usable_blocks=schedulers[0].kv.usable,
        num_preemptions=sum(s.num_preemptions for s in schedulers),
        evictions=sum(s.kv.evictions for s in schedulers),
        hit_tokens=sum(s.kv.hit_tokens for s in schedulers),
        queried_tokens=sum(s.kv.queried_tokens for s in schedulers),
    )


@contextmanager
def _no_cyclic_gc() -> Iterator[None]:
    """A simulation makes many objects and no cycles worth collecting; looking for them costs a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
