"""How sure an option is: its promises in possible worlds, its head-room, and what growth and a lost node do to it.

What the simulations of :mod:`twin.risk.judge` give, in the figures and sentences of a plan's JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.base import HOURS_PER_MONTH, Estimate
from twin.risk.growth import Growth
from twin.risk.judge import Judged, Run, judge, replicas_left
from twin.risk.trials import Shared
from twin.risk.worlds import World, draw_worlds
from twin.search.evaluate import Outcome
from twin.spec.ownership import Figure

Floats = NDArray[np.float64]

WORLDS = 64
CONFIDENCE = 0.9
LOW, HIGH = 0.05, 0.95


def assess(
    shared: Shared,
    fleets: Sequence[Sequence[tuple[int, Outcome, Estimate]]],
    run: Run,
    *,
    growth: Growth | None = None,
    worlds: int = WORLDS,
    seed: int = 0,
) -> tuple[list[dict[str, object]], list[Judged]]:
    """The ``risk`` of each option (JSON-able), and what was found of each of ``shared.subjects``.

    ``fleets``: per option its pools (one, unless request classes have pools of their own) as (position in
    ``shared.subjects``, outcome on the whole trace, USD per GPU hour). ``run`` evaluates ``evaluate_item(shared, item)`` for
    items; the same worlds give the same figures on any of them.
    """
    drawn = draw_worlds(worlds, seed)
    parts = {at: (outcome, price) for fleet in fleets for at, outcome, price in fleet}
    judged = judge(shared, parts, drawn, run)
    return [risk_of([judged[at] for at, _, _ in fleet], growth, seed) for fleet in fleets], judged


def chance(held: NDArray[np.bool_]) -> dict[str, float]:
    """A share of worlds with its Monte-Carlo error (Agresti and Coull's, which is not 0 where all hold or none)."""
    share = (float(held.sum()) + 2.0) / (held.size + 4.0)
    return {"value": float(held.mean()), "stderr": sqrt(share * (1.0 - share) / (held.size + 4.0))}


def upper(values: Floats, share: float) -> float:
    """The value that a new draw stays below with this probability, whatever the distribution (Weibull's plotting position)."""
    return float(np.quantile(values, share, method="weibull"))


def _interval(values: Floats) -> dict[str, float]:
    return {"p5": upper(values, LOW), "p50": upper(values, 0.5), "p95": upper(values, HIGH)}


def risk_of(pools: Sequence[Judged], growth: Growth | None, seed: int) -> dict[str, object]:
    """The risk of an option that is one fleet, or several pools that must all hold."""
    there = set.intersection(*(set(pool.worlds) for pool in pools))
    worlds = [world for world in pools[0].worlds if world in there]
    if len(worlds) < 2:
        return {"worlds": len(worlds), "text": "too few worlds could be simulated to say anything of its risk"}
    at = [[pool.worlds.index(world) for world in worlds] for pool in pools]
    ratios = np.max([pool.ratios[rows] for pool, rows in zip(pools, at, strict=True)], axis=0)
    breaks = np.min([pool.breaks_at[rows] for pool, rows in zip(pools, at, strict=True)], axis=0)
    room = min(pool.headroom for pool in pools)
    cost = np.sum([pool.usd_per_month(worlds) for pool in pools], axis=0)
    spread = any(isinstance(p.price, Figure) and p.price.low != p.price.high for p in pools)
    found: dict[str, object] = {
        "worlds": len(worlds),
        "seed": seed,
        "probability_held": chance(ratios <= 1.0),
        "promised_at_90": upper(ratios, CONFIDENCE),
        "bounds": [row for pool in pools for row in _bounds(pool)],
        "headroom": {"factor": room, **_interval(breaks)},
        "usd_per_month": {
            "value": sum(pool.outcome.usd_per_hour for pool in pools) * HOURS_PER_MONTH,
            **_interval(cost),
            "how": "prices spread over the providers of the price book, which a signed quote ends"
            if spread
            else "one price is known: no spread",
        },
        "down": {what: _down(pools, at, breaks, what) for what in ("replica", "node")},
        "engine_errors": [_errors(pool) for pool in pools],
        "growth": None if growth is None else _growth(pools, at, worlds, breaks, room, growth),
        "how": _how(pools),
    }
    return {**found, "text": said(found)}


def _bounds(pool: Judged) -> list[dict[str, object]]:
    bounds = pool.subject.bounds
    values = np.array([found.values_s for found in pool.at_plan]).reshape(len(pool.at_plan), len(bounds))
    return [
        {
            **({} if bound.request_class is None else {"request_class": bound.request_class}),
            "metric": bound.metric,
            "quantile": bound.quantile,
            "seconds": bound.seconds,
            "planned_s": planned,
            **{f"{name}_s": value for name, value in _interval(column).items()},
            "promised_at_90_s": upper(column, CONFIDENCE),
            "probability_held": chance(column <= bound.seconds),
        }
        for bound, planned, column in zip(bounds, pool.outcome.values_s, values.T, strict=True)
    ]


def _errors(pool: Judged) -> dict[str, object]:
    errors, off = pool.subject.errors, pool.subject.off
    return {
        "gpu": pool.subject.profile.name,
        "evidence": errors.evidence,
        "tpot": errors.tpot,
        "ttft": errors.ttft,
        "beyond_kernels": {"step": off.step, "first_token": off.first},
        "source": errors.source,
    }


def _down(pools: Sequence[Judged], at: Sequence[Sequence[int]], breaks: Floats, what: str) -> dict[str, object]:
    """With one replica or node of the weakest pool down: whether the rest holds, and at what share of the planned traffic."""
    rows = []
    for pool, worlds in zip(pools, at, strict=True):
        left = replicas_left(pool.subject)[what]
        share = pool.highest.get(left, 0.0)
        scaled = pool.breaks_at[list(worlds)] * (share / pool.headroom if pool.headroom else 0.0)
        rows.append((share, left, pool, np.minimum(scaled, breaks) >= 1.0))
    share, left, pool, held = min(rows, key=lambda row: row[0])
    total, where = pool.subject.replicas, f" of {pool.subject.profile.name}" if len(pools) > 1 else ""
    if left == 0:
        text = f"nothing{where} is left: " + (
            "there is one replica" if total == 1 else f"all {total} may stand on one node"
        )
    elif share <= 0.0:
        text = f"{left} of {total} replicas{where} hold the promises at no share of the traffic that was tried"
    elif share >= 1.0:
        text = f"{left} of {total} replicas{where} hold the promises, up to ×{share:.2f} of the traffic"
    else:
        text = f"{left} of {total} replicas{where} hold the promises at {share:.0%} of the traffic"
    return {
        "replicas_left": left,
        "holds": share >= 1.0,
        "share_of_traffic": share,
        "probability_held": chance(held),
        "text": text,
    }


def _growth(
    pools: Sequence[Judged],
    at: Sequence[Sequence[int]],
    worlds: Sequence[World],
    breaks: Floats,
    room: float,
    growth: Growth,
) -> dict[str, object]:
    """Held month by month; the month in which it breaks, and the fleet that would hold at the end, as an interval."""
    asked = growth.factors(np.array([world.growth for world in worlds]))
    over = asked > breaks[:, None]
    broken = np.where(over.any(axis=1), over.argmax(axis=1), growth.months + 1)
    nominal = growth.factors(np.zeros(1))[0] > room
    month = int(nominal.argmax()) if nominal.any() else None
    replicas, costs = np.zeros(len(worlds)), np.zeros(len(worlds))
    for pool, rows in zip(pools, at, strict=True):
        each = np.maximum(pool.breaks_at[list(rows)], 1e-9)
        needed = np.maximum(np.ceil(pool.subject.replicas * asked[:, -1] / each), 1.0)
        replicas, costs = replicas + needed, costs + pool.usd_per_month(worlds, needed)
    text = f"at {growth} it breaks in month {month}" if month is not None else (
        f"at {growth} it does not break within {growth.months} months"
    )  # fmt: skip
    return {
        "per_month": growth.per_month,
        "stderr": growth.stderr,
        "planned_months": growth.planned_months,
        "months": growth.months,
        "breaks_in_month": month,
        **{f"breaks_in_month_{name}": _month(broken, q, growth.months) for name, q in QUANTILES.items()},
        "probability_broken_by_end": float((broken <= growth.months).mean()),
        "probability_held_by_month": [float(value) for value in (~over).mean(axis=0)],
        "replicas_at_end": _interval(replicas),
        "usd_per_month_at_end": _interval(costs),
        "text": text,
    }


QUANTILES = {"p5": LOW, "p50": 0.5, "p95": HIGH}


def _month(broken: NDArray[Any], share: float, most: int) -> int | None:
    """The month by which so many worlds are broken; ``None``: not within the horizon."""
    found = int(np.ceil(np.quantile(broken, share)))
    return found if found <= most else None


def _how(pools: Sequence[Judged]) -> list[str]:
    traffic = "; ".join(dict.fromkeys(pool.subject.demand.how for pool in pools))
    return [
        "probability: share of worlds whose busiest minutes keep every promise without a growing backlog; a world draws the"
        " GPU's kernels and host times from their errors, what whole engines were off beyond those, and another day's"
        f" traffic: {traffic}",
        "bounds: promised quantiles over the worlds, scaled by what the whole trace makes of its busiest minutes",
        "headroom: how many times the traffic the nominal world holds (simulated, to a percent or two), and over worlds by a"
        " power of the rate through two simulations each, as far as the closed form sustains it",
        "down: the nominal world simulated with the replicas that are left; its probability scales each world's head-room",
        "growth: months from today; the fleet at the end has as many replicas as each world's head-room asks for",
        "not in it: how high another day's peak is, traffic of another kind, failures beyond one node, the network, versions"
        " of the engine that behave otherwise; the head-room kept free at the peak is no promise and is not counted as one",
    ]


def said(risk: dict[str, Any]) -> str:
    """In one sentence."""
    held, room = risk["probability_held"], risk["headroom"]["factor"]
    text = f"holds in {held['value']:.0%} ± {held['stderr']:.0%} of {risk['worlds']} worlds"
    if held["value"] == 1:
        text = f"holds in all {risk['worlds']} worlds"
    text += f"; head-room: ×{room:.2f} of the traffic" if room else "; it holds at no rate that was tried"
    if risk["growth"]:
        text += f"; {risk['growth']['text']}"
    return f"{text}; with one node down {risk['down']['node']['text']}"
