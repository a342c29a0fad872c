"""Facts of the machine, and who is refused for using it: on a made-up /proc and a made-up NVML."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calibrate.measure import machine
from calibrate.measure.log import FACTS
from calibrate.measure.nvml import Nvml, find_nvml
from twin.base import InputError

TICK = os.sysconf("SC_CLK_TCK")


def write_proc(folder: Path, cpu_ticks: dict[int, tuple[int, str, int]]) -> None:
    """By process: parent, name, ticks in all."""
    for pid, (parent, name, ticks) in cpu_ticks.items():
        (folder / str(pid)).mkdir(exist_ok=True)
        fields = ["S", str(parent), *["0"] * 9, str(ticks), "0", *["0"] * 30]
        (folder / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "PROC", tmp_path)
    return tmp_path


def watch(proc: Path, monkeypatch: pytest.MonkeyPatch, used: dict[int, float]) -> str | None:
    """What a second of watching finds when processes use so many cores; 10 is the shell above us, 20 our child."""
    me = os.getpid()
    table = {10: (1, "sh"), me: (10, "python"), 20: (me, "worker"), 30: (1, "a (b) c"), 40: (1, "cron")}
    write_proc(proc, {pid: (parent, name, 500) for pid, (parent, name) in table.items()})

    def second(_: float) -> None:
        ticks = {pid: 500 + round(used.get(pid, 0.0) * TICK) for pid in table}
        write_proc(proc, {pid: (parent, name, ticks[pid]) for pid, (parent, name) in table.items()})

    monkeypatch.setattr(machine.time, "sleep", second)
    return machine.busy_cpu(1.0)


def test_the_largest_other_process_is_named(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = watch(proc, monkeypatch, {30: 0.9, 40: 0.3})
    assert said == "the CPU is busy: process 30 (a (b) c) uses 0.9 of a core, all others together 1.2"


def test_small_ones_add_up(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch(proc, monkeypatch, {30: 0.15, 40: 0.15}) is not None
    assert watch(proc, monkeypatch, {30: 0.05, 40: 0.05}) is None


def test_our_own_family_is_no_other_user(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch(proc, monkeypatch, {10: 1.0, os.getpid(): 1.0, 20: 1.0}) is None


def test_a_real_busy_process_is_seen() -> None:
    other = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os\nif os.fork() == 0:\n os.setsid()\n print(os.getpid(), flush=True)\n while True: pass",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    orphan = int(other.stdout.readline())
    try:
        other.wait()  # its child now belongs to another parent: a stranger
        said = machine.busy_cpu(0.5)
        assert said is not None
        assert "the CPU is busy" in said
    finally:
        os.kill(orphan, 9)
        other.stdout.close()


def test_waiting_ends_when_the_device_is_quiet_and_tells_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, told = ["busy with x", "busy with x", None], list[str]()
    monkeypatch.setattr(machine.time, "sleep", lambda _: None)
    machine.refuse_if_busy("cpu", wait_s=60, tell=told.append, reason=lambda _: answers.pop(0))
    assert not answers
    assert told == ["busy with x: waiting until it is quiet"]


def test_without_waiting_the_reason_is_the_refusal() -> None:
    with pytest.raises(InputError, match="busy with x: timings would be of both"):
        machine.refuse_if_busy("cpu", reason=lambda _: "busy with x")


def test_others_on_the_cpu_are_what_neither_we_nor_idle_used(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0, 0.0]  # wall, our own CPU seconds
    monkeypatch.setattr(machine.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(machine.time, "process_time", lambda: now[1])

    def stat(user: float, idle: float, steal: float) -> None:
        ticks = [round(x * TICK) for x in (user, 0, 0, idle, 0, 0, 0, steal)]
        (proc / "stat").write_text(f"cpu  {' '.join(map(str, ticks))} 0 0\ncpu0 1 2 3\n")

    stat(100, 1000, 0)
    others = machine.Others()
    now[:] = [10.0, 12.0]
    stat(112, 1008, 0)
    assert others.cores() == 0.0
    now[:] = [20.0, 20.0]
    stat(125, 1008, 3)  # 13 s of all, 8 of ours, and 3 s that the hypervisor took
    tick_s = (os.cpu_count() or 1) / TICK
    assert others.cores() == pytest.approx((13 + 3 - 8 - tick_s) / 10)


class FakeNvml:
    """The module pynvml, as far as it is used."""

    class NVMLError(Exception):
        pass

    def __init__(self, processes: tuple[int, ...] = (), load: int = 0, *, energy: bool = True) -> None:
        self.processes, self.percent, self.energy, self.asked = processes, load, energy, list[object]()

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self.asked.append(index)
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        self.asked.append(name)
        return name

    def nvmlDeviceGetComputeRunningProcesses(self, _: object) -> list[Any]:
        return [SimpleNamespace(pid=pid) for pid in self.processes]

    def nvmlDeviceGetUtilizationRates(self, _: object) -> Any:
        if self.percent < 0:
            raise self.NVMLError
        return SimpleNamespace(gpu=self.percent)

    def nvmlDeviceGetEnforcedPowerLimit(self, _: object) -> int:
        return 700_000

    def nvmlDeviceGetTotalEnergyConsumption(self, _: object) -> int:
        if not self.energy:
            raise self.NVMLError
        return 5_000_000

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.1"


def test_a_gpu_with_other_processes_or_load_is_busy_and_our_own_process_is_not() -> None:
    assert machine.busy_gpu(Nvml(FakeNvml((os.getpid(),)))) is None
    assert machine.busy_gpu(Nvml(FakeNvml((7, os.getpid(), 5)))) == "the GPU is in use by processes 5, 7"
    assert machine.busy_gpu(Nvml(FakeNvml((), load=37))) == "the GPU is 37% busy with work of another user"
    assert machine.busy_gpu(Nvml(FakeNvml((), load=5))) is None
    assert machine.busy_gpu(Nvml(FakeNvml((), load=-1))) is None


def test_nvml_in_si_and_absent_counters() -> None:
    board = Nvml(FakeNvml())
    assert (board.power_limit_w(), board.energy_j(), board.driver()) == (700.0, 5000.0, "580.1")
    assert Nvml(FakeNvml(energy=False)).energy_j() is None


@pytest.mark.parametrize(("visible", "index", "asked"), [("", 0, 0), ("3,5", 1, 5), ("GPU-ab", 0, "GPU-ab")])
def test_visible_devices_are_renumbered(
    visible: str, index: int, asked: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    library = FakeNvml()
    Nvml(library, index)
    assert library.asked == [asked]


def test_without_bindings_there_is_no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_nvml() is None


def fake_torch(cuda: str | None, *, there: bool = True, used: int = 0) -> Any:
    board = SimpleNamespace(
        name="NVIDIA H200", total_memory=150 * 2**30, multi_processor_count=132, L2_cache_size=60 * 2**20
    )
    return SimpleNamespace(
        __version__="2.11.0",
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(
            is_available=lambda: there and cuda is not None,
            get_device_properties=lambda _: board,
            mem_get_info=lambda: (150 * 2**30 - used, 150 * 2**30),
            memory_reserved=lambda: 0,
        ),
    )


def test_facts_of_this_cpu_and_of_a_board(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine.machine_facts(fake_torch(None), "cpu", 2)
    assert set(here) == set(FACTS)
    assert here["memory_bytes"] > 2**28
    assert here["l2_bytes"] > 2**15
    assert here["name"]
    monkeypatch.setattr(machine, "find_nvml", lambda: Nvml(FakeNvml()))
    board = machine.machine_facts(fake_torch("13.0"), "cuda", 4)
    assert set(board) == set(FACTS)
    assert (board["name"], board["num_sms"], board["board_power_w"], board["driver"]) == (
        "NVIDIA H200",
        132,
        700.0,
        "580.1",
    )


@pytest.mark.parametrize(
    ("torch", "said"),
    [(fake_torch(None), "built without CUDA"), (fake_torch("13.0", there=False), "no CUDA device is visible")],
)
def test_no_cuda_is_a_sentence(torch: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        machine.machine_facts(torch, "cuda", 2)


def test_without_nvml_memory_in_use_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "import_torch", lambda: fake_torch("13.0", used=10 * 2**30))
    assert machine.busy_gpu(None) == "10.0 GiB of the GPU's memory is in use by another process"
    monkeypatch.setattr(machine, "import_torch", lambda: fake_torch("13.0", used=2**29))
    assert machine.busy_gpu(None) is None


def test_torch_that_is_absent_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'twin\[calibrate\]'"):
        machine.import_torch()
