"""Pictures of a trace, from its figures and bins (``describe`` and ``bins`` of :mod:`twin.traffic`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twin.show.chart import Axis, Chart, Rule, Series, Value

UNITS = {"days": 86_400.0, "hours": 3_600.0, "minutes": 60.0, "seconds": 1.0}
QUANTILES = ("p50", "p90", "p99")


def arrivals(figures: Mapping[str, Any], bins: Mapping[str, Any]) -> Chart:
    """Requests per second over time, the busiest five minutes marked."""
    unit, x = _clock(figures, bins)
    busy = figures["busiest_5min"]
    start = busy["start_s"] / UNITS[unit]
    series = [Series("arrivals", x, _closed(bins["requests_per_s"]), "steps")]
    rules: tuple[Rule, ...] = ()
    if busy["rate_per_s"] is not None:
        end = min(busy["start_s"] + 300.0, figures["duration_s"]) / UNITS[unit]
        series.append(Series("busiest five minutes", (start, end), (busy["rate_per_s"],) * 2))
        rules = (Rule("x", start, f"{busy['rate_per_s']:,.3g}/s"),)
    return Chart(
        "arrivals",
        "When requests arrive",
        Axis(f"{unit} since the first request", low=0.0),
        Axis("requests/s", low=0.0, high=_with_room(bins["requests_per_s"])),
        tuple(series),
        rules,
        note=f"Means over {_span(bins['bin_s'])} each; the busiest five minutes slide over all of it.",
    )


def token_rates(figures: Mapping[str, Any], bins: Mapping[str, Any]) -> Chart:
    """Tokens that arrive per second: what prefill and decode have to keep up with."""
    unit, x = _clock(figures, bins)
    names = {"input": "input tokens, to prefill", "output": "output tokens, to decode"}
    return Chart(
        "token_rates",
        "What the requests ask for",
        Axis(f"{unit} since the first request", low=0.0),
        Axis("tokens/s", low=0.0),
        tuple(Series(said, x, _closed(bins[f"{name}_tokens_per_s"]), "steps") for name, said in names.items()),
        note=f"Tokens of the requests by when they arrive, means over {_span(bins['bin_s'])} each.",
    )


def lengths(what: str, figures: Mapping[str, Any], bins: Mapping[str, Sequence[int]]) -> Chart:
    """How ``what`` (``input`` or ``output``) lengths are spread, with their median and tail."""
    shares = [count / sum(bins["requests"]) for count in bins["requests"]]
    x = (*(float(low) for low in bins["from"]), float(bins["to"][-1] + 1))
    return Chart(
        f"{what}_lengths",
        f"{what.capitalize()} lengths",
        Axis(f"{what} tokens of a request", log=True),
        Axis("share of requests", share=True, low=0.0, high=min(_with_room(shares) or 1.0, 1.05)),
        (Series("share of requests", x, _closed(shares, last=0.0), "steps"),),
        tuple(Rule("x", at, f"{name} {at:,.0f}") for at, name in _quantiles(figures).items()),
        note="Each step holds the lengths of a third of a doubling.",
    )


def classes(figures: Mapping[str, Any]) -> Chart:
    """Requests by class, where the trace names classes."""
    found = figures["classes"] or {}
    bars = Series("requests", tuple(found), tuple(float(count) for count in found.values()), "bars")
    return Chart("classes", "Classes of requests", Axis("class"), Axis("requests", low=0.0), (bars,), across=True)


def _quantiles(figures: Mapping[str, Any]) -> dict[float, str]:
    """Where they lie, those at one place together."""
    found: dict[float, str] = {}
    for name in QUANTILES:
        found[figures[name]] = f"{found[figures[name]]}, {name}" if figures[name] in found else name
    return found


def _clock(figures: Mapping[str, Any], bins: Mapping[str, Any]) -> tuple[str, tuple[float, ...]]:
    """The unit that a trace is told in, and where its bins begin, with the end of the last."""
    length = figures["duration_s"]
    unit = next((name for name, seconds in UNITS.items() if length >= 3 * seconds), "seconds")
    return unit, tuple(at / UNITS[unit] for at in (*bins["start_s"], max(length, bins["start_s"][-1])))


def _with_room(values: Sequence[Value]) -> float | None:
    """Where an axis ends so that the names of rules stand above what is drawn."""
    most = max((value for value in values if value is not None), default=0.0)
    return 1.4 * most or None


def _closed(values: Sequence[Value], last: Value = None) -> tuple[Value, ...]:
    """The last step holds to the end of its bin."""
    return (*values, values[-1] if last is None else last)


def _span(seconds: float) -> str:
    unit = next((name for name, size in UNITS.items() if seconds >= size and seconds % size == 0), "seconds")
    amount = seconds / UNITS[unit]
    return f"one {unit.removesuffix('s')}" if amount == 1 else f"{amount:,.3g} {unit}"
