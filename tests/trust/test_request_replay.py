"""Request logs replayed: blind, on the log's clock, exact on a log that the simulation wrote, clear about bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from twin.base import InputError
from twin.cli.main import main
from twin.trust.errors import judge, ks_distance
from twin.trust.replay import compare_run, errors_over_runs, predictions_csv, replay
from twin.trust.request_log import read_inputs, read_requests

FACTS = {"system": "h100_sxm", "model": "meta-llama/Llama-3.1-8B", "precision": "bf16", "tp_size": 1}
FLAGS = ["--system", "h100_sxm", "--model", "meta-llama/Llama-3.1-8B", "--precision", "bf16"]
FLAGS += ["--tensor-parallel-size", "1"]
RUNS = "run,model,hardware,engine_version,tp,dtype,max_num_seqs,engine_kwargs\n"
STATED = RUNS + 'a,meta-llama/Llama-3.1-8B,H100,0.19.0,1,bfloat16,8,"{""max_num_batched_tokens"": 1024}"\n'
MEASURED = ["scheduled_s", "first_token_s", "last_token_s"]


def arrivals(seed: int = 0, count: int = 60) -> pd.DataFrame:
    """A log of made-up requests whose measured stamps are made up too; not in the order of arrival."""
    rng = np.random.default_rng(seed)
    queued = np.round(rng.permutation(np.cumsum(rng.exponential(0.05, count))), 6)
    table = pd.DataFrame({"run": "a", "request_id": [f"r{i}" for i in range(count)]})
    table = table.assign(input_toks=rng.integers(20, 900, count), output_toks=rng.integers(1, 120, count))
    return table.assign(queued_s=queued, scheduled_s=queued, first_token_s=queued + 1, last_token_s=queued + 9)


def write(folder: Path, table: pd.DataFrame, runs: str = STATED) -> Path:
    path = folder / "log.csv"
    table.to_csv(path, index=False)
    (folder / "log_runs.csv").write_text(runs)
    return path


def as_predicted(folder: Path, stretch: float = 1.0) -> Path:
    """The log that the simulation itself would have written, every interval from the queue on ``stretch`` times as long."""
    source = write(folder, arrivals())
    table = pd.read_csv(source)
    found = replay(read_inputs(source), {})[0][0].requests
    after = {"scheduled_s": "queue", "first_token_s": "ttft", "last_token_s": "e2el"}
    for stamp, name in after.items():
        table[stamp] = table["queued_s"] + stretch * found[f"predicted_{name}_s"]
    return write(folder, table)


def errors(path: Path) -> list[dict[str, object]]:
    requests = read_requests(path).requests
    return [row for run in replay(read_inputs(path), {})[0] for row in compare_run(run, requests)]


def test_a_log_that_the_simulation_wrote_has_no_errors(tmp_path: Path) -> None:
    rows = errors(as_predicted(tmp_path))
    assert {row["metric"] for row in rows} >= {"queue", "ttft", "tpot", "e2el", "makespan", "output_throughput"}
    for row in rows:
        assert row["error"] == pytest.approx(0.0, abs=0.05 if row["statistic"] == "ks" else 1e-5), row


def test_what_takes_a_tenth_longer_is_a_tenth_off(tmp_path: Path) -> None:
    rows = errors(as_predicted(tmp_path, stretch=1.1))
    found = {row["metric"]: row["error"] for row in rows if row["statistic"] == "mean"}
    for name in ("queue", "ttft", "tpot", "e2el"):
        assert found[name] == pytest.approx(1 / 1.1 - 1, rel=1e-4)
    assert errors_over_runs(rows)["tpot_mape"] == pytest.approx(1 - 1 / 1.1, rel=1e-4)


def test_measured_stamps_change_nothing_in_the_predictions(tmp_path: Path) -> None:
    outputs = []
    for seed in (None, 1, 2):
        table = arrivals()
        if seed is not None:
            shuffled = table[MEASURED].sample(frac=1, random_state=seed).to_numpy()
            table[MEASURED] = shuffled
        out = tmp_path / f"{seed}.csv"
        code = main(["validate", str(write(tmp_path, table)), "--out", str(out), "--quiet"])
        assert code == (0 if seed is None else 2)  # shuffled stamps run backwards, and that is said afterwards
        outputs.append(out.read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]
    bare = write(tmp_path, arrivals().drop(columns=MEASURED))
    assert predictions_csv(replay(read_inputs(bare), {})[0]).encode() == outputs[0]


def test_the_engine_is_the_one_that_the_log_states(tmp_path: Path) -> None:
    (run,), _ = replay(read_inputs(write(tmp_path, arrivals())), {})
    engine = run.scenario.engine
    assert (engine.vllm_version, engine.max_num_seqs, engine.max_num_batched_tokens) == ("0.19", 8, 1024)
    assert engine.gpu_memory_utilization == 0.9  # the default of 0.19; 0.32's is 0.92
    assert (run.scenario.deployment.gpu, run.clock) == ("h100_sxm", "engine")
    (more,), _ = replay(read_inputs(write(tmp_path, arrivals())), {"max_num_seqs": 64})
    assert more.requests["predicted_queue_s"].mean() < run.requests["predicted_queue_s"].mean()


def bench(folder: Path, **changes: object) -> Path:
    """A result of ``vllm bench serve --save-detailed`` with made-up times."""
    count = 12
    result = {
        "model_id": "meta-llama/Llama-3.1-8B", "request_rate": "inf", "max_concurrency": 4, "input_lens": [300] * count,
        "output_lens": [20] * count, "ttfts": [0.05] * count, "itls": [[0.01] * 19] * count, "errors": [""] * count,
    }  # fmt: skip
    path = folder / "b.json"
    path.write_text(json.dumps({k: v for k, v in (result | changes).items() if v is not None}))
    return path


def test_a_clients_clock_has_the_time_of_the_api_in_it(tmp_path: Path) -> None:
    starts = [0.5 * i + 7.0 for i in range(12)]
    path = bench(tmp_path, request_rate=2.0, max_concurrency=None, start_times=starts)
    (sent,), _ = replay(read_inputs(path), FACTS)
    assert (sent.clock, sent.closed) == ("client", 0)
    queued = arrivals(count=12).assign(
        queued_s=starts,
        scheduled_s=starts,
        first_token_s=[start + 1 for start in starts],
        input_toks=300,
        output_toks=20,
    )
    (engine,), _ = replay(read_inputs(write(tmp_path, queued)), FACTS | {"vllm_version": "0.32"})
    host = sent.scenario.profile.host
    assert host is not None
    api = host.request_s.value + 300 * host.input_token_s.value
    gap = sent.requests["predicted_ttft_s"] - engine.requests["predicted_ttft_s"]
    assert gap.to_numpy() == pytest.approx(api, rel=1e-6)


def test_a_closed_loop_needs_no_arrivals(tmp_path: Path) -> None:
    (run,), _ = replay(read_inputs(bench(tmp_path)), FACTS)
    assert run.closed == 4
    ends = np.sort(run.requests["predicted_start_s"] + run.requests["predicted_e2el_s"])
    assert (np.sort(run.requests["predicted_start_s"])[4:] >= ends[:8] - 1e-9).all()
    metrics = {str(row["metric"]) for row in compare_run(run, read_requests(bench(tmp_path)).requests)}
    assert metrics == {"ttft", "tpot", "e2el"}  # neither the engine's queue nor a makespan is in such a log


def test_a_run_without_a_profile_is_listed_and_the_others_are_predicted(tmp_path: Path) -> None:
    both = pd.concat([arrivals(), arrivals(1).assign(run="b")])
    path = write(tmp_path, both, STATED + "b,meta-llama/Llama-3.1-8B,TPU,0.19.0,1,bfloat16,8,\n")
    runs, missing = replay(read_inputs(path), {})
    assert [run.run for run in runs] == ["a"]
    assert [(run.run, "unknown GPU 'TPU'" in str(run.error)) for run in missing] == [("b", True)]
    lines = predictions_csv(runs, missing).splitlines()
    assert len(lines) == 1 + len(both)
    assert main(["validate", str(path), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("changes", "known", "sentence"),
    [
        ({}, {}, "the log does not say its system, precision, tp_size: give --system, --precision, --tensor-parallel"),
        ({"request_rate": 3.0, "max_concurrency": None}, FACTS, "nobody knows when its requests were sent"),
        ({"output_lens": None}, FACTS, "'output_lens' is missing"),
        ({"data_parallel_size": 2}, FACTS, "data_parallel_size above 1 is not modelled"),
        ({"max_num_seqs": "many"}, FACTS, "max_num_seqs 'many': "),
        ({"vllm_version": "main"}, FACTS, "vllm_version 'main' is not a version"),
        ({}, FACTS | {"precision": "fp3"}, "quantization 'fp3'"),
    ],
)
def test_what_a_log_lacks_is_said(
    changes: dict[str, object], known: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        replay(read_inputs(bench(tmp_path, **changes)), known)


def test_thresholds_hold_over_the_means_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = as_predicted(tmp_path, stretch=1.1)
    assert main(["validate", str(path), "--max-tpot-mape", "10%", "--format", "json"]) == 0
    payload = json.loads(capsys.readouterr().out)
    assert payload["errors_over_runs"]["tpot_mape"] == pytest.approx(1 - 1 / 1.1, rel=1e-3)
    assert payload["vllm_version_modelled"] == "0.19"
    assert main(["validate", str(path), "--max-tpot-mape", "9%", "--quiet"]) == 4


def test_the_judge() -> None:
    measured, guess = np.array([1.0, 2.0, 4.0, 8.0]), np.array([1.1, 2.2, 3.6, 8.8])
    found = judge(measured, guess, guess * 0.95, guess * 1.15)
    assert (found["mape"], found["median"], found["p90"]) == pytest.approx((0.1, 0.1, 0.1))
    assert (found["bias"], found["inside_90"]) == pytest.approx((0.05, 0.25))
    assert "inside_90" not in judge(measured, guess)


def test_the_distance_of_two_distributions() -> None:
    one = np.arange(10.0)
    assert ks_distance(one, one) == 0
    assert ks_distance(one, one + 100) == 1
    assert ks_distance(one, np.concatenate([one[:5], one[:5] + 100])) == pytest.approx(0.5)


def test_the_recorded_requests_of_an_rtx_pro_6000(shared: Path) -> None:
    """Measured, not judged: how far off the twin is stands in the accuracy page."""
    path = shared / "groundtruth" / "vllm_requests_rtxpro6000.csv"
    runs, missing = replay(read_inputs(path), {})
    assert not missing
    for run in runs:
        engine = run.scenario.engine
        assert (engine.vllm_version, engine.max_num_seqs, engine.max_num_batched_tokens) == ("0.19", 128, 2048)
        assert len(run.requests) == 300
        assert run.requests.filter(like="predicted_").notna().all().all()


def test_times_of_a_log_in_another_unit_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = as_predicted(tmp_path, stretch=1000.0)
    with pytest.raises(InputError, match="are these times milliseconds"):
        errors(path)


def test_accuracy_on_request_logs_that_went_into_no_fit(shared: Path) -> None:
    path = shared / "groundtruth" / "vllm_requests_rtxpro6000.csv"
    runs, _ = replay(read_inputs(path), {})
    measured = read_requests(path).requests
    for run in runs:
        for row in compare_run(run, measured[measured["run"] == run.run]):
            if row["metric"] in ("ttft", "tpot", "e2el") and row["statistic"] in ("mean", "p99"):
                assert abs(float(str(row["error"]))) <= {"mean": 0.05, "p99": 0.10}[str(row["statistic"])], row
