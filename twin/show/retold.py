"""Sentences that a run holds in English, told in another language: matched to what the program writes, blanks and all.

What matches nothing here is shown as the run says it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

NESTED = frozenset({"why", "name", "metric"})
"""Blanks that are sentences themselves."""

TEMPLATES = (
    "models vLLM {version}; network time is not in these figures: TTFT and E2EL start when a request reaches the server",
    "left out for want of a price of kind {kind}: {gpus}",
    "left out as their speed is only assumed (--gpu takes them): {gpus}",
    "no latency was promised: an option holds if it keeps up with its traffic",
    "only {count} distinct options: one is the best in several ways",
    "only {count} distinct option: one is the best in several ways",
    "fleets of several pools route each class to its own; a promise to all requests is held in every pool, and the busiest five"
    " minutes of a pool are those of its own requests",
    "nothing on the front holds in {share} of the worlds: the recommended option is a gamble",
    "nothing holds, so there is no {wanted} option to explain",
    "nothing holds, so there is no {wanted} option to explain; {option}, the nearest miss, is explained instead",
    "budget: nothing within it holds",
    "budget: the cheapest option that holds costs {usd}/month ({count} × {gpu}, {kw} kW of boards)",
    "max_gpus: the cheapest option that holds costs {usd}/month ({count} × {gpu}, {kw} kW of boards)",
    "memory: {model} runs on none of these GPUs: {why}",
    "{metric}: {bound} is missed; the nearest option reaches {reached}",
    "load: {why}",
    "the weights do not fit in GPU memory",
    "overloaded at the busiest five minutes",
    "overloaded: the backlog grows over the last half of the trace",
    "utilisation of {used} at the busiest five minutes, above {limit}",
    "utilisation above {limit} at the busiest five minutes",
    "{bound} is missed even by requests alone on the replica",
    "{usd}/month for {count} GPU(s) is over {budget}",
    "one price is known: no spread",
    "prices spread over the providers of the price book, which a signed quote ends",
    "each replica is taken on its own, as if from separate pools; a pool that runs dry takes all of its replicas",
    "output length ± {spread}; up to {share} of requests lose their prefix hits",
    "too few worlds could be simulated to say anything of its risk",
    "a simulation of the sensitivity was lost with its worker; nothing is ranked",
    "host time (none fitted: counted as 0)",
    "pipeline stages (no run of them was compared)",
    "ranks that share experts (no run of them was compared)",
    "{kind} (no run of it was compared)",
    "matrix multiplications",
    "decode attention",
    "prefill attention",
    "latent attention",
    "linear attention",
    "experts",
    "all-reduce",
    "probability: share of worlds whose busiest minutes keep every promise without a growing backlog; a world draws the"
    " GPU's kernels and host times from their errors, what whole engines were off beyond those, and another day's"
    " traffic: {why}",
    "the recipe made up again with other seeds",
    "bounds: promised quantiles over the worlds, scaled by what the whole trace makes of its busiest minutes",
    "headroom: how many times the traffic the nominal world holds (simulated, to a percent or two), and over worlds by a"
    " power of the rate through two simulations each, as far as the closed form sustains it",
    "down: the nominal world simulated with the replicas that are left; its probability scales each world's head-room",
    "growth: months from today; the fleet at the end has as many replicas as each world's head-room asks for",
    "not in it: how high another day's peak is, traffic of another kind, failures beyond one node, the network, versions"
    " of the engine that behave otherwise; the head-room kept free at the peak is no promise and is not counted as one",
    "Morris' elementary effects (SALib), {trajectories} trajectories, {levels} levels between the 5 % and 95 % points of"
    " each input; cost: USD of the GPUs that sustain the traffic in closed form; tail: the worst promised quantile over its"
    " bound, simulated on the busiest minutes",
    "{name} ({share} under on demand)",
    "board power limit of {gpu}",
    "all-in power of {gpu}",
    "busiest {number} minutes, {count} requests",
    "busiest {number} s, {count} requests",
    "price of {gpu}",
    "bound on {metric}",
)


def retold(text: str, translated: Mapping[str, str]) -> str:
    """``text`` by the templates of ``translated``, if it is one that the program writes; else as it is."""
    for pattern, template in _patterns():
        if template in translated and (match := pattern.fullmatch(text)) is not None:
            said = match.groupdict().items()
            blanks = {name: retold(value, translated) if name in NESTED else value for name, value in said}
            return translated[template].format(**blanks)
    return translated.get(text, text)


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Each template with a pattern that finds its blanks; those with the most words first."""
    made = []
    for template in sorted(TEMPLATES, key=lambda text: -len(re.sub(r"{\w+}", "", text))):
        pattern = re.sub(r"\\{(\w+)\\}", lambda blank: f"(?P<{blank[1]}>.+?)", re.escape(template))
        made.append((re.compile(pattern), template))
    return tuple(made)
