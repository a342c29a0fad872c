"""Logs of vLLM servers: recorded ones (vLLM 0.32 on this CPU, 2026-11-21, routes and paths left out), and broken ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from calibrate.server_text import read_server_log
from twin.base import InputError
from twin.trust.request_log import read_requests, summary
from twin.trust.run_facts import profile_name

DATA = Path(__file__).parent / "data"
BENCH = DATA / "vllm_0.32_bench.json"
SERVER = DATA / "vllm_0.32_cpu_server.log"
HEADER = "run,request_id,input_toks,output_toks,queued_s,scheduled_s,first_token_s,last_token_s\n"
STAMPED = HEADER + "a,0,100,5,0.0,0.5,1.0,3.0\na,1,50,1,2.0,2.0,2.25,2.25\nb,0,7,2,0,0,1,2\n"
RUNS = "run,model,hardware,engine_version,tp,dtype\na,org/model,H200,0.19.0,2,bfloat16\n"


def bench(path: Path, **changes: Any) -> Path:
    result = json.loads(BENCH.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in result.items() if value is not None}))
    return path


def text(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def test_a_recorded_benchmark_has_the_means_that_vllm_printed() -> None:
    said = json.loads(BENCH.read_text())
    log = read_requests(BENCH)
    row = summary(log).iloc[0]
    assert len(log.requests) == said["completed"]
    assert row["mean_ttft_ms"] == pytest.approx(said["mean_ttft_ms"], rel=1e-9)
    assert row["mean_tpot_ms"] == pytest.approx(said["mean_tpot_ms"], rel=1e-9)
    assert (row["system"], row["model"], row["concurrency"], row["request_rate"]) == ("epyc", "small", 12, 6.0)
    assert set(log.requests["clock"]) == {"client"}
    assert log.requests["arrival_s"].min() == 0


def test_without_latencies_the_gaps_tell_when_a_request_ended(tmp_path: Path) -> None:
    whole, gaps = read_requests(BENCH), read_requests(bench(tmp_path / "b.json", latencies=None))
    assert gaps.requests["e2el_s"].tolist() == pytest.approx(whole.requests["e2el_s"].tolist(), rel=1e-6)


def test_failed_requests_are_left_out_and_counted(tmp_path: Path) -> None:
    said = json.loads(BENCH.read_text())
    said["output_lens"][3] = 0
    said["errors"][7] = "timed out"
    log = read_requests(bench(tmp_path / "b.json", **said))
    assert (len(log.requests), log.left_out) == (said["completed"] - 2, 2)


def test_engine_stamps_with_their_runs_beside(tmp_path: Path) -> None:
    text(tmp_path / "x_runs.csv", RUNS)
    log = read_requests(text(tmp_path / "x.csv", STAMPED))
    first, single = log.requests.iloc[0], log.requests.iloc[1]
    assert (first["ttft_s"], first["queue_s"], first["e2el_s"], first["tpot_s"]) == (1.0, 0.5, 3.0, 0.5)
    assert math.isnan(single["tpot_s"])
    rows = summary(log, concurrency=4).set_index("run")
    assert rows.loc["a", ["system", "precision", "tp_size", "vllm_version"]].tolist() == [
        "h200_sxm", "bf16", "2", "0.19.0",
    ]  # fmt: skip
    assert rows.loc["a", ["isl", "osl", "concurrency", "request_rate"]].tolist() == [75, 3, 4, 0.5]
    assert rows.loc["a", "mean_tpot_ms"] == pytest.approx(500.0)  # the request of one token has none
    assert rows.loc["b", "request_rate"] == math.inf
    assert rows.loc["b", "model"] == ""
    assert set(rows["clock"]) == {"engine"}


def test_the_recorded_requests_of_an_rtx_pro_6000(shared: Path) -> None:
    log = read_requests(shared / "groundtruth" / "vllm_requests_rtxpro6000.csv")
    rows = summary(log)
    assert rows["requests"].tolist() == [300, 300]
    assert rows["system"].tolist() == ["rtx_pro_6000_server"] * 2
    assert rows["tp_size"].tolist() == ["1", "2"]
    assert (log.requests["queue_s"] <= log.requests["ttft_s"]).all()
    assert rows["request_rate"].tolist() == pytest.approx([10.0, 10.0], rel=0.05)  # the data set's name says 10


@pytest.mark.parametrize(
    ("name", "profile"), [("RTXPRO6000", "rtx_pro_6000_server"), ("H200", "h200_sxm"), ("L4", "l4"), ("TPU", "TPU")]
)
def test_hardware_finds_its_profile(name: str, profile: str) -> None:
    assert profile_name(name) == profile


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"itls": None}, "'itls' is missing: run vllm bench serve with --save-result --save-detailed"),
        ({"ttfts": [0.1]}, "differ in length"),
        ({"ttfts": [0.0] * 60}, "b.json, request 0: the time to the first token is not a positive number"),
        ({"ttfts": [0.01] * 59 + [math.nan]}, "b.json, request 59: the time to the first token"),
        ({"ttfts": ["fast"] * 60}, "not a positive number"),
        ({"latencies": [1e-9] * 60}, "the last token comes before the first"),
        ({"output_lens": [0] * 60}, "no finished request"),
    ],
)
def test_a_bad_benchmark_is_refused(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        read_requests(bench(tmp_path / "b.json", **changes))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (BENCH.read_text()[:5000], "not one whole JSON object; was it cut short?"),
        (HEADER.replace("queued_s", "queued"), "x.csv:1: column 'queued_s' is missing"),
        (HEADER + "a,0,100,5,0.0,0.5,1.0,3.0\na,1,100,5,0.0,0.5,,3.0\n", "x.csv:3: a stamp is missing"),
        (HEADER + "a,0,100,5,0.0,1.5,1.0,3.0\n", "x.csv:2: stamps run backwards"),
        (HEADER + "a,0,100,5,0.0,0.0,1.0,1.0\n", "x.csv:2: several tokens at one time"),
        (HEADER + "a,0,0,5,0.0,0.0,1.0,2.0\n", "at least one input and one output token"),
        (HEADER + ",0,10,5,0.0,0.0,1.0,2.0\n", "x.csv:2: the run has no name"),
        (HEADER, "no finished request"),
        ("", "neither a result of vllm bench serve nor a CSV table"),
    ],
)
def test_bad_requests_are_refused_with_their_line(content: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence.replace("?", r"\?")):
        read_requests(text(tmp_path / "x.csv", content))


def test_a_file_that_is_not_there() -> None:
    for read in (read_requests, read_server_log):
        with pytest.raises(InputError, match=r"nowhere\.log: No such file"):
            read(Path("nowhere.log"))


def test_a_recorded_server_says_what_it_is_and_did() -> None:
    log = read_server_log(SERVER)
    facts = log.facts
    assert facts["vllm_version"] == "0.32.0"
    assert facts["dtype"] == "bfloat16"
    assert "quantization" not in facts
    assert facts["kv_cache_bytes"] == 2**30
    assert facts["kv_cache_tokens"] == 2**30 // (2 * 6 * 4 * 64 * 2) // 128 * 128  # layers, KV heads, head, bf16, block
    assert facts["max_concurrency"] == pytest.approx(facts["kv_cache_tokens"] / facts["max_model_len"], abs=0.01)
    assert facts["engine_args"]["max_num_seqs"] == 16
    assert (facts["max_num_batched_tokens"], facts["tensor_parallel_size"]) == (512, 1)
    assert log.intervals["at_s"].diff().dropna().tolist() == [3.0] * 4  # VLLM_LOG_STATS_INTERVAL=3
    said = json.loads(BENCH.read_text())  # the benchmark that this server served
    assert 3 * log.intervals["prompt_tokens_per_s"].sum() == pytest.approx(said["total_input_tokens"], rel=0.02)
    assert 3 * log.intervals["generation_tokens_per_s"].sum() == pytest.approx(said["total_output_tokens"], rel=0.02)
    assert (log.intervals["engine"] == 0).all()


GPU_LOG = """\
\x1b[1;36m(APIServer pid=7)\x1b[0;0m INFO 12-31 23:59:50 [utils.py:233] non-default args: {'model': 'a/b', 'block_size': 16, \
'compilation_config': CompilationConfig(mode=3), 'enable_prefix_caching': False, 'gpu_memory_utilization': 0.95}
(EngineCore_DP0 pid=8) INFO 12-31 23:59:51 [core.py:93] Initializing a V1 LLM engine (v0.19.0) with config: model='a/b', \
dtype=torch.bfloat16, max_seq_len=1000, tensor_parallel_size=2, quantization=fp8, kv_cache_dtype=fp8
(Worker pid=9) INFO 12-31 23:59:52 [gpu_model_runner.py:4821] Model loading took 8.5 GiB memory and 3.123456 seconds
(Worker pid=9) INFO 12-31 23:59:53 [gpu_worker.py:437] Available KV cache memory: 100.25 GiB
(EngineCore_DP0 pid=8) INFO 12-31 23:59:53 [kv_cache_utils.py:1319] GPU KV cache size: 1,587,301 tokens
(EngineCore_DP0 pid=8) INFO 12-31 23:59:53 [kv_cache_utils.py:1325] Maximum concurrency for 1,000 tokens per request: 1587.30x
(Worker pid=9) INFO 12-31 23:59:55 [gpu_model_runner.py:6047] Graph capturing finished in 4 secs, took 0.59 GiB
(APIServer pid=7) INFO 12-31 23:59:58 [loggers.py:259] Engine 001: Avg prompt throughput: 10.0 tokens/s, Avg generation \
throughput: 20.5 tokens/s, Running: 3 reqs, Waiting: 1 reqs, Preemptions: 2, GPU KV cache usage: 99.5%, \
Prefix cache hit rate: 25.0%, External prefix cache hit rate: 50.0%
(APIServer pid=7) INFO 01-01 00:00:08 [loggers.py:259] 2 Engines Aggregated: Avg prompt throughput: 0.0 tokens/s, Avg \
generation throughput: 20.5 tokens/s, Running: 3 reqs, Waiting: 0 reqs, GPU KV cache usage: 9.0%, Prefix cache hit rate: 0.0%
"""


def test_the_log_of_two_gpu_engines_over_new_year(tmp_path: Path) -> None:
    log = read_server_log(text(tmp_path / "s.log", GPU_LOG))
    assert log.intervals.to_dict("list") == {
        "at_s": [8.0, 18.0],
        "engine": [1, -1],
        "prompt_tokens_per_s": [10.0, 0.0],
        "generation_tokens_per_s": [20.5, 20.5],
        "running": [3, 3],
        "waiting": [1, 0],
        "preemptions": [2, 0],
        "kv_cache_usage": [0.995, 0.09],
        "prefix_hit_rate": [0.25, 0.0],
    }
    facts = log.facts
    assert (facts["vllm_version"], facts["quantization"], facts["kv_cache_dtype"]) == ("0.19.0", "fp8", "fp8")
    assert facts["weights_bytes"] == 8.5 * 2**30
    assert facts["graphs_bytes"] == round(0.59 * 2**30)
    assert facts["num_gpu_blocks"] == 100_000  # 63 blocks a request of 1000 tokens: 100,000 / 63 × 1000 tokens
    assert facts["engine_args"] == {
        "model": "a/b", "block_size": 16, "enable_prefix_caching": False, "gpu_memory_utilization": 0.95,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("nothing\nto see\n", "nothing here that a vLLM server logs"),
        (GPU_LOG.replace("Waiting: 1 reqs, ", ""), "s.log:8: this line of throughput lacks its waiting"),
        (
            GPU_LOG + "GPU KV cache size: 16 tokens\n",
            "s.log:10: two engines in one log: kv cache tokens is 1587301 and 16",
        ),
    ],
)
def test_a_bad_server_log_is_refused(content: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        read_server_log(text(tmp_path / "s.log", content))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"\xff\xfe\x00")
    for read in (read_requests, read_server_log):
        with pytest.raises(InputError, match=r"x\.log: not text"):
            read(path)
