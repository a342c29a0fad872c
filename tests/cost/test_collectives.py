"""All-reduce times: the measured points, between them, and beyond."""

import numpy as np
import pytest

from twin.base import InputError
from twin.cost.collectives import all_reduce_in_range, all_reduce_s, fused_reduce_s, line_s
from twin.spec.hardware import load_profile, profile_names

NVLINK = ["a100_sxm", "b200_sxm", "h100_sxm", "h200_sxm"]


def test_one_gpu_has_nothing_to_reduce() -> None:
    assert all_reduce_s(load_profile("l40s"), 1, np.array([1e3, 1e9])).tolist() == [0.0, 0.0]


def test_a_number_of_gpus_that_was_not_measured_is_refused() -> None:
    with pytest.raises(InputError, match="among 16 GPUs"):
        all_reduce_s(load_profile("h100_sxm"), 16, 1e6)


@pytest.mark.parametrize("name", profile_names())
def test_measured_points_come_back_and_each_segment_takes_over_where_it_starts(name: str) -> None:
    profile = load_profile(name)
    for fit in profile.kernels.all_reduce:
        for segment in fit.segments:
            sizes = np.array(segment.message_bytes)
            if fit.fused:
                back = fused_reduce_s(profile, fit.num_gpus, sizes) * 1e6
            else:
                back = all_reduce_s(profile, fit.num_gpus, sizes, fit.vllm_version) * 1e6
            assert back == pytest.approx(segment.us)


def test_lines_hold_the_first_time_below_and_the_last_slope_above() -> None:
    points, seconds = np.array([10.0, 20.0, 40.0]), np.array([1.0, 2.0, 6.0])
    assert line_s(points, seconds, np.array([0.0, 15.0, 60.0])) == pytest.approx([1.0, 1.5, 10.0])
    assert line_s(points, seconds[::-1].copy(), np.array([60.0])) == pytest.approx([1.0])


@pytest.mark.parametrize("name", NVLINK)
def test_more_bytes_take_longer_apart_from_where_the_algorithm_changes(name: str) -> None:
    profile = load_profile(name)
    for num_gpus in (2, 4, 8):
        seconds = all_reduce_s(profile, num_gpus, 2.0 ** np.arange(15, 30))
        assert np.all(seconds[1:] > 0.6 * seconds[:-1])
        assert seconds[-1] > 100 * seconds[0]
    # Algorithmic bandwidth of a ring is at most link · n / (2 (n - 1)); in-switch reduction can double it.
    link = profile.facts.intra_node_link_bytes_per_s.value
    assert 2.0**30 / float(all_reduce_s(profile, 8, 2.0**30)) < link * 8 / 14 * 2


def test_ranges_end_with_the_measurements() -> None:
    profile = load_profile("h100_sxm")
    assert all_reduce_in_range(profile, 4, np.array([255, 256, 2**30, 2**30 + 1])).tolist() == [
        False,
        True,
        True,
        False,
    ]
    assert all_reduce_in_range(profile, 1, 1.0)


def test_an_older_release_runs_what_was_measured_on_it() -> None:
    profile = load_profile("rtx_pro_6000_server")
    old, new = (all_reduce_s(profile, 2, 2.0 ** np.arange(14, 24), version) for version in ("0.19", "0.32"))
    assert np.all(old > 1.5 * new)
    assert all_reduce_s(profile, 4, 1e6, "0.19") == all_reduce_s(profile, 4, 1e6)  # nothing else was measured


def test_the_norm_is_fused_on_hopper_and_blackwell_alone_and_up_to_the_size_that_vllm_sets() -> None:
    eight_b200 = fused_reduce_s(load_profile("b200_sxm"), 8, np.array([2.0**18, 2.0**20, 2.0**20 + 1]))
    assert np.isnan(eight_b200).tolist() == [False, False, True]
    assert np.isnan(fused_reduce_s(load_profile("a100_sxm"), 8, 2.0**18))
    hopper = fused_reduce_s(load_profile("h100_sxm"), 8, np.array([2.0**19, 2.0**20]))
    assert np.isnan(hopper).tolist() == [False, True]
