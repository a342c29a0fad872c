"""What a run says of risk, as charts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from twin.cost.parts import Z90
from twin.risk.assess import chance
from twin.show.chart import Axis, Chart, Rule, Series
from twin.show.words import Say, words

EN = words("en")
Json = Mapping[str, Any]


def risk_bands(option: Json, say: Say = EN) -> Chart:
    """Each promised quantile over the possible worlds, as a share of what is promised; 100 % is the promise itself."""
    risk = option.get("risk") or {}
    bounds = risk.get("bounds", ())
    names = tuple(_bound(bound) for bound in bounds)

    def of(key: str) -> tuple[float, ...]:
        return tuple(bound[key] / bound["seconds"] for bound in bounds)

    held = tuple(
        say("held in {share} of worlds", share=f"{bound['probability_held']['value']:.0%}") for bound in bounds
    )
    series = (
        Series(say("median world"), names, of("p50_s"), "points", low=of("p5_s"), high=of("p95_s"), labels=held),
        Series(say("as planned"), names, of("planned_s"), "points"),
    )
    note = say(
        "Whiskers: 5% to 95% of {worlds} possible worlds, over the busiest minutes scaled to the whole trace.",
        worlds=risk.get("worlds"),
    )
    return Chart(
        f"risk-{option['id']}",
        say("How latency may turn out, against what is promised"),
        Axis(""),
        Axis(say("share of what is promised"), share=True, low=0.0),
        series if bounds else (),
        (Rule("y", 1.0, say("promised")),) if bounds else (),
        note=note if bounds else "",
        across=True,
    )


def _bound(bound: Json) -> str:
    whose = f"{bound['request_class']}: " if bound.get("request_class") else ""
    return f"{whose}p{bound['quantile'] * 100:g} {bound['metric'].upper()} ≤ {bound['seconds'] * 1e3:,.4g} ms"


def growth(option: Json, say: Say = EN) -> Chart:
    """In what share of the possible worlds the option still holds, month by month as traffic grows."""
    risk = option.get("risk") or {}
    grown = risk.get("growth") or {}
    held = tuple(grown.get("probability_held_by_month", ()))
    low, high = zip(*(_chance(share, risk["worlds"]) for share in held), strict=True) if held else ((), ())
    months = {"breaks_in_month": say("breaks as planned"), "breaks_in_month_p5": say("breaks in 5% of worlds")}
    rules = [Rule("x", grown[key], name) for key, name in months.items() if grown.get(key)]
    title = (
        say("How long it holds, at {rate} growth a month", rate=f"{grown['per_month']:.1%} ± {grown['stderr']:.1%}")
        if held
        else say("How long it holds")
    )
    note = say("Band: 90% Monte-Carlo interval of {worlds} possible worlds.", worlds=risk.get("worlds"))
    return Chart(
        f"growth-{option['id']}",
        title,
        Axis(say("months from today"), low=0.0),
        Axis(say("share of worlds in which it holds"), share=True, low=0.0, high=1.02),
        (Series(say("holds"), tuple(range(len(held))), held, "steps", low=low, high=high),) if held else (),
        tuple(rules),
        note=note if held else "",
    )


def _chance(share: float, worlds: int) -> tuple[float, float]:
    """90 % interval of a share of worlds."""
    estimate = chance(np.arange(worlds) < round(share * worlds))
    room = Z90 * estimate["stderr"]
    return max(share - room, 0.0), min(share + room, 1.0)


SENSITIVE = {
    "cost": ("What moves the cost", "change of the cost"),
    "tail": ("What moves the tail latency", "change of the worst promised quantile"),
}


def sensitivity(risk: Json | None, which: str = "cost", say: Say = EN) -> Chart:
    """Uncertain inputs by how much each moves the ``cost`` or the ``tail`` (5 % to 95 % point); the largest first."""
    title, changed = SENSITIVE[which]
    found = (risk or {}).get("sensitivity") or {}
    rows = [row for row in found.get(which, ()) if row["effect"] > 0]
    names = tuple(say(row["input"]) for row in rows)
    effects = tuple(row["effect"] for row in rows)
    series = Series(
        say("effect"),
        names,
        effects,
        "bars",
        low=tuple(max(row["effect"] - row["error"], 0.0) for row in rows),
        high=tuple(row["effect"] + row["error"] for row in rows),
        labels=tuple(say(row["direction"]) for row in rows),
    )
    note = say(
        "Each input moves from its 5% to its 95% point; whiskers: 95% over trajectories of {simulations} simulations."
        " Assumed: {what}.",
        simulations=found.get("simulations"),
        what=say(str(found.get("assumed"))),
    )
    return Chart(
        f"sensitivity-{which}",
        say(title),
        Axis(""),
        Axis(say(changed), share=True, low=0.0),
        (series,) if rows else (),
        note=note if rows else "",
        across=True,
    )
