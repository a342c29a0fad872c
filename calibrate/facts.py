"""Facts of each accelerator that the database's datasheets do not hold, with where they come from."""

from __future__ import annotations

from typing import Any

from twin.base import Estimate
from twin.spec.hardware import Facts, Flops

DEVICE_SOURCE = "as the CUDA device reports it, from public vLLM and torch logs"
DEVICE_DATE = "2026-09"

# MiB and streaming multiprocessors as the device reports them; boards of one kind differ by about 0.1 %.
DEVICE: dict[str, tuple[str, int, int]] = {
    "a100_sxm": ("NVIDIA A100-SXM4-80GB", 81050, 108),
    "l40s": ("NVIDIA L40S", 45457, 142),
    "h100_sxm": ("NVIDIA H100 80GB HBM3", 81008, 132),
    "h200_sxm": ("NVIDIA H200", 143156, 132),
    "b200_sxm": ("NVIDIA B200", 182631, 148),
}


def facts_of(gpu: str, datasheet: dict[str, dict[str, Any]], source: str, date: str) -> Facts:
    """Datasheet figures of the database, with the device's own memory and multiprocessors where known."""
    board, node = datasheet["gpu"], datasheet["node"]

    def sheet(value: float) -> Estimate:
        return Estimate(value=float(value), origin="datasheet", source=source, date=date)

    def device(value: float) -> Estimate:
        return Estimate(value=float(value), origin="measured", source=DEVICE_SOURCE, date=DEVICE_DATE)

    _, mib, sms = DEVICE[gpu]
    fp8 = board.get("fp8_tc_flops")
    return Facts(
        memory_bytes=device(mib * 2**20),
        mem_bw_bytes_per_s=sheet(board["mem_bw"]),
        flops=Flops(bf16=sheet(board["bfloat16_tc_flops"]), fp8=sheet(fp8) if fp8 else None),
        num_sms=device(sms),
        board_power_w=sheet(board["power"]),
        intra_node_link_bytes_per_s=sheet(node["intra_node_bw"]),
        pcie_bytes_per_s=sheet(node["pcie_bw"]),
        num_gpus_per_node=int(node["num_gpus_per_node"]),
    )
