"""What a run says of money, as charts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from twin.show.chart import Axis, Chart, Rule, Series
from twin.show.words import Say, words

EN = words("en")
Json = Mapping[str, Any]
WAYS = {"on_demand": "on demand", "reserved": "reserved", "spot": "spot", "owned": "owned"}


BOUGHT = (
    "Owned, as spent: hardware when it is needed, running it, and interest on what it has not yet saved"
    " against renting {way}, before any resale."
)
NOT_YET = "Against renting {way} it does not pay for itself in these months as the fleet grows."
STANDING = "For the fleet as it stands that is month {month}."
PAID = (
    "Where it meets {way}, the purchase has paid for itself, with interest: in month {month} as the fleet grows, counted"
    " from 0."
)


def cumulative_cost(option: Json, say: Say = EN, *, start: str = "") -> Chart:
    """What each way to pay has cost by the end of each month, as traffic grows; and what was spent on buying, against the
    rent that the plan is at, up to where both meet. ``start``: the calendar month of month 0, worded.
    """
    money = option.get("money") or {}
    bill = _bill(option)
    series = []
    for kind, way in (money.get("ways") or {}).items():
        if not way.get("usd_by_month"):
            continue
        spent = (0.0, *accumulate(way["usd_by_month"]))
        months = tuple(range(len(spent)))
        low, high = (
            (tuple(usd * bill[end] / bill["value"] for usd in spent) for end in ("p5", "p95"))
            if _paid(kind, option)
            else ((), ())
        )
        series.append(Series(say(WAYS.get(kind, kind)), months, spent, low=low, high=high))
    bought, rules, told = _bought(money, say)
    notes = [
        say("At the price book's prices; the fleet grows with the traffic of the plan."),
        say(
            "Band: 5% to 95% of the possible worlds' prices ({how}); other ways to pay have none.", how=say(bill["how"])
        )
        if any(one.low for one in series)
        else say("Prices have no interval here."),
        *told,
    ]
    return Chart(
        f"cumulative-{option['id']}",
        say("What it will have cost, by way to pay"),
        Axis(say("months from the start of {month} on", month=start) if start else say("months"), low=0.0),
        Axis(say("USD in total"), money=True, low=0.0),
        (*series, *bought) if series else (),
        rules if series else (),
        note=" ".join(notes) if series else "",
    )


def rent_or_buy(money: Json) -> Json | None:
    """The comparison that is drawn: with the rent that the plan is at, else the first; ``None`` where buying has no price."""
    found = [turn for turn in money.get("crossover") or () if turn.get("cash_by_month")]
    return next((turn for turn in found if turn["against"] == money.get("kind")), found[0] if found else None)


def _bought(money: Json, say: Say) -> tuple[tuple[Series, ...], tuple[Rule, ...], tuple[str, ...]]:
    """The curve of what was spent on buying, the mark where it meets rent, and what the note says of both."""
    if (turn := rent_or_buy(money)) is None:
        return (), (), ()
    first, *later = turn["cash_by_month"]
    spent = (turn["upfront_usd"], *accumulate((first, *later)))
    way, month = say(WAYS[turn["against"]]), turn["month_as_it_grows"]
    curve = Series(say("owned, as spent"), tuple(range(len(spent))), spent, baseline=True)
    told = [say(BOUGHT, way=way)]
    told.append(say(NOT_YET, way=way) if month is None else say(PAID, way=way, month=f"{month:.1f}"))
    if turn["month"] is not None:
        told.append(say(STANDING, month=f"{turn['month']:.1f}"))
    if month is None:
        return (curve,), (), tuple(told)
    mark = Rule("x", month, say("the purchase has paid for itself, against {way}", way=way))
    return (curve,), (mark,), tuple(told)


def _bill(option: Json) -> Json:
    """The month's bill over the possible worlds; empty without --risk."""
    found: Json = (option.get("risk") or {}).get("usd_per_month") or {}
    return found


def _paid(kind: str, option: Json) -> bool:
    """Whether the interval of the bill is of this way to pay, and is one."""
    bill = _bill(option)
    return bool(bill) and bill["value"] > 0 and bill["p5"] != bill["p95"] and kind == option["money"].get("kind")


def cost_tree(option: Json, say: Say = EN) -> Chart:
    """What a month costs, by way to pay, made up of its lines, with the bill over the possible worlds."""
    ways = (option.get("money") or {}).get("ways") or {}
    lines: dict[str, dict[str, float]] = {}
    for kind, way in ways.items():
        for line in way.get("lines") or ():
            parts = lines.setdefault(line["name"], {})
            parts[kind] = parts.get(kind, 0.0) + line["usd_per_month"]
    names = {kind: say(WAYS.get(kind, kind)) for kind in ways}
    series = [
        Series(say(name), tuple(names[kind] for kind in parts), tuple(parts.values()), "bars")
        for name, parts in lines.items()
    ]
    notes = [say("Of the first month, at the price book's prices; where each is from stands with the assumptions.")]
    for kind in ways if series else ():
        if _paid(kind, option):
            bill = _bill(option)
            ends: dict[str, Any] = {"low": (bill["p5"],), "high": (bill["p95"],)}
            series.append(Series(say("over the possible worlds"), (names[kind],), (bill["p50"],), "points", **ends))
            notes.append(say("Whiskers: 5% to 95% of the possible worlds ({how}).", how=say(bill["how"])))
    return Chart(
        f"cost-{option['id']}",
        say("What a month costs, by way to pay"),
        Axis(""),
        Axis(say("USD a month"), money=True, low=0.0),
        tuple(series),
        note=" ".join(notes) if series else "",
        across=True,
        stacked=True,
    )
