"""What the NVIDIA driver says of a board: its processes, load, power and energy. Nothing is ever set."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

ENERGY_UPDATES_S = 1.0
"""Energy counters are refreshed some ten times a second; over a second the mean power is good to a few per cent."""


class Nvml:
    """One board through NVML; ``library`` is the module ``pynvml``. ``index``: among the devices visible to this process."""

    def __init__(self, library: Any, index: int = 0) -> None:
        self._nvml = library
        library.nvmlInit()
        self._board = self._handle(index)

    def _handle(self, index: int) -> Any:
        """CUDA_VISIBLE_DEVICES renumbers, or names boards by UUID; NVML knows them all."""
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
        name = visible[index].strip() if index < len(visible) else str(index)
        if name.isdigit():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(name))
        return self._nvml.nvmlDeviceGetHandleByUUID(name)

    def others(self) -> list[int]:
        """Process ids on the board besides this one."""
        found = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._board)
        return sorted(int(process.pid) for process in found if process.pid != os.getpid())

    def load(self) -> float:
        """Share of the last second (or less) in which a kernel ran; 0 where the board does not tell (a MIG slice)."""
        try:
            return float(self._nvml.nvmlDeviceGetUtilizationRates(self._board).gpu) / 100.0
        except self._nvml.NVMLError:
            return 0.0

    def power_limit_w(self) -> float | None:
        """The limit that is in force; ``None`` where the board keeps it to itself."""
        return self._milli(self._nvml.nvmlDeviceGetEnforcedPowerLimit)

    def energy_j(self) -> float | None:
        """Counter of all energy since the driver was loaded; ``None`` before Volta."""
        return self._milli(self._nvml.nvmlDeviceGetTotalEnergyConsumption)

    def _milli(self, ask: Callable[[Any], int]) -> float | None:
        try:
            return float(ask(self._board)) / 1e3
        except self._nvml.NVMLError:
            return None

    def driver(self) -> str:
        said = self._nvml.nvmlSystemGetDriverVersion()
        return said.decode() if isinstance(said, bytes) else str(said)


def find_nvml(index: int = 0) -> Nvml | None:
    """The board, or ``None`` without the bindings (nvidia-ml-py) or without a driver."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        return Nvml(library, index)
    except library.NVMLError:
        return None
