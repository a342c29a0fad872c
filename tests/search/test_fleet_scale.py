"""Five times the requests on five times the fleet keep the options in order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from fleet_scale import correlations, crowded, enlarged, options

from twin.plan.request import PlanRequest
from twin.search.workload import Workload


def test_five_times_as_many_requests_come_in_the_same_time(load: Workload) -> None:
    more = crowded(load.trace)
    assert len(more) == 5 * len(load.trace)
    assert abs(more.duration_s - load.trace.duration_s) < 40
    assert sorted(more.input_tokens) == sorted(np.tile(load.trace.input_tokens, 5))


def test_the_order_of_the_options_is_kept(load: Workload, ask: Callable[..., PlanRequest]) -> None:
    found, count = correlations(ask(), load.trace, 24)
    assert count == 24
    assert found["cost"] > 0.95
    assert found["p99 TPOT"] > 0.9
    assert found["p99 TTFT"] > 0.8


def test_a_fleet_five_times_as_large_costs_five_times_as_much(ask: Callable[..., PlanRequest]) -> None:
    (first, *_) = options(ask(), 3)
    five = enlarged(first)
    assert five.fleet.replicas == 5 * first.fleet.replicas
    assert five.usd_per_hour == 5 * first.usd_per_hour
