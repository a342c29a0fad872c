"""Options in words, and side by side: what stands there, what it costs, what it keeps, how sure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from twin.show.report.blocks import Align, Block, Figure, Paragraph, Row, Section, Table, Text
from twin.show.report.figures import drawn, load_curves
from twin.show.report.source import Matter, Node, derived, follows, joined

LEAST_OPTIONS = 3
"""Doing nothing among them."""


@dataclass(frozen=True)
class Choice:
    """A column of the comparison: an option, a point of the front (which says little), or doing nothing (``None`` where no
    fleet is deployed)."""

    name: Text
    option: Node
    kind: str = "option"


def parts_of(option: Node) -> list[Node]:
    """The pools of an option; itself where it is one."""
    return list(option["pools"]) if option["pools"].there else [option]


def fleet(m: Matter, option: Node) -> Text:
    """``2 × b200_sxm``, for each pool."""
    named = [
        m.t("{count} × {gpu}", count=p["num_gpus"].cell("count"), gpu=p["gpu"].cell("name")) for p in parts_of(option)
    ]
    return joined(named, " + ")


def layout(m: Matter, option: Node) -> Text:
    """``TP2 × 1 replica``, for each pool."""
    return joined([_layout(m, pool) for pool in parts_of(option)], " + ")


def _layout(m: Matter, pool: Node) -> Text:
    sizes: list[Text] = [("TP", pool["tensor_parallel_size"].cell("count"))]
    for name, key in (("PP", "pipeline_parallel_size"), ("DP", "data_parallel_size")):
        if pool[key].there and pool[key].value > 1:
            sizes.append((name, pool[key].cell("count")))
    if pool["enable_expert_parallel"].value:
        sizes.append(("EP",))
    return m.t("{layout}, replicas: {count}", layout=joined(sizes, " "), count=pool["replicas"].cell("count"))


def precision(m: Matter, option: Node) -> Text:
    found = [pool["precision"] for pool in parts_of(option)]
    each: list[Text] = [(one["weights"].cell("name"), " / ", one["kv_cache"].cell("name")) for one in found]
    return joined(each, " + ")


def name_of(m: Matter, option: Node) -> Text:
    """``recommended, cheapest``; the id of what has no name."""
    if option["misses"].there:
        return m.t("near miss")
    if option["names"].there:
        return joined([(name.cell("word"),) for name in option["names"]], m.say(", "))
    return (option["id"].cell("name"),)


def promise(m: Matter, bound: Node) -> Text:
    """``p99 TTFT of chat``."""
    said: Text = (derived("percentile", "percentile", bound["quantile"]), " ", bound["metric"].cell("word"))
    if bound["request_class"].there:
        return m.t("{promise} of {of}", promise=said, of=bound["request_class"].cell("name"))
    return said


def held(m: Matter, option: Node) -> Text:
    """``78% ± 5%``, or that nobody asked."""
    if option["risk"]["probability_held"]["value"].there:
        return kept(m, option["risk"]["probability_held"], option["risk"]["worlds"])
    if _deployed(m, option):
        return m.t("holds as planned") if m.judged["holds"].value else m.t("misses as planned")
    alone = option["probability_held"]  # of a point of the front
    return (alone.cell("share"),) if alone.there else m.t("not assessed")


def kept(m: Matter, chance: Node, worlds: Node) -> Text:
    """A share of worlds with its error, which says little where it is all of them, or none."""
    if chance["value"].value in (0, 1):
        return m.t(
            "all {worlds} worlds" if chance["value"].value else "none of {worlds} worlds", worlds=worlds.cell("count")
        )
    return (chance["value"].cell("share"), " ± ", chance["stderr"].cell("share"))


def _deployed(m: Matter, option: Node) -> bool:
    """Whether it is the fleet of a run that judges what is deployed."""
    return m.judged.there and option.path == m.deployed.path


def _room(m: Matter, option: Node) -> Text:
    """How many times the traffic it holds."""
    factor = option["risk"]["headroom"]["factor"]
    if factor.there or not _deployed(m, option):
        return (factor.cell("factor"),)
    highest = m.judged["highest_rate_factor"]
    return (highest.cell("factor"),) if highest.there else m.t("no rate that was tried")


def month(m: Matter, found: Node, within: Node) -> Text:
    """``month 17, June 2028``; not within the horizon where it is ``None``."""
    if not found.there:
        return m.t("not within {months} months", months=within.cell("count"))
    if found.value == 0:
        return m.t("now")
    said = m.t("month {month}", month=found.cell("count"))
    if m.asked["start"].there:
        return (*said, *m.t(", {date}", date=derived("month_of", "calendar", m.asked["start"], found)))
    return said


def node_down(m: Matter, option: Node) -> Text:
    """What one node down leaves."""
    down = option["risk"]["down"]["node"]
    if not down.there:
        return m.t("not assessed")
    if down["replicas_left"].value == 0:
        return m.t("nothing is left")
    if down["holds"].value:
        return m.t("holds")
    return m.t("{share} of the traffic", share=down["share_of_traffic"].cell("share"))


def misses(m: Matter, option: Node) -> list[Text]:
    """What an option misses, from its own figures; the run's sentences where these do not tell."""
    found = [
        m.t(
            "{promise}: {value}, {limit} is promised",
            promise=promise(m, bound),
            value=bound["worst_s"].cell("seconds"),
            limit=bound["seconds"].cell("seconds"),
        )
        for bound in option["bounds"]
        if bound["worst_s"].there and bound["worst_s"].value > bound["seconds"].value
    ]
    rest = list(option["misses"])[len(found) :]  # a run's sentences tell of promises first
    return [*found, *((miss.cell("sentence"),) for miss in rest)]


def choices(m: Matter) -> list[Choice]:
    """The recommended option first, the other named ones, what fills up to three from the front or the near misses, and
    doing nothing last."""
    options = sorted(m.plan["options"], key=lambda option: option["id"].value != m.plan["recommended"].value)
    found = [] if m.fixed else [Choice(name_of(m, option), option) for option in options]
    shown = {choice.option["id"].value for choice in found}
    spare = [Choice(m.t("near miss"), each) for each in m.plan["near_misses"]] if not m.fixed else []
    points = sorted(m.plan["front"], key=lambda point: not point["probability_held"].there)
    spare += [Choice(m.t("on the front"), point, "point") for point in points]
    for choice in spare:
        if len(found) < LEAST_OPTIONS - 1 and choice.option["id"].value not in shown:
            found.append(choice)
            shown.add(choice.option["id"].value)
    return [*found, Choice(m.t("do nothing"), m.deployed, "nothing")]


def comparison(m: Matter) -> Table:
    """Options as columns."""
    found = choices(m)

    def row(title: str, say: Callable[[Node], Text], **absent: Callable[[Choice], Text]) -> Row:
        return Row((m.t(title), *(_said(m, choice, say) for choice in found)))

    right: Align = "right"
    rows = [
        row("GPUs", lambda o: fleet(m, o) if o["gpu"].there or o["pools"].there else (o["id"].cell("name"),)),
        row("layout", lambda o: layout(m, o)),
        row("weights / KV cache", lambda o: precision(m, o)),
        row("seats / tokens a step", lambda o: _seats(o)),
        row("rent or bill, per month", lambda o: (o["usd_per_month"].cell("usd"),)),
        row("per million output tokens", lambda o: (o["usd_per_mtok"].cell("usd_mtok"),)),
        *_latencies(m, found),
        row("in use at the peak", lambda o: (o["peak_utilisation"].cell("share"),)),
        row("keeps its promises in", lambda o: held(m, o)),
        row("room for traffic", lambda o: _room(m, o)),
        row("growth breaks it", lambda o: breaks(m, o)),
        row("one node down", lambda o: node_down(m, o)),
        row("calibration", lambda o: (o["calibrated"].cell("word"),)),
    ]
    if any(choice.option["misses"].there for choice in found):
        rows.append(row("misses", lambda o: joined(misses(m, o), m.say("; "))))
    return Table(
        key="options",
        caption=m.t("What each is, costs and keeps"),
        head=((), *(choice.name for choice in found)),
        rows=tuple(rows),
        align=("left", *(right,) * len(found)),
        note=m.t("Latency is the worse of the whole trace and its busiest minutes, against what is promised."),
    )


def breaks(m: Matter, option: Node) -> Text:
    grown = option["risk"]["growth"]
    if not grown.there and _deployed(m, option) and m.judged["holds"].value is False:
        return m.t("now")
    return month(m, grown["breaks_in_month"], grown["months"]) if grown.there else m.t("not assessed")


def _said(m: Matter, choice: Choice, say: Callable[[Node], Text]) -> Text:
    return say(choice.option) if choice.option.there else ("–",)


def _seats(option: Node) -> Text:
    each: list[Text] = [
        (pool["max_num_seqs"].cell("count"), " / ", pool["max_num_batched_tokens"].cell("count"))
        for pool in parts_of(option)
    ]
    return joined(each, " + ")


def _latencies(m: Matter, found: list[Choice]) -> Iterator[Row]:
    """A row for each promise; p99 of both where nothing was promised."""
    whole = next((choice.option for choice in found if choice.option["bounds"].there), None)
    if whole is None:
        for metric in ("ttft", "tpot"):
            key = f"p99_{metric}_ms"
            title = m.t("{quantile} {metric}", quantile="p99", metric=metric.upper())
            yield Row((title, *((_p99(choice.option, key).cell("ms"),) for choice in found)))
        return
    for at, bound in enumerate(whole["bounds"]):
        title = m.t("{promise}, at most {limit}", promise=promise(m, bound), limit=bound["seconds"].cell("seconds"))
        yield Row((title, *(_latency(m, choice, at, bound) for choice in found)))


def _latency(m: Matter, choice: Choice, at: int, bound: Node) -> Text:
    own = choice.option["bounds"][at]
    if own["metric"].value == bound["metric"].value and own["quantile"].value == bound["quantile"].value:
        return (own["worst_s"].cell("seconds"),)
    alone = _p99(choice.option, f"p99_{bound['metric'].value}_ms")
    return (alone.cell("ms"),) if alone.there and bound["quantile"].value == 0.99 else ("–",)


def _p99(option: Node, key: str) -> Node:
    return option["metrics"][key] if option["metrics"].there else option[key]


def options_section(m: Matter) -> Section:
    blocks: list[Block] = [comparison(m)]
    if budget := _over_budget(m):
        blocks.append(Paragraph(budget, "note"))
    if not m.deployed.there:
        blocks.append(
            Paragraph(
                m.t(
                    "Doing nothing: no run of the deployed fleet was named, so nothing is paid for and no request is served."
                ),
                "note",
            )
        )
    blocks += [Figure(chart) for chart in (*drawn(m, "front"), *load_curves(m))]
    return Section("options", m.say("Options side by side"), tuple(blocks))


def _over_budget(m: Matter) -> Text:
    """A budget is kept at the price planned with; whose prices may reach over it is said."""
    budget = follows("budget", m.scenario["budget"])
    highest = [(option, option["risk"]["usd_per_month"]["p95"]) for option in m.plan["options"]]
    over = [(option, usd) for option, usd in highest if budget.there and usd.there and usd.value > budget.value]
    if not over:
        return ()
    said = [m.t("{name} up to {usd}", name=name_of(m, option), usd=usd.cell("usd")) for option, usd in over]
    return m.t(
        "The budget of {usd} a month is kept at the price that was planned with, and is no promise that worlds are counted by:"
        " with 5 to 95 % of prices a month may cost more ({over}).",
        usd=budget.cell("usd"),
        over=joined(said, m.say("; ")),
    )
