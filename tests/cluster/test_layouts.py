"""Scenarios with stages and ranks, from the file's fields to the summary, priced by fitted kernels."""

from __future__ import annotations

import numpy as np
import pytest

from twin.base import InputError
from twin.cluster.deploy import fleet_of, run_scenario
from twin.cost.layout import Layout
from twin.cost.spread import PipelineModel, RanksModel
from twin.results.metrics import summarize
from twin.spec.hardware import load_profile
from twin.spec.model import load_model
from twin.spec.scenario import Scenario

NOBODY = None


def scenario(model: str, rate: float = 4.0, **deployment: object) -> Scenario:
    traffic = {"request_rate": rate, "num_requests": 120, "input_len": 600, "output_len": 60}
    return Scenario.model_validate(
        {
            "model": model,
            "traffic": {"synthetic": traffic},
            "deployment": {"gpu": "h200_sxm", **deployment},
            "engine": {"max_model_len": 4096},
        }
    ).resolved()


def test_stages_add_up_to_the_step_and_the_last_has_the_head() -> None:
    model, profile = load_model("meta-llama/Llama-3.1-70B"), load_profile("h200_sxm")
    cost = PipelineModel(model, profile, Layout(2, pipeline_parallel_size=4), max_tokens=2048)
    chunks = [(NOBODY, 512, 100)]
    stages = cost.stages_s(chunks, 20, 20_000)
    assert sum(stages) == pytest.approx(cost.step_s(chunks, 20, 20_000))
    assert stages[0] == stages[1] == stages[2]
    # The last sends nothing on, but has the head: without either it is like the others.
    assert stages[3] - cost.head_s[21] < stages[0]


def test_a_network_between_nodes_slows_the_hop_that_crosses_it() -> None:
    model, profile = load_model("meta-llama/Llama-3.1-405B"), load_profile("h200_sxm")
    two_nodes = PipelineModel(model, profile, Layout(8, pipeline_parallel_size=2), max_tokens=2048)
    one_node = PipelineModel(model, profile, Layout(4, pipeline_parallel_size=2), max_tokens=2048)
    message = 2 * 2 * model.hidden_size * 2048
    assert two_nodes._hops[0][2048] > message / 8 / 50e9
    assert one_node._hops[0][2048] < message / 4 / 50e9


def test_shared_part_is_in_the_step_of_equal_ranks() -> None:
    model, profile = load_model("Qwen/Qwen3-30B-A3B"), load_profile("h200_sxm")
    layout = Layout(1, data_parallel_size=4, enable_expert_parallel=True)
    cost = RanksModel(model, profile, layout, max_tokens=2048)
    for tokens in (1, 7, 100, 2048):
        alone = cost.step_s((), tokens, 1000 * tokens) - cost.shared_s(4 * tokens)
        assert 0 < cost.shared_s(tokens) <= cost.shared_s(4 * tokens)
        assert alone > 0


def test_a_pipeline_runs_end_to_end_and_serves_a_model_that_one_gpu_does_not_hold() -> None:
    asked = scenario("meta-llama/Llama-3.1-70B", pipeline_parallel_size=2)
    fleet = fleet_of(asked)
    assert fleet.config.batch_queue_size == 3
    assert asked.deployment.num_gpus == 2
    summary = summarize(run_scenario(asked))
    assert summary["completed"] == 120
    flat = summarize(run_scenario(scenario("meta-llama/Llama-3.1-70B", tensor_parallel_size=2)))
    # Stages do not shorten the way of a token through the layers; tensor parallelism does.
    assert float(str(summary["mean_tpot_ms"])) > 1.4 * float(str(flat["mean_tpot_ms"]))


def test_ranks_over_one_set_of_experts_run_end_to_end() -> None:
    asked = scenario("Qwen/Qwen3-30B-A3B", data_parallel_size=4, enable_expert_parallel=True)
    fleet = fleet_of(asked)
    assert fleet.lockstep
    sim = run_scenario(asked)
    assert np.bincount(sim.table["replica"].astype(int)).min() > 20, "four ranks share the requests"
    dense = fleet_of(scenario("Qwen/Qwen3-8B", data_parallel_size=4))
    assert not dense.lockstep
    with pytest.raises(InputError, match="has no experts"):
        scenario("Qwen/Qwen3-8B", data_parallel_size=4, enable_expert_parallel=True)
    with pytest.raises(InputError, match="internal_lb is what the ranks of one vllm serve have"):
        scenario("Qwen/Qwen3-8B", data_parallel_size=4, replicas=2, routing="internal_lb")
