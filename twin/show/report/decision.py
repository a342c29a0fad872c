"""The first page: what to buy or rent, what it costs, how sure that is, by when, and what would change it."""

from __future__ import annotations

from twin.show.report.blocks import Block, Bullets, Facts, Paragraph, Row, Section, Table, Text
from twin.show.report.money import horizon_cost, lasting_ways, ranked_ways
from twin.show.report.options import (
    breaks,
    choices,
    fleet,
    held,
    layout,
    misses,
    month,
    node_down,
    precision,
)
from twin.show.report.source import Matter, Node, joined

TURNS = 4
"""Changes that are told, the nearest first."""
VERBS = {"owned": "Buy", "reserved": "Rent (reserved)", "on_demand": "Rent (on demand)", "spot": "Rent (spot)"}
PAYING = {"owned": "buying", "on_demand": "renting on demand", "reserved": "renting reserved", "spot": "renting spot"}


def decision(m: Matter) -> Section:
    """Fits one page."""
    blocks: list[Block] = [Paragraph(verdict(m), "verdict"), *(Paragraph(text, "warning") for text in warnings(m))]
    if m.recommended.there:
        blocks.append(Facts(tuple(_facts(m))))
    blocks.append(_table(m))
    if turns := _turns(m):
        blocks += [Paragraph(m.t("What would change the decision, the nearest first:")), Bullets(turns, numbered=True)]
    elif m.recommended.there:
        blocks.append(Paragraph(m.t("The run does not say what would change the decision.")))
    return Section("decision", m.say("Decision"), tuple(blocks))


def verdict(m: Matter) -> Text:
    """One sentence: what to do."""
    what = m.recommended
    if m.plan["interrupted"].value and not what.there:
        return m.t("No decision yet: the search was stopped before anything was known to hold.")
    if not what.there:
        return m.t("What is deployed does not hold.") if m.fixed else m.t("Nothing holds within these limits.")
    if m.fixed:
        return m.t("Keep what is deployed: {fleet}.", fleet=fleet(m, what))
    ways = lasting_ways(what)
    text = "A gamble: {how} {fleet}." if m.gamble else "{how} {fleet}."
    return m.t(text, how=_how(m, ways[0][0] if ways else m.scenario["price"].value), fleet=fleet(m, what))


def _how(m: Matter, kind: str) -> Text:
    return m.t(VERBS[kind])


def warnings(m: Matter) -> list[Text]:
    """What must not be missed."""
    found: list[Text] = []
    if m.plan["interrupted"].value:
        found.append(
            m.t(
                "The search was stopped after {count} simulations, so options that are better may not have been seen"
                " (twin plan --resume goes on with it).",
                count=m.plan["simulated"].cell("count"),
            )
        )
    if m.plan["binding"].there and not m.fixed:
        found.append(m.t("What binds: {binding}.", binding=m.plan["binding"].cell("sentence")))
    if m.fixed and not m.recommended.there:
        found.append(m.t("It misses: {misses}.", misses=joined(misses(m, m.deployed), "; ")))
    if m.gamble:
        found.append(
            m.t(
                "It holds in {held} of the possible worlds, less than the {asked} that were asked for; no option that was"
                " put into them is surer.",
                held=m.recommended["risk"]["probability_held"]["value"].cell("share"),
                asked=m.plan["risk"]["confidence"].cell("share"),
            )
        )
    ways = lasting_ways(m.recommended)
    if ways and ways[0][0] == "spot" and not m.fixed:
        up = [each["held_share"] for each in m.recommended["money"]["spot"] if each["held_share"].there]
        shares = joined([(share.cell("availability"),) for share in up], ", ") or ("–",)
        text = "Spot GPUs can be taken away at any time: all replicas are up {share} of the time, if each is taken on its own."
        found.append(m.t(text, share=shares))
    if m.recommended["calibrated"].value == "outside":
        reasons = joined([(each.cell("sentence"),) for each in m.recommended["outside_because"]], ", ")
        found.append(m.t("Outside of what was calibrated: {reasons}. Expect larger errors.", reasons=reasons))
    return found


def _facts(m: Matter) -> list[tuple[Text, Text]]:
    what = m.recommended
    return [
        (m.t("What"), m.t("{fleet}; {layout}; weights / KV cache: {precision}", **_of(m, what))),
        (m.t("Way to pay"), _pay(m, what)),
        (m.t("Cost"), _cost(m, what)),
        (m.t("Confidence"), _confidence(m, what)),
        (m.t("One node down"), _down(m, what)),
        (m.t("By when"), _when(m, what)),
    ]


def _of(m: Matter, option: Node) -> dict[str, Text]:
    return {"fleet": fleet(m, option), "layout": layout(m, option), "precision": precision(m, option)}


def _pay(m: Matter, what: Node) -> Text:
    ways = lasting_ways(what)
    if not ways:
        return m.t("{kind}; the plan has no bill", kind=m.scenario["price"].cell("word"))
    months = what["money"]["tco"]["months"].cell("count")
    best = m.t(
        "{kind}: the cheapest over {months} months, {usd}",
        kind=_way(m, ways[0][0]),
        months=months,
        usd=ways[0][1]["tco_usd"].cell("usd"),
    )
    said = [best, *(_next(m, way) for way in ways[1:2])] if len(ways) > 1 else [best, m.t("nothing else has a price")]
    first, way = ranked_ways(what)[0]
    if first != ways[0][0]:
        said.append(m.t("spot at {usd} can be taken away at any time", usd=way["tco_usd"].cell("usd")))
    return joined(said, "; ")


def _next(m: Matter, way: tuple[str, Node]) -> Text:
    return m.t("next is {kind} at {usd}", kind=_way(m, way[0]), usd=way[1]["tco_usd"].cell("usd"))


def _way(m: Matter, kind: str) -> Text:
    return m.t(PAYING[kind])


def _cost(m: Matter, what: Node) -> Text:
    ways, spread = lasting_ways(what), what["risk"]["usd_per_month"]
    planned = m.t("{usd} a month as planned", usd=what["usd_per_month"].cell("usd"))
    if spread["p5"].there and spread["p5"].value < spread["p95"].value:
        planned = m.t(
            "{usd} a month at the planned price ({low} to {high}, 5 to 95 % of prices)",
            usd=what["usd_per_month"].cell("usd"),
            low=spread["p5"].cell("usd"),
            high=spread["p95"].cell("usd"),
        )
    if not ways:
        return planned
    return m.t(
        "{best} a month today by {kind}; {planned}",
        best=ways[0][1]["usd_per_month"].cell("usd"),
        kind=_way(m, ways[0][0]),
        planned=planned,
    )


def _confidence(m: Matter, what: Node) -> Text:
    risk = what["risk"]
    chance = risk["probability_held"]
    if not chance["value"].there:
        return m.t("not assessed: the plan was made without --risk")
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
        return m.t("not assessed: the plan was made without --risk")
    left = down["replicas_left"].cell("count")
    if down["replicas_left"].value == 0:
        return m.t("nothing is left to serve from: a spare node or a second site would have to be bought")
    if down["holds"].value:
        return m.t("the replicas left ({left}) keep every promise", left=left)
    share = down["share_of_traffic"].cell("share")
    return m.t("the replicas left ({left}) keep the promises at {share} of the traffic", left=left, share=share)


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
    if own.there:
        said.append(m.t("the next step after this one is due: {when}", when=_interval(m, own)))
    else:
        said.append(m.t("no growth was given (--growth with --risk), so nothing says when the next step is due"))
    return joined(said, "; ")


def _interval(m: Matter, grown: Node) -> Text:
    """``month 17 (5 to 95 %: month 9 to month 30)``."""
    ends = {name: month(m, grown[f"breaks_in_month_{name}"], grown["months"]) for name in ("p5", "p95")}
    return m.t(
        "{nominal} (5 to 95 %: {low} – {high})",
        nominal=month(m, grown["breaks_in_month"], grown["months"]),
        low=ends["p5"],
        high=ends["p95"],
    )


def _table(m: Matter) -> Table:
    rows = []
    for choice in choices(m):
        option = choice.option
        if not option.there:
            nothing = m.t("nothing")
            texts = (m.t("no fleet is known"), nothing, nothing, m.t("serves no request"), ("–",), ("–",))
            rows.append(Row((choice.name, *texts)))
            continue
        kind = "chosen" if option["id"].value == m.plan["recommended"].value and choice.kind == "option" else "plain"
        what = fleet(m, option) if option["gpu"].there or option["pools"].there else (option["id"].cell("name"),)
        figures = (
            (option["usd_per_month"].cell("usd"),),
            horizon_cost(m, option),
            held(m, option),
            breaks(m, option),
            node_down(m, option),
        )
        rows.append(Row((choice.name, what, *figures), kind))  # type: ignore[arg-type]
    heads = ("", "GPUs", "$/month", "over the horizon", "keeps its promises in", "growth breaks it", "one node down")
    months = next((c.option["money"]["tco"]["months"] for c in choices(m) if c.option["money"].there), None)
    note = m.t("$/month at the price the plan was made with ({kind}).", kind=m.scenario["price"].cell("word"))
    if months is not None:
        text = " Over the horizon of {months} months: the cheapest way to pay that lasts (spot does not)."
        note += m.t(text, months=months.cell("count"))
    return Table(
        key="decision",
        caption=m.t("The choices"),
        head=tuple(m.t(head) if head else () for head in heads),
        rows=tuple(rows),
        align=("left", "left", *("right",) * 5),
        note=note,
    )


def _turns(m: Matter) -> tuple[Text, ...]:
    return tuple(_turn(m, turn) for turn in list(m.plan["risk"]["would_change"])[:TURNS])


def _turn(m: Matter, turn: Node) -> Text:
    """Of its figures: the input, its factor and where the recommendation goes."""
    what: Text = (turn["input"].cell("sentence"),)
    factor = turn["factor"].cell("factor")
    if turn["to"].there:
        return m.t("{what} {factor}: {to} is recommended", what=what, factor=factor, to=turn["to"].cell("name"))
    room = m.recommended["risk"]["headroom"]["factor"]
    if turn["input"].value == "traffic" and turn["factor"].value != room.value:
        return m.t("{what} {factor}: the head-room asked for is used up", what=what, factor=factor)
    if turn["input"].value in ("traffic", "step time"):
        return m.t("{what} {factor}: a promise breaks", what=what, factor=factor)
    return m.t("{what} {factor}: nothing that was simulated holds", what=what, factor=factor)
