"""Facts of each accelerator that the database's datasheets do not hold, with where they come from."""

from __future__ import annotations

from typing import Any

from twin.base import Estimate
from twin.spec.hardware import Facts, Flops

DEVICE_SOURCE = "as the device reports it, from public vLLM and torch logs"

# MiB and streaming multiprocessors (AMD: compute units) as the device reports them to CUDA or HIP (nvidia-smi says up to
# 2 % more), and when that was looked up; boards of one kind differ by about 0.1 %.
DEVICE: dict[str, tuple[str, int, int, str]] = {
    "a100_sxm": ("NVIDIA A100-SXM4-80GB", 81050, 108, "2026-09"),
    "l40s": ("NVIDIA L40S", 45457, 142, "2026-09"),
    "h100_sxm": ("NVIDIA H100 80GB HBM3", 81008, 132, "2026-09"),
    "h200_sxm": ("NVIDIA H200", 143156, 132, "2026-09"),
    "b200_sxm": ("NVIDIA B200", 182631, 148, "2026-09"),
    "b300_sxm": ("NVIDIA B300 SXM6 AC", 274115, 148, "2026-11"),  # 267.69 GiB
    "gb200": ("NVIDIA GB200", 188733, 152, "2026-11"),  # 184.31 GiB
    "gb300": ("NVIDIA GB300", 283136, 152, "2026-11"),  # 276.50 GiB
    "rtx_pro_6000_server": ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97250, 188, "2026-11"),
    "l4": ("NVIDIA L4", 22559, 58, "2026-11"),  # 22.03 GiB
    "a30": ("NVIDIA A30", 24166, 56, "2026-11"),  # 23.60 GiB
    "rtx4090": ("NVIDIA GeForce RTX 4090", 24207, 128, "2026-11"),  # 23.64 GiB
    "mi300x": ("AMD Instinct MI300X", 196592, 304, "2026-11"),
}


def facts_of(gpu: str, datasheet: dict[str, dict[str, Any]], source: str, date: str) -> Facts:
    """Datasheet figures of the database, with the device's own memory and multiprocessors where known."""
    board, node = datasheet["gpu"], datasheet["node"]
    _, mib, sms, seen = DEVICE[gpu]

    def sheet(value: float) -> Estimate:
        return Estimate(value=float(value), origin="datasheet", source=source, date=date)

    def device(value: float) -> Estimate:
        return Estimate(value=float(value), origin="measured", source=DEVICE_SOURCE, date=seen)

    fp8, fp4 = board.get("fp8_tc_flops"), board.get("fp4_tc_flops")
    return Facts(
        memory_bytes=device(mib * 2**20),
        mem_bw_bytes_per_s=sheet(board["mem_bw"]),
        flops=Flops(
            bf16=sheet(board["bfloat16_tc_flops"]), fp8=sheet(fp8) if fp8 else None, nvfp4=sheet(fp4) if fp4 else None
        ),
        num_sms=device(sms),
        board_power_w=sheet(board["power"]),
        intra_node_link_bytes_per_s=sheet(node["intra_node_bw"]),
        pcie_bytes_per_s=sheet(node["pcie_bw"]),
        num_gpus_per_node=int(node["num_gpus_per_node"]),
    )
