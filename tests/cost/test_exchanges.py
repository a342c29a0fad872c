"""Gathers, scatters, all-to-alls, messages between stages, and what the network between nodes adds."""

from __future__ import annotations

import numpy as np
import pytest

from twin.base import InputError
from twin.cost import collectives as c
from twin.spec.hardware import load_profile
from twin.spec.layout import Fabric

MIB = 2.0**20


def test_a_gather_and_a_scatter_are_about_an_all_reduce() -> None:
    profile = load_profile("h200_sxm")
    halves = c.all_gather_s(profile, 8, 256 * MIB) + c.reduce_scatter_s(profile, 8, 256 * MIB)
    assert float(halves / c.all_reduce_s(profile, 8, 256 * MIB)) == pytest.approx(1.35, abs=0.2)


def test_a_device_without_measured_exchanges_takes_half_an_all_reduce() -> None:
    profile = load_profile("l4")
    assert float(c.all_gather_s(profile, 4, MIB)) == float(c.all_reduce_s(profile, 4, MIB)) / 2
    assert not c.exchange_in_range(profile, "all_gather", 4, MIB)


def test_one_gpu_exchanges_nothing() -> None:
    assert float(c.all_gather_s(load_profile("h200_sxm"), 1, MIB)) == 0.0


def test_two_nodes_are_bound_by_their_ports() -> None:
    profile, slow = load_profile("h200_sxm"), Fabric(bytes_per_s="100 Gb/s", latency_s=5e-6)  # type: ignore[arg-type]
    size = 64 * MIB
    port_s = size / 2 / (8 * 12.5e9)
    assert float(c.all_gather_s(profile, 8, size, nodes=2, fabric=slow)) == pytest.approx(port_s + 5e-6)
    assert c.spread_reduce_s(profile, 8, size, nodes=2, fabric=slow) > c.all_reduce_s(profile, 8, size)


def test_a_message_to_another_node_takes_latency_and_bandwidth() -> None:
    profile = load_profile("h200_sxm")
    assert float(c.send_s(profile, 50e6, Fabric())) == pytest.approx(1e-3 + 5e-6)
    assert np.all(c.send_s(profile, np.array([1e4, 5e7])) < c.send_s(profile, np.array([1e4, 5e7]), Fabric()) + 1e-5)


def test_deepep_is_refused_where_it_was_not_measured() -> None:
    assert float(c.exchange_s(load_profile("h200_sxm"), "ll_dispatch", 8, 64 * 7168 * 2)) == pytest.approx(
        9e-5, rel=0.2
    )
    with pytest.raises(InputError, match="no measured DeepEP among 4 GPUs"):
        c.exchange_s(load_profile("h200_sxm"), "ll_dispatch", 4, 1e6)
