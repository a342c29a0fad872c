"""Layouts: vLLM's split of layers over stages, and what a model cannot take, with the rule."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from twin.base import InputError
from twin.spec.layout import (
    Fabric,
    check_layout,
    expert_ranks,
    num_nodes,
    pipeline_layers,
    replica_gpus,
    steps_together,
)
from twin.spec.scenario import Deployment

SIZES = [
    (layers, stages)
    for layers in (1, 4, 24, 36, 40, 61, 62, 78, 80, 94, 126)
    for stages in range(1, min(layers, 16) + 1)
]
ASK = """
import json, logging, sys
logging.disable(logging.CRITICAL)
from vllm.distributed.utils import get_pp_indices
sizes = json.load(sys.stdin)
spans = [[get_pp_indices(n, rank, stages) for rank in range(stages)] for n, stages in sizes]
print(json.dumps([[end - start for start, end in split] for split in spans]))
"""


@dataclass(frozen=True)
class Model:
    name: str = "a model"
    num_hidden_layers: int = 40
    num_experts: int = 0
    num_heads: int = 32

    def tensor_parallel_obstacle(self, tp: int) -> str | None:
        return f"{self.num_heads} heads do not divide by {tp}" if self.num_heads % tp else None


def refusal(model: Model, **layout: object) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        check_layout(model, Deployment(gpu="h100_sxm", **layout), 8)  # type: ignore[arg-type]
    return str(caught.value.where), caught.value.what


def test_layers_are_split_as_vllm_splits_them(oracle: Path) -> None:
    done = subprocess.run([str(oracle), "-c", ASK], input=json.dumps(SIZES), capture_output=True, text=True, check=True)
    assert [list(pipeline_layers(*size)) for size in SIZES] == json.loads(done.stdout.splitlines()[-1])


def test_the_last_stage_has_no_more_and_with_a_small_rest_the_first_neither() -> None:
    assert pipeline_layers(61, 4) == (15, 15, 16, 15)
    assert pipeline_layers(62, 4) == (15, 16, 16, 15)
    assert pipeline_layers(63, 4) == (16, 16, 16, 15)
    assert pipeline_layers(25, 2) == (13, 12)


@given(st.integers(1, 200), st.integers(1, 32))
def test_every_layer_stands_on_one_stage(layers: int, stages: int) -> None:
    split = pipeline_layers(layers, stages)
    assert len(split) == stages
    assert sum(split) == layers
    assert max(split) - min(split) <= 1


@pytest.mark.parametrize(
    ("model", "layout", "field", "said"),
    [
        (Model(), {"tensor_parallel_size": 16}, "tensor_parallel_size", "16 GPUs are more than the 8 of a node"),
        (
            Model(),
            {"tensor_parallel_size": 3, "pipeline_parallel_size": 2},
            "tensor_parallel_size",
            "would span two nodes",
        ),
        (Model(num_heads=28), {"tensor_parallel_size": 8}, "tensor_parallel_size", "28 heads do not divide by 8"),
        (
            Model(num_hidden_layers=3),
            {"pipeline_parallel_size": 4},
            "pipeline_parallel_size",
            "the 3 layers of a model",
        ),
        (Model(), {"enable_expert_parallel": True}, "enable_expert_parallel", "a model has no experts"),
        (
            Model(num_experts=8),
            {"data_parallel_size": 16, "enable_expert_parallel": True},
            "tensor_parallel_size",
            "the 8 experts of a model are fewer than the 16 GPUs that share them",
        ),
        (Model(num_experts=8), {"data_parallel_size": 2}, "data_parallel_size", "is not modelled"),
        (
            Model(num_experts=8),
            {"data_parallel_size": 2, "enable_expert_parallel": True, "pipeline_parallel_size": 2},
            "pipeline_parallel_size",
            "not modelled with pipeline stages",
        ),
    ],
)
def test_a_layout_that_a_model_cannot_take_is_refused_with_the_rule(
    model: Model, layout: dict[str, object], field: str, said: str
) -> None:
    where, what = refusal(model, **layout)
    assert where == f"deployment.{field}"
    assert said in what


def test_sizes_of_a_layout() -> None:
    dense, moe = Model(), Model(num_experts=128)
    wide = Deployment(
        gpu="h200_sxm", tensor_parallel_size=2, data_parallel_size=8, enable_expert_parallel=True, replicas=3
    )
    check_layout(moe, wide, 8)
    assert (replica_gpus(wide), wide.num_gpus, expert_ranks(wide), num_nodes(wide, 8)) == (16, 48, 16, 2)
    assert steps_together(moe, wide)
    ranks = Deployment(gpu="h200_sxm", data_parallel_size=4)
    assert not steps_together(dense, ranks), "ranks of a dense model are replicas"
    assert expert_ranks(ranks) == 1


def test_the_network_says_where_its_speed_comes_from() -> None:
    assert Fabric().bandwidth.value == 50e9
    assert Fabric().bandwidth.origin == "assumed"
    given = Fabric(bytes_per_s="200 Gb/s", latency_s="8us")  # type: ignore[arg-type]
    assert (given.bytes_per_s, given.latency_s) == (25e9, pytest.approx(8e-6))
    assert Fabric(bytes_per_s="100 GB/s").bytes_per_s == 100e9  # type: ignore[arg-type]
    assert given.bandwidth.source == "given in the scenario"
    with pytest.raises(ValidationError, match="unknown unit"):
        Fabric(bytes_per_s="3 apples")  # type: ignore[arg-type]
