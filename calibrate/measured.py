"""A profile from our own kernel timings (``twin calibrate kernels``), for any device that torch runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pandas as pd

from calibrate.judge import Judged
from calibrate.measure.log import read_log
from calibrate.measure.tables import tables
from calibrate.profiles import profile_from_tables
from twin.base import Estimate, InputError
from twin.spec.hardware import Facts, Flops, HardwareProfile

GPUS_PER_NODE = {"cpu": 1, "cuda": 8}


def profile_from_log(path: Path, name: str, date: str, judged: list[Judged] | None = None) -> HardwareProfile:
    """Fit the kernels of a measurement log; facts are what the device reports and the best that was measured.

    Raises :class:`InputError` for a log that cannot be used (with file and line), or too few timings.
    """
    log = read_log(path)
    frames = tables(log)
    facts = facts_of_machine(log.machine, frames, path.name, str(log.machine["date"]))
    device: Literal["gpu", "cpu"] = "cpu" if log.machine["device"] == "cpu" else "gpu"
    cores = int(log.machine["num_sms"])
    label = str(log.machine["name"]) + (f", {cores} core{'s' * (cores > 1)}" if device == "cpu" else "")
    return profile_from_tables(name, facts, frames, date, device=device, label=label, judged=judged)


def facts_of_machine(machine: dict[str, Any], frames: dict[str, pd.DataFrame], source: str, date: str) -> Facts:
    """What a device is, from what it reports and from its own timings: no datasheet is needed, and none is believed.

    Peak rates are the best matrix multiplication measured, the bandwidth the best copy within the device's memory.
    """
    copies = frames.get("copy")
    if copies is None or not (copies["direction"] == "device").any():
        raise InputError("no copies within the device's memory: its bandwidth is not known", where=source)

    def measured(value: float, what: str) -> Estimate:
        return Estimate(value=float(f"{value:.4g}"), origin="measured", source=f"{source}: {what}", date=date)

    def best_copy(direction: str) -> float | None:
        rows = copies[copies["direction"] == direction]
        return float((rows["bytes_moved"] / rows["seconds"]).max()) if len(rows) else None

    gemm = frames["gemm"]
    rate = (2.0 * gemm["m"] * gemm["n"] * gemm["k"] / gemm["seconds"]).groupby(gemm["dtype"]).max()
    flops = {str(dtype): measured(float(value), f"best {dtype} matrix multiplication") for dtype, value in rate.items()}
    if "bf16" not in flops:
        raise InputError("no bf16 matrix multiplication", where=source)
    power, pcie = machine.get("board_power_w"), best_copy("h2d")
    bandwidth = best_copy("device")
    assert bandwidth is not None
    reported = f"{source}: as the device reports it"
    return Facts(
        memory_bytes=Estimate(value=machine["memory_bytes"], origin="measured", source=reported, date=date),
        mem_bw_bytes_per_s=measured(bandwidth, "best copy"),
        flops=Flops(**flops),
        num_sms=Estimate(value=machine["num_sms"], origin="measured", source=reported, date=date),
        board_power_w=Estimate(value=power, origin="measured", source=reported, date=date) if power else None,
        pcie_bytes_per_s=measured(pcie, "best copy to the device") if pcie else None,
        num_gpus_per_node=GPUS_PER_NODE[machine["device"]],
    )
