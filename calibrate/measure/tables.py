"""A measurement log as tables, with the columns of :mod:`calibrate.importers`."""

from __future__ import annotations

import pandas as pd

from calibrate.measure.log import KEYS, Log


def tables(log: Log) -> dict[str, pd.DataFrame]:
    """One frame per family that was measured: its keys, ``seconds`` and what else was noted of its points.

    ``attrs["source"]`` names the file, the machine and its torch. The log was checked when it was read.
    """
    machine = log.machine
    source = f"{log.path.name}: {machine['name']}, torch {machine['torch']}, {machine['date']}"
    found: dict[str, pd.DataFrame] = {}
    for family in KEYS:
        rows = [
            {name: x for name, x in point.items() if name != "family"}
            for point in log.points
            if point["family"] == family
        ]
        if rows:
            found[family] = pd.DataFrame(rows)
            found[family].attrs["source"] = source
    return found


def summary(log: Log) -> list[dict[str, object]]:
    """One row per family and kind: points, median spread, and the best rate seen (FLOP/s or bytes/s)."""
    rows: list[dict[str, object]] = []
    for family, table in tables(log).items():
        kind = next(name for name in KEYS[family] if name in ("dtype", "kv", "op", "direction", "backend"))
        for value, part in table.groupby(kind):
            rows.append(
                {
                    "family": family,
                    "kind": str(value),
                    "points": len(part),
                    "median_spread": round(float(part["spread"].median()), 4),
                    **_best(family, part),
                }
            )
    return rows


def _best(family: str, part: pd.DataFrame) -> dict[str, float]:
    seconds = part["seconds"]
    if family == "gemm":
        rate = 2.0 * part["m"] * part["n"] * part["k"] / seconds
    elif family == "prefill":
        pairs = part["batch"] * part["chunk"] * (part["context"] + part["chunk"] / 2)
        rate = 4.0 * pairs * part["num_heads"] * part["head_dim"] / seconds
    else:
        return {"best_bytes_per_s": float(f"{(_bytes(family, part) / seconds).max():.3g}")}
    return {"best_flops_per_s": float(f"{rate.max():.3g}")}


def _bytes(family: str, part: pd.DataFrame) -> pd.Series[float]:
    if family == "decode":
        size = part["kv"].map({"bf16": 2.0, "fp8": 1.0})
        return 2.0 * size * part["batch"] * part["context"] * part["num_kv_heads"] * part["head_dim"]
    return part["message_bytes" if family == "all_reduce" else "bytes_moved"].astype(float)
