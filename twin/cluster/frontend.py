"""The API servers before the engines: tokenising, HTTP and detokenising as work of few processor cores.

Without :class:`ApiServers` every request's host time passes as if it had a core to itself. With them it queues: first come,
first served, for whichever of the cores is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from heapq import heapify, heapreplace

from simpy import Environment
from simpy.events import Event, Timeout

from twin.base import Estimate
from twin.cost.layout import HostCosts
from twin.engine.request import Request

OUTPUT_TOKEN_S = Estimate(
    value=1.463e-4,
    stderr=8.3e-6,
    n=20,
    origin="measured",
    source="processor time of vLLM 0.32's API server process on an AMD EPYC core, streamed completions, byte-pair tokenizer: "
    "calibrate/experiment/inside/api_work.py, tests/calibrate/measured/api_work.jsonl",
    date="2026-11-21",
)
"""Detokenising and sending one output token, seconds of a core, each in a message of its own. A server that falls behind puts
several into one, so it saturates later than this says."""


@dataclass(frozen=True)
class ApiServers:
    """``servers`` API processes for the whole fleet, each of which gets ``share`` of a core.

    One process is one event loop: it uses one core at most. The host time of a request (``request_s``, and ``input_token_s``
    for each token of its prompt) is taken as its work, all of it; ``output_token_s`` is what streaming a token costs.
    """

    servers: int
    host: HostCosts
    share: float = 1.0
    output_token_s: float = OUTPUT_TOKEN_S.value

    def work_s(self, request: Request) -> float:
        """Seconds of one server from a request's arrival to its place in the engine's queue."""
        return (self.host.request_s + self.host.input_token_s * request.input_tokens) / self.share

    def stream_s(self, request: Request) -> float:
        """Seconds of one server for the request's output."""
        return self.output_token_s * request.output_tokens / self.share


def core_share(cpu_cores: float, api_servers: int, num_gpus: int) -> float:
    """Share of a core that each process of a replica gets, at most 1.

    vLLM runs the API servers, one engine core and, on several GPUs, a worker for each; the last two never rest while there
    is work, so what is missing is missing for all (vLLM's documentation asks for 2 + GPUs cores at least).
    """
    workers = num_gpus if num_gpus > 1 else 0
    return min(cpu_cores / (api_servers + 1 + workers), 1.0)


def stretched(host: HostCosts, share: float) -> HostCosts:
    """The host times of an engine whose processes get ``share`` of a core each."""
    if share == 1.0:
        return host
    times = {name: getattr(host, name) / share for name in ("step_s", "sequence_s", "token_s")}
    return replace(host, **times)


class Frontend:
    """The cores' queue in simulated time; asked in the order of time."""

    def __init__(self, api: ApiServers) -> None:
        self._api = api
        self._free_s = [0.0] * api.servers
        heapify(self._free_s)

    def accept(self, request: Request, now: float) -> float:
        """When a request that arrives ``now`` reaches the engine's queue."""
        return self._serve(now, self._api.work_s(request))

    def deliver(self, request: Request, now: float) -> None:
        """Its output was streamed until ``now``: that work is booked at its end, behind whatever waits."""
        self._serve(now, self._api.stream_s(request))

    def _serve(self, now: float, work_s: float) -> float:
        end = max(now, self._free_s[0]) + work_s
        heapreplace(self._free_s, end)
        return end


def arrivals(requests: Iterable[Request], frontend: Frontend) -> Callable[..., Callable[[Request], None]]:
    """Drives an open loop through ``frontend``: ``requests`` in the order of arrival, queued when a server has taken them.

    What it returns takes the simulation's clock and where requests go, and returns what hears of those that finish.
    """

    def drive(env: Environment, submit: Callable[[Request], None]) -> Callable[[Request], None]:
        upcoming: Iterator[Request] = iter(requests)

        def arrive(request: Request) -> None:
            request.queued_s = frontend.accept(request, env.now)
            Timeout(env, request.queued_s - env.now).callbacks.append(lambda _: submit(request))
            expect()

        def expect() -> None:
            request = next(upcoming, None)
            if request is not None:
                event: Event = Timeout(env, max(request.arrival_s - env.now, 0.0))
                event.callbacks.append(lambda _: arrive(request))

        expect()
        return lambda request: frontend.deliver(request, env.now)

    return drive
