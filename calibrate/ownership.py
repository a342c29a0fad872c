"""What the shipped price book says about buying: the table of published prices, and assumptions with their source.

Figures that the table keeps in words (``residual 25-35% after 36 months``) are read out of its notes, so that
a changed table changes the book. What the table lacks is assumed here, each with a reason.
"""

from __future__ import annotations

import math
import re
from typing import Any

from twin.base import HOURS_PER_MONTH, InputError

Row = dict[str, str]
Figures = dict[str, Any]

STREET_SPREAD = 0.3
"""Street prices of GPUs are given as 'rough +-20-40%'."""

TDP_LABELS = {
    "A100": "A100-80GB SXM",
    "L40S": "L40S",
    "H100": "H100 SXM",
    "H200": "H200 SXM",
    "B200": "B200",
    "RTXPRO6000": "RTX PRO 6000 Server",
    "L4": "L4",
    "MI300X": "MI300X",
}


def assets(rows: list[Row], gpus: dict[str, str]) -> dict[str, Figures]:
    """What buying each GPU takes, as far as the table says."""
    found = {gpu: _assets(rows, label) for label, gpu in gpus.items()}
    return {gpu: figures for gpu, figures in found.items() if figures}


def ownership(rows: list[Row]) -> dict[str, Figures]:
    """The assumptions about owning, reserving and spot."""
    node = _one(rows, "H100", "capex_8gpu_node")
    residual, space = _range(node, r"residual (\d+)-(\d+)%"), _range(node, r"(\d+)-(\d+) USD/kW-month")
    months = float(_numbers(node, r"after (\d+) months")[0])
    meter = _one(rows, "any", "electricity")
    typical = next(row for row in rows if "reserved discount range" in row["note"])
    discount = _range(typical, r"reserved discount range (\d+)-(\d+)%")
    return {
        "lifetime_months": _cited(node, months, note="the months that its residual value is stated for"),
        "residual_share": _cited(node, *_middle(residual, 100), note=node["note"]),
        "interest_per_year": _interest(),
        "electricity_usd_per_kwh": _cited(meter, float(meter["value"]), note=meter["provider"]),
        "pue": _cited(meter, _numbers(meter, r"PUE ([\d.]+)")[0], note=meter["provider"]),
        "server_power_ratio": _cited(
            node, round(_around(rows), 4), note="an H100 node's power over that of its boards"
        ),
        "server_usd_per_gpu": _server(rows, node),
        "network_share": _network(),
        "space_usd_per_kw_month": _cited(node, *_middle(space, 1), note="of IT power; taken to be without electricity"),
        "reserved_discount": _cited(typical, *_middle(discount, 100), note=typical["note"]),
        **_spot(),
    }


def _interest() -> Figures:
    source = (
        "no one figure; effective rates of a GPU cloud's loans, 7-15 % (CoreWeave 10-Q of 2025-06-30, note 10, Debt)"
    )
    return _figure(0.1, 0.07, 0.15, source=source, date="2025-06-30", note="a buyer's own cost of capital belongs here")


def _network() -> Figures:
    note = "switches, transceivers and cables are said to add 10-15 % to the hardware; insurance is in that figure too"
    return _figure(0.125, 0.1, 0.15, source="page v2-pseo-ai.pages.dev gpu-tco-analysis", date="2026", note=note)


def _spot() -> dict[str, Figures]:
    """Interruptions: the share of instances reclaimed in a month as a rate per hour."""
    rate = [round(-math.log1p(-share) / HOURS_PER_MONTH, 7) for share in (0.175, 0.05, 0.2)]
    advisor = "AWS Spot Instance Advisor of 2026-02-24, as quoted by thundercompute.com"
    wake = "a wake of 8 minutes or less on one fleet (spotinference.com), and the wait for a GPU, assumed"
    return {
        "spot_interruptions_per_hour": _figure(
            *rate,
            source=advisor,
            date="2026-02-24",
            note="H100 nodes: 15-20 % reclaimed in a month; A100 and L4: 5-10 %",
        ),
        "spot_restart_s": _figure(
            900.0, 480.0, 3600.0, source=wake, date="2026-11-21", note="until a replica serves again"
        ),
        "spot_lost_work_s": _figure(
            30.0,
            None,
            None,
            source="assumed: what runs is served again",
            date="2026-11-21",
            note="a typical long answer",
        ),
        "spot_availability": _figure(
            0.999, None, None, source="assumed", date="2026-11-21", note="of the time, all replicas planned are up"
        ),
    }


def _assets(rows: list[Row], label: str) -> Figures:
    figures: Figures = {}
    if row := _first(rows, label, "capex_per_gpu"):
        usd = float(row["value"])
        spread = (round(usd * (1 - STREET_SPREAD), 2), round(usd * (1 + STREET_SPREAD), 2))
        figures["capex_usd_per_gpu"] = _cited(row, usd, *spread, note=f"{row['provider']}; {row['note']}")
    if row := _first(rows, label, "capex_8gpu_node"):
        low, high = _range(row, r"(\d+)-(\d+)k")
        figures["capex_usd_per_node"] = _cited(row, float(row["value"]), low * 1e3, high * 1e3, note=row["provider"])
        figures["gpus_per_node"] = 8
    if power := _power(rows, label):
        figures["all_in_kw"] = power
    published = [row for row in rows if row["gpu"] == label and row["kind"].startswith("owned_tco")]
    if published and "capex_usd_per_gpu" in figures:
        values = [float(row["value"]) for row in published]
        middle = round(math.fsum(values) / len(values), 4)
        note = "only to compare with: " + ", ".join(row["kind"] for row in published)
        figures["published_usd_per_gpu_hour"] = _cited(published[0], middle, min(values), max(values), note=note)
    return figures


def _power(rows: list[Row], label: str) -> Figures | None:
    """At the meter: as published, else the board's with the server and cooling of an H100 node around it."""
    if row := _first(rows, label, "all_in_power_per_gpu"):
        return _cited(row, float(row["value"]), note=row["note"])
    board = _first(rows, TDP_LABELS.get(label, ""), "tdp")
    if board is None:
        return None
    node, pue = _one(rows, "H100", "capex_8gpu_node"), _numbers(_one(rows, "any", "electricity"), r"PUE ([\d.]+)")[0]
    around = _around(rows)
    kw = round(float(board["value"]) / 1e3 * around * pue, 4)
    note = f"board of {board['value']} W × {around:.3f} for the server, as in a node of H100 × PUE {pue:g}"
    return _cited(node, kw, note=note)


def _around(rows: list[Row]) -> float:
    """IT power over that of the boards, in an H100 node at its limit."""
    node, board = _one(rows, "H100", "capex_8gpu_node"), _one(rows, TDP_LABELS["H100"], "tdp")
    return _numbers(node, r"([\d.]+) kW/node")[0] * 1e3 / 8 / float(board["value"])


def _server(rows: list[Row], node: Row) -> Figures:
    """What a node costs beyond its eight GPUs, per GPU: known of H100 alone."""
    gpu = float(_one(rows, "H100", "capex_per_gpu")["value"])
    low, high = _range(node, r"(\d+)-(\d+)k")
    per_gpu = [(usd - 8 * gpu) / 8 for usd in (low * 1e3, float(node["value"]), high * 1e3)]
    note = "price of an H100 node less eight GPUs; taken for other GPUs too"
    return _cited(node, per_gpu[1], per_gpu[0], per_gpu[2], note=note)


def _cited(row: Row, value: float, low: float | None = None, high: float | None = None, *, note: str = "") -> Figures:
    """A figure with the source of its row."""
    return _figure(value, low, high, source=row["source"], date=row["date"], note=note)


def _figure(value: float, low: float | None, high: float | None, *, source: str, date: str, note: str) -> Figures:
    spread = {} if low is None else {"low": low, "high": high}
    return {"value": value, **spread, "origin": "assumed", "source": source, "date": date, "note": note}


def _middle(ends: tuple[float, float], scale: float) -> tuple[float, float, float]:
    low, high = ends[0] / scale, ends[1] / scale
    return round((low + high) / 2, 6), low, high


def _first(rows: list[Row], gpu: str, kind: str) -> Row | None:
    return next((row for row in rows if row["gpu"] == gpu and row["kind"] == kind), None)


def _one(rows: list[Row], gpu: str, kind: str) -> Row:
    row = _first(rows, gpu, kind)
    if row is None:
        raise InputError(f"the price table lacks {kind} of {gpu}")
    return row


def _numbers(row: Row, pattern: str) -> tuple[float, ...]:
    match = re.search(pattern, row["note"])
    if match is None:
        raise InputError(f"the price table's note on {row['gpu']} {row['kind']} lacks what looks like {pattern}")
    return tuple(map(float, match.groups()))


def _range(row: Row, pattern: str) -> tuple[float, float]:
    low, high = _numbers(row, pattern)
    return low, high
