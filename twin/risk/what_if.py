"""What would change the recommendation: the smallest change of each input at which it turns, on the data of the search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp, log

import numpy as np

from twin.cost.draws import slower
from twin.cost.spread import spread_step_model
from twin.risk.trials import Subject, found_in
from twin.search.evaluate import Outcome
from twin.search.workload import bound_text
from twin.spec.model import ModelSpec

Choose = Callable[[list[Outcome]], Outcome | None]
"""The recommended outcome among those that hold; ``None`` if there is none."""

FURTHEST = log(4.0)
GRID = 80
BISECTIONS = 12
STEP_BISECTIONS = 6
MOST_SLOWER = 2.0


@dataclass(frozen=True)
class Turn:
    """At ``factor`` times its value ``what`` turns the answer: ``to`` another option, or ``None`` where ours stops holding."""

    what: str
    factor: float
    to: str | None
    text: str

    def as_json(self) -> dict[str, object]:
        return {
            "input": self.what,
            "factor": self.factor,
            "change": self.factor - 1.0,
            "to": self.to,
            "text": self.text,
        }


def what_would_change(
    whole: Sequence[Outcome], recommended: Outcome, choose: Choose, model: ModelSpec, subject: Subject, highest: float
) -> list[dict[str, object]]:
    """Per input the smallest change that turns the answer, the nearest first (JSON-able).

    ``whole``: every outcome on the whole trace, whether it holds or not; ``subject``: the recommended option as risk judges
    it; ``highest``: the factor on the planned rate up to which it holds. What the search did not simulate on the whole
    trace cannot turn the answer here.
    """
    turns = [*_prices(whole, recommended, choose), *_bounds(whole, recommended, choose)]
    turns.append(_traffic(recommended, highest))
    turns += [turn] if (turn := _step_time(model, subject)) is not None else []
    return [turn.as_json() for turn in sorted(turns, key=lambda turn: (abs(log(max(turn.factor, 1e-9))), turn.what))]


def _prices(whole: Sequence[Outcome], ours: Outcome, choose: Choose) -> Iterator[Turn]:
    for gpu in sorted({outcome.candidate.gpu for outcome in whole if outcome.holds}):

        def priced(factor: float, gpu: str = gpu) -> list[Outcome]:
            return [_at_price(o, factor) if o.candidate.gpu == gpu else o for o in whole]

        if (found := _turning(priced, ours, choose)) is not None:
            factor, to = found
            more = f"{abs(factor - 1):.0%} {'dearer' if factor > 1 else 'cheaper'}"
            yield Turn(f"price of {gpu}", factor, to, f"{gpu} {more}: {to} is recommended")


def _at_price(outcome: Outcome, factor: float) -> Outcome:
    deployment = outcome.deployment
    return replace(outcome, deployment=replace(deployment, usd_per_hour=deployment.usd_per_hour * factor))


def _bounds(whole: Sequence[Outcome], ours: Outcome, choose: Choose) -> Iterator[Turn]:
    for position, bound in enumerate(ours.bounds):

        def bounded(factor: float, position: int = position) -> list[Outcome]:
            return [_at_bound(o, position, factor) for o in whole]

        if (found := _turning(bounded, ours, choose)) is not None:
            factor, to = found
            now = bound.model_copy(update={"seconds": float(f"{bound.seconds * factor:.3g}")})
            instead = f"{to} is recommended" if to else "nothing that was simulated holds"
            yield Turn(f"bound on {bound.metric.upper()}", factor, to, f"{bound_text(now)}: {instead}")


def _at_bound(outcome: Outcome, position: int, factor: float) -> Outcome:
    bounds = list(outcome.bounds)
    bounds[position] = bounds[position].model_copy(update={"seconds": bounds[position].seconds * factor})
    return replace(outcome, bounds=tuple(bounds))


def _turning(
    changed: Callable[[float], list[Outcome]], ours: Outcome, choose: Choose
) -> tuple[float, str | None] | None:
    """The factor nearest to 1 at which another outcome is chosen, and its id; ``None`` if none up to four times does it."""

    def chosen(move: float) -> str | None:
        best = choose([outcome for outcome in changed(exp(move)) if outcome.holds])
        return None if best is None else best.candidate.id

    now = ours.candidate.id
    found = []
    for sign in (1.0, -1.0):
        before = 0.0
        for move in np.linspace(0.0, FURTHEST, GRID + 1)[1:].tolist():
            if chosen(sign * move) != now:
                low, high = before, move
                for _ in range(BISECTIONS):
                    middle = (low + high) / 2
                    low, high = (low, middle) if chosen(sign * middle) != now else (middle, high)
                found.append((high, sign * high))
                break
            before = move
    if not found:
        return None
    _, move = min(found)
    return exp(move), chosen(move)


def _traffic(ours: Outcome, highest: float) -> Turn:
    """More traffic: until a promise breaks, or until the head-room that was asked for is used up."""
    room = (1.0 - ours.headroom) / ours.deployment.utilisation
    if 0 < highest < room:
        return Turn("traffic", highest, None, f"×{highest:.2f} of the traffic: a promise breaks")
    return Turn(
        "traffic", room, None, f"×{room:.2f} of the traffic: less than {ours.headroom:.0%} of capacity is left free"
    )


def _step_time(model: ModelSpec, subject: Subject) -> Turn | None:
    """Slower steps than the model says: until a promise breaks. ``None`` where it is broken already, or not even by twice."""
    deployment, candidate = subject.deployment, subject.deployment.candidate

    def holds(factor: float) -> bool:
        profile = slower(subject.profile, factor)
        step = spread_step_model(model, profile, candidate.layout, max_tokens=candidate.max_num_batched_tokens)
        return found_in(model, subject, replace(deployment, step=step), subject.demand.slice).ratio <= 1.0

    if not holds(1.0) or holds(MOST_SLOWER):
        return None
    low, high = 1.0, MOST_SLOWER
    for _ in range(STEP_BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(middle) else (low, middle)
    return Turn("step time", high, None, f"engine steps {high - 1:.0%} slower than the model: a promise breaks")
