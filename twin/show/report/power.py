"""What it draws and where it stands: boards, the meter, nodes and racks."""

from __future__ import annotations

from collections.abc import Iterator

from twin.show.report.blocks import Paragraph, Row, Section, Table, Text
from twin.show.report.options import fleet, name_of
from twin.show.report.source import Matter, Node, derived, follows, joined

BILLED = {
    "provisioned": "Electricity on the bill of an owned fleet is for what is provisioned at the meter, at all hours.",
    "drawn": "Electricity on the bill of an owned fleet is for what the boards draw, with server and cooling on top.",
}


def power(m: Matter) -> Section:
    title = m.say("Power and rack")
    options = [option for option in m.plan["options"] if option["power"].there]
    if not options and m.subject["power"].there:
        options = [m.subject]
    if not options:
        older = "The run has no figures of power: it was made before plans had them."
        text = m.t(older if m.subject.there else "No fleet was found, so nothing draws power.")
        return Section("power", title, (Paragraph(text, "note"),))
    rows = [Row((name_of(m, option), *_figures(m, option))) for option in options]
    heads = (
        "option",
        "GPUs",
        "limit of the boards",
        "drawn by the boards (simulated mean)",
        "provisioned at the meter (all-in: server, network, cooling)",
        "energy a month",
        "nodes",
        "racks",
    )
    note = joined(list(_notes(m, options)), m.say(" "))
    table = Table(
        key="power",
        caption=m.t("Power, energy and space"),
        head=tuple(m.t(head) for head in heads),
        rows=tuple(rows),
        align=("left", "left", *("right",) * 6),
        note=note,
    )
    return Section("power", title, (table,))


def _figures(m: Matter, option: Node) -> list[Text]:
    own = option["power"]
    drawn = [own[key].cell("kw") for key in ("boards_kw", "drawn_kw", "meter_kw")]
    racks = _racks(m, own)
    fits = racks.value is not None or not _kw(own).there
    return [
        fleet(m, option),
        *((each,) for each in drawn),
        (own["kwh_per_month"].cell("kwh"),),
        (own["nodes"].cell("count"),),
        (racks.cell("count"),) if fits else m.t("does not fit"),
    ]


def _kw(own: Node) -> Node:
    """What stands ready for it; the limit of the boards where no more is known."""
    return own["meter_kw"] if own["meter_kw"].there else own["boards_kw"]


def _racks(m: Matter, own: Node) -> Node:
    """Nodes are not divided between racks."""
    return follows("racks", own["nodes"], _kw(own), m.asked["rack_kw"])


def _notes(m: Matter, options: list[Node]) -> Iterator[Text]:
    rack = m.asked["rack_kw"].cell("kw")
    assumed, asked = "Racks of {kw}, which is assumed.", "Racks of {kw}, as asked."
    yield m.t(asked if m.asked["rack_named"].value else assumed, kw=rack)
    yield m.t("A node stands in one rack.")
    for option in options:
        own = option["power"]
        if _kw(own).there and _racks(m, own).value is None:
            node = derived("ratio", "kw", _kw(own), own["nodes"])
            yield m.t(
                "{option}: a node of {node} does not fit into a rack of {kw}.",
                option=name_of(m, option),
                node=node,
                kw=rack,
            )
    if any(option["pools"].there for option in options):
        yield m.t("Nodes of several pools are counted as if they drew the same.")
    billed = options[0]["power"]["billed"].value
    if billed in BILLED:
        yield m.t(BILLED[billed])
