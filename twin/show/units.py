"""The figures of hardware in words: what each is called, and its value with three digits and a prefix."""

from __future__ import annotations

LABELS = {
    "memory_bytes": "memory",
    "mem_bw_bytes_per_s": "memory bandwidth",
    "flops_bf16": "dense bf16 peak",
    "flops_fp8": "dense fp8 peak",
    "flops_int8": "dense int8 peak",
    "flops_nvfp4": "dense fp4 peak",
    "flops_fp32": "fp32 peak",
    "num_sms": "processors",
    "board_power_w": "board power",
    "intra_node_link_bytes_per_s": "link in the node, each way",
    "pcie_bytes_per_s": "PCIe, each way",
}


def si(value: float, unit: str) -> str:
    """Three digits and a prefix: ``4.80 TB/s``, ``12.9 µs``. Memory in GiB, a bare number where there is no unit."""
    if unit == "B":
        return f"{value / 2**30:.1f} GiB"
    if unit not in ("B/s", "FLOP/s", "s"):
        return f"{value:.3g} {unit}".strip() if unit == "×" or not unit else f"{value:,.0f} {unit}"
    scales = {"": 1.0, "m": 1e-3, "µ": 1e-6, "n": 1e-9} if unit == "s" else {"P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6}
    prefix, scale = next(((p, s) for p, s in scales.items() if abs(value) >= s), list(scales.items())[-1])
    return f"{_three_digits(value / scale)} {prefix}{unit}"


def _three_digits(value: float) -> str:
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
