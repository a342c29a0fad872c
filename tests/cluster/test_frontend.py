"""Few cores for the API: the queue is the textbook's, and with cores enough nothing changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from twin.cluster.frontend import OUTPUT_TOKEN_S, ApiServers, core_share, stretched
from twin.cluster.simulation import Fleet, simulate, simulate_closed_loop
from twin.cost.layout import HostCosts
from twin.engine.config import EngineConfig
from twin.traffic.trace import Trace

CONFIG = EngineConfig(num_gpu_blocks=100_001, max_num_seqs=512, enable_prefix_caching=False)
MEASURED = Path(__file__).parents[1] / "calibrate" / "measured" / "api_work.jsonl"


class Cost:
    """An engine that is hardly ever busy, behind a host that takes 10 ms for a request."""

    host = HostCosts(request_s=0.01)

    def decode_segment(self, num_decodes: int, context: int) -> tuple[float, float, float]:
        return 1e-6, 0.0, 1e18

    def step_s(self, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: int) -> float:
        return 1e-6


def arrivals_of(rate: float, count: int, seed: int = 0) -> Trace:
    dice = np.random.default_rng(seed)
    return Trace(np.cumsum(dice.exponential(1 / rate, count)), np.full(count, 10), np.full(count, 10))


def fleet(**api: float) -> Fleet:
    servers = ApiServers(**{"servers": 1, "host": Cost.host, "output_token_s": 0.0} | api)  # type: ignore[arg-type]
    return Fleet(CONFIG, Cost(), api=servers)  # type: ignore[arg-type]


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_server_waits_as_pollaczek_and_khinchine_say(load: float) -> None:
    """M/D/1: mean wait = load / (2 (1 - load)) service times."""
    table = simulate(arrivals_of(load / 0.01, 40_000), fleet()).table
    waited = table["queued_s"] - table["arrival_s"] - 0.01
    assert waited.min() >= -1e-12
    assert waited.mean() == pytest.approx(0.01 * load / (2 * (1 - load)), rel=0.05)


def test_servers_enough_are_as_if_every_request_had_its_own() -> None:
    trace = arrivals_of(50, 500)
    many = simulate(trace, fleet(servers=200))
    free = simulate(trace, Fleet(CONFIG, Cost()))  # type: ignore[arg-type]
    assert many.table.values == pytest.approx(free.table.values, rel=1e-12)


def test_streaming_takes_of_the_same_cores() -> None:
    """60 requests a second take 0.6 of the core, and their 10 tokens at 1 ms as much again: prompts have to wait."""
    trace = arrivals_of(60, 2000)
    alone = simulate(trace, fleet()).table.ttft_s.mean()
    beside = simulate(trace, fleet(output_token_s=1e-3)).table
    assert beside.ttft_s.mean() > 10 * alone
    span = beside["queued_s"].max() - beside["queued_s"].min()
    whole = 2000 * (0.01 + 10 * 1e-3)
    assert 0.9 * whole < span < whole, "one core's work, but for what is streamed after the last prompt"


def test_a_closed_loop_gets_what_the_core_can_serve() -> None:
    sim = simulate_closed_loop([10] * 400, [10] * 400, 8, fleet(output_token_s=1e-4))
    rate = 400 / sim.table["finished_s"].max()
    assert rate == pytest.approx(1 / (0.01 + 10e-4), rel=0.03)


def test_processes_share_the_cores_that_there_are() -> None:
    assert core_share(2, 1, 1) == 1.0, "an API server and an engine"
    assert core_share(8, 1, 8) == pytest.approx(0.8), "and a worker per GPU where there are several"
    host = HostCosts(step_s=1e-3, sequence_s=2e-5, request_s=5e-3)
    assert stretched(host, 0.5) == HostCosts(step_s=2e-3, sequence_s=4e-5, request_s=5e-3)
    assert ApiServers(1, host, 0.5).host.request_s == 5e-3, "the API's own work is stretched where it is served"


def test_the_cost_of_a_streamed_token_is_what_was_measured() -> None:
    rounds = [json.loads(line) for line in MEASURED.read_text(encoding="utf-8").splitlines()]
    fitted = rounds.pop()
    names = ("requests", "input_tokens", "output_tokens")
    work = np.array([[row[name] for name in names] for row in rounds], dtype=float)
    spent = np.array([row["api_s"] for row in rounds])
    seconds = np.linalg.lstsq(work, spent, rcond=None)[0]
    assert seconds[2] == pytest.approx(fitted["output_token_s"][0])
    assert OUTPUT_TOKEN_S.value == pytest.approx(seconds[2], rel=1e-3)
    assert OUTPUT_TOKEN_S.stderr == pytest.approx(fitted["output_token_s"][1], rel=0.01)
    assert OUTPUT_TOKEN_S.n == len(rounds)
