"""Traffic through a fleet of equal replicas, in simulated time."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from simpy import Environment
from simpy.events import Event, Timeout

from twin.base import InputError
from twin.cluster.frontend import ApiServers, Frontend, arrivals
from twin.cluster.requests import RequestTable
from twin.cluster.servers import Servers
from twin.cost.layout import HostCosts
from twin.cost.step import StepModel
from twin.engine.config import EngineConfig
from twin.engine.core import LOG_COLUMNS
from twin.engine.request import Request
from twin.traffic.trace import Trace

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fleet:
    """Equal replicas behind one router, each one ``vllm serve`` of ``data_parallel_size`` ranks.

    ``lockstep``: the ranks share experts, and so step together (:mod:`twin.cluster.data_parallel`). ``api``: the API servers,
    where their cores are few; without them no request waits for one.
    """

    config: EngineConfig
    cost: StepModel
    replicas: int = 1
    routing: str = "round_robin"
    leaps: bool = True
    data_parallel_size: int = 1
    lockstep: bool = False
    api: ApiServers | None = None

    @property
    def host(self) -> HostCosts:
        return self.cost.host


@dataclass(frozen=True)
class Simulated:
    """What happened. ``table``: every request, in order of arrival; ``logs``: one row per step or leap, per replica.

    A row of ``logs`` has the columns ``LOG_COLUMNS``. ``gaps`` are inter-token gaps in seconds that preemption stretched.
    With pipeline stages they are all of them, and ``gap_logs`` none: there they do not follow from ``logs``.
    ``recomputed_tokens``: beside those in ``logs``, of sequences that decode without a KV cache.
    """

    table: RequestTable
    logs: tuple[Floats, ...]
    gaps: Floats
    usable_blocks: int
    num_preemptions: int
    evictions: int
    hit_tokens: int
    queried_tokens: int
    recomputed_tokens: float = 0.0
    pipelined: bool = False

    @property
    def gap_logs(self) -> tuple[Floats, ...]:
        """The logs that inter-token gaps follow from, beside ``gaps``."""
        return () if self.pipelined else self.logs


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
    fleet = _without_idle_cache(fleet, trace)
    if fleet.api is not None:
        return _run(fleet, arrivals(requests_of(trace, HostCosts(), fleet.config.block_size), Frontend(fleet.api)))
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


def _without_idle_cache(fleet: Fleet, trace: Trace) -> Fleet:
    """Without a prefix cache that nothing can hit: several KV groups with one cost three times the time, and a trace without
    hashes shares no prefixes. A preempted request computes what it could have found of its own again.
    """
    if trace.prefix_hashes is not None or not fleet.config.is_hybrid:
        return fleet
    return replace(fleet, config=replace(fleet.config, enable_prefix_caching=False))


def simulate_closed_loop(
    input_tokens: Sequence[int],
    output_tokens: Sequence[int],
    concurrency: int,
    fleet: Fleet,
    cold_start_s: float = 0.0,
    client_s: float = 0.0,
) -> Simulated:
    """Closed loop: ``concurrency`` clients, each sending its next request when the last is done, all starting at 0.

    ``cold_start_s``: what the first request of each waits besides, while an engine that nothing warmed up sets itself up;
    ``client_s``: what the client adds to every request before the server has it.
    """
    lengths = zip(input_tokens, output_tokens, strict=True)
    pending = (Request(index, 0.0, int(i), int(o)) for index, (i, o) in enumerate(lengths))
    host = fleet.host
    frontend = None if fleet.api is None else Frontend(fleet.api)

    def drive(env: Environment, submit: Callable[[Request], None]) -> Callable[[Request], None]:
        def send(done: Request | None = None) -> None:
            if done is not None and frontend is not None:
                frontend.deliver(done, env.now)
            request = next(pending, None)
            if request is None:
                return
            request.arrival_s = env.now
            delay = host.request_s + host.input_token_s * request.input_tokens
            if frontend is not None:
                delay = frontend.accept(request, env.now) - env.now
            delay += client_s
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
    servers = Servers(
        env,
        fleet.config,
        fleet.cost,
        replicas=fleet.replicas,
        ranks=fleet.data_parallel_size,
        lockstep=fleet.lockstep,
        routing=fleet.routing,
        leaps=fleet.leaps,
    )
    engines = servers.engines
    servers.hear(drive(env, servers.submit))
    with _no_cyclic_gc():
        env.run()
        while any([target.drain() for target in servers.targets]):
            env.run()
    schedulers = [engine.scheduler for engine in engines]
    table = RequestTable.of(engine.finished for engine in engines)
    recomputes = fleet.config.recomputes and fleet.config.batching == "continuous"  # whole batches log it themselves
    return Simulated(
        table=table,
        logs=tuple(np.frombuffer(engine.log, dtype=np.float64).reshape(-1, len(LOG_COLUMNS)) for engine in engines),
        gaps=np.array([gap for engine in engines for gap in engine.gaps], dtype=np.float64),
        usable_blocks=schedulers[0].kv.usable,
        num_preemptions=sum(s.num_preemptions for s in schedulers),
        evictions=sum(s.kv.evictions for s in schedulers),
        hit_tokens=sum(s.kv.hit_tokens for s in schedulers),
        queried_tokens=sum(s.kv.queried_tokens for s in schedulers),
        pipelined=fleet.config.pipeline_parallel_size > 1,
        recomputed_tokens=recomputed_tokens(table) if recomputes else 0.0,
    )


def recomputed_tokens(table: RequestTable) -> float:
    """Tokens computed again in decode steps without a KV cache: step j of a request computes its prompt and j - 1 more."""
    steps = table["output_tokens"] - 1.0
    return float((steps * table["input_tokens"] + steps * (steps - 1.0) / 2.0).sum())


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
