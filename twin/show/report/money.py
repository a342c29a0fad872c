"""What it costs: the bill line by line, the ways to pay over the horizon, rent or buy, and what nobody priced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from twin.show.report.blocks import Block, Figure, Paragraph, Row, Section, Table, Text
from twin.show.report.figures import drawn
from twin.show.report.forms import WORDS
from twin.show.report.source import Matter, Node, derived, joined

PAID = {"owned": "Bought", "on_demand": "Rented on demand", "reserved": "Rented, reserved", "spot": "Rented, spot"}
LATER = (
    "Replicas that come later pay the same price a month as the first, and only for the months that need them: contracts and"
    " purchases are taken as divisible, and no price is renewed."
)
PARTS = "Part of a node is charged as its share: two of its eight GPUs cost a quarter of the node."
NO_BILL = "The run has no bill: it was made before plans had one."


def ranked_ways(option: Node) -> list[tuple[str, Node]]:
    """The ways to pay by their cost over the horizon, cheapest first."""
    ways = [(kind, way) for kind, way in option["money"]["ways"].items() if way["tco_usd"].there]
    return sorted(ways, key=lambda item: float(item[1]["tco_usd"].value))


def lasting_ways(option: Node) -> list[tuple[str, Node]]:
    """As :func:`ranked_ways`, without spot unless the plan was made at its price: interruptions are in no figure of risk."""
    return [way for way in ranked_ways(option) if way[0] != "spot" or option["money"]["kind"].value == "spot"]


def decided_ways(m: Matter, option: Node) -> list[tuple[str, Node]]:
    """As :func:`lasting_ways`, what the question named first."""
    return sorted(lasting_ways(option), key=lambda way: way[0] != m.flags["price"].value)


def horizon_cost(m: Matter, option: Node) -> Text:
    """Of the way to pay that is decided for, with its name."""
    ways = decided_ways(m, option)
    if not ways:
        return ("–",)
    return (ways[0][1]["tco_usd"].cell("usd"), *m.t(" ({kind})", kind=m.t(WORDS.get(ways[0][0], ways[0][0]))))


def money(m: Matter) -> Section:
    subject, title = m.subject, m.say("Cost")
    if not subject["money"].there:
        text = NO_BILL if m.recommended.there else "No bill is made of what does not hold."
        return Section("money", title, (Paragraph(m.t(text), "note"),))
    blocks: list[Block] = [_tree(m, subject), *(Figure(chart) for chart in drawn(m, "cost_tree"))]
    blocks += [_ways(m, subject), *(Figure(chart) for chart in drawn(m, "cumulative_cost"))]
    blocks += [Paragraph(text) for text in _crossovers(m, subject)]
    blocks += [Paragraph(m.t(text), "note") for text in terms_of(m.flags.value, subject["money"].value)]
    if (missing := _unpriced(m, subject)) is not None:
        blocks.append(missing)
    return Section("money", title, tuple(blocks))


def _tree(m: Matter, option: Node) -> Table:
    """Every way to pay, line by line; each line with where its figure comes from."""
    rows = []
    for kind, way in ranked_ways(option):
        name = m.t("{kind} ({usd} per GPU hour)", kind=_named(m, kind), usd=way["usd_per_gpu_hour"].cell("usd_hour"))
        rows.append(Row((name,), "group"))
        for line in way["lines"]:
            said: Text = (line["name"].cell("sentence"),)
            if len(list(option["pools"])) > 1 and line["gpu"].there:
                said = (*said, ", ", line["gpu"].cell("name"))
            figures = ((line["usd_per_month"].cell("usd"),), (line["share"].cell("share"),))
            source = ((line["origin"].cell("word"),), (line["source"].cell("cite"),), (line["date"].cell("date"),))
            rows.append(Row((said, *figures, *source)))
        total = derived("sum", "usd", *(line["usd_per_month"] for line in way["lines"]))
        rows.append(Row((m.t("a month"), (total,), (), (), (), ()), "total"))
    idle = option["money"]["idle"]
    note: Text = ()
    if idle["usd_per_month"].there:
        note = m.t(
            "Of the {usd} a month ({kind}), {idle} ({share}) pay for capacity that no request uses.",
            usd=option["money"]["usd_per_month"].cell("usd"),
            kind=option["money"]["kind"].cell("word"),
            idle=idle["usd_per_month"].cell("usd"),
            share=idle["share"].cell("share"),
        )
    heads = ("line", "$/month", "share", "origin", "source", "date")
    return Table(
        key="cost_tree",
        caption=m.t("The bill of a month, each way to pay, as the fleet stands today"),
        head=tuple(m.t(head) for head in heads),
        rows=tuple(rows),
        align=("left", "right", "right", "left", "left", "left"),
        note=note,
    )


def _named(m: Matter, kind: str) -> Text:
    return m.t(PAID[kind])


def _ways(m: Matter, option: Node) -> Table:
    tco = option["money"]["tco"]
    rows = []
    ranked = ranked_ways(option)
    for at, (kind, way) in enumerate(ranked):
        more = derived("minus", "usd", way["tco_usd"], ranked[0][1]["tco_usd"])
        figures = [
            way["usd_per_month"].cell("usd"),
            way["usd_per_gpu_hour"].cell("usd_hour"),
            way["usd_per_mtok"].cell("usd_mtok"),
            way["tco_usd"].cell("usd"),
        ]
        last: Text = (more,) if at else ("–",)
        rows.append(Row((_named(m, kind), *((each,) for each in figures), last), "plain" if at else "chosen"))
    heads = (
        "way to pay",
        "$/month",
        "$/GPU hour",
        "$/million output tokens",
        "over the horizon",
        "more than the cheapest",
    )
    note = m.t(
        "Over {months} months at today's prices, traffic growing {growth} a month and replicas with it once the head-room is"
        " used up. No interval is computed for these totals; that of a month is on the decision page.",
        months=tco["months"].cell("count"),
        growth=tco["growth_per_month"].cell("share"),
    )
    return Table(
        key="ways",
        caption=m.t("Total cost of ownership, each way to pay"),
        head=tuple(m.t(head) for head in heads),
        rows=tuple(rows),
        align=("left", *("right",) * 5),
        note=note,
    )


def terms_of(flags: Mapping[str, Any] | None, money: Mapping[str, Any]) -> list[str]:
    """What the sums take for granted of contracts, purchases and nodes."""
    grows = money["tco"]["growth_per_month"] != 0
    whole = (flags or {}).get("node_size") not in (None, 1)
    return [*([LATER] if grows else []), *([] if whole else [PARTS])]


def _crossovers(m: Matter, option: Node) -> Iterator[Text]:
    """Rent or buy."""
    found = list(option["money"]["crossover"])
    for turn in found:
        against = turn["against"].cell("word")
        if not turn["utilisation"].there:
            yield m.t(_never_crosses(turn), against=against)
            continue
        yield m.t(
            "Buying beats renting ({against}) where the GPUs are needed for more than {share} of the hours; {payback}.",
            against=against,
            share=turn["utilisation"].cell("share"),
            payback=_payback(m, turn),
        )
    if not found:
        yield m.t("Rent or buy cannot be compared: the price book has no price to buy this GPU.")


def _never_crosses(turn: Node) -> str:
    """No share of hours decides: a contract is paid used or not, and by the hour renting may be cheaper at all hours."""
    if turn["owned_is_cheaper"].value:
        return "Buying is cheaper than renting ({against}) however many hours the GPUs are needed: both are paid for all hours."
    if turn["against"].value == "reserved":
        return "Renting ({against}) is cheaper than buying: both are paid for all hours, needed or not."
    return "Renting ({against}) stays cheaper than buying, even if the GPUs are needed around the clock."


def _payback(m: Matter, turn: Node) -> Text:
    """When the purchase has paid for itself, as the fleet stands and as it grows. The first month is month 0."""
    if not turn["month"].there:
        return m.t("rent saved does not pay for the purchase within its lifetime")
    said = m.t(
        "the purchase has paid for itself, with interest, in month {month} for the fleet as it stands",
        month=turn["month"].cell("number"),
    )
    if not turn["cash_by_month"].there:  # a run of before
        return said
    if not turn["month_as_it_grows"].there:
        return (*said, *m.t(", and not within the horizon as it grows"))
    return (*said, *m.t(", in month {month} as it grows", month=turn["month_as_it_grows"].cell("number")))


def _unpriced(m: Matter, option: Node) -> Paragraph | None:
    items = list({node["item"].value: node["item"] for node in option["money"]["unpriced"]}.values())
    if not items:
        return None
    named = joined([(item.cell("word"),) for item in items], m.say(", "))
    text = m.t(
        "Not in any sum, as the price book has no figure of them, and never counted as zero: {items}.", items=named
    )
    return Paragraph(text, "note")
