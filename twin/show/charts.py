"""What a run says of latency and load, as charts: the front, latency against load, what happened over time, where time goes.

From JSON to :class:`~twin.show.chart.Chart`, and nothing is computed here but units. What a run does not say gives an empty
chart. What it says of risk and money is drawn by :mod:`twin.show.charts_risk`, under the same roof.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twin.show.chart import Axis, Chart, Heat, Rule, Series, Value
from twin.show.charts_money import cost_tree, cumulative_cost
from twin.show.charts_risk import growth, risk_bands, sensitivity
from twin.show.words import Say, words

__all__ = [
    "bottleneck",
    "cost_tree",
    "cumulative_cost",
    "front",
    "growth",
    "load_by_hour",
    "load_curve",
    "risk_bands",
    "sensitivity",
    "timeline",
]

EN = words("en")
Json = Mapping[str, Any]
HOLLOW = "Hollow marks (in a terminal: ?) lie outside of what was calibrated."
LOG_FROM = 8.0
"""Costs that lie further apart than this are drawn on a logarithmic axis."""


def front(plan: Json, say: Say = EN, *, metric: str = "ttft") -> Chart:
    """Cost against a p99 latency (``ttft`` or ``tpot``): what no other configuration beats in both, and what was named of it.

    ``keys`` are ids of options. Intervals of options whose risk is known: 5 % to 95 % of the possible worlds.
    """
    named = [_placed(item, metric, say) for item in plan["options"]]
    missed = [_placed(item, metric, say) for item in plan["near_misses"]]
    told = {row["id"] for row in [*named, *missed]}
    rest = [_of_front(row, metric, say) for row in plan.get("front") or () if row["id"] not in told]
    groups = [(say("on the front"), rest), (say("named options"), named), (say("near misses"), missed)]
    series = tuple(_scatter(name, rows) for name, rows in groups if any(row["y"] is not None for row in rows))
    costs = [float(str(x)) for one in series for x in one.x]
    apart = bool(costs) and max(costs) > LOG_FROM * max(min(costs), 1e-9)
    notes = [
        say("Each replayed over the whole trace.")
        if plan.get("simulated_on_whole_trace", 1)
        else say("Simulated on the busiest minutes only: the search was stopped."),
        say("Whiskers: 5% to 95% of the possible worlds; a point without them has no figure of risk.")
        if any(low is not None for one in series for low in one.low)
        else say("No interval is drawn: the plan was made without --risk."),
        say(HOLLOW) if any(any(one.outside) for one in series) else "",
    ]
    return Chart(
        f"front-{metric}",
        say("Cost against latency: what no other configuration beats in both"),
        Axis(say("cost, USD a month"), money=True, log=apart),
        Axis(_axis_of(metric, say), log=True),
        series,
        tuple(_promised((plan["options"] or plan["near_misses"] or [{}])[0].get("bounds", ()), metric, say)),
        note=" ".join(note for note in notes if note) if series else "",
    )


def _placed(option: Json, metric: str, say: Say) -> dict[str, Any]:
    """An option as a point: its p99 on the whole trace, its interval from the promise to that p99 if there is one."""
    bounds = option.get("risk", {}).get("bounds", ())
    found = [b for b in bounds if b["metric"] == metric and b["quantile"] == 0.99 and "request_class" not in b]
    scale = {"low": "p5_s", "high": "p95_s"}
    value = option["metrics"].get(f"p99_{metric}_ms")
    names = ", ".join(say(name.replace("_", " ")) for name in option.get("names") or ())
    return {
        "id": option["id"],
        "x": option["usd_per_month"],
        "y": value,
        "label": names or _chance(option["id"], option.get("risk", {}).get("probability_held"), say),
        "outside": option.get("calibrated") == "outside",
        **{end: found[0][name] * 1e3 if len(found) == 1 else None for end, name in scale.items()},
    }


def _of_front(row: Json, metric: str, say: Say) -> dict[str, Any]:
    label = _chance(row["id"], row.get("probability_held"), say)
    outside = row.get("calibrated") == "outside"
    value = row.get(f"p99_{metric}_ms")
    return {
        "id": row["id"],
        "x": row["usd_per_month"],
        "y": value,
        "label": label,
        "outside": outside,
        "low": None,
        "high": None,
    }


def _chance(name: str, held: Any, say: Say) -> str:
    value = held["value"] if isinstance(held, Mapping) else held
    return (
        name
        if value is None
        else say("{name}, holds in {share} of the possible worlds", name=name, share=f"{value:.0%}")
    )


def _scatter(name: str, rows: Sequence[Mapping[str, Any]]) -> Series:
    rows = [row for row in rows if row["y"] is not None]

    def column(key: str) -> tuple[Any, ...]:
        return tuple(row[key] for row in rows)

    interval = column("low") if any(low is not None for low in column("low")) else ()
    return Series(
        name,
        column("x"),
        column("y"),
        "points",
        low=interval,
        high=column("high") if interval else (),
        outside=column("outside") if any(column("outside")) else (),
        keys=column("id"),
        labels=column("label"),
    )


def _axis_of(metric: str, say: Say) -> str:
    return say("p99 {metric}, ms", metric=metric.upper())


def _promised(bounds: Sequence[Json], metric: str, say: Say, quantiles: Sequence[float] = (0.99,)) -> list[Rule]:
    """The promises to a metric in the quantiles that are drawn."""
    rules = []
    for bound in bounds:
        if bound["metric"] == metric and bound["quantile"] in quantiles:
            whose = f" ({bound['request_class']})" if bound.get("request_class") else ""
            limit = f"p{bound['quantile'] * 100:g} {metric.upper()} ≤ {bound['seconds'] * 1e3:,.4g} ms{whose}"
            rules.append(Rule("y", bound["seconds"] * 1e3, say("promised: {limit}", limit=limit)))
    return rules


def load_curve(curve: Json | None, metric: str = "ttft", baseline: Json | None = None, say: Say = EN) -> Chart:
    """p50 and p99 of ``ttft`` or ``tpot`` against requests a second, with the planned rate and what is promised.

    The band around p99 is ``lo90`` to ``hi90``. ``baseline``: another curve to compare with, its p99 in dashed grey.
    """
    key, x, y = (
        f"load-{metric}",
        Axis(say("requests per second")),
        Axis(say("{metric}, ms", metric=metric.upper()), log=True),
    )
    title = say("{metric} against load", metric=metric.upper())
    if not curve or not curve.get("points"):
        return Chart(key, title, x, y)
    points = curve["points"]
    rates = _column(points, "request_rate_per_s")
    out = tuple(point.get("calibrated") == "outside" for point in points)
    labels = tuple("" if point["load"] == "stable" else say(point["load"]) for point in points)
    shared: dict[str, Any] = {"outside": out if any(out) else (), "labels": labels if any(labels) else ()}
    tail = _column(points, f"p99_{metric}_ms")
    ends = (_column(points, f"p99_{metric}_ms_{end}") for end in ("lo90", "hi90"))
    low, high = (end if any(value is not None for value in end) else () for end in ends)
    series = [
        Series("p99", rates, tail, low=low, high=high, colour=0, **shared),
        Series("p50", rates, _column(points, f"p50_{metric}_ms"), colour=1, **shared),
    ]
    if baseline and baseline.get("points"):
        other = baseline["points"]
        before = _column(other, "request_rate_per_s"), _column(other, f"p99_{metric}_ms")
        series.append(Series(say("p99 of the baseline"), *before, baseline=True))
    planned = [Rule("x", point["request_rate_per_s"], say("planned")) for point in points if point["factor"] == 1]
    notes = [
        say("Shown: {fidelity}, replayed slower and faster.", fidelity=say(curve["fidelity"])),
        say("Band: 90% interval of p99, {how}.", how=say(curve.get("interval", "from the engine's measured error")))
        if low
        else "",
        say(HOLLOW) if any(out) else "",
    ]
    rules = (*planned, *_promised(curve.get("promises", ()), metric, say, (0.99, 0.5)))
    return Chart(key, title, x, y, tuple(series), rules, note=" ".join(note for note in notes if note))


def _column(rows: Sequence[Json], key: str) -> tuple[Any, ...]:
    return tuple(row.get(key) for row in rows)


def timeline(happened: Json | None, say: Say = EN) -> list[Chart]:
    """Queue, batch, KV cache and tokens over simulated time: four charts of steps, a bin each."""
    if not happened or not happened.get("start_s"):
        return []
    scale, unit = next(
        (s, u) for s, u in ((3600.0, "h"), (60.0, "min"), (1.0, "s")) if happened["start_s"][-1] >= 3 * s or s == 1.0
    )
    x = Axis(say("time since the first request, {unit}", unit=unit))
    start = tuple(at / scale for at in happened["start_s"])

    def of(name: str, title: str, y: Axis, columns: Mapping[str, str]) -> Chart:
        series = tuple(
            Series(say(label), start, tuple(happened[column]), "steps")
            for column, label in columns.items()
            if column in happened
        )
        note = say(
            "Each step is the mean of {seconds} s of the nominal simulation, over all replicas.",
            seconds=f"{happened['bin_s']:.3g}",
        )
        return Chart(f"timeline-{name}", say(title), x, y, series, note=note)

    return [
        of(
            "queue",
            "Requests waiting",
            Axis(say("requests"), low=0.0),
            {"num_waiting": "mean", "num_waiting_max": "most, on one replica"},
        ),
        of("batch", "Requests running", Axis(say("requests"), low=0.0), {"num_running": "mean"}),
        of("kv", "KV cache in use", Axis(say("share of blocks"), share=True, low=0.0), {"kv_cache_usage": "mean"}),
        of(
            "tokens",
            "Tokens per second",
            Axis(say("tokens per second"), low=0.0),
            {"output_tokens_per_s": "output", "prefill_tokens_per_s": "prefill"},
        ),
    ]


def load_by_hour(heat: Json | None, say: Say = EN) -> Chart:
    """Days by hours of the day, or what :func:`twin.traffic.by_hour.load_by_hour` cut a shorter trace into."""
    title = say("Load by hour")
    found = heat or {}
    x, y = (
        Axis(say(found.get(f"{side}_title", usual))) for side, usual in (("column", "hour of the day"), ("row", "day"))
    )
    if not found.get("values"):
        return Chart("load-by-hour", title, x, y)
    assert heat is not None
    values = tuple(tuple(row) for row in heat["values"])
    rows, columns = (tuple(str(name) for name in heat[key]) for key in ("rows", "columns"))
    note = (
        say("Times {clock}; empty where the trace does not reach.", clock=say(heat["clock"])) if "clock" in heat else ""
    )
    return Chart("load-by-hour", title, x, y, heat=Heat(rows, columns, values, say(heat["unit"])), note=note)


PHASES = {
    "prefill": "prefill",
    "decode_at_peak": "decode at the peak",
    "decode_over_day": "decode over the day",
    "peak": "all of the peak",
}


def bottleneck(explanation: Json | None, say: Say = EN) -> Chart:
    """Where the time of a step goes: shares of compute, memory bandwidth, network, host and latency, by phase."""
    title = say("Where the time goes")
    x, y = Axis(""), Axis(say("share of the time"), share=True, low=0.0, high=1.0)
    phases = {
        name: phase for name, phase in (explanation or {}).get("phases", {}).items() if phase and phase.get("resources")
    }
    key = "bottleneck" if not explanation else f"bottleneck-{explanation['id']}"
    resources = dict.fromkeys(name for phase in phases.values() for name in phase["resources"])
    names = tuple(say(PHASES.get(name, name.replace("_", " "))) for name in phases)

    def share(name: str) -> tuple[Value, ...]:
        return tuple(phase["resources"].get(name, 0.0) for phase in phases.values())

    series = tuple(Series(say(name.replace("_", " ")), names, share(name), "bars") for name in resources)
    note = say("Of the nominal cost model; shares have no interval.") if series else ""
    return Chart(key, title, x, y, series, note=note, across=True, stacked=True)
