"""How fast a device can be at an arithmetic intensity, and how fast its matrix products are: a roofline.

Williams, Waterman and Patterson, Roofline (CACM 2009): attainable FLOP/s = min(peak, bandwidth × FLOPs per byte).
"""

from __future__ import annotations

from typing import Any

from twin.cost.standard import SIDE, TOKENS, priced
from twin.spec.hardware import Flops, HardwareProfile

INTENSITIES = (1.0, 10_000.0)
"""FLOPs per byte that are of interest: a decode of one sequence to a long prefill."""
BYTES_EACH = {"bf16": 2.0, "fp8": 1.0, "int8": 1.0, "nvfp4": 0.5625, "fp32": 4.0}
"""Of a weight and of an activation; fp4 with its scale of a byte per 16."""


def peaks(profile: HardwareProfile) -> dict[str, float]:
    """Dense peak in FLOP/s by precision, of those that the device has."""
    found = {name: getattr(profile.facts.flops, name) for name in Flops.model_fields}
    return {name: figure.value for name, figure in found.items() if figure is not None}


def roofline(profile: HardwareProfile, precision: str) -> dict[str, Any] | None:
    """``intensity`` and ``flops_per_s`` of the roof's corners, and ``points``: the standard matrix products of the precision
    at the rate they are priced at, with 90 % bounds. ``None`` where the device lacks the precision.
    """
    if precision not in peaks(profile):
        return None
    peak, bandwidth = peaks(profile)[precision], profile.facts.mem_bw_bytes_per_s.value
    ridge = peak / bandwidth
    corners = [INTENSITIES[0], ridge, max(INTENSITIES[1], 2 * ridge)]
    costs = priced(profile)
    points = []
    for tokens in TOKENS:
        cost = costs.get(f"GEMM {precision} {tokens}×{SIDE}×{SIDE}")
        if cost is not None:
            work = 2.0 * tokens * SIDE * SIDE
            moved = BYTES_EACH[precision] * (tokens * SIDE + SIDE * SIDE) + BYTES_EACH["bf16"] * tokens * SIDE
            points.append(
                {
                    "tokens": tokens,
                    "intensity": work / moved,
                    "flops_per_s": work / cost.seconds,
                    "flops_per_s_lo90": cost.high90_s and work / cost.high90_s,
                    "flops_per_s_hi90": cost.low90_s and work / cost.low90_s,
                    "inside": cost.inside,
                }
            )
    return {
        "ridge": ridge,
        "intensity": corners,
        "flops_per_s": [min(peak, bandwidth * at) for at in corners],
        "points": points,
    }
