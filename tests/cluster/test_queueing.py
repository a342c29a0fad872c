"""Where a replica is a queue of the textbook, it behaves as the textbook and another simulator (Ciw) say."""

from __future__ import annotations

from collections.abc import Sequence

import ciw
import numpy as np
import pytest

from twin.cluster.simulation import Fleet, simulate
from twin.cost.layout import HostCosts
from twin.engine.config import EngineConfig
from twin.traffic.trace import Trace

MILLISECONDS_PER_TOKEN = 1e-3


class PerTokenCost:
    """One request at a time, a millisecond per prompt token, one output token: the prompt length is the service time."""

    host = HostCosts()

    def decode_segment(self, num_decodes: int, context: int) -> tuple[float, float, float]:
        raise AssertionError("one output token needs no decode")

    def step_s(self, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: int) -> float:
        return MILLISECONDS_PER_TOKEN * sum(tokens for _, tokens, _ in chunks)


SINGLE_SEAT = EngineConfig(num_gpu_blocks=100_000, max_num_seqs=1, max_num_batched_tokens=100_000)


def waits(
    rate: float, tokens: np.ndarray, replicas: int = 1, routing: str = "round_robin", seed: int = 1
) -> np.ndarray:
    arrival = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, len(tokens)))
    trace = Trace(arrival, tokens, np.ones_like(tokens))
    sim = simulate(trace, Fleet(SINGLE_SEAT, PerTokenCost(), replicas, routing))
    return sim.table.queue_s


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_md1_waits_as_pollaczek_khinchine_says(load: float) -> None:
    service = 0.1
    wait = waits(load / service, np.full(150_000, 100))
    assert wait.mean() == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)


def test_mm1_waits_as_the_formula_says() -> None:
    load, service = 0.7, 0.1
    tokens = np.maximum(np.random.default_rng(2).exponential(100, 200_000).round(), 1).astype(np.int64)
    assert waits(load / service, tokens).mean() == pytest.approx(load * service / (1 - load), rel=0.08)


def test_two_replicas_in_turn_wait_as_in_ciw() -> None:
    """Round robin over two replicas: each sees Erlang-2 arrivals and a deterministic service."""
    load, service = 0.8, 0.1
    ours = waits(2 * load / service, np.full(120_000, 100), replicas=2).mean()
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Erlang(rate=2 * load / service, num_phases=2)],
        service_distributions=[ciw.dists.Deterministic(value=service)],
        number_of_servers=[1],
    )
    ciw.seed(3)
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(80_000)
    theirs = np.mean([record.waiting_time for record in simulation.get_all_records()])
    assert ours == pytest.approx(theirs, rel=0.08)


def test_least_loaded_waits_less_than_turns_and_not_less_than_mm2() -> None:
    """With exponential service, joining the shorter of two queues lies between M/M/2, one queue before both, and turns."""
    load, service, count = 0.8, 0.1, 200_000
    tokens = np.maximum(np.random.default_rng(5).exponential(100, count).round(), 1).astype(np.int64)
    turns = waits(2 * load / service, tokens, replicas=2).mean()
    shorter = waits(2 * load / service, tokens, replicas=2, routing="least_loaded").mean()
    mm2 = load**2 / (1 - load**2) * service
    assert 0.95 * mm2 < shorter < 0.9 * turns


def test_replicas_in_turn_wait_as_the_gm1_formula_says() -> None:
    """Three replicas in turn with exponential service: each sees Erlang-3 arrivals, a G/M/1 queue. Its wait is
    σ / (μ(1 - σ)) where σ = A*(μ(1 - σ)), A* the Laplace transform of the time between arrivals."""
    load, service, phases = 0.75, 1.0, 3
    tokens = np.maximum(np.random.default_rng(7).exponential(1000, 200_000).round(), 1).astype(np.int64)
    stage_rate = phases * load / service
    sigma = 0.5
    for _ in range(200):
        sigma = (stage_rate / (stage_rate + (1 - sigma) / service)) ** phases
    ours = waits(stage_rate, tokens, replicas=phases).mean()
    assert ours == pytest.approx(sigma * service / (1 - sigma), rel=0.06)
