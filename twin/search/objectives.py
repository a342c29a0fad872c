"""What a search trades off, and how a schedule of weights chooses among what holds.

``OBJECTIVES`` is the one table: name, unit, sense, formula. Quantiles of latency (``p99_ttft``) are rows made on demand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from twin.base import InputError
from twin.results.energy import Span, kwh_per_month
from twin.search.figures import Wants
from twin.search.workload import BUSIEST_S
from twin.spec.hardware import HardwareProfile
from twin.spec.objectives import WEIGHED, Objectives, Weights, quantile_of
from twin.traffic.trace import Trace

HOUR_S, DAY_HOURS = 3600.0, 24
QUARTER = 4


class Judged(Protocol):
    """What an outcome, of one fleet or of several pools, says of itself."""

    @property
    def usd_per_hour(self) -> float: ...
    @property
    def latency(self) -> tuple[float, float]: ...
    @property
    def load(self) -> str: ...
    @property
    def figures(self) -> Mapping[str, float]: ...
    @property
    def windows(self) -> Mapping[str, Mapping[str, float]]: ...
    @property
    def limit_w(self) -> float: ...


class Named(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def gpu(self) -> str: ...
    @property
    def num_gpus(self) -> int: ...


class Choice(Judged, Protocol):
    """What options are chosen among."""

    @property
    def candidate(self) -> Named: ...
    @property
    def latency_score(self) -> float: ...


Some = TypeVar("Some", bound=Choice)


class Objective(NamedTuple):
    """A row of the table. ``of`` gives the value of an outcome in ``unit``."""

    name: str
    unit: str
    sense: Literal["least", "most"]
    formula: str
    of: Callable[[Judged], float]


OBJECTIVES: Mapping[str, Objective] = {
    row.name: row
    for row in (
        Objective("cost", "USD/hour", "least", "GPUs x price of a GPU hour", lambda o: o.usd_per_hour),
        Objective(
            "first_tokens",
            "ratio, or s",
            "least",
            "worst TTFT or E2EL over its bound; p99 TTFT without",
            lambda o: o.latency[0],
        ),
        Objective(
            "next_tokens", "ratio, or s", "least", "worst TPOT over its bound; p99 without", lambda o: o.latency[1]
        ),
        Objective(
            "goodput",
            "requests/s",
            "most",
            "requests that meet every bound of their class / duration",
            lambda o: o.figures["goodput"],
        ),
        Objective(
            "throughput",
            "tokens/s",
            "most",
            "output tokens per second of the busiest minutes / closed-form utilisation there",
            lambda o: o.figures["throughput"],
        ),
        Objective(
            "energy",
            "kWh/month",
            "least",
            "boards x limit x share of it drawn x 730 h (twin.results.energy)",
            lambda o: kwh_per_month(1, o.limit_w, o.figures["energy"]),
        ),
    )
}
USUAL = ("cost", "first_tokens", "next_tokens")


def objective(name: str) -> Objective:
    """The row of a name that :func:`twin.spec.objectives.check_objectives` admits."""
    asked = quantile_of(name)
    if asked is None:
        return OBJECTIVES[name]
    formula = f"the quantile {asked[1]:g} of {asked[0].upper()} over all requests"
    return Objective(name, "s", "least", formula, lambda o: o.figures[name])


def objective_values(outcome: Judged, chosen: Sequence[str] = USUAL) -> list[float]:
    """What a search minimises, in the order of ``chosen``: positive numbers whose ratios mean something, so those of which most
    is best stand as their reciprocals. Infinite for a lost simulation.
    """
    if outcome.load == "lost":
        return [outcome.usd_per_hour if name == "cost" else math.inf for name in chosen]
    rows = [objective(name) for name in chosen]
    values = [(row.of(outcome), row.sense) for row in rows]
    return [value if sense == "least" else 1.0 / max(value, 1e-12) for value, sense in values]


def nondominated_of(
    outcomes: Sequence[Some], chosen: Sequence[str] = USUAL, more: Sequence[Sequence[float]] | None = None
) -> list[Some]:
    """Those that no other beats or equals in every objective, and in ``more`` columns of which less is better."""
    if not outcomes:
        return []
    points = np.array([objective_values(outcome, chosen) for outcome in outcomes])
    if more is not None:
        points = np.column_stack([points, np.array(more).reshape(len(outcomes), -1)])
    kept = []
    for at, point in enumerate(points):
        beaten = (points <= point).all(axis=1) & ((points < point).any(axis=1) | (np.arange(len(points)) < at))
        if not beaten.any():
            kept.append(outcomes[at])
    return kept


def chosen_of(objectives: Objectives) -> tuple[str, ...]:
    """What the search trades off: what was named, else the usual three and what the schedule weighs beside them."""
    return objectives.minimise or (*USUAL, *(name for name in objectives.weighed if name in ("throughput", "energy")))


def wants_of(objectives: Objectives, trace: Trace, classes: Sequence[str] = ()) -> Wants:
    """What simulations of ``trace`` must measure for these objectives."""
    names = dict.fromkeys((*chosen_of(objectives), *objectives.weighed))
    figures = tuple(name for name in names if quantile_of(name) or name in ("goodput", "throughput", "energy"))
    return Wants(figures, {item.when: spans_of(item, trace) for item in objectives.weights}, tuple(classes))


def check_energy(objectives: Objectives, profiles: Sequence[HardwareProfile]) -> None:
    """Raises :class:`InputError` where energy counts and a GPU's power is not known."""
    if "energy" in (*chosen_of(objectives), *objectives.weighed):
        for profile in profiles:
            if profile.facts.board_power_w is None:
                raise InputError(
                    f"energy is an objective, but no power of {profile.name} is known; leave one of them out"
                )


def spans_of(weights: Weights, trace: Trace) -> tuple[Span, ...]:
    """The spans of a window in seconds of the trace, the end open.

    A peak or trough is made of the windows of five minutes in which most or fewest requests arrive, a quarter of them (at
    least one; the earlier of equals). Raises :class:`InputError` for hours that the trace has not.
    """
    end = float(np.nextafter(trace.duration_s, np.inf))
    if weights.when == "all":
        return ((0.0, end),)
    if weights.hours is not None:
        return _hours(*weights.hours, end, trace.name)
    edges = np.append(np.arange(0.0, end, BUSIEST_S), end)
    if len(edges) > 2 and edges[-1] - edges[-2] < BUSIEST_S / 2:  # a short rest counts with the window before it
        edges = np.delete(edges, -2)
    count = np.diff(np.searchsorted(trace.arrival_s, edges))
    rate = count / np.diff(edges)
    order = np.argsort(-rate if weights.when == "peak" else rate, kind="stable")
    kept = sorted(order[: max(1, len(rate) // QUARTER)].tolist())
    return tuple((float(edges[at]), float(edges[at + 1])) for at in kept)


def _hours(first: int, last: int, end_s: float, where: str) -> tuple[Span, ...]:
    hours = (last - first) % DAY_HOURS or DAY_HOURS
    starts = np.arange(first - DAY_HOURS, math.ceil(end_s / HOUR_S), DAY_HOURS) * HOUR_S
    spans = [(max(float(start), 0.0), min(float(start) + hours * HOUR_S, end_s)) for start in starts]
    spans = [(start, stop) for start, stop in spans if start < stop]
    if not spans:
        raise InputError(
            f"the traffic lasts {end_s / HOUR_S:.2g} hours, so it has no hours {first}-{last}", where=where
        )
    return tuple(spans)


@dataclass(frozen=True)
class Score:
    """Of an option under a schedule; lower is better, 0 is the best of every metric in every window.

    ``parts``: per window and metric, the share of it: weight x logarithm of the value over the best among the options.
    """

    value: float
    parts: Mapping[str, Mapping[str, float]]


def scores(outcomes: Sequence[Judged], schedule: Sequence[Weights]) -> list[Score]:
    """Per outcome, the time-weighted sum over windows of the weighted normalised metrics in them.

    A metric is normalised as ln(value / best), best among ``outcomes`` (throughput: ln(best / value)), so a weight of 3 on
    latency and 1 on cost trades 1 % of latency for 3 % of cost, whatever other options there are. The weights of a window
    add up to 1. Cost and throughput are the fleet's and the same in every window; latency and energy are the window's.
    """
    total_s = sum(_seconds(outcomes, item.when) for item in schedule)
    parts: list[dict[str, dict[str, float]]] = [{} for _ in outcomes]
    for item in schedule:
        share = _seconds(outcomes, item.when) / total_s / sum(item.weights.values())
        for name in (name for name in WEIGHED if item.weights.get(name, 0.0) > 0):
            values = np.array([max(_in_window(o, item.when, name), 1e-12) for o in outcomes])
            for found, rise in zip(parts, np.log(values / values.min()).tolist(), strict=True):
                found.setdefault(item.when, {})[name] = share * item.weights[name] * rise
    return [Score(sum(sum(metrics.values()) for metrics in found.values()), found) for found in parts]


def _seconds(outcomes: Sequence[Judged], when: str) -> float:
    return outcomes[0].windows[when]["seconds"] if outcomes else 1.0


def _in_window(outcome: Judged, when: str, name: str) -> float:
    """A metric of which less is better."""
    window = outcome.windows[when]
    if name == "latency":
        return math.sqrt(max(window["first"], 1e-12) * max(window["next"], 1e-12))
    if name == "energy":
        return outcome.limit_w * window["power"]
    return 1.0 / outcome.figures["throughput"] if name == "throughput" else outcome.usd_per_hour
