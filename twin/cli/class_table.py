"""Classes of requests and pools, in the answer of ``twin plan`` for people."""

from __future__ import annotations

from typing import Any


def serves(pool: dict[str, Any]) -> str:
    """``chat, code``; requests of no class are ``other``."""
    return ", ".join(name or "other" for name in pool["serves"])


def class_lines(option: dict[str, Any]) -> list[str]:
    """Per class how many of its requests keep all promises, and what came of each; then what the boards draw."""
    lines = []
    for item in option.get("classes", []):
        if not item["requests"]:
            lines.append(f"Class {item['name']}: no request of this traffic.")
            continue
        kept = "; ".join(
            f"p{b['quantile'] * 100:g} {b['metric'].upper()} {b['worst_s'] * 1e3:,.0f} of {b['seconds'] * 1e3:,.0f} ms"
            for b in item["bounds"]
        )
        lines.append(
            f"Class {item['name']}: {item['slo_attainment']:.2%} of {item['requests']:,} requests keep every promise"
            + (f" ({kept})." if kept else ".")
        )
    if energy := option.get("energy"):
        lines.append(
            f"Energy: {energy['kwh_per_month']:,.0f} kWh/month of boards, {energy['wh_per_1k_output_tokens']:.2f} Wh per 1,000"
            f" output tokens (idle share {energy['idle_share']['value']:.0%} of the limit, assumed)."
        )
    return lines
