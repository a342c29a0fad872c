"""What it draws and where it stands: boards, the meter, nodes and racks."""

from __future__ import annotations

from twin.show.report.blocks import Paragraph, Row, Section, Table, Text
from twin.show.report.options import fleet, name_of
from twin.show.report.source import Matter, Node, derived


def power(m: Matter) -> Section:
    title = m.say("Power and rack")
    options = [option for option in m.plan["options"] if option["power"].there]
    if not options and m.subject["power"].there:
        options = [m.subject]
    if not options:
        text = m.t("The run has no figures of power: it was made before plans had them.")
        return Section("power", title, (Paragraph(text, "note"),))
    rows = [Row((name_of(m, option), *_figures(m, option))) for option in options]
    heads = (
        "option",
        "GPUs",
        "limit of the boards",
        "drawn by the boards",
        "at the meter",
        "energy a month",
        "nodes",
        "racks",
    )
    note = m.t("Racks of {kw} each, which is assumed unless asked (--rack-kw).", kw=m.asked["rack_kw"].cell("kw"))
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
    racks = derived(
        "whole", "count", own["meter_kw"] if own["meter_kw"].there else own["boards_kw"], m.asked["rack_kw"]
    )
    return [
        fleet(m, option),
        *((each,) for each in drawn),
        (own["kwh_per_month"].cell("kwh"),),
        (own["nodes"].cell("count"),),
        (racks,),
    ]
