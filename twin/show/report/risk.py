"""How sure: promises against their bounds over possible worlds, growth, what matters most, and what is left of a failure."""

from __future__ import annotations

from twin.show.report.blocks import Block, Bullets, Figure, Paragraph, Row, Section, Table, Text
from twin.show.report.figures import drawn
from twin.show.report.options import kept, name_of, promise
from twin.show.report.source import Matter, Node

DOWN = {"replica": "{option}, one replica down", "node": "{option}, one node down"}


def risk(m: Matter) -> Section:
    title, own = m.say("Risk"), m.subject["risk"]
    if not own["probability_held"].there:
        why = own["text"].cell("sentence") if own["text"].there else None
        text = m.t("Not assessed: {why}.", why=why) if why else m.t("Not assessed: the plan was made without --risk.")
        return Section("risk", title, (Paragraph(text, "note"),))
    blocks: list[Block] = [_bands(m, own), *(Figure(chart) for chart in drawn(m, "risk_bands"))]
    if own["growth"].there:
        blocks += [_growth(m), *(Figure(chart) for chart in drawn(m, "growth"))]
    blocks += [_down(m)]
    turned = [Figure(chart) for name in ("cost", "tail") for chart in drawn(m, name)]
    if turned:
        method = m.plan["risk"]["sensitivity"]["method"].cell("sentence")
        blocks += [*turned, Paragraph(m.t("How inputs were ranked: {method}.", method=method), "note")]
    if (spot := _spot(m)) is not None:
        blocks.append(spot)
    blocks += [
        Paragraph(m.t("What these figures mean:")),
        Bullets(tuple((how.cell("sentence"),) for how in own["how"])),
    ]
    return Section("risk", title, tuple(blocks))


def _bands(m: Matter, own: Node) -> Table:
    rows = []
    for bound in own["bounds"]:
        values = [
            bound[key].cell("seconds") for key in ("seconds", "planned_s", "p5_s", "p50_s", "p95_s", "promised_at_90_s")
        ]
        share = kept(m, bound["probability_held"], own["worlds"])
        rows.append(Row((promise(m, bound), *((value,) for value in values), share)))
    heads = ("promise", "at most", "planned", "p5", "median", "p95", "could be promised at 90 %", "kept in")
    return Table(
        key="bands",
        caption=m.t("Promises over {worlds} possible worlds", worlds=own["worlds"].cell("count")),
        head=tuple(m.t(head) for head in heads),
        rows=tuple(rows),
        align=("left", *("right",) * 7),
        note=m.t("All promises together: kept in {held}.", held=kept(m, own["probability_held"], own["worlds"])),
    )


def _judged(m: Matter) -> list[Node]:
    """Options with a risk, the recommended one first; what is deployed last, where it is another run's."""
    found = [option for option in m.plan["options"] if option["risk"]["probability_held"].there]
    found.sort(key=lambda option: option["id"].value != m.plan["recommended"].value)
    if not m.fixed and m.deployed["risk"]["probability_held"].there:
        found.append(m.deployed)
    return found or [m.subject]


def _growth(m: Matter) -> Table:
    rows = []
    for option in _judged(m):
        grown = option["risk"]["growth"]
        if not grown.there:
            continue
        months = [grown[f"breaks_in_month{end}"] for end in ("", "_p5", "_p95")]
        cells = [(month.cell("count"),) if month.there else m.t("later") for month in months]
        ends = [
            (
                grown[key]["p50"].cell("count"),
                " (",
                grown[key]["p5"].cell("count"),
                "–",
                grown[key]["p95"].cell("count"),
                ")",
            )
            for key in ("replicas_at_end",)
        ]
        usd = grown["usd_per_month_at_end"]
        cost: Text = (usd["p50"].cell("usd"), " (", usd["p5"].cell("usd"), "–", usd["p95"].cell("usd"), ")")
        rows.append(Row((name_of(m, option), *cells, (grown["probability_broken_by_end"].cell("share"),), *ends, cost)))
    first = m.subject["risk"]["growth"]
    heads = ("option", "breaks in month", "p5", "p95", "broken by the end", "replicas needed then", "$/month then")
    return Table(
        key="growth",
        caption=m.t("When growth breaks it, over {months} months", months=first["months"].cell("count")),
        head=tuple(m.t(head) for head in heads),
        rows=tuple(rows),
        align=("left", *("right",) * 6),
        note=m.t("The last two columns are of a fleet that would hold at the end: median, and 5 to 95 %."),
    )


def _down(m: Matter) -> Table:
    rows = []
    for option in _judged(m):
        for what in ("replica", "node"):
            down = option["risk"]["down"][what]
            if not down.there:
                continue
            held = kept(m, down["probability_held"], option["risk"]["worlds"])
            holds = m.t("yes") if down["holds"].value else m.t("no")
            left = (down["replicas_left"].cell("count"),)
            reached = down["share_of_traffic"]
            share = (reached.cell("factor" if reached.value > 1 else "share"),)
            label = m.t(DOWN[what], option=name_of(m, option))
            rows.append(Row((label, left, holds, share, held)))
    heads = ("failure", "replicas left", "holds", "share of the traffic it holds at", "kept in")
    return Table(
        key="down",
        caption=m.t("One replica or one node down, at the peak"),
        head=tuple(m.t(head) for head in heads),
        rows=tuple(rows),
        align=("left", *("right",) * 4),
    )


def _spot(m: Matter) -> Table | None:
    found = [spot for spot in m.subject["money"]["spot"] if spot["up_share"].there]
    if not found:
        return None
    rows = [
        Row(
            (
                (spot["gpu"].cell("name"),),
                (spot["replicas"].cell("count"),),
                (spot["spare_replicas"].cell("count"),),
                (spot["held_share_bare"].cell("availability"),),
                (spot["held_share"].cell("availability"),),
                (spot["usd_per_serving_hour"].cell("usd_hour"),),
            )
        )
        for spot in found
    ]
    heads = ("GPU", "replicas", "spare replicas", "all up without spares", "all up with them", "$/GPU hour that serves")
    return Table(
        key="spot",
        caption=m.t("On spot: what interruptions take, and what holds against them"),
        head=tuple(m.t(head) for head in heads),
        rows=tuple(rows),
        align=("left", *("right",) * 5),
        note=m.t("{sentence}.", sentence=found[0]["assumed"].cell("sentence")),
    )
