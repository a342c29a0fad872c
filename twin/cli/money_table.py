"""The money of an option for people: its bill, what of it pays for idle GPUs, and the other ways to pay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

WAYS = {"on_demand": "on demand", "reserved": "reserved", "spot": "spot", "owned": "bought"}


def money_parts(payload: dict[str, Any]) -> list[RenderableType]:
    """Of the recommended option; nothing where there is no bill."""
    from rich.text import Text

    chosen = next((item for item in payload["options"] if item["id"] == payload["recommended"]), None)
    if chosen is None or not chosen.get("money"):
        return []
    return [Text(line) for line in _sentences(chosen["money"])]


def _sentences(money: dict[str, Any]) -> Iterator[str]:
    tco = money["tco"]
    totals = " · ".join(
        f"{WAYS[kind]} ${usd:,.0f}" for kind, usd in sorted(tco["usd"].items(), key=lambda item: item[1])
    )
    rate = tco["growth_per_month"]
    grown = f", traffic growing {rate:.1%} a month and replicas with it once the head-room is used up" if rate else ""
    yield f"\nOver {tco['months']} months{grown}: {totals}."
    if (idle := money["idle"]) is not None:
        spare, bill = idle["usd_per_month"], money["usd_per_month"]
        yield f"Idle: ${spare:,.0f} of ${bill:,.0f}/month pays for capacity that no request uses."
    for turn in money["crossover"]:
        if turn["utilisation"] is not None:
            yield (
                f"Buying beats {WAYS[turn['against']]} where the GPUs are needed for more than"
                f" {turn['utilisation']:.0%} of the hours{_payback(turn)}."
            )
    if money["unpriced"]:
        yield f"Not priced: {', '.join(dict.fromkeys(item['item'] for item in money['unpriced']))}."


def _payback(turn: dict[str, Any]) -> str:
    if turn["month"] is None:
        return ""
    return f", and has paid for itself, with interest, in month {turn['month']:.1f} for the fleet as it stands"


def money_row(option: dict[str, Any]) -> dict[str, object]:
    """The money of an option as flat columns for csv and md; empty without a bill."""
    money = option.get("money")
    if not money:
        return {}
    idle = money["idle"]
    ways = {f"tco_{money['tco']['months']}_months_{kind}_usd": usd for kind, usd in money["tco"]["usd"].items()}
    return {"bill_usd_per_month": money["usd_per_month"], "idle_usd_per_month": idle and idle["usd_per_month"], **ways}
