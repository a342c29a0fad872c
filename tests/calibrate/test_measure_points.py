"""Which points a run times."""

from collections import Counter

import pytest

from calibrate.measure.grids import DECODERS, GRIDS, TENSOR_PARALLEL, projections
from calibrate.measure.log import KEYS, checked, key_of
from calibrate.measure.points import chosen, combinations, plan
from twin.base import InputError

ALL = ("bf16", "fp8", "int8")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_point_has_its_keys_and_is_there_once(device: str) -> None:
    points = plan(device, False, precisions=ALL, num_gpus=8)
    assert len({key_of(point) for point in points}) == len(points)
    for point in points:
        checked({**point, "seconds": 1.0, "spread": 0.0, "repeats": 1}, "plan")
    assert {point["family"] for point in points} == set(KEYS)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_quick_is_the_beginning_of_the_full_run(device: str) -> None:
    full = {key_of(point) for point in plan(device, False, precisions=ALL, num_gpus=8)}
    quick = [key_of(point) for point in plan(device, True, precisions=ALL, num_gpus=8)]
    assert set(quick) <= full
    assert len(quick) < len(full) / 3
    assert quick == [key_of(point) for point in plan(device, True, precisions=ALL, num_gpus=8)]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_grid_has_as_many_points_as_it_promises_and_keeps_its_limits(device: str) -> None:
    for grid in GRIDS[device]:
        points = chosen(grid, grid.full)
        assert len(points) == grid.full
        assert all(size(point) <= most for point in points for size, most in grid.limits)
        shared = Counter(tuple(point) for point in combinations(grid))
        assert len(shared) == 1, "combinations of one grid have the same keys"


def test_gemm_covers_what_the_fit_calls_serving() -> None:
    from calibrate.families import HIDDEN_SIZES

    points = [p for p in plan("cuda", False, precisions=ALL, num_gpus=1) if p.get("dtype") == "bf16"]
    serving = [
        p for p in points if (p["k"] in HIDDEN_SIZES and p["n"] >= 512) or (p["n"] in HIDDEN_SIZES and p["k"] >= 512)
    ]
    assert len(serving) > len(points) / 2
    assert {1, 8192} <= {p["m"] for p in points}


def test_projections_are_those_of_llama_3_8b() -> None:
    assert {(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)} <= set(projections(DECODERS))
    assert (768, 4096) in projections(DECODERS, TENSOR_PARALLEL)  # its query-key-value on 8 GPUs


def test_int8_on_cuda_starts_above_16_rows() -> None:
    points = [p for p in plan("cuda", False, precisions=ALL, num_gpus=1) if p.get("dtype") == "int8"]
    assert points
    assert min(p["m"] for p in points) > 16


def test_what_the_device_lacks_is_left_out_with_one_note() -> None:
    said: list[str] = []
    points = plan("cuda", True, precisions=("bf16", "int8"), num_gpus=1, tell=said.append)
    assert all(p.get("dtype") != "fp8" and p.get("op") != "fp8_quant" and p["family"] != "all_reduce" for p in points)
    assert len(said) == 1
    assert "fp8" in said[0]
    assert "8 GPUs" in said[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtypes": ["fp8"]}, "this GPU has no fp8 matrix multiplication.*allowed: bf16, int8"),
        ({"dtypes": ["fp9"]}, "unknown precision 'fp9'; did you mean 'fp8'"),
        ({"families": ["gem"]}, "unknown family 'gem'; did you mean 'gemm'"),
        ({"families": ["all_reduce"]}, "all-reduce needs two GPUs or more"),
    ],
)
def test_what_is_asked_for_by_name_and_is_not_there_is_refused(options: dict[str, list[str]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan("cuda", True, precisions=("bf16", "int8"), num_gpus=1, **options)


def test_only_the_asked_families_and_precisions() -> None:
    points = plan("cpu", True, precisions=("bf16", "int8"), num_gpus=0, families=["gemm"], dtypes=["int8"])
    assert {(p["family"], p["dtype"]) for p in points} == {("gemm", "int8")}
