"""Which of the options that hold are named: the cheapest, the fastest, the recommended."""

from __future__ import annotations

from collections.abc import Sequence

from twin.plan.found import by_cost
from twin.search.algorithms.settings import ABOUT_AS_CHEAP
from twin.search.objectives import Some, scores
from twin.spec.objectives import Weights


def recommended_of(holding: Sequence[Some], schedule: Sequence[Weights] = ()) -> Some | None:
    """The fastest of those that cost at most 5 % more than the cheapest; with a ``schedule`` of weights, the one of least
    score."""
    if not holding:
        return None
    if schedule:
        judged = zip(scores(holding, schedule), holding, strict=True)
        return min(judged, key=lambda pair: (pair[0].value, *by_cost(pair[1])))[1]
    most = ABOUT_AS_CHEAP * min(o.usd_per_hour for o in holding)
    return min((o for o in holding if o.usd_per_hour <= most), key=lambda o: (o.latency_score, *by_cost(o)))


def choose(
    holding: Sequence[Some], schedule: Sequence[Weights] = (), among: Sequence[Some] | None = None
) -> list[tuple[Some, tuple[str, ...]]]:
    """The named options among outcomes that hold: cheapest, best latency, recommended; each outcome once,
    by cost.

    The cheapest is the fastest of equal cost. ``among``: what may be recommended, if not all.
    """
    recommended = recommended_of(holding if among is None else among, schedule)
    if recommended is None:
        return []
    named = {
        "recommended": recommended,
        "cheapest": min(holding, key=by_cost),
        "best_latency": min(holding, key=lambda o: (o.latency_score, *by_cost(o))),
    }
    names: dict[str, tuple[str, ...]] = {}
    for name, outcome in named.items():
        names[outcome.candidate.id] = (*names.get(outcome.candidate.id, ()), name)
    picked = {outcome.candidate.id: outcome for outcome in named.values()}
    return [(o, names[o.candidate.id]) for o in sorted(picked.values(), key=by_cost)]
