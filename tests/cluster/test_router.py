"""vLLM's internal load balancing: the choice against vLLM's own client, the publishing by hand, both in a fleet."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twin.cluster.router import Balancer, Coordinator
from twin.cluster.simulation import Fleet, Simulated, simulate
from twin.cost.layout import HostCosts
from twin.engine.config import EngineConfig
from twin.traffic.trace import Trace

TESTS = Path(__file__).parents[1]
RECORDED = Path(__file__).parent / "recorded_picks.json"  # written by: python tests/cluster/test_router.py
VERSIONS = ("0.32", "0.19")
PICKS = 12_000  # per version, in sequences for 2 to 8 ranks


def sequences(seed: int, picks: int) -> list[dict[str, Any]]:
    """What a client lives through: requests, finished requests and published counts, for 2 to 8 ranks."""
    rng = random.Random(seed)
    found = []
    for ranks in range(2, 9):
        ops: list[Any] = []
        for _ in range(picks // 7 + 1):
            ops.append(None)
            ops += [rng.randrange(ranks) for _ in range(rng.choice([0, 0, 1, 1, 2]))]
            if rng.random() < 0.15:
                most = rng.choice([0, 2, 12])
                usage = rng.choice([0.3, 1.0])
                ops.append(
                    [[rng.randint(0, most), rng.randint(0, 12), round(usage * rng.random(), 3)] for _ in range(ranks)]
                )
        found.append({"ranks": ranks, "ops": ops})
    return found


def our_picks(version: str, ranks: int, ops: Sequence[Any]) -> list[int]:
    balancer, in_flight, picked = Balancer(ranks, version), [0] * ranks, []
    for op in ops:
        if op is None:
            picked.append(balancer.pick(in_flight))
            in_flight[picked[-1]] += 1
        elif isinstance(op, list):
            balancer.take([(waiting, running, usage) for waiting, running, usage in op])
        elif in_flight[op]:
            in_flight[op] -= 1
    return picked


def real_picks(version: str, sequence: list[dict[str, Any]]) -> list[list[int]] | None:
    """The picks of vLLM's client; None where this release is not installed."""
    sys.path.insert(0, str(TESTS / "lockstep"))
    from compare import oracle_environment

    environment = oracle_environment(version)
    if environment is None:
        return None
    done = subprocess.run(
        [environment["TWIN_ORACLE_PYTHON"], str(TESTS / "engine_real" / "real_client.py")],
        input="".join(json.dumps(row) + "\n" for row in sequence),
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_pick_is_that_of_vllms_client(version: str) -> None:
    asked = sequences(7, PICKS)
    theirs = real_picks(version, asked)
    if theirs is None:
        pytest.skip(f"vLLM {version} is not installed (make oracle); recorded picks take its place")
    assert sum(map(len, theirs)) >= PICKS
    assert [our_picks(version, **row) for row in asked] == theirs


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_pick_is_that_of_vllms_client(version: str) -> None:
    recorded = json.loads(RECORDED.read_text())
    asked = sequences(recorded["seed"], recorded["picks"])
    ours = ["".join(map(str, our_picks(version, **row))) for row in asked]
    assert ours == recorded["versions"][version]


def test_the_releases_differ() -> None:
    asked = sequences(7, 700)
    assert [our_picks("0.32", **row) for row in asked] != [our_picks("0.19", **row) for row in asked]


class Published:
    """Keeps what a coordinator publishes."""

    def __init__(self, ranks: int) -> None:
        self.seen: list[list[tuple[int, int, float]]] = []
        self.coordinator = Coordinator(ranks, lambda counts: self.seen.append(list(counts)))


def test_a_change_is_published_at_once_and_the_next_100_ms_later() -> None:
    published = Published(2)
    coordinator = published.coordinator
    coordinator.change(1.0, 0, 3, 0, 0.0)
    coordinator.change(1.0, 1, 1, 0, 0.0)  # of the same instant: published together
    coordinator.advance(1.0)
    assert published.seen[-1] == [(3, 0, 0.0), (1, 0, 0.0)]
    before = len(published.seen)
    coordinator.change(1.03, 0, 0, 3, 0.2)
    coordinator.change(1.05, 0, 0, 2, 0.1)
    coordinator.advance(1.099)
    assert len(published.seen) == before
    coordinator.change(1.25, 0, 9, 9, 0.9)  # comes after what fell due at 1.1
    assert published.seen[before:] == [[(0, 2, 0.1), (1, 0, 0.0)]]
    coordinator.advance(1.25)
    assert published.seen[before + 1 :] == [[(9, 9, 0.9), (1, 0, 0.0)]]


def test_the_kv_usage_is_sent_only_with_a_changed_count() -> None:
    published = Published(1)
    published.coordinator.change(1.0, 0, 0, 1, 0.2)
    published.coordinator.change(2.0, 0, 0, 1, 0.9)
    published.coordinator.advance(3.0)
    assert published.seen[-1] == [(0, 1, 0.2)]


def test_without_changes_all_is_published_again_after_5_s() -> None:
    published = Published(1)
    published.coordinator.change(1.0, 0, 0, 1, 0.2)
    published.coordinator.advance(1.0)
    before = len(published.seen)
    published.coordinator.advance(5.999)
    assert len(published.seen) == before
    published.coordinator.advance(6.0)
    assert len(published.seen) == before + 1
    published.coordinator.advance(1000.0)  # catches up in one go
    assert len(published.seen) == before + 2


class MillisecondPerToken:
    """A millisecond per token computed."""

    host = HostCosts()

    def decode_segment(self, num_decodes: int, context: int) -> tuple[float, float, float]:
        return 1e-3 * num_decodes, 0.0, 1e18

    def step_s(self, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: int) -> float:
        return 1e-3 * (num_decodes + sum(tokens for _, tokens, _ in chunks))


def fleet_run(
    arrivals: Sequence[float], outputs: Sequence[int], routing: str = "internal_lb", **more: Any
) -> Simulated:
    config = EngineConfig(num_gpu_blocks=10_000, max_num_seqs=4, **more.pop("config", {}))
    trace = Trace(np.array(arrivals, dtype=float), np.full(len(arrivals), 10), np.array(outputs))
    return simulate(trace, Fleet(config, MillisecondPerToken(), 2, routing, **more))


def test_a_burst_goes_round_and_then_away_from_the_busy_rank() -> None:
    burst = fleet_run([0.0] * 6, [500, 1] * 3)
    assert burst.table["replica"].tolist() == [0, 1] * 3
    # rank 1's three are done by then, rank 0 has three in flight: the next three go to rank 1
    later = fleet_run([0.0] * 6 + [0.5, 0.501, 0.502], [500, 1] * 3 + [400] * 3)
    assert later.table["replica"].tolist() == [0, 1] * 3 + [1, 1, 1]


def test_a_dense_model_in_0_19_is_served_in_turn_for_5_s() -> None:
    """Its ranks send no counts, so the client knows only what it sent since the coordinator's last zeros."""
    later = fleet_run([0.0] * 6 + [0.5, 0.501, 0.502], [500, 1] * 3 + [400] * 3, config={"vllm_version": "0.19"})
    assert later.table["replica"].tolist() == [0, 1] * 3 + [0, 1, 0]


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_leaps_do_not_change_who_serves_what(async_scheduling: bool) -> None:
    rng = np.random.default_rng(3)
    arrivals = np.cumsum(rng.exponential(0.05, 400))
    outputs = rng.integers(1, 60, 400)
    config = {"async_scheduling": async_scheduling}
    with_leaps = fleet_run(arrivals, outputs, config=config)
    step_by_step = fleet_run(arrivals, outputs, config=config, leaps=False)
    assert with_leaps.table["replica"].tolist() == step_by_step.table["replica"].tolist()
    np.testing.assert_allclose(with_leaps.table["finished_s"], step_by_step.table["finished_s"])
    in_turn = fleet_run(arrivals, outputs, "round_robin", config=config)
    assert with_leaps.table["replica"].tolist() != in_turn.table["replica"].tolist()


def record(seed: int = 11, picks: int = 2_000) -> None:
    """Write down what vLLM's client picks, for where there is no vLLM."""
    asked = sequences(seed, picks)
    versions = {}
    for version in VERSIONS:
        found = real_picks(version, asked)
        assert found is not None, f"vLLM {version} is not installed (make oracle)"
        versions[version] = ["".join(map(str, row)) for row in found]
    RECORDED.write_text(json.dumps({"seed": seed, "picks": picks, "versions": versions}, indent=1) + "\n")


if __name__ == "__main__":
    record()
