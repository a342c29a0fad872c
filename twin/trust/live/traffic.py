"""The requests of a verification: a slice of the scenario's trace, to the measure of what the engine here holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from twin.base import InputError
from twin.cluster.simulation import Fleet, simulate
from twin.traffic.trace import Trace

PROBE = (64, 2000)  # fewest and most requests of which a capacity is told
LEAST_REQUESTS = 10
FITTING = 0.99
"""Share of the requests that a length factor must leave inside the context; the rest is cut."""


@dataclass(frozen=True)
class Slice:
    """A load level: requests on their clock, and what was done to the trace for them.

    ``load``: mean rate over the capacity; ``length_factor`` and ``rate_factor`` multiply the trace's lengths and speed.
    """

    trace: Trace
    load: float
    length_factor: float
    rate_factor: float


def fitted(trace: Trace, max_model_len: int, block_size: int) -> tuple[Trace, float]:
    """Lengths divided by the least power of two that fits 99 % of the requests into the context, and that factor.

    Hash blocks shrink along, as far as they hold a KV block; what is still too long is cut at its end, and noted.
    """
    total = trace.input_tokens + trace.output_tokens
    halvings = max(0, ceil(np.log2(float(np.quantile(total, FITTING)) / max_model_len)))
    if trace.prefix_hashes is not None:
        while halvings and trace.hash_block_tokens % (block_size << halvings):
            halvings -= 1
    factor = 0.5**halvings
    if halvings:
        inputs = np.maximum(np.rint(trace.input_tokens * factor), 1).astype(np.int64)
        block = max(trace.hash_block_tokens >> halvings, 1) if trace.prefix_hashes else trace.hash_block_tokens
        hashes = trace.prefix_hashes and tuple(
            names[: -(-int(length) // block)] for names, length in zip(trace.prefix_hashes, inputs, strict=True)
        )
        outputs = np.maximum(np.rint(trace.output_tokens * factor), 1).astype(np.int64)
        trace = replace(
            trace, input_tokens=inputs, output_tokens=outputs, prefix_hashes=hashes, hash_block_tokens=block
        )
    return trace.fit_context(max_model_len, "truncate")[0], factor


def capacity(trace: Trace, fleet: Fleet) -> float:
    """Requests per second that the simulated fleet finishes while its seats are full: over the middle half of the ends
    of requests that are all there at once."""
    count = int(np.clip(16 * fleet.config.max_num_seqs, *PROBE))  # waves of requests that began together even out
    whole = trace.repeated(ceil(count / len(trace))).take(np.arange(count))
    ends = np.sort(simulate(replace(whole, arrival_s=np.zeros(count)), fleet).table["finished_s"])
    first, last = ends[count // 4], ends[-(count // 4) - 1]
    return float((count - 2 * (count // 4) - 1) / (last - first))


def at_load(trace: Trace, load: float, per_s: float, duration_s: float, length_factor: float) -> Slice:
    """As many requests from the trace's start as make ``load`` × ``per_s`` over the duration, in just that time.

    Raises :class:`InputError` for too few requests, or a trace that arrives all at once.
    """
    count = round(load * per_s * duration_s)
    if count < LEAST_REQUESTS:
        least = LEAST_REQUESTS / (load * per_s)
        raise InputError(
            f"a load of {load:.0%} is {count} requests in {duration_s:g} s: --duration {ceil(least)}s or more"
        )
    longer = trace.repeated(ceil((count + 1) / len(trace)))
    if not longer.duration_s:
        raise InputError(f"{trace.name} arrives all at once: it has no rate that --load could change")
    part = longer.take(np.arange(count))
    factor = float(longer.arrival_s[count]) / duration_s
    if not factor:
        raise InputError(f"the first {count} requests of {trace.name} arrive all at once: give a longer --duration")
    return Slice(part.scaled(factor), load, length_factor, factor)


def as_it_comes(trace: Trace, rate_factor: float, per_s: float, duration_s: float, length_factor: float) -> Slice:
    """The trace's first ``duration_s`` at ``rate_factor`` times its speed; one that arrives all at once as far as the
    engine gets in that time."""
    if not trace.duration_s:
        count = min(len(trace), max(LEAST_REQUESTS, int(per_s * duration_s)))
        return Slice(trace.take(np.arange(count)), float("inf"), length_factor, 1.0)
    part = trace.scaled(rate_factor)
    part = part.slice(0.0, duration_s) if part.duration_s >= duration_s else part
    if len(part) < LEAST_REQUESTS:
        raise InputError(f"{len(part)} requests of {trace.name} arrive in {duration_s:g} s: give a longer --duration")
    return Slice(part, len(part) / max(part.duration_s, 1e-9) / per_s, length_factor, rate_factor)


def check_holds(trace: Trace, num_gpu_blocks: int, block_size: int) -> None:
    """Raises :class:`InputError` for a request that never fits the KV cache."""
    most = (num_gpu_blocks - 1) * block_size  # one block is vLLM's own
    longest = int((trace.input_tokens + trace.output_tokens).max())
    if longest > most:
        raise InputError(
            f"the KV cache here holds {most:,} tokens, the longest request of {trace.name} needs {longest:,}"
        )
