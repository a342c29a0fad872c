"""The first page: what to buy or rent, what it costs, how sure that is, by when, and what would change it."""

from __future__ import annotations

from twin.show.report.answers import HOW, answers, uses_up
from twin.show.report.blocks import Block, Bullets, Facts, Paragraph, Row, Section, Table, Text
from twin.show.report.money import decided_ways, horizon_cost
from twin.show.report.options import (
    breaks,
    choices,
    fleet,
    held,
    misses,
    node_down,
)
from twin.show.report.source import Matter, Node, joined

TURNS = 4
"""Changes that are told, the nearest first."""
VERBS = {"owned": "Buy", "reserved": "Rent (reserved)", "on_demand": "Rent (on demand)", "spot": "Rent (spot)"}


def decision(m: Matter) -> Section:
    """Fits one page."""
    blocks: list[Block] = [Paragraph(verdict(m), "verdict"), *(Paragraph(text, "warning") for text in warnings(m))]
    if m.recommended.there:
        blocks.append(Facts(tuple(answers(m))))
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
        return m.t("What is deployed holds: {fleet}. No alternatives were looked at.", fleet=fleet(m, what))
    ways = decided_ways(m, what)
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
                "The search was stopped after {count} simulations, so options that are better may not have been seen.",
                count=m.plan["simulated"].cell("count"),
            )
        )
    if m.plan["binding"].there and not m.fixed:
        found.append(m.t("What binds: {binding}.", binding=m.plan["binding"].cell("sentence")))
    if m.fixed and not m.recommended.there:
        found.append(m.t("It misses: {misses}.", misses=joined(misses(m, m.deployed), m.say("; "))))
    if m.gamble:
        found.append(
            m.t(
                "It holds in {held} of the possible worlds, less than the {asked} that were asked for; no option that was"
                " put into them is surer.",
                held=m.recommended["risk"]["probability_held"]["value"].cell("share"),
                asked=m.plan["risk"]["confidence"].cell("share"),
            )
        )
    if m.asked["start"].there and not any(node["risk"]["growth"].there for node in (m.subject, m.deployed)):
        date = m.asked["start"].cell("calendar")
        found.append(m.t("No month depends on {date} as the start: the run looks at no growth.", date=date))
    if m.today.there and m.today["model"].value != m.plan["model"].value:
        found.append(m.t("What is deployed serves another model: {model}.", model=m.today["model"].cell("name")))
    ways = decided_ways(m, m.recommended)
    if ways and ways[0][0] == "spot" and not m.fixed:
        up = [each["held_share"] for each in m.recommended["money"]["spot"] if each["held_share"].there]
        shares = joined([(share.cell("availability"),) for share in up], m.say(", ")) or ("–",)
        text = "Spot GPUs can be taken away at any time: all replicas are up {share} of the time, if each is taken on its own."
        found.append(m.t(text, share=shares))
    if m.recommended["calibrated"].value == "outside":
        reasons = joined([(each.cell("sentence"),) for each in m.recommended["outside_because"]], m.say(", "))
        found.append(m.t("Outside of what was calibrated: {reasons}. Expect larger errors.", reasons=reasons))
    return found


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
        named = m.flags["price"]
        text = " Over the horizon of {months} months: the cheapest way to pay that lasts (spot does not)."
        if named.there:
            text = " Over the horizon of {months} months: paid as asked ({kind}) where that has a price."
        how = {"kind": m.t(HOW[str(named.value)])} if named.there else {}
        note += m.t(text, months=months.cell("count"), **how)
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
    if uses_up(m, turn):
        return m.t("{what} {factor}: the head-room asked for is used up", what=what, factor=factor)
    if m.fixed or turn["input"].value in ("traffic", "step time"):
        return m.t("{what} {factor}: a promise breaks", what=what, factor=factor)
    return m.t("{what} {factor}: nothing that was simulated holds", what=what, factor=factor)
