"""What the plan was made for: the traffic, its peak, its growth, and what was promised."""

from __future__ import annotations

from twin.show.report.blocks import Block, Facts, Figure, Row, Section, Table, Text
from twin.show.report.figures import timelines
from twin.show.report.options import promise
from twin.show.report.source import Matter, derived, follows, joined


def demand(m: Matter) -> Section:
    load = m.plan["traffic"]
    peak, mean = load["busiest_5min_rate_per_s"], load["mean_rate_per_s"]
    rows: list[tuple[Text, Text]] = [
        (m.t("Model"), (m.plan["model"].cell("name"),)),
        (m.t("Traffic"), _origin(m)),
        (
            m.t("Requests"),
            m.t(
                "{count} over {time}",
                count=load["requests"].cell("count"),
                time=load["duration_s"].cell("duration"),
            ),
        ),
        (
            m.t("Rate"),
            m.t(
                "{mean} on average, {peak} in the busiest five minutes ({factor} of the average): the peak decides",
                mean=mean.cell("rate"),
                peak=peak.cell("rate"),
                factor=derived("ratio", "factor", peak, mean),
            ),
        ),
        (
            m.t("Tokens of a request"),
            m.t(
                "{input} in and {output} out, on average; context up to {context}",
                input=load["mean_input_tokens"].cell("count"),
                output=load["mean_output_tokens"].cell("count"),
                context=load["max_model_len"].cell("count"),
            ),
        ),
        (m.t("Growth"), _growth(m)),
        (m.t("Limits"), _limits(m)),
    ]
    notes = [(m.t("Note"), (note.cell("cite"),)) for note in load["notes"]]
    blocks: list[Block] = [Facts((*rows, *notes))]
    if (table := _promises(m)) is not None:
        blocks.append(table)
    return Section("demand", m.say("Demand and growth"), (*blocks, *(Figure(chart) for chart in timelines(m))))


def _origin(m: Matter) -> Text:
    """Recorded or made up."""
    traffic = m.scenario["traffic"]
    if traffic["trace"].there:
        return m.t("recorded: {file}", file=derived("short_name", "name", traffic["trace"]))
    file = m.flags["traffic"]
    if file.there:
        return m.t("made up by the recipe of {file}", file=derived("short_name", "name", file))
    return m.t("made up: {name}", name=m.plan["traffic"]["name"].cell("name"))


def _growth(m: Matter) -> Text:
    grown = m.subject["risk"]["growth"]
    if grown.there:
        said = m.t(
            "{rate} ± {error} a month, looked at over {months} months",
            rate=grown["per_month"].cell("share"),
            error=grown["stderr"].cell("share"),
            months=grown["months"].cell("count"),
        )
        if grown["planned_months"].value:
            ahead = grown["planned_months"].cell("number")
            said = (*said, *m.t("; planned for the traffic of month {month}", month=ahead))
        return said
    if m.flags["growth"].there:
        return (m.flags["growth"].cell("name"),)
    return m.t("none given: the traffic is taken to stay as it is")


def _limits(m: Matter) -> Text:
    """What the plan was held to, as it was asked."""
    asked = (
        ("budget {value}", m.flags["budget"]),
        ("at most {value} GPUs", m.flags["max_gpus"]),
        ("only {value}", m.flags["gpu"]),
        ("{value} of capacity left free at the peak", m.flags["headroom"]),
    )
    said = [m.t(text, value=node.cell("name")) for text, node in asked if node.there]
    budget = follows("budget", m.scenario["budget"])
    if not m.flags["budget"].there and m.scenario["budget"].there:  # of what is deployed, which keeps no flags
        value = m.t("{usd} a month", usd=budget.cell("usd")) if budget.there else (m.scenario["budget"].cell("name"),)
        said.insert(0, m.t("budget {value}", value=value))
    return joined(said, m.say("; ")) or m.t("none given")


def _promises(m: Matter) -> Table | None:
    bounds = list(m.subject["bounds"])
    if not bounds:
        return None
    rows = [Row((promise(m, b), (b["seconds"].cell("seconds"),), (b["metric"].cell("meaning"),))) for b in bounds]
    return Table(
        key="promises",
        caption=m.t("What is promised"),
        head=(m.t("promise"), m.t("at most"), m.t("which is")),
        rows=tuple(rows),
        align=("left", "right", "left"),
        note=m.t("Network time is not in it: clocks start when a request reaches the server."),
    )
