"""``twin verify`` against a server that ticks at known times, and its pieces."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twin.base import InputError, TwinError
from twin.cli.main import main
from twin.cluster.deploy import fleet_of, trace_of
from twin.cluster.simulation import replay
from twin.spec.model import load_model, model_from_config
from twin.spec.scenario import Scenario, load_scenario
from twin.traffic.trace import Trace
from twin.trust.live import client, traffic, verdict
from twin.trust.live.drive import Phase, client_plan, drive
from twin.trust.live.metrics import samples, server_facts
from twin.trust.live.runtime import Runtime
from twin.trust.live.server import Server, check_port, free_port
from twin.trust.live.shapes import hf_config, stand_in
from twin.trust.live.target import choose

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "scenarios" / "verify_small.yaml"
FAKE = Path(__file__).with_name("fake_vllm.py")
TTFT_S, GAP_S = 0.06, 0.02
HERE = Runtime(
    vllm_version="0.32.0", torch="2.13.0+cpu", num_gpus=0, driver=None, gpu=None, gpu_memory_bytes=None, cpu="AMD EPYC"
)

Start = Callable[..., str]


@pytest.fixture
def fake() -> Iterator[Start]:
    """Starts servers that tick at known times; gives their addresses."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*flags: str, ttft_s: float = TTFT_S, gap_s: float = GAP_S) -> str:
        port = free_port()
        running.append(subprocess.Popen([sys.executable, FAKE, str(port), str(ttft_s), str(gap_s), *flags]))
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{url}/health").close()
                return url
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the fake server did not start")

    yield start
    for process in running:
        process.kill()
        process.wait()


def trace(count: int = 12, gap_s: float = 0.05, **columns: Any) -> Trace:
    return Trace(np.arange(count) * gap_s, np.full(count, 200), np.full(count, 6), **columns)


def measure(url: str, steps: list[Phase], tmp_path: Path) -> list[dict[str, Any]]:
    plan = client_plan(url, "fake", steps, vocab_size=1000, seed=0, body={})
    return drive(plan, tmp_path, lambda _: None)


def test_the_client_measures_what_the_server_did(fake: Start, tmp_path: Path) -> None:
    (bench,) = measure(fake(), [Phase("load 50 %", "load", trace())], tmp_path)
    seen = verdict.measured(bench)
    assert bench["completed"] == 12
    assert bench["output_lens"] == [6] * 12
    assert not bench["partial"]
    assert seen["p50_ttft_ms"] == pytest.approx(1e3 * TTFT_S, rel=0.25)
    assert seen["p50_tpot_ms"] == pytest.approx(1e3 * GAP_S, rel=0.1)
    assert seen["mean_e2el_ms"] == pytest.approx(1e3 * (TTFT_S + 5 * GAP_S), rel=0.2)
    assert np.diff(bench["start_times"]) == pytest.approx(0.05, abs=0.03)
    assert seen["peak_kv_cache_usage"] == 0.25
    assert seen["mean_num_waiting"] == 0.0  # the gauge by reason is another
    assert seen["num_preemptions"] == 0.0  # three before, three after


def test_a_closed_loop_keeps_as_many_requests_under_way(fake: Start, tmp_path: Path) -> None:
    (bench,) = measure(fake(), [Phase("closed", "load", trace(gap_s=0.0), concurrency=3)], tmp_path)
    begun = np.array(bench["start_times"])
    ended = begun + np.array(bench["latencies"])
    under_way = [int(((begun <= at) & (ended > at)).sum()) for at in begun]
    assert max(under_way) == 3
    assert bench["duration"] == pytest.approx(4 * (TTFT_S + 5 * GAP_S), rel=0.25)


def test_equal_hashes_are_equal_tokens_and_all_else_is_new() -> None:
    first, second, other = (
        client.prompt(number, [0.0, 300, 4, hashes], 128, "seed", 32_000)
        for number, hashes in enumerate(([7, 8], [7, 9], []))
    )
    assert first[:128] == second[:128]
    assert first[128:] != second[128:]
    assert len({*map(len, (first, second, other))}) == 1
    assert other[:128] != first[:128]
    assert client.prompt(0, [0.0, 300, 4, [7, 8]], 128, "another phase", 32_000) != first


def test_a_refused_request_is_no_measurement(fake: Start, tmp_path: Path) -> None:
    (bench,) = measure(fake("--refuse"), [Phase("load", "load", trace(3))], tmp_path)
    assert bench["errors"] == ["400: full"] * 3
    assert verdict.finished(bench) == []


def test_facts_of_a_server(fake: Start) -> None:
    facts = server_facts(fake())
    assert (facts.model, facts.num_gpu_blocks, facts.block_size, facts.vllm_version) == ("fake", 1000, 128, "0.32.0")
    assert list(samples('a{b="x \\"y\\""} 2\n# a 3\nnot a sample\n')) == [("a", {"b": 'x \\"y\\"'}, 2.0)]


def run(*words: str) -> int:
    return main(["verify", str(SMALL), "--duration", "3s", *words])


def test_a_verdict_on_a_running_server(
    fake: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twin.trust.live.drive.SENTINEL_BATCHES", 1)
    url = fake(ttft_s=0.02, gap_s=0.04)
    code = run("--base-url", url, "--load", "20%,40%", "--out", str(tmp_path), "--format", "json")
    shown = json.loads(capsys.readouterr().out)
    assert code == 4  # it ticks five times as slowly as the profile
    assert (shown["verified"], shown["num_gpu_blocks"]) == ("server", 1000)
    rows = {row["metric"]: row for row in shown["loads"][0]["metrics"]}
    tpot = rows["mean_tpot_ms"]
    assert tpot["measured"] == pytest.approx(40.0, rel=0.05)
    assert tpot["error"] == pytest.approx(tpot["predicted"] / tpot["measured"] - 1)
    assert tpot["error"] < -0.5
    assert tpot["holds"] is (abs(tpot["error"]) <= 0.05)
    assert rows["mean_e2el_ms"]["threshold"] is None
    assert [at["load"] for at in shown["loads"]] == [0.2, 0.4]
    folder = tmp_path / "verify-verify_small"
    files = {path.name for path in folder.iterdir()}
    assert files == {"verdict.json", "scenario.yaml", "manifest.json", "sentinels.json", "measured_load_20.json",
                     "measured_load_40.json"}  # fmt: skip
    assert "date" in json.loads((folder / "verdict.json").read_text())
    assert "date" not in shown


def test_a_server_that_dies_leaves_partial_measurements(
    fake: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run("--base-url", fake("--die-after", "100"), "--load", "60%", "--out", str(tmp_path))
    said = capsys.readouterr().err
    assert code == 1
    assert "the server is gone; what was measured is in" in said
    folder = tmp_path / "verify-verify_small"
    kept = json.loads((folder / "verdict.json").read_text())
    assert (kept["partial"], kept["verdict"], kept["why"]) == (True, None, "the server is gone")
    half = json.loads((folder / "measured_load_60.json").read_text())
    assert half["partial"]
    assert 0 < half["completed"] < half["num_prompts"]


def test_an_interrupt_keeps_what_was_measured_and_ends_the_client(fake: Start, tmp_path: Path) -> None:
    words = ["verify", str(SMALL), "--base-url", fake(), "--load", "50%", "--duration", "60s", "--out", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-m", "twin", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "warm-up" in line:
            break
    time.sleep(6.0)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "partial measurements: " in said
    assert json.loads((tmp_path / "verify-verify_small" / "verdict.json").read_text())["partial"]
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "client.py" not in listed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--base-url", "{not_vllm}"], "not a vLLM server"),
        (["--base-url", "http://127.0.0.1:1"], "no server answers"),
        (["--base-url", "{fake}", "--load", "fast"], "--load: 'fast' does not start with a number"),
        (["--base-url", "{fake}", "--load", "1%"], "--duration"),
        (["--base-url", "{fake}", "--duration", "0s"], "--duration is above 0 s"),
        (["--base-url", "{fake}", "--set", "verify.tpot=5ms"], "is not a share"),
        (["--base-url", "{fake}", "--set", "verify.tpto=5%"], "did you mean 'tpot'"),
        (["--base-url", "{fake}", "--set", "traffic.synthetic.input_len=5000"], "exceed the model's context"),
        (["--option", "x"], "no plan's run folder"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], sentence: str, fake: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = {
        name: fake(*flags)
        for name, flags in (("fake", ()), ("not_vllm", ("--not-vllm",)))
        if f"{{{name}}}" in str(words)
    }
    code = run(*(word.format(**servers) if "{" in word else word for word in words), "--out", str(tmp_path))
    said = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert sentence in said[-1]
    assert not list(tmp_path.iterdir())


def test_a_port_in_use_is_refused(fake: Start) -> None:
    port = int(fake().rpartition(":")[2])
    with pytest.raises(InputError, match=f"port {port} cannot be used: address already in use"):
        check_port(port)


def test_a_server_that_does_not_start_says_why() -> None:
    command = [sys.executable, "-c", "raise ValueError('no room for the KV cache')"]
    with pytest.raises(TwinError, match="did not start: ValueError: no room"), Server(command, free_port(), {}):
        pass


def test_a_server_ends_with_all_that_it_started() -> None:
    port = free_port()
    child = f"import subprocess, sys; subprocess.run([sys.executable, {str(FAKE)!r}, '{port}', '0.01', '0.01'])"
    with Server([sys.executable, "-c", child], port, {}) as server:
        assert server.died is None
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"{FAKE} {port}" not in listed


# What is verified, and on which requests


@pytest.fixture
def small() -> Scenario:
    return load_scenario(SMALL)


def test_the_deployment_itself_where_its_hardware_is(small: Scenario, tmp_path: Path) -> None:
    target = choose(small, HERE, tmp_path)
    assert target.kind == "plan"
    flags = " ".join(target.flags())
    assert "--max-num-seqs 64" in flags
    assert "--no-enable-prefix-caching" in flags
    assert "--enforce-eager" in flags
    assert target.env()["OMP_NUM_THREADS"] == "1"
    assert model_from_config(json.loads((tmp_path / "config.json").read_text()), name="m").rotary_dim == 64


def test_a_stand_in_of_the_same_family_elsewhere(tmp_path: Path) -> None:
    scenario = load_scenario(ROOT / "scenarios" / "on_premise.yaml")
    target = choose(scenario, HERE, tmp_path)
    assert target.kind == "stand-in"
    assert "mistral-small on epyc_zen5_1c in place of mistralai/Mistral-7B-v0.3 on l40s" in target.words
    assert target.model.architecture == scenario.model_spec.architecture
    assert target.scenario.deployment.replicas == 1
    assert "max_model_len 32768 → 2560" in target.notes
    assert target.fleet().config.block_size == 128


def test_a_machine_without_a_profile_is_told_so(small: Scenario, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no profile is of this machine.*twin calibrate"):
        choose(small, HERE.model_copy(update={"cpu": "Another CPU"}), tmp_path)


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B", "Qwen/Qwen2.5-7B", "mistralai/Mistral-7B-v0.3"]
)
def test_a_written_config_has_the_sizes_of_its_model(name: str) -> None:
    for model in (load_model(name), stand_in(load_model(name), "small")):
        assert model_from_config(hf_config(model), name=model.name) == model


def test_a_capacity_is_what_a_saturated_engine_finishes(small: Scenario) -> None:
    fleet, requests = fleet_of(small), trace_of(small)
    per_s = traffic.capacity(requests, fleet)
    over = traffic.at_load(requests, 1.5, per_s, 30.0, 1.0)
    took = replay(over.trace, fleet, None).table["finished_s"].max()
    assert len(over.trace) / took == pytest.approx(per_s, rel=0.12)


def test_a_load_is_a_share_of_the_capacity_in_just_the_duration() -> None:
    part = traffic.at_load(trace(40, gap_s=0.1), 0.5, 20.0, 6.0, 1.0)
    assert len(part.trace) == 60  # the trace and half of it again
    assert part.trace.duration_s == pytest.approx(6.0 * 59 / 60, rel=1e-6)


def test_lengths_are_halved_until_they_fit_and_hash_blocks_with_them() -> None:
    hashes = tuple((1, 2, 3 + i) for i in range(10))
    long = replace(trace(10), input_tokens=np.full(10, 1500), output_tokens=np.full(10, 300), prefix_hashes=hashes)
    short, factor = traffic.fitted(long, 500, 128)
    assert factor == 0.25
    assert short.input_tokens.tolist() == [375] * 10
    assert short.hash_block_tokens == 128
    assert short.prefix_hashes == hashes
    coarse, factor = traffic.fitted(long, 300, 128)  # hash blocks shrink no further: the rest is cut
    assert factor == 0.25
    assert int((coarse.input_tokens + coarse.output_tokens).max()) == 300


def test_what_the_cache_cannot_hold_is_refused() -> None:
    with pytest.raises(InputError, match="the KV cache here holds 128 tokens, the longest request of trace needs 206"):
        traffic.check_holds(trace(), 2, 128)


def test_the_replay_is_of_what_was_sent(fake: Start, tmp_path: Path) -> None:
    asked = trace(prefix_hashes=tuple((5,) for _ in range(12)))
    (bench,) = measure(fake(), [Phase("load", "load", asked)], tmp_path)
    bench["errors"][3] = "lost"
    again = verdict.sent(bench, asked)
    assert len(again) == 11
    assert again.arrival_s == pytest.approx(np.delete(bench["start_times"], 3) - bench["start_times"][0])
    assert again.prefix_hashes == ((5,),) * 11


# A real engine


def test_a_real_engine_is_started_measured_and_ended(
    oracle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--python", str(oracle), "--profile", "epyc_zen5_1c", "--load", "30%", "--out", str(tmp_path))
    code = run(*words, "--format", "json")
    shown = json.loads(capsys.readouterr().out)
    assert code in (0, 4)  # other tests share the machine: how near is not for a test to say
    assert shown["verified"] == "plan"
    assert shown["vllm_version"].startswith("0.32")
    rows = {row["metric"]: row for row in shown["loads"][0]["metrics"]}
    assert shown["loads"][0]["failed"] == 0
    assert all(rows[name]["measured"] > 0 for name in ("mean_ttft_ms", "mean_tpot_ms", "mean_num_running"))
    assert rows["mean_tpot_ms"]["predicted"] == pytest.approx(rows["mean_tpot_ms"]["measured"], rel=2.0)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "serve.py" not in listed
