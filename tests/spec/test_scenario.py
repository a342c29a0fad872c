"""Scenarios as people write them: defaults as vLLM's, every error at its line, and the same file back."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from twin.base import InputError, data_dir
from twin.spec.engine import EngineSettings, batch_defaults
from twin.spec.hardware import load_profile
from twin.spec.scenario import Scenario, load_scenario
from twin.spec.slo import Bound, Budget, Slo, parse_bound, parse_budget

BASE = """\
model: Qwen/Qwen3-32B
traffic:
  synthetic: {request_rate: 2, num_requests: 10, input_len: 100, output_len: 10}
deployment:
  gpu: h100_sxm
  tensor_parallel_size: 2
slo: {ttft: 500ms, tpot: "p90:50"}
budget: 120k/month
"""


@pytest.fixture
def load(tmp_path: Path):  # type: ignore[no-untyped-def]
    def loader(text: str = BASE, *overrides: str) -> Scenario:
        path = tmp_path / "file.yaml"
        path.write_text(text)
        return load_scenario(path, overrides)

    return loader


def test_defaults_are_vllms(load) -> None:  # type: ignore[no-untyped-def]
    scenario = load()
    engine = scenario.engine
    assert (engine.max_num_batched_tokens, engine.max_num_seqs, engine.max_model_len) == (8192, 1024, 40960)
    assert (engine.block_size, engine.gpu_memory_utilization, engine.num_gpu_blocks) == (16, 0.92, None)
    assert scenario.name == "file"
    assert scenario.deployment.num_gpus == 2
    assert scenario.slo.bounds == (
        Bound(metric="ttft", quantile=0.99, seconds=0.5),
        Bound(metric="tpot", quantile=0.9, seconds=0.05),
    )


@pytest.mark.parametrize(
    ("gpu", "defaults"),
    [
        ("a100_sxm", (2048, 256)),
        ("l40s", (2048, 256)),
        ("h100_sxm", (8192, 1024)),
        ("h200_sxm", (8192, 1024)),
        ("b200_sxm", (16384, 1024)),
    ],
)
def test_batch_defaults_by_gpu(gpu: str, defaults: tuple[int, int]) -> None:
    assert batch_defaults(load_profile(gpu)) == defaults


def test_defaults_yield_to_what_is_set() -> None:
    h100 = load_profile("h100_sxm")
    small = EngineSettings(max_num_batched_tokens=512).resolved(h100, 4096)
    assert small.max_num_seqs == 512
    short = EngineSettings(max_num_seqs=4, max_model_len=1000).resolved(h100, 4096)
    assert short.max_num_batched_tokens == 4000
    unchunked = EngineSettings(enable_chunked_prefill=False).resolved(h100, 40960)
    assert unchunked.max_num_batched_tokens == 40960


def test_overrides_win(load) -> None:  # type: ignore[no-untyped-def]
    scenario = load(BASE, "engine.max_num_seqs=512", "deployment.kv_cache_dtype=fp8", "seed=7")
    assert scenario.engine.max_num_seqs == 512
    assert scenario.deployment.kv_cache_dtype == "fp8"
    assert scenario.seed == 7


def test_reading_back_gives_the_same(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    scenario = load()
    text = scenario.to_yaml()
    assert text == load(text).to_yaml()
    assert load(text) == scenario
    assert None is yaml.safe_load(text)["engine"]["num_gpu_blocks"]


def test_shipped_scenarios_load_and_read_back(tmp_path: Path) -> None:
    files = sorted(data_dir("scenarios").glob("*.yaml"))
    for file in files:
        scenario = load_scenario(file)
        copy = tmp_path / file.name
        copy.write_text(scenario.to_yaml(relative_to=tmp_path))
        assert load_scenario(copy).engine == scenario.engine
        assert load_scenario(copy).traffic == scenario.traffic


def test_files_are_found_from_the_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    text = BASE.replace(
        "  synthetic: {request_rate: 2, num_requests: 10, input_len: 100, output_len: 10}", "  trace: t.csv"
    )
    Path("there/s.yaml").write_text(text + "seed: 3\n")
    scenario = load_scenario(Path("there/s.yaml"))
    assert scenario.traffic.trace == "there/t.csv"
    moved = yaml.safe_load(scenario.to_yaml(relative_to=tmp_path / "elsewhere" / "run"))
    assert moved["traffic"]["trace"] == "../../there/t.csv"
    absolute = load_scenario(Path("there/s.yaml"), [f"traffic.trace={tmp_path / 'x.csv'}"])
    assert absolute.traffic.trace == str(tmp_path / "x.csv")


def test_traffic_rate_is_a_factor(load) -> None:  # type: ignore[no-untyped-def]
    assert load(BASE, "traffic.rate=×2").traffic.rate == 2.0
    assert load(BASE, "traffic.rate=1.5").traffic.rate == 1.5
    with pytest.raises(InputError, match=r"--set traffic\.rate: "):
        load(BASE, "traffic.rate=fast")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "",
            "engine:\n  max_num_seq: 4\n",
            r"file\.yaml:10: unknown key 'max_num_seq'; did you mean 'max_num_seqs'",
        ),
        ("", "engine:\n  block_size: 17\n", r"file\.yaml:10: engine\.block_size: 17 should be 1, 8, 16"),
        (
            "",
            "engine:\n  max_num_seqs: 9000\n",
            r"file\.yaml:9: max_num_batched_tokens 8192 is below max_num_seqs",
        ),
        ("", "engine:\n  max_model_len: 99999\n", r"file\.yaml:10: max_model_len 99999 is above .* 40960"),
        ("", "engin: 3\n", r"file\.yaml:9: unknown key 'engin'; did you mean 'engine'"),
        ("", "seed: 1\nseed: 2\n", r"file\.yaml:10: key 'seed' stands here a second time"),
        ("", "seed: -1\n", r"file\.yaml:9: seed: -1 should be greater than or equal to 0"),
        ("", "price: cheap\n", r"file\.yaml:9: price: 'cheap' should be 'on_demand'"),
        ("", "name: a/b\n", r"file\.yaml:9: name: "),
        ("", "client: {concurrency: 4}\n", r"file\.yaml:9: client\.num_prompts: is missing"),
        ("h100_sxm", "h10_sxm", r"file\.yaml:5: unknown GPU 'h10_sxm'; did you mean 'h100_sxm'"),
        ("Qwen3-32B", "Qwen3-33B", r"file\.yaml:1: unknown model .* did you mean 'Qwen/Qwen3-32B'"),
        ("size: 2", "size: 3", r"file\.yaml:6: the 64 attention heads .* do not divide"),
        ("size: 2", "size: 16", r"file\.yaml:6: 16 GPUs are more than the 8 of a node"),
        (
            "size: 2",
            "size: two",
            r"file\.yaml:6: deployment\.tensor_parallel_size: 'two' should be a valid integer",
        ),
        (
            "h100_sxm",
            "b200_sxm\n  quantization: int8",
            r"file\.yaml:6: vLLM's int8 products stop|file\.yaml:6: b200_sxm",
        ),
        ("h100_sxm", "a100_sxm\n  kv_cache_dtype: fp8", r"file\.yaml:6: a100_sxm has no measured attention"),
        ("120k/month", "120q", r"file\.yaml:8: budget: .* is not understood"),
        ("ttft: 500ms", "tft: 2s", r"file\.yaml:7: slo: unknown metric 'tft' \(allowed: ttft"),
        ("ttft: 500ms", "ttft: p100:2s", r"file\.yaml:7: slo: ttft: a quantile lies between"),
        ("request_rate", "rate", r"file\.yaml:3: unknown key 'rate'; did you mean 'request_rate'"),
        ("  synthetic", "  trace: x.csv\n  synthetic", r"file\.yaml:2: traffic: give trace or synthetic"),
        ("model:", "modle:", r"file\.yaml(:1)?: .*(modle|model)"),
        ("slo: {", "slo: [", r"file\.yaml:\d+: not valid YAML"),
    ],
)
def test_errors_say_file_line_and_what_is_allowed(load, old: str, new: str, said: str) -> None:  # type: ignore[no-untyped-def]
    text = BASE.replace(old, new) if old else BASE + new
    with pytest.raises(InputError, match=said):
        load(text)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("engine.max_num_seq=5", r"--set engine\.max_num_seq: unknown key .* did you mean 'max_num_seqs'"),
        ("engine", "takes section.key=value"),
        ("=5", "takes section.key=value"),
        ("deployment.gpu.x=3", "'gpu' holds one value"),
        ("engine.max_num_seqs=[1", "not a YAML value"),
        (
            "engine.max_num_seqs=0",
            r"--set engine\.max_num_seqs: engine\.max_num_seqs: 0 should be greater than 0",
        ),
    ],
)
def test_override_errors_name_the_override(load, override: str, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=said):
        load(BASE, override)


@pytest.mark.parametrize("text", ["", "- a\n", "just words", "a: &x [*x]\n"])
def test_files_that_are_no_scenario(load, text: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=r"file\.yaml"):
        load(text)


def test_aliases_cannot_unfold_without_end(load) -> None:  # type: ignore[no-untyped-def]
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    with pytest.raises(InputError, match=r"more than 100,000 values"):
        load(bomb)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_scenario(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("120k/month", Budget(usd_per_hour=120_000 / 730)),
        ("2.5M/yr", Budget(usd_per_hour=2_500_000 / 8760)),
        ("$50/h", Budget(usd_per_hour=50)),
        ("120k USD/month", Budget(usd_per_hour=120_000 / 730)),
        ("64gpu", Budget(num_gpus=64)),
        ("64 GPUs", Budget(num_gpus=64)),
        ("400kW", Budget(watts=400_000)),
        ("1.2 MW", Budget(watts=1_200_000)),
    ],
)
def test_budgets(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget
    assert Budget.model_validate(budget.model_dump()) == budget


@pytest.mark.parametrize("text", ["", "120k", "0/month", "-5gpu", "1.5gpu", "5/fortnight", "nan/h", "5EUR/h", "inf/h"])
def test_bad_budgets(text: str) -> None:
    with pytest.raises(InputError, match="budget"):
        parse_budget(text)


@given(
    seconds=st.floats(1e-6, 1e6),
    quantile=st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999]),
    metric=st.sampled_from(["ttft", "tpot", "e2el"]),
)
def test_bounds_read_back(seconds: float, quantile: float, metric: str) -> None:
    bound = parse_bound(metric, f"p{quantile * 100:g}:{seconds}s")  # type: ignore[arg-type]
    again = parse_bound(metric, str(bound))  # type: ignore[arg-type]
    assert again.quantile == bound.quantile == pytest.approx(quantile)
    assert again.seconds == pytest.approx(seconds, rel=1e-9)


def test_slo_of_flags_and_of_several_quantiles() -> None:
    slo = Slo.of(ttft="500", tpot=None, e2el="p95:10s")
    assert slo.request_bounds_s() == {"ttft": 0.5, "e2el": 10.0}
    both = Slo.model_validate({"ttft": ["p99:2s", "p50:200ms"]})
    assert [bound.quantile for bound in both.bounds] == [0.99, 0.5]
    assert both.request_bounds_s() == {"ttft": 2.0}
    assert Slo.model_validate(both.model_dump()) == both
    for bad in ("0", "-5ms", "p90", "5 parsecs", "p0:5ms"):
        with pytest.raises(InputError, match="--ttft"):
            Slo.of(ttft=bad)


def test_the_release_brings_its_defaults_and_lacks_its_options(load) -> None:  # type: ignore[no-untyped-def]
    assert load(BASE, "engine.vllm_version=0.19").engine.gpu_memory_utilization == 0.9
    assert load(BASE + 'engine: {vllm_version: "0.19"}\n').engine.vllm_version == "0.19"
    assert load().engine.async_scheduling is True
    with pytest.raises(InputError, match=r"vLLM 0\.19 has no watermark"):
        load(BASE, "engine.vllm_version=0.19", "engine.watermark=0.1")
    with pytest.raises(InputError, match=r"0\.32"):
        load(BASE, "engine.vllm_version=0.18")
    assert batch_defaults(load_profile("b200_sxm"), "0.19") == (8192, 1024)
