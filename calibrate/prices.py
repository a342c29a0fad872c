"""``python -m calibrate.prices gpu_prices.csv``: the shipped price book from a table of published prices.

The rule, the same for every GPU: on demand and spot are the median over providers of the dated snapshot, each
provider counted once; reserved is the three-year rental contract and owned the mean of the hyperscaler's and
the neocloud's total cost of ownership, both single published estimates; where the table says what a GPU costs to buy,
owning is worked out of that instead (:mod:`calibrate.ownership`). A region's price is its provider's there. What the table
lacks is left out.
"""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path
from typing import Any

import yaml

from calibrate.ownership import assets, ownership
from twin.base import InputError, data_dir

GPUS = {
    "A100": "a100_sxm",
    "L40S": "l40s",
    "H100": "h100_sxm",
    "H200": "h200_sxm",
    "B200": "b200_sxm",
    "B300": "b300_sxm",
    "GB200": "gb200",
    "RTXPRO6000": "rtx_pro_6000_server",
    "L4": "l4",
    "MI300X": "mi300x",
}
SNAPSHOT = "snapshot 20260601"
ESTIMATES = {
    "reserved": ("rental_contract_3yr",),
    "owned": ("owned_tco_hyperscaler", "owned_tco_neocloud"),
}
RULE = (
    "on_demand, spot: median over providers of the snapshot, low and high over providers; reserved: three-year contract, "
    "low and high over published contracts of any term; owned: worked out of assets and ownership, else the mean of two "
    "published estimates of total cost of ownership; regions: the provider's own price there"
)
_MEMORY_NOTE = "the snapshot does not separate 40 and 80 GB"


def price_book(rows: list[dict[str, str]]) -> dict[str, Any]:
    """The content of ``prices.yaml`` from the rows of the table."""
    bought = assets(rows, GPUS)
    prices = {}
    for label, gpu in GPUS.items():
        mine = [row for row in rows if row["gpu"] == label]
        kinds = {kind: _snapshot(mine, kind, label) for kind in ("on_demand", "spot")}
        kinds |= {kind: _estimate(mine, names) for kind, names in ESTIMATES.items()}
        if "capex_usd_per_gpu" in bought.get(gpu, {}):
            del kinds["owned"]
        prices[gpu] = {kind: kinds[kind] for kind in ("on_demand", "reserved", "spot", "owned") if kinds.get(kind)}
    return {
        "schema_version": 1,
        "rule": RULE,
        "prices": prices,
        "regions": _regions(rows),
        "assets": bought,
        "ownership": ownership(rows),
    }


def _regions(rows: list[dict[str, str]]) -> dict[str, Any]:
    """``provider/region`` → GPU → kind → price, where the snapshot names a region."""
    found: dict[str, Any] = {}
    for row in rows:
        if row["us_region"] and row["gpu"] in GPUS and SNAPSHOT in row["source"]:
            gpus = found.setdefault(f"{row['provider']}/{row['us_region']}", {})
            gpus.setdefault(GPUS[row["gpu"]], {})[row["kind"]] = {
                "usd_per_gpu_hour": float(row["usd_per_gpu_hour_us"]),
                "n": 1,
                "origin": "datasheet",
                "source": row["source"],
                "date": row["date"],
            }
    return dict(sorted(found.items()))


def _snapshot(rows: list[dict[str, str]], kind: str, label: str) -> dict[str, Any] | None:
    chosen = [row for row in rows if row["kind"] == kind and SNAPSHOT in row["source"]]
    if not chosen:
        return None
    values = [float(row["usd_per_gpu_hour_median"]) for row in chosen]
    note = f"{min(values):g}–{max(values):g} over {len(values)} providers, each the median of its regions"
    if len(values) == 1:
        note = f"one provider ({chosen[0]['provider']}), the median of its regions"
    return {
        "usd_per_gpu_hour": round(statistics.median(values), 4),
        **_spread(values),
        "n": len(values),
        "origin": "datasheet",
        "source": chosen[0]["source"],
        "date": chosen[0]["date"],
        "note": f"{note}; {_MEMORY_NOTE}" if label == "A100" else note,
    }


def _estimate(rows: list[dict[str, str]], names: tuple[str, ...]) -> dict[str, Any] | None:
    chosen = [row for row in rows if row["kind"] in names]
    if len(chosen) < len(names):
        return None
    values = [float(row["value"]) for row in chosen]
    return {
        "usd_per_gpu_hour": round(statistics.mean(values), 4),
        **_spread(values + [float(row["value"]) for row in rows if names == ESTIMATES["reserved"] and _contract(row)]),
        "n": len(chosen),
        "origin": "assumed",
        "source": chosen[0]["source"],
        "date": chosen[0]["date"],
        "note": "published estimate: " + ", ".join(row["kind"] for row in chosen),
    }


def _contract(row: dict[str, str]) -> bool:
    """Whether the row is a published price of committing for a term."""
    return row["kind"].startswith(("reserved_", "long_term_contract"))


def _spread(values: list[float]) -> dict[str, float]:
    return {"low": min(values), "high": max(values)} if len(values) > 1 else {}


def read_table(path: Path) -> list[dict[str, str]]:
    """Raises :class:`InputError` when the table cannot be read or lacks a column."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"cannot read the price table: {error.strerror}", where=path.name) from None
    needed = {"gpu", "kind", "provider", "usd_per_gpu_hour_median", "value", "source", "date", "note"}
    needed |= {"us_region", "usd_per_gpu_hour_us"}
    if not rows or (lacking := needed - set(rows[0])):
        raise InputError(f"the price table lacks {', '.join(sorted(lacking)) if rows else 'rows'}", where=path.name)
    return [row | {"source": row["source"].removeprefix("stored ")} for row in rows]


def dump(book: dict[str, Any]) -> str:
    """The YAML text, keys in their own order."""
    return yaml.safe_dump(book, sort_keys=False, allow_unicode=True, width=1000)


def main(arguments: list[str]) -> int:
    """Write ``hwprofiles/prices.yaml`` from the table named on the command line."""
    if len(arguments) != 1:
        print("usage: python -m calibrate.prices gpu_prices.csv", file=sys.stderr)
        return 2
    try:
        book = price_book(read_table(Path(arguments[0])))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    (data_dir("hwprofiles") / "prices.yaml").write_text(dump(book), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
