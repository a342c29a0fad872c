"""The charts of a report: those of which the run has the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twin.show import charts
from twin.show.chart import Chart
from twin.show.report.forms import written
from twin.show.report.source import Matter, Node


def drawn(m: Matter, name: str) -> Iterator[Chart]:
    """The chart of that name of the plan or of its subject; none where there is nothing to draw."""
    subject, say = m.subject, m.say
    first = written(m.asked["start"].cell("calendar"), say) if m.asked["start"].there else ""
    makers: dict[str, tuple[Node, Callable[[], Chart]]] = {
        "front": (m.plan["front"], lambda: charts.front(m.plan.value, say)),
        "bottleneck": (m.plan["explanation"], lambda: charts.bottleneck(m.plan["explanation"][0].value, say)),
        "risk_bands": (subject["risk"]["bounds"], lambda: charts.risk_bands(subject.value, say)),
        "growth": (subject["risk"]["growth"], lambda: charts.growth(subject.value, say)),
        "cumulative_cost": (usd_by_month(subject), lambda: charts.cumulative_cost(subject.value, say, start=first)),
        "cost_tree": (subject["money"]["ways"], lambda: charts.cost_tree(subject.value, say)),
        "cost": (m.plan["risk"]["sensitivity"]["cost"], lambda: charts.sensitivity(m.plan["risk"].value, "cost", say)),
        "tail": (m.plan["risk"]["sensitivity"]["tail"], lambda: charts.sensitivity(m.plan["risk"].value, "tail", say)),
    }
    data, make = makers[name]
    if data.there and not (chart := make()).empty:
        yield chart


def load_curves(m: Matter) -> Iterator[Chart]:
    """Latency against load, for each pool and for both kinds of latency."""
    single = m.plan["load_curve"]
    for curve in [single] if single.there else list(m.plan["load_curves"]):
        for metric in ("ttft", "tpot"):
            chart = charts.load_curve(curve.value, metric, say=m.say)
            if not chart.empty:
                yield chart


def timelines(m: Matter) -> list[Chart]:
    """Queue, batch, KV cache and tokens over time."""
    if not m.timeline.there:
        return []
    return [chart for chart in charts.timeline(m.timeline.value, m.say) if not chart.empty]


def usd_by_month(option: Node) -> Node:
    """The monthly series of one way to pay, where the run has them."""
    ways = option["money"]["ways"]
    return next((way["usd_by_month"] for _, way in ways.items()), Node(None, ways.path))
