"""The What-if page under AppTest: figures are those of the curve and of ``twin simulate``, the address says what is shown."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import app_pages
import pytest
from app_pages import ran, shown
from streamlit.testing.v1 import AppTest

from twin.base import InputError
from twin.cli.main import main
from twin.results.run import read_run
from twin.show import jobs
from twin.show.formats import ms, usd
from twin.show.what_if import OF_RUN, Setting, of_run, pin, pinned, scenario_of, served_of, workload_of

SMALL = {
    "model": "Qwen/Qwen3-8B",
    "traffic": "made up",
    "request_rate": "4",
    "input_len": "600",
    "output_len": "120",
    "replicas": "1",
    "tensor_parallel_size": "1",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one plan in it."""
    folder = tmp_path_factory.mktemp("runs")
    words = "plan --model Qwen/Qwen3-8B --gpu h100_sxm --request-rate 4 --input-len 600 --output-len 120 --num-requests 1000"
    assert main([*words.split(), "--ttft", "600ms", "--tpot", "p90:30ms", "--jobs", "1", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def opened(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    monkeypatch.setenv("TWIN_RUNS", str(runs))
    return lambda **params: app_pages.opened("whatif", **params)


def address(page: AppTest) -> dict[str, str]:
    return {name: values[0] if isinstance(values, list) else values for name, values in page.query_params.items()}


def test_a_saved_plan_shows_what_the_plan_said(opened: Callable[..., AppTest], runs: Path) -> None:
    page = opened(run="plan", option="recommended")
    plan = json.loads((runs / "plan" / "plan.json").read_text())
    option = next(item for item in plan["options"] if item["id"] == plan["recommended"])
    assert shown(page)["Per month"] == usd(option["usd_per_month"])
    assert [item.value for item in page.success]
    # All of this short trace lies in its busiest ten minutes, so the page replays what the plan replayed.
    assert option["metrics"]["completed"] == 1000
    assert shown(page)["p99 TTFT"] == ms(option["metrics"]["p99_ttft_ms"])
    assert shown(page)["p99 TPOT"] == ms(option["metrics"]["p99_tpot_ms"])


def test_a_run_becomes_a_setting_that_simulates_the_same_fleet(runs: Path) -> None:
    run = read_run(runs / "plan")
    setting = of_run(run, "recommended")
    assert setting.traffic == OF_RUN
    assert (setting.ttft, setting.tpot) == ("p99:600ms", "p90:30ms")
    scenario = scenario_of(setting, run)
    served = served_of(scenario, workload_of(scenario, setting))
    option = run.option()
    assert served.id == option["id"]
    assert served.fleet.config.num_gpu_blocks == option["num_gpu_blocks"]
    assert served.load.peak_rate_per_s / served.capacity_per_s == pytest.approx(option["peak_utilisation"])


def test_more_load_is_slower_and_stands_in_the_address(opened: Callable[..., AppTest]) -> None:
    page = opened(**SMALL)
    before = shown(page)
    page.slider(key="whatif_load").set_value(3.0).run()
    assert shown(page) != before
    assert address(page) == Setting.from_params(SMALL).to_params() | {"load": "3"}
    again = opened(**address(page))
    assert shown(again) == shown(page)


def test_a_pinned_baseline_stays_and_tells_what_changed(opened: Callable[..., AppTest]) -> None:
    page = opened(**SMALL)
    assert not any(metric.delta for metric in page.metric)
    next(button for button in page.button if button.label == "Pin as baseline").click().run()
    page.slider(key="whatif_replicas").set_value(2).run()
    cost = next(metric for metric in page.metric if metric.label == "Per month")
    assert cost.delta.startswith("+$")
    assert pinned(address(page)["pin"]) == Setting.from_params(SMALL).to_params()
    again = opened(**address(page))
    assert [metric.delta for metric in again.metric] == [metric.delta for metric in page.metric]
    next(button for button in page.button if button.label == "Unpin").click().run()
    assert "pin" not in page.query_params


def test_across_loads_what_follows_from_the_load_is_no_merit(opened: Callable[..., AppTest]) -> None:
    page = opened(**SMALL)
    next(button for button in page.button if button.label == "Pin as baseline").click().run()
    page.slider(key="whatif_load").set_value(2.0).run()
    deltas = {metric.label: metric.delta for metric in page.metric}
    assert deltas["Output tokens"].startswith("+")
    assert not any("better" in deltas[name] for name in ("Output tokens", "Utilisation"))
    assert deltas["p99 TTFT"].endswith("worse")
    said = "\n".join(item.value for item in page.caption)
    assert re.search(r"Deltas are against .* at ×1, [\d.]+/s, and here it is ×2, [\d.]+/s", said.replace("\\", "")), (
        said
    )
    page.slider(key="whatif_load").set_value(1.0).run()
    page.slider(key="whatif_replicas").set_value(2).run()
    said = "\n".join(item.value for item in page.caption)
    assert re.search(r"Deltas are against .* at ×1, [\d.]+/s\.", said.replace("\\", "")), said
    assert "neither better nor worse" not in said


def test_what_the_command_line_refuses_is_its_sentence(opened: Callable[..., AppTest]) -> None:
    page = opened(**SMALL | {"model": "meta-llama/Llama-3.1-405B-Instruct", "gpu": "l4"})
    assert not page.exception
    assert not page.metric
    assert page.error[0].value.startswith("error")


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"replicas": "many"}, "replicas"),
        ({"load": "9"}, "load"),
        ({"run": "nowhere"}, "unknown run 'nowhere'"),
        ({"run": "plan", "option": "cheap"}, "unknown option 'cheap'; did you mean 'cheapest'"),
        ({"traffic": "nothing.csv"}, "unknown trace 'nothing.csv'"),
        ({"ttft": "soon"}, "ttft: 'soon' does not start with a number"),
        ({"gpu": "h100"}, "h100"),
    ],
)
def test_a_broken_link_is_one_sentence(opened: Callable[..., AppTest], params: dict[str, str], sentence: str) -> None:
    page = opened(**params)
    assert not page.exception
    assert not page.metric
    said = page.error[0].value.replace("\\", "")
    assert sentence in said, said


def test_settings_and_addresses_are_the_same() -> None:
    setting = Setting(replicas=5, load=1.35, quantization="none", enable_expert_parallel=True, ttft="p90:300ms, p99:1s")
    params = setting.to_params()
    assert Setting.from_params(params) == setting
    assert Setting.from_params(pinned(pin(params))) == setting
    assert Setting().to_params() == {}
    assert [
        str(bound)
        for bound in scenario_of(setting.model_copy(update={"enable_expert_parallel": False}), None).slo.bounds
    ][:2] == ["p90:300ms", "p99:1000ms"]


def test_traffic_of_a_run_needs_one() -> None:
    with pytest.raises(InputError, match="there is no run"):
        scenario_of(Setting(traffic=OF_RUN), None)


def test_the_whole_trace_runs_in_the_background(opened: Callable[..., AppTest]) -> None:
    page = opened(**SMALL)
    next(button for button in page.button if button.label.startswith("Run the whole trace")).click().run()
    [job] = jobs.jobs(jobs.SIMULATIONS)
    until = time.monotonic() + 60
    while (state := job.state).name == "running" and time.monotonic() < until:
        time.sleep(0.1)
    assert state.name == "done", state.error
    ran(page)
    assert any("The whole trace" in heading.value for heading in page.subheader)
    assert state.run is not None
    summary = read_run(state.run).summary
    assert [metric.value for metric in page.metric if metric.label == "p99 TTFT"][-1] == ms(summary["p99_ttft_ms"])
    assert jobs.jobs() == []
