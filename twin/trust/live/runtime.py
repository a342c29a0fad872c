"""The interpreter that has vLLM, and what it sees: its version, a CUDA device, this machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

from twin.base import Frozen, InputError, TwinError

CPU_ENV = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
ENV = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}
PROBE = """
import json, torch, vllm
cuda = torch.cuda
count = cuda.device_count() if cuda.is_available() else 0
board = cuda.get_device_properties(0) if count else None
try:
    import pynvml
    pynvml.nvmlInit()
    driver = pynvml.nvmlSystemGetDriverVersion() if count else None
except Exception:
    driver = None
print(json.dumps({"vllm_version": vllm.__version__, "torch": torch.__version__, "num_gpus": count, "driver": driver,
                  "gpu": board.name if board else None, "gpu_memory_bytes": board.total_memory if board else None}))
"""


class Runtime(Frozen):
    """vLLM as it is installed, and the machine: names as the system tells them, bytes."""

    vllm_version: str
    torch: str
    num_gpus: int
    driver: str | None
    gpu: str | None
    gpu_memory_bytes: int | None
    cpu: str

    @property
    def device(self) -> str:
        return "cuda" if self.num_gpus else "cpu"

    @property
    def name(self) -> str:
        """The device that vLLM runs on here."""
        return self.gpu or self.cpu


def find_python(python: Path | None) -> Path:
    """An interpreter that has vLLM: the one given, this one, or that of ``make oracle``.

    Raises :class:`InputError` when none has it.
    """
    oracle = os.environ.get("TWIN_ORACLE")
    tried = [python] if python else [Path(sys.executable), *([Path(oracle) / "bin" / "python"] if oracle else [])]
    for candidate in tried:
        if candidate.is_file() and has_module(candidate, "vllm"):
            return candidate
    what = "no vLLM in this Python: name one that has it with --python, or install it there (pip install vllm)"
    raise InputError(what, where=", ".join(map(str, tried)))


def has_module(python: Path, module: str) -> bool:
    """Whether an interpreter can import a module; nothing is imported."""
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


@cache
def runtime(python: Path) -> Runtime:
    """What vLLM sees there, asked once. Raises :class:`TwinError` when it does not import."""
    done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=False, env=os.environ | ENV)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TwinError(f"vLLM does not import: {last}", where=str(python))
    return Runtime(**json.loads(done.stdout.strip().splitlines()[-1]), cpu=host_cpu())


def engine_version(python: Path, device: str) -> str:
    """vLLM's version there.

    Raises :class:`InputError` when it cannot use ``device``, :class:`TwinError` when it fails.
    """
    found = runtime(python)
    if device == "cuda" and not found.num_gpus:
        raise InputError("vLLM here sees no CUDA device", where=str(python), allowed=["cpu"])
    return found.vllm_version


def host_cpu() -> str:
    """The CPU's name as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor() or platform.machine())
