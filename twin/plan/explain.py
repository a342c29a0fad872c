"""Why an option is as fast as it is: which resource binds in each phase, what bounds its batch, and what one step up buys.

Phases are single steps at typical operating points, priced and divided by :func:`twin.cost.breakdown.breakdown`; how many
requests decode together and what the KV cache held are the simulation's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from twin.base import InputError
from twin.cost.breakdown import RESOURCES, Breakdown, breakdown
from twin.plan.next_steps import fleet_of, next_steps
from twin.plan.promise import HEADROOM, Fleet
from twin.plan.request import PlanRequest
from twin.results.metrics import summarize
from twin.search.evaluate import Deployment, Outcome, simulated
from twin.search.screen import DECODES
from twin.search.space import ReplicaKind
from twin.search.workload import BUSIEST_S, Workload, bound_text

NEARLY_FULL = 0.9
"""Share of the seats, or of the requests that the KV cache holds, from which they bound the batch."""


def explain(outcome: Outcome, request: PlanRequest, kinds: Sequence[ReplicaKind] = ()) -> dict[str, object]:
    """JSON of an ``outcome`` on the whole trace (its ``summary`` is full); seconds, tokens, requests per second, USD.

    ``kinds`` (a screen's) save tabulating step times again. ``phases``: prefill, decode at the peak, decode over the day, and
    ``peak`` as both run at the busiest five minutes, each with ``resources`` and ``pieces`` as shares. ``network`` is that
    among GPUs; what lies between client and server is in no figure. Raises :class:`InputError` for an outcome without metrics.
    """
    if not outcome.summary:
        raise InputError(
            f"{outcome.candidate.id} was not simulated on the whole trace, so nothing is known to explain it by"
        )
    load, fleet = request.load, fleet_of(outcome, request, kinds)
    busiest = _busiest(outcome, load)
    return {
        "id": outcome.candidate.id,
        "data_parallel_size": outcome.candidate.data_parallel_size,
        "phases": phases(outcome.deployment, fleet, busiest, outcome.summary),
        "batch": _batch(outcome, fleet, busiest),
        "kv_cache": _kv_cache(outcome),
        "slack": _slack(outcome),
        "next_steps": next_steps(outcome, request, kinds),
    }


def phases(
    deployment: Deployment, fleet: Fleet, busiest: Mapping[str, object], day: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Where a prefill, a decode step and both together spend their time under the metrics of the ``busiest`` minutes; with
    those of a ``day``, a decode step then too.
    """
    load, peak = fleet.load, _together(busiest, fleet)
    prefill, chunks = _prefill(deployment, load, peak)
    at_peak, share = _decode(deployment, peak, load.mean_context), _prefill_share(fleet, peak)
    both = (
        Breakdown.total([prefill], share / prefill.seconds),
        Breakdown.total([at_peak], (1 - share) / at_peak.seconds),
    )
    found: dict[str, object] = {
        "prefill": {
            **_shown(prefill),
            "prompt_tokens": sum(size for _, size, _ in chunks),
            "cached_tokens": chunks[0][2],
            "steps": len(chunks),
        },
        "decode_at_peak": {**_shown(at_peak), "running": _whole(peak), "mean_context": load.mean_context},
    }
    if day is not None:
        running, context = _together(day, fleet), _mean_context(load)
        over_day = _decode(deployment, running, context)
        found["decode_over_day"] = {**_shown(over_day), "running": _whole(running), "mean_context": context}
    return found | {"peak": {**_shown(Breakdown.total(both)), "seconds": None, "prefill_share": share}}


def _whole(running: float) -> int:
    return max(round(running), 1)


def _rate_per_batch(fleet: Fleet) -> float:
    return fleet.load.peak_rate_per_s / fleet.replicas / fleet.kind.batches


def _busiest(outcome: Outcome, load: Workload) -> Mapping[str, object]:
    """Metrics of the busiest five minutes, simulated alone from an empty fleet."""
    if load.trace.duration_s <= BUSIEST_S:
        return outcome.summary
    return summarize(simulated(outcome.deployment, load.busiest))


def _together(summary: Mapping[str, object], fleet: Fleet) -> float:
    """Requests that decode in a batch: the mean over the time that steps take (Little's law, from first to last token)."""
    decoding_s = (
        _figure(summary, "completed") * (_figure(summary, "mean_e2el_ms") - _figure(summary, "mean_ttft_ms")) * 1e-3
    )
    engines = fleet.replicas * fleet.kind.layout.data_parallel_size
    return decoding_s / max(_figure(summary, "busy") * _figure(summary, "duration") * engines, 1e-9)


def _prefill(deployment: Deployment, load: Workload, running: float) -> tuple[Breakdown, list[tuple[None, int, int]]]:
    """A prompt of mean length at the peak after its mean prefix hit, in the chunks that the running decodes leave room for."""
    step, budget = deployment.step, deployment.config.max_num_batched_tokens
    tokens = max(round(float(load.prefill_tokens.mean())), 1)
    cached = max(round(float(load.busiest.input_tokens.mean())) - tokens, 0)
    room = max(budget - _whole(running), 1)
    starts = range(0, tokens, room)
    chunks = [(None, min(room, tokens - start), cached + start) for start in starts]
    return Breakdown.total([breakdown(step, [chunk], 0, 0) for chunk in chunks]), chunks


def _decode(deployment: Deployment, running: float, context: float) -> Breakdown:
    together = _whole(running)
    return breakdown(deployment.step, [], together, max(round(together * context), together))


def _mean_context(load: Workload) -> float:
    """As :attr:`Workload.mean_context`, over the whole trace."""
    tokens_in = load.trace.input_tokens.astype(np.float64)
    decodes = np.maximum(load.trace.output_tokens - 1, 1e-9)
    return float((decodes * (tokens_in + (decodes + 1) / 2)).sum() / decodes.sum())


def _prefill_share(fleet: Fleet, running: float) -> float:
    """Share of a batch's busy time at the peak that prompts take, on top of the decode steps that they share."""
    rate, curve = _rate_per_batch(fleet), fleet.curve
    prefill = rate * float(np.interp(running, DECODES, curve.prefill_s))
    decode = rate * fleet.load.mean_decodes * float(np.interp(running, DECODES, curve.decode_s)) / max(running, 1.0)
    return prefill / (prefill + decode)


def _shown(found: Breakdown) -> dict[str, object]:
    return {
        "seconds": found.seconds,
        "bound_by": found.binding,
        "resources": {name: found.share(name) for name in RESOURCES},
        "pieces": {piece: seconds / found.seconds for piece, seconds in found.by_piece.items()},
        "throttled": found.by_piece.get("throttle", 0.0) / found.seconds,
    }


def _batch(outcome: Outcome, fleet: Fleet, busiest: Mapping[str, object]) -> dict[str, object]:
    """Of one replica: what keeps its batch from growing at the peak, and what would as its load grows."""
    ranks = fleet.kind.layout.data_parallel_size
    seats, held = float(fleet.max_num_seqs * ranks), fleet.requests_held * ranks
    running = _figure(busiest, "mean_num_running") / max(_figure(busiest, "busy"), 1e-9) / fleet.replicas
    first = "seats" if seats <= held else "kv_blocks"
    return {
        "bound_by": first if running >= NEARLY_FULL * min(seats, held) else "arrivals",
        "first_limit": first,
        "running_at_peak": running,
        "seats": seats,
        "kv_requests": held,
        "max_num_waiting": _figure(outcome.summary, "max_num_waiting"),
        "num_preemptions": _figure(outcome.summary, "num_preemptions"),
    }


def _kv_cache(outcome: Outcome) -> dict[str, object]:
    return {
        "num_gpu_blocks": outcome.deployment.config.num_gpu_blocks,
        "mean_usage": _figure(outcome.summary, "mean_kv_cache_usage"),
        "peak_usage": _figure(outcome.summary, "peak_kv_cache_usage"),
        "prefix_cache_hit_rate": _figure(outcome.summary, "prefix_cache_hit_rate"),
    }


def _slack(outcome: Outcome) -> dict[str, object]:
    """Each promise's value over its limit, and the head-room's; ``nearest`` is the largest of them."""
    ratios: list[dict[str, object]] = [
        {"bound": bound_text(bound), "value_s": value, "of_limit": value / bound.seconds}
        for bound, value in zip(outcome.bounds, outcome.values_s, strict=True)
    ]
    use = outcome.deployment.utilisation
    ratios.append({"bound": HEADROOM, "utilisation": use, "of_limit": use / (1 - outcome.headroom)})
    nearest = max(ratios, key=lambda item: float(str(item["of_limit"])))
    return {"limits": ratios, "nearest": nearest["bound"], "nearest_of_limit": nearest["of_limit"]}


def _figure(summary: Mapping[str, object], name: str) -> float:
    return float(str(summary[name]))
