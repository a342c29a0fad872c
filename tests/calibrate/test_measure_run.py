"""The loop of a run on a made-up device; and, where a Python with torch is at hand, the real kernels on this CPU."""

import json
import os
import signal
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_measure_log import MACHINE

from calibrate.measure import run as running
from calibrate.measure.log import Point, key_of, read_log
from calibrate.measure.run import Remaining, Request, run, summary_of
from twin.base import InputError

ROOT = Path(__file__).resolve().parents[2]
POINTS: list[Point] = [
    *({"family": "gemm", "dtype": "bf16", "m": m, "n": 64, "k": 64} for m in range(1, 9)),
    {"family": "all_reduce", "num_gpus": 2, "message_bytes": 4096, "backend": "gloo"},
]


class MadeUp:
    """A device whose kernels take ``m`` milliseconds; the 5th may fail, or be interrupted."""

    def __init__(self, fails: BaseException | None = None) -> None:
        self.fails, self.freed, self.others = fails, 0, [0.0]

    def programs(self, point: Point) -> dict[str, list[Any]]:
        if self.fails and point["m"] == 5:
            raise self.fails
        return {"linear": [point["m"]]}

    def let_go(self) -> None:
        self.freed += 1

    def sampler(self, calls: list[int]) -> Any:
        return lambda: calls[0] * 1e-3

    def cores(self) -> float:
        return self.others.pop(0) if len(self.others) > 1 else self.others[0]


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    device = MadeUp()
    torch = SimpleNamespace(
        inference_mode=nullcontext, set_num_threads=lambda _: None, cuda=SimpleNamespace(device_count=lambda: 0)
    )
    for name, stand_in in {
        "import_torch": lambda: torch,
        "refuse_if_busy": lambda *_, **__: None,
        "machine_facts": lambda *_: MACHINE,
        "precisions": lambda *_: ("bf16",),
        "plan": lambda *_, **__: POINTS,
        "Bench": lambda *_: device,
        "CpuTimer": lambda: device,
        "Others": lambda: device,
    }.items():
        monkeypatch.setattr(running, name, stand_in)
    monkeypatch.setattr(
        running.collectives,
        "measure_all_reduce",
        lambda points: [{**p, "seconds": 1e-4, "spread": 0.1, "repeats": 30} for p in points],
    )
    monkeypatch.setattr(running.time, "sleep", lambda _: None)
    return device


def ask(path: Path) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    return summary_of(run(Request("cpu", path), said.append, lambda _: None)), said


def test_every_point_is_timed_once_and_a_second_run_has_nothing_to_do(made_up: MadeUp, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert ask(path)[0] == {"planned": 9, "measured": 9, "kept": 0, "refused": {}}
    points = read_log(path).points
    assert {key_of(point) for point in points} == {key_of(point) for point in POINTS}
    assert [point["seconds"] for point in points[:8]] == pytest.approx([m * 1e-3 for m in range(1, 9)])
    assert points[0]["program"] == "linear"
    assert ask(path)[0] == {"planned": 9, "measured": 0, "kept": 9, "refused": {}}


def test_an_interrupted_run_keeps_what_it_has_and_goes_on(made_up: MadeUp, tmp_path: Path) -> None:
    path, said = tmp_path / "a.jsonl", list[str]()
    made_up.fails = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(Request("cpu", path), said.append, lambda _: None)
    assert said == [f"interrupted: 4 points are kept in {path}; the same command goes on from there"]
    assert len(read_log(path).points) == 4
    made_up.fails = None
    assert ask(path)[0] == {"planned": 9, "measured": 5, "kept": 4, "refused": {}}


def test_a_point_that_the_device_refuses_is_counted_and_the_rest_goes_on(made_up: MadeUp, tmp_path: Path) -> None:
    made_up.fails = RuntimeError("CUDA out of memory. Tried to allocate\nmore")
    outcome, _ = ask(tmp_path / "a.jsonl")
    assert outcome["measured"] == 8
    assert outcome["refused"] == {"gemm: CUDA out of memory. Tried to allocate": 1}
    assert made_up.freed == 1


def test_a_disturbed_point_is_timed_again_and_a_lasting_disturbance_ends_the_run(
    made_up: MadeUp, tmp_path: Path
) -> None:
    made_up.others = [0.0, 0.9, 0.0, 0.9, 0.0]
    assert ask(tmp_path / "a.jsonl")[0]["measured"] == 9
    made_up.others = [0.9]
    with pytest.raises(InputError, match=r"others used the CPU during each of 5 tries .* goes on from there"):
        ask(tmp_path / "b.jsonl")


def test_a_log_of_another_machine_is_refused_before_anything_is_timed(
    made_up: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    ask(path)
    before = path.read_bytes()
    monkeypatch.setattr(running, "machine_facts", lambda *_: MACHINE | {"threads": 1})
    with pytest.raises(InputError, match="threads is 2 and 1"):
        ask(path)
    assert path.read_bytes() == before


def test_bad_requests_are_sentences(made_up: MadeUp, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        run(Request("gpu", tmp_path / "a.jsonl"), print, print)
    with pytest.raises(InputError, match="--threads 4096: this process may use"):
        run(Request("cpu", tmp_path / "a.jsonl", threads=4096), print, print)
    assert not (tmp_path / "a.jsonl").exists()


def test_remaining_time_is_the_mean_of_what_is_done() -> None:
    said, now = list[str](), [0.0]
    clock = Remaining(11, said.append, lambda: now[0])
    now[0] = 13.0
    clock.done("gemm")
    assert said == ["1/11 gemm, about 2 min 10 s left"]


@pytest.fixture(scope="module")
def torch_python() -> Path:
    """A Python that has torch: the one of vLLM's environment."""
    oracle = os.environ.get("TWIN_ORACLE", "")
    found = Path(oracle) / "bin" / "python"
    if not oracle or not found.is_file():
        pytest.skip("needs a Python with torch: TWIN_ORACLE (make oracle) names none")
    return found


def in_torch(python: Path, script: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [str(python), "-c", script], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


AGREE = """
import json, torch
from calibrate.measure.kernels import Bench
torch.set_num_threads(1)
bench = Bench(torch, "cpu", 2**16)
bench.device = DEVICE  # chooses the programs; the tensors stay on the CPU
heads = {"kv": "bf16", "head_dim": 64, "num_heads": 8, "num_kv_heads": 2}
points = [
    {"family": "gemm", "dtype": "bf16", "m": 5, "n": 96, "k": 64},
    {"family": "gemm", "dtype": "int8", "m": 5, "n": 96, "k": 64},
    {"family": "gemm", "dtype": "fp8", "m": 5, "n": 96, "k": 64},
    {"family": "decode", **heads, "batch": 3, "context": 40},
    {"family": "prefill", **heads, "batch": 2, "chunk": 20, "context": 0},
    {"family": "prefill", **heads, "batch": 2, "chunk": 20, "context": 30},
]
wrong = {}
with torch.inference_mode():
    for point in points:
        programs = bench.programs(point)
        if point["family"] == "gemm":
            x = next(iter(programs.values()))[0].args[0]
            want = x.double() @ bench.rotating(x.dtype, 96, 64)[0].double().T
        else:
            q, keys, values = (t.double() for t in ATTENTION.args[-3:])
            q = q.reshape(q.shape[0], 2, -1, 64)
            scores = q @ keys.transpose(2, 3) / 8
            if point["family"] == "prefill":
                chunk, context = point["chunk"], point["context"]
                seen = torch.arange(context + chunk)[None] <= torch.arange(chunk)[:, None] + context
                scores = scores.masked_fill(~seen.repeat(4, 1), float("-inf"))
            want = scores.softmax(-1) @ values
        for name, calls in programs.items():
            if name == "cudnn":
                continue  # has no CPU kernel
            error = (calls[0]().double().reshape(want.shape) - want).abs().max() / want.abs().max()
            wrong[f"{point['family']} {point.get('dtype', point.get('context'))} {name}"] = float(error)
print(json.dumps(wrong))
"""


def test_every_program_computes_what_it_is_said_to(torch_python: Path) -> None:
    wrong = in_torch(torch_python, AGREE.replace("DEVICE", "'cpu'").replace("ATTENTION", 'programs["sdpa"][0]'))
    assert {"gemm bf16 onednn_packed", "gemm int8 int_mm", "decode 40 matmul", "prefill 30 sdpa"} <= set(wrong)
    assert max(wrong.values()) < 0.03, wrong
    assert wrong["gemm int8 int_mm"] == 0


def test_programs_for_cuda_compute_what_they_are_said_to_where_the_cpu_has_them(torch_python: Path) -> None:
    """The same calls on tensors in the CPU's memory: sizes, layouts, masks and scales; not the device's own kernels."""
    wrong = in_torch(
        torch_python, AGREE.replace("DEVICE", "'cuda'").replace("ATTENTION", 'programs["flash"][0].args[1]')
    )
    assert set(wrong) == {
        "gemm bf16 linear",
        "gemm int8 int_mm",
        "gemm fp8 scaled_mm",
        "decode 40 flash",
        "prefill 0 flash",
        "prefill 30 flash",
    }
    assert max(wrong.values()) < 0.03, wrong


SPILL = """
import json, torch
from calibrate.measure.kernels import Bench
bench = Bench(torch, "cpu", 2**20)
views = bench.rotating(torch.bfloat16, 100, 100)
large = bench.rotating(torch.bfloat16, 2048, 1024)
starts = sorted(view.data_ptr() for view in views)
apart = all(b - a >= 100 * 100 * 2 for a, b in zip(starts, starts[1:]))
elementwise = {}
for op in ("rms_norm", "silu_and_mul", "fp8_quant"):
    programs = bench.programs({"family": "elementwise", "op": op, "m": 4, "k": 64})
    elementwise[op] = {name: list(calls[0]().shape) for name, calls in programs.items()}
copies = bench.programs({"family": "copy", "direction": "device", "bytes_moved": 4096})["copy"]
print(json.dumps({"views": len(views), "bytes": len(views) * 20000, "apart": apart, "large": len(large),
    "aligned": all(start % 64 == starts[0] % 64 for start in starts), "elementwise": elementwise,
    "copied": [copies[0]().numel(), len(copies)]}))
"""


def test_buffers_together_exceed_the_cache_and_do_not_overlap(torch_python: Path) -> None:
    found = in_torch(torch_python, SPILL)
    assert found["bytes"] >= 2 * 2**20
    assert found["apart"]
    assert found["aligned"]
    assert found["large"] == 1
    assert found["copied"] == [2048, 256]
    for programs in found["elementwise"].values():
        assert all(shape == [4, 64] for shape in programs.values())


SHORT = """
import json
from pathlib import Path
from calibrate.measure import run
points = [
    {"family": "gemm", "dtype": "bf16", "m": 4, "n": 256, "k": 256},
    {"family": "elementwise", "op": "rms_norm", "m": 4, "k": 256, "bytes_moved": 4096},
    {"family": "all_reduce", "num_gpus": 2, "message_bytes": 1024, "backend": "gloo"},
    {"family": "all_reduce", "num_gpus": 2, "message_bytes": 1048576, "backend": "gloo"},
]
run.plan = lambda *_, **__: points
run.refuse_if_busy = lambda *_, **__: None
run.Others = lambda: None
outcome = run.run(run.Request("cpu", Path(PATH), quick=True), print, lambda _: None)
print(json.dumps(run.summary_of(outcome)))
"""


def test_a_short_real_run_on_this_cpu(torch_python: Path, tmp_path: Path) -> None:
    path = tmp_path / "cpu.jsonl"
    outcome = in_torch(torch_python, SHORT.replace("PATH", repr(str(path))))
    assert outcome == {"planned": 4, "measured": 4, "kept": 0, "refused": {}}
    log = read_log(path)
    assert log.machine["device"] == "cpu"
    seconds = {(p["family"], p.get("message_bytes")): p["seconds"] for p in log.points}
    assert seconds["all_reduce", 2**20] > seconds["all_reduce", 1024]


def test_a_worker_that_fails_is_a_sentence_and_none_is_left(torch_python: Path) -> None:
    script = """
import json, subprocess, sys
from calibrate.measure.collectives import measure_all_reduce
from twin.base import TwinError
point = {"family": "all_reduce", "num_gpus": 2, "message_bytes": -2, "backend": "gloo"}
started, real = [], subprocess.Popen
class Counted(real):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        started.append(self)
subprocess.Popen = Counted
try:
    list(measure_all_reduce([point]))
except TwinError as error:
    print(json.dumps({"said": str(error), "codes": [one.poll() for one in started]}))
"""
    found = in_torch(torch_python, script)
    assert found["said"].startswith("all-reduce among 2: a worker failed, saying: ")
    assert len(found["codes"]) == 2
    assert None not in found["codes"]


def test_an_interrupt_of_the_module_exits_with_130(torch_python: Path, tmp_path: Path) -> None:
    """While it waits for a quiet machine, which with --wait it does at least as long as it looks."""
    script = "import sys; from calibrate.measure import machine, run; from calibrate.measure.__main__ import main\n"
    script += "machine.busy.__code__ = (lambda device: 'made busy').__code__\n"
    script += f"sys.exit(main(['--device', 'cpu', '--out', {str(tmp_path / 'a.jsonl')!r}, '--wait', '60s']))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([str(torch_python), "-c", script], stderr=subprocess.PIPE, text=True, env=environment)
    assert child.stderr is not None
    assert "waiting until it is quiet" in child.stderr.readline()
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 130
    child.stderr.close()
    assert not (tmp_path / "a.jsonl").exists()
