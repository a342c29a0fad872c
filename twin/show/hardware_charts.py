"""Pictures of hardware, from the JSON of ``twin hardware compare`` and ``show``, rooflines and the price book."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twin.show.chart import Axis, Chart, Series, Value

KINDS = {"on_demand": "on demand", "reserved": "reserved", "spot": "spot", "owned": "owned"}


def operations(compared: Mapping[str, Any]) -> Chart:
    """Standard operations, priced on each profile."""
    rows = [row for row in compared["operations"] if any(row["values"].values())]
    series = []
    for head in compared["profiles"]:
        found = [(row["operation"], cell) for row in rows if (cell := row["values"][head["id"]]) is not None]
        series.append(
            Series(
                head["id"],
                tuple(name for name, _ in found),
                tuple(cell["seconds"] * 1e6 for _, cell in found),
                "points",
                _scaled([cell["low90_s"] for _, cell in found], 1e6),
                _scaled([cell["high90_s"] for _, cell in found], 1e6),
                tuple(not cell["inside"] for _, cell in found),
            )
        )
    return Chart(
        "operations",
        "What standard operations take",
        Axis("operation"),
        Axis("time, µs", log=True),
        tuple(series),
        note="Whiskers hold 90 % of measurements that the fit had not seen. Hollow: outside of the sizes that were measured, or"
        " assumed.",
        across=True,
    )


def roofline(roofs: Mapping[str, Mapping[str, Any] | None], precision: str) -> Chart:
    """The roof of each profile (by name) that has the precision, and its matrix products under it."""
    series = []
    tokens: set[int] = set()
    for number, (name, roof) in enumerate((name, roof) for name, roof in roofs.items() if roof is not None):
        series.append(Series(name, tuple(roof["intensity"]), _scaled(roof["flops_per_s"], 1e-12), colour=number))
        points: Sequence[Mapping[str, Any]] = roof["points"]
        tokens |= {point["tokens"] for point in points}
        rate, low, high = (
            _scaled([point[f"flops_per_s{end}"] for point in points], 1e-12) for end in ("", "_lo90", "_hi90")
        )
        x, hollow = tuple(point["intensity"] for point in points), tuple(not point["inside"] for point in points)
        if points:
            series.append(Series(f"{name}, priced", x, rate, "points", low, high, hollow, colour=number))
    return Chart(
        "roofline",
        f"Roofline, {precision}",
        Axis("FLOPs per byte", log=True),
        Axis("TFLOP/s", log=True),
        tuple(series),
        note="Lines: the least of datasheet bandwidth × intensity and dense datasheet peak. Marks: products of"
        f" {', '.join(f'{count:,}' for count in sorted(tokens))} tokens with an 8192 × 8192 matrix as they are priced, with"
        " 90 % bounds; hollow: outside of what was measured, or assumed.",
    )


def kernel_errors(described: Sequence[Mapping[str, Any]], kernels: Sequence[str]) -> Chart:
    """Mean absolute error of ``kernels`` on serving shapes left out of the fit, by profile."""
    series = []
    for profile in described:
        found = [item for item in profile["kernels"] if item["kernel"] in kernels and _error(item) is not None]
        series.append(
            Series(
                profile["name"],
                tuple(item["kernel"] for item in found),
                tuple(_error(item) for item in found),
                "bars",
                outside=tuple(item["origin"] == "assumed" for item in found),
                labels=tuple(f"{item['held_out']['serving']['n']:,} timings" for item in found),
            )
        )
    return Chart(
        "kernel_errors",
        "How wrong its kernels were",
        Axis("kernel"),
        Axis("mean absolute error", share=True, low=0.0),
        tuple(series),
        note="On serving shapes left out of the fit as whole shapes. Hollow: assumed, the error of devices of its class left"
        " out as a whole.",
        across=True,
    )


def prices(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """Rent by GPU and kind, with the range over providers; ``rows`` of :func:`twin.show.pages.hardware.price_rows`."""
    series = []
    for gpu in dict.fromkeys(row["gpu"] for row in rows):
        mine = [row for row in rows if row["gpu"] == gpu]
        series.append(
            Series(
                gpu,
                tuple(KINDS[row["kind"]] for row in mine),
                tuple(row["usd_per_gpu_hour"] for row in mine),
                "bars",
                tuple(row["low"] for row in mine),
                tuple(row["high"] for row in mine),
                tuple(row["origin"] == "assumed" for row in mine),
            )
        )
    return Chart(
        "prices",
        "What a GPU hour costs",
        Axis("way to pay"),
        Axis("per GPU hour", money=True, low=0.0),
        tuple(series),
        note="Whiskers: lowest to highest of the providers in the price book. Hollow: assumed, or worked out of a purchase"
        " price.",
    )


def _error(item: Mapping[str, Any]) -> float | None:
    serving = (item["held_out"] or {}).get("serving")
    return None if serving is None else serving["mape"]


def _scaled(values: Sequence[Value], by: float) -> tuple[Value, ...]:
    return tuple(None if value is None else value * by for value in values)
