"""The facts under the verdict: what stands there, how it is paid for, what that costs, how sure it is, and until when."""

from __future__ import annotations

from twin.show.report.blocks import Text
from twin.show.report.money import decided_ways, ranked_ways
from twin.show.report.options import fleet, layout, month, precision
from twin.show.report.source import Matter, Node, derived, follows, joined

PAYING = {"owned": "buying", "on_demand": "renting on demand", "reserved": "renting reserved", "spot": "renting spot"}
COMPARED = {
    (False, True): "{usd} a month ({kind}), at which the options were compared",
    (
        False,
        False,
    ): "{usd} a month ({kind}), at which the options were compared: {low} to {high} is 5 to 95 % of prices",
    (True, True): "{usd} a month ({kind})",
    (True, False): "{usd} a month ({kind}): {low} to {high} is 5 to 95 % of prices",
}
"""By whether what is deployed is judged, and whether one price is known."""
HOW = {"owned": "bought", "on_demand": "on demand", "reserved": "reserved", "spot": "spot"}


def answers(m: Matter) -> list[tuple[Text, Text]]:
    """Of the recommended option, one line each."""
    what = m.recommended
    found = [
        (m.t("What"), m.t("{fleet}; {layout}; weights / KV cache: {precision}", **_of(m, what))),
        (m.t("Way to pay"), _pay(m, what)),
        (m.t("Cost"), _cost(m, what)),
        (m.t("Confidence"), _confidence(m, what)),
        (m.t("One node down"), _down(m, what)),
        (m.t("By when"), _when(m, what)),
    ]
    if changing := _changing(m, what):
        found.insert(3, (m.t("Against today"), changing))
    return found


def _of(m: Matter, option: Node) -> dict[str, Text]:
    return {"fleet": fleet(m, option), "layout": layout(m, option), "precision": precision(m, option)}


def _pay(m: Matter, what: Node) -> Text:
    ways = decided_ways(m, what)
    if not ways:
        return m.t("{kind}; the plan has no bill", kind=m.scenario["price"].cell("word"))
    said = [_first(m, what, *ways[0]), *(_next(m, *way) for way in ways[1:2])]
    if len(ways) == 1:
        said.append(m.t("nothing else has a price"))
    first, way = ranked_ways(what)[0]
    if first == "spot" and ways[0][0] != "spot":
        said.append(m.t("spot at {usd} can be taken away at any time", usd=way["tco_usd"].cell("usd")))
    return joined(said, m.say("; "))


def _first(m: Matter, what: Node, kind: str, way: Node) -> Text:
    text = "{kind}: the cheapest over {months} months, {usd}"
    if kind == m.flags["price"].value:
        text = "{kind}, as asked: {usd} over {months} months"
    months = what["money"]["tco"]["months"].cell("count")
    return m.t(text, kind=m.t(PAYING[kind]), months=months, usd=way["tco_usd"].cell("usd"))


def _next(m: Matter, kind: str, way: Node) -> Text:
    text = "{kind} it would be {usd}" if m.flags["price"].there else "next is {kind} at {usd}"
    said = HOW[kind] if m.flags["price"].there else PAYING[kind]
    return m.t(text, kind=m.t(said), usd=way["tco_usd"].cell("usd"))


def _cost(m: Matter, what: Node) -> Text:
    """As it is decided to be paid, and at the price at which options were compared, which has an interval."""
    ways, spread, own = decided_ways(m, what), what["risk"]["usd_per_month"], what["money"]["kind"]
    kind = own if own.there else m.scenario["price"]
    compared: dict[str, Text] = {"usd": (what["usd_per_month"].cell("usd"),), "kind": (kind.cell("word"),)}
    sure = not spread["p5"].there or spread["p5"].value == spread["p95"].value
    text = COMPARED[m.fixed, sure]
    if not sure:
        compared |= {"low": (spread["p5"].cell("usd"),), "high": (spread["p95"].cell("usd"),)}
    planned = m.t(text, **compared)
    if not ways or ways[0][0] == kind.value:
        return planned
    best = ways[0][1]["usd_per_month"].cell("usd")
    return joined([m.t("{usd} a month today ({kind})", usd=best, kind=m.t(HOW[ways[0][0]])), planned], m.say("; "))


def _confidence(m: Matter, what: Node) -> Text:
    risk = what["risk"]
    chance = risk["probability_held"]
    if not chance["value"].there:
        return m.t("not assessed")
    of = {"worlds": risk["worlds"].cell("count"), "room": risk["headroom"]["factor"].cell("factor")}
    if chance["value"].value == 1:
        return m.t("every promise is kept in all {worlds} possible worlds; room for {room} of the traffic", **of)
    return m.t(
        "every promise is kept in {held} ± {error} of {worlds} possible worlds; room for {room} of the traffic",
        held=chance["value"].cell("share"),
        error=chance["stderr"].cell("share"),
        **of,
    )


def _down(m: Matter, what: Node) -> Text:
    """With one node of the recommended option down, at the peak."""
    down = what["risk"]["down"]["node"]
    if not down.there:
        return m.t("not assessed")
    left = down["replicas_left"].cell("count")
    if down["replicas_left"].value == 0:
        return m.t("nothing is left to serve from: a spare node or a second site would have to be bought")
    if down["holds"].value:
        return m.t("the replicas left ({left}) keep every promise", left=left)
    share = down["share_of_traffic"].cell("share")
    return m.t("the replicas left ({left}) keep the promises at {share} of the traffic", left=left, share=share)


def _changing(m: Matter, what: Node) -> Text:
    """What going from what is deployed to ``what`` costs or saves, each as it is paid; nothing where one has no bill."""
    old, ways = m.deployed["money"], decided_ways(m, what)
    if m.fixed or not ways or not old["ways"].there:
        return ()
    (kind, new), was = ways[0], str(old["kind"].value)
    now, months = old["ways"][was], what["money"]["tco"]["months"]
    kinds = {"new": m.t(HOW[kind]), "old": m.t(HOW[was])}
    monthly = _difference(m, new["usd_per_month"], now["usd_per_month"], "{usd} a month less", "{usd} a month more")
    said = [m.t("this ({new}) costs {monthly} than what is deployed ({old})", monthly=monthly, **kinds)]
    if old["tco"]["months"].value == months.value:
        total = _difference(m, new["tco_usd"], now["tco_usd"], "{usd} less", "{usd} more")
        said.append(m.t("over {months} months {total}", months=months.cell("count"), total=total))
    return joined(said, m.say("; "))


def _difference(m: Matter, new: Node, old: Node, less: str, more: str) -> Text:
    if new.value < old.value:
        return m.t(less, usd=derived("minus", "usd", old, new))
    return m.t(more, usd=derived("minus", "usd", new, old))


def _when(m: Matter, what: Node) -> Text:
    said: list[Text] = []
    old, own = m.deployed["risk"]["growth"], what["risk"]["growth"]
    if m.deployed.there and not m.fixed:
        if m.deployed["misses"].there:
            said.append(m.t("now: what is deployed misses its promises already"))
        elif old.there:
            said.append(m.t("what is deployed breaks: {when}", when=_interval(m, old)))
        else:
            said.append(m.t("what is deployed holds today"))
    if not own.there:
        return joined([*said, m.t("no growth was given, so nothing says when the next step is due")], m.say("; "))
    return joined(
        [*said, _next_step(m, own), m.t("as planned a promise breaks: {when}", when=_interval(m, own))], m.say("; ")
    )


def _next_step(m: Matter, own: Node) -> Text:
    """When the plan's own rules are no longer kept, whichever is first: the confidence, or the capacity left free."""
    asked = m.plan["risk"]["confidence"]
    due = [
        (
            "less than {share} of the possible worlds hold",
            follows("first_below", own["probability_held_by_month"], asked),
        )
    ]
    if (room := _room(m)).there:
        growth = (own["per_month"], own["planned_months"], own["months"])
        due.append(("the capacity to be left free at the peak is used up", follows("month_above", room, *growth)))
    known = [(why, found) for why, found in due if found.value is not None]
    if not known:
        return m.t("the next step is due: {when}", when=month(m, Node(None, own.path), own["months"]))
    why, found = min(known, key=lambda each: each[1].value)
    blanks = {"share": asked.cell("share")} if "{share}" in why else {}
    when = month(m, found, own["months"])
    return m.t("the next step is due: {when}, as then {why}", when=when, why=m.t(why, **blanks))


def _room(m: Matter) -> Node:
    """The factor of the traffic at which the head-room asked for is used up, where that is before a promise breaks."""
    turns = [turn for turn in m.plan["risk"]["would_change"] if uses_up(m, turn)]
    return turns[0]["factor"] if turns else Node(None, "plan.risk")


def uses_up(m: Matter, turn: Node) -> bool:
    """Whether at the turn no promise breaks, but the head-room asked for is used up."""
    return turn["input"].value == "traffic" and str(turn["text"].value).endswith("left free")


def _interval(m: Matter, grown: Node) -> Text:
    """``month 17 (5 to 95 %: month 9 to month 30)``."""
    ends = {name: month(m, grown[f"breaks_in_month_{name}"], grown["months"]) for name in ("p5", "p95")}
    return m.t(
        "{nominal} (5 to 95 %: {low} – {high})",
        nominal=month(m, grown["breaks_in_month"], grown["months"]),
        low=ends["p5"],
        high=ends["p95"],
    )
