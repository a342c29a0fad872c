"""Up to which rate a deployment keeps its promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from twin.search.evaluate import Outcome, evaluate
from twin.search.workload import Workload, bisected

BISECTIONS = 8
LEAST_FACTOR = 1 / 64
MOST_FACTOR = 64.0


def highest_factor(holds_at: Callable[[Workload], bool], load: Workload, now: Outcome) -> tuple[float | None, int]:
    """The largest factor on the rate of the busiest minutes at which a deployment holds (``None``: at
    none tried), to about 2 %, and how many rates were simulated. ``now``: the deployment at ``load``."""
    busiest = replace(load, trace=load.busiest)
    ceiling = (1 - now.headroom) / now.deployment.utilisation
    tried = 0

    def holds(factor: float) -> bool:
        nonlocal tried
        tried += 1
        return holds_at(replace(busiest, trace=busiest.trace.scaled(factor)))

    low, high = LEAST_FACTOR, float(np.clip(ceiling, LEAST_FACTOR, MOST_FACTOR))
    if holds(high * (1 - 1e-9)):
        return high, tried
    if not holds(low):
        return None, tried
    low = bisected(holds, low, high, BISECTIONS)
    return low, tried


def highest_rate_per_s(outcome: Outcome, load: Workload) -> float:
    """Requests per second of the busiest minutes that an option holds; 0 where none that was tried."""
    deployment = outcome.deployment

    def holds_at(scaled: Workload) -> bool:
        use = deployment.utilisation * scaled.peak_rate_per_s / load.peak_rate_per_s
        faster = replace(deployment, utilisation=use)
        return evaluate(faster, scaled.trace, outcome.bounds, headroom=outcome.headroom).holds

    factor, _ = highest_factor(holds_at, load, outcome)
    return (factor or 0.0) * load.peak_rate_per_s
