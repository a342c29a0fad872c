"""Whole batches and other baselines: what a textbook says of them, and that nothing is lost on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.base import InputError
from twin.cluster.simulation import Fleet, Simulated, simulate, simulate_closed_loop
from twin.cost.layout import HostCosts
from twin.engine.batching import Recomputing, decodes_s, passes_s
from twin.engine.config import EngineConfig
from twin.engine.core import LOG_COLUMNS
from twin.results.metrics import summarize
from twin.spec.engine import EngineSettings
from twin.spec.hardware import load_profile
from twin.traffic.trace import Trace

CONFIG = EngineConfig(
    num_gpu_blocks=1001,
    max_num_seqs=4,
    max_num_batched_tokens=200,
    max_model_len=400,
    enable_prefix_caching=False,
    batching="static",
)


class Cost:
    """A millisecond per step, one per token, one per thousand tokens of context."""

    host = HostCosts()

    def decode_segment(self, num_decodes: int, context: int) -> tuple[float, float, float]:
        return self.step_s([], num_decodes, context), 1e-6, 1e18

    def step_s(self, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: int) -> float:
        return 1e-3 + 1e-3 * (num_decodes + sum(tokens for _, tokens, _ in chunks)) + 1e-6 * context


def run(trace: Trace, **changes: object) -> Simulated:
    return simulate(trace, Fleet(replace(CONFIG, **changes), Cost()))  # type: ignore[arg-type]


def trace_of(*requests: tuple[float, int, int]) -> Trace:
    arrival, tokens_in, tokens_out = zip(*requests, strict=True)
    return Trace(np.array(arrival, float), np.array(tokens_in), np.array(tokens_out))


PAIR = trace_of((0.0, 10, 3), (0.5, 20, 5))


def test_a_static_batch_starts_when_full_is_padded_and_ends_with_its_longest() -> None:
    sim = run(PAIR, max_num_seqs=2)
    prefill = 1e-3 + 2 * 20e-3
    decodes = sum(1e-3 + 2e-3 + 1e-6 * (2 * 21 + 2 * step) for step in range(4))
    assert sim.table["scheduled_s"].tolist() == [0.5, 0.5]
    assert sim.table["first_token_s"] == pytest.approx(0.5 + prefill)
    assert sim.table["finished_s"] == pytest.approx(0.5 + prefill + decodes, rel=1e-12)
    rows = [dict(zip(LOG_COLUMNS, row, strict=True)) for row in sim.logs[0].tolist()]
    assert [(row["steps"], row["num_decodes"], row["prefill_tokens"]) for row in rows] == [(1, 0, 40), (4, 2, 0)]
    assert summarize(sim)["useful_slots"] == pytest.approx((10 + 20 + 2 + 4) / (40 + 8))


def test_a_dynamic_batch_starts_when_its_oldest_has_waited_long_enough() -> None:
    assert run(PAIR, max_num_seqs=4, batching="dynamic", max_batch_wait_s=0.75).table["scheduled_s"].tolist() == [
        0.75,
        0.75,
    ]
    alone = run(PAIR, max_num_seqs=4, batching="dynamic", max_batch_wait_s=0.25).table["scheduled_s"]
    assert alone.tolist() == [0.25, 0.75]
    assert run(PAIR, max_num_seqs=2, batching="dynamic", max_batch_wait_s=9.0).table["scheduled_s"].tolist() == [
        0.5,
        0.5,
    ]


def test_the_end_of_traffic_starts_a_batch_that_is_not_full() -> None:
    assert run(PAIR, max_num_seqs=4).table["scheduled_s"].tolist() == [0.5, 0.5]
    three = trace_of((0.0, 10, 30), (0.0, 10, 3), (0.001, 10, 3))
    table = run(three, max_num_seqs=2).table
    assert table["scheduled_s"][2] == table["finished_s"][0], "it runs once the batch before it is done"


def test_clients_fewer_than_a_batch_do_not_wait_for_ever() -> None:
    sim = simulate_closed_loop([10] * 7, [5] * 7, 3, Fleet(CONFIG, Cost()))  # type: ignore[arg-type]
    assert len(sim.table) == 7
    assert len(set(sim.table["finished_s"].tolist())) == 3, "three at a time, and the last one"


def test_batches_of_one_are_a_queue_with_one_server() -> None:
    """Lindley's recursion: each starts when it has come and the one before it is done."""
    dice = np.random.default_rng(1)
    count = 300
    trace = Trace(np.cumsum(dice.exponential(0.5, count)), dice.integers(5, 150, count), dice.integers(1, 200, count))
    table, free, cost = run(trace, max_num_seqs=1).table, 0.0, Cost()
    for arrival, tokens_in, tokens_out, end in zip(
        table["arrival_s"], table["input_tokens"], table["output_tokens"], table["finished_s"], strict=True
    ):
        seconds = cost.step_s([(None, int(tokens_in), 0)], 0, 0)
        seconds += sum(cost.step_s([], 1, int(tokens_in) + step) for step in range(1, int(tokens_out)))
        free = max(free, arrival) + seconds
        assert end == pytest.approx(free, rel=1e-9)


REQUESTS = st.lists(
    st.tuples(st.floats(0, 3), st.integers(1, 180), st.integers(1, 100)).map(lambda r: (round(r[0], 3), *r[1:])),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(
    REQUESTS,
    st.sampled_from(["static", "dynamic"]),
    st.integers(1, 8),
    st.integers(30, 400),
    st.sampled_from([16, 400]),
)
def test_every_request_is_served_once_within_seats_and_memory(
    requests: list[tuple[float, int, int]], batching: str, seats: int, blocks: int, block_size: int
) -> None:
    blocks = blocks if block_size == 16 else 1 + blocks // 30
    changes: dict[str, object] = {"batching": batching, "max_num_seqs": seats, "max_batch_wait_s": 0.2}
    sim = run(trace_of(*sorted(requests)), num_gpu_blocks=blocks, block_size=block_size, **changes)
    table, log = sim.table, dict(zip(LOG_COLUMNS, sim.logs[0].T, strict=True))
    assert len(table) == len(requests)
    assert (table["queued_s"] <= table["scheduled_s"]).all()
    assert (table["scheduled_s"] < table["first_token_s"]).all()
    assert (np.diff(table["scheduled_s"]) >= 0).all(), "first come, first served"
    assert (log["start_s"][1:] >= log["end_s"][:-1] - 1e-9).all(), "one batch at a time"
    assert (log["num_running"] <= seats).all()
    assert (log["free_blocks"] >= 0).all()
    assert 0 < float(str(summarize(sim)["useful_slots"])) <= 1


def test_a_contiguous_cache_holds_as_many_requests_as_reservations() -> None:
    many = trace_of(*[(0.0, 20, 50)] * 12)
    sim = run(many, batching="continuous", block_size=400, num_gpu_blocks=1 + 3, max_num_seqs=8)
    assert sim.logs[0][:, LOG_COLUMNS.index("num_running")].max() == 3
    assert summarize(sim)["peak_kv_cache_usage"] == 1.0
    assert sim.num_preemptions == 0


@pytest.mark.parametrize("batching", ["continuous", "static"])
def test_without_a_cache_every_step_computes_the_whole_sequence(batching: str) -> None:
    sim = run(trace_of((0.0, 20, 4)), batching=batching, recomputes=True, max_num_seqs=1)
    steps = [1e-3 + 1e-3 * tokens for tokens in (20, 21, 22, 23)]
    assert sim.table["finished_s"][0] == pytest.approx(sum(steps), rel=1e-12)
    assert summarize(sim)["useful_slots"] == pytest.approx((20 + 3) / (20 + 21 + 22 + 23))


def test_recomputing_leaps_as_it_steps() -> None:
    dice = np.random.default_rng(2)
    trace = Trace(np.sort(dice.uniform(0, 2, 40)), dice.integers(5, 90, 40), dice.integers(1, 60, 40))
    config = replace(CONFIG, batching="continuous", recomputes=True)
    ends = [
        simulate(trace, Fleet(config, Cost(), leaps=leaps)).table["finished_s"]  # type: ignore[arg-type]
        for leaps in (True, False)
    ]
    assert ends[0] == pytest.approx(ends[1], rel=1e-9)


@given(st.integers(1, 9), st.integers(1, 500), st.integers(50, 200))
def test_passes_hold_every_token_once(size: int, length: int, max_tokens: int) -> None:
    class Count(Cost):
        tokens = 0

        def step_s(self, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: int) -> float:
            in_pass = sum(tokens for _, tokens, _ in chunks)
            assert 0 < in_pass <= max_tokens
            self.tokens += in_pass
            return float(in_pass)

    cost = Count()
    assert passes_s(cost, size, length, max_tokens) == pytest.approx(size * length)


def test_a_stretch_of_decodes_is_the_sum_of_its_steps() -> None:
    class Bent(Cost):
        def decode_segment(self, num_decodes: int, context: int) -> tuple[float, float, float]:
            return (1.0, 0.0, 100.0) if context <= 100 else (1.0 + 0.01 * (context - 100), 0.01, 1e18)

    cost = Bent()
    steps = [cost.decode_segment(3, 50 + 3 * step)[0] for step in range(60)]
    assert decodes_s(cost, 3, 50, 60) == pytest.approx((steps[0], sum(steps)))
    assert Recomputing(Cost(), 200).decode_segment(2, 60) == (pytest.approx(1e-3 + 60e-3), 0.0, 60)


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"batching": "static"}, "engine.max_num_seqs: static batching needs max_num_seqs"),
        ({"batching": "dynamic", "max_num_seqs": 8}, "engine.max_batch_wait: dynamic batching needs max_batch_wait"),
        ({"max_batch_wait": "5ms"}, "engine.max_batch_wait: only dynamic batching waits"),
        ({"batching": "static", "max_num_seqs": 8, "watermark": 0.1}, "engine.watermark: static batching runs whole"),
        ({"batching": "static", "max_num_seqs": 8, "async_scheduling": True}, "has no async_scheduling"),
        ({"kv_cache": "contiguous", "enable_prefix_caching": True}, "only a paged KV cache shares prefixes"),
        ({"kv_cache": "none", "num_gpu_blocks": 99}, "there are no blocks where kv_cache is none"),
        ({"enforce_eager": True, "fuse_norm_quant": True}, "enforce_eager leaves no fuse_norm_quant"),
    ],
)
def test_settings_that_clash_are_refused_in_a_sentence(settings_: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        EngineSettings.model_validate(settings_).resolved(load_profile("h100_sxm"), 4096)


def test_resolved_settings_resolve_to_themselves() -> None:
    given_ = EngineSettings.model_validate(
        {
            "batching": "dynamic",
            "max_num_seqs": 8,
            "max_batch_wait": 50,
            "kv_cache": "contiguous",
            "enforce_eager": True,
        }
    )
    once = given_.resolved(load_profile("h100_sxm"), 4096)
    again = EngineSettings.model_validate(once.model_dump(mode="json"))
    assert again.resolved(load_profile("h100_sxm"), 4096) == once
    assert once.max_batch_wait_s == 0.05
    assert not once.enable_prefix_caching
    assert not once.fuse_allreduce_rms
