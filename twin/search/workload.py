"""The traffic of a plan as its closed form and its simulations need it: the trace, its busiest minutes,
its lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from twin.base import InputError
from twin.spec.model import ModelSpec
from twin.spec.slo import Bound
from twin.traffic.trace import Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BUSIEST_S = 300.0
"""The promises hold over the whole trace and over its busiest five minutes."""

MAX_MODEL_LEN_STEP = 1024


@dataclass(frozen=True)
class Workload:
    """A trace that fits the context, and what the plan reads off it. Lengths in tokens, times in seconds."""

    trace: Trace
    max_model_len: int

    @cached_property
    def busiest_span_s(self) -> tuple[float, float]:
        """The busiest five minutes; the whole trace where it is shorter."""
        if self.trace.duration_s <= BUSIEST_S:
            return 0.0, np.nextafter(self.trace.duration_s, np.inf)
        return self.trace.busiest_span(BUSIEST_S)

    @cached_property
    def busiest(self) -> Trace:
        """The requests of the busiest five minutes."""
        return self.trace.slice(*self.busiest_span_s)

    @cached_property
    def peak_rate_per_s(self) -> float:
        """Requests per second over the busiest five minutes."""
        start_s, end_s = self.busiest_span_s
        return len(self.busiest) / (end_s - start_s)

    @cached_property
    def prefill_tokens(self) -> Ints:
        """Per request of the busiest minutes: input tokens that must be computed even if every block that any
        earlier request had were still cached (an unlimited cache), so never more than a real engine
        computes.
        """
        start_s, end_s = self.busiest_span_s
        first, last = np.searchsorted(self.trace.arrival_s, [start_s, end_s])
        needed = np.maximum(self.trace.input_tokens - cached_tokens(self.trace), 1)
        return np.asarray(needed[first:last], dtype=np.int64)

    @cached_property
    def mean_decodes(self) -> float:
        """Mean decode steps of a request of the busiest minutes: the prefill yields the first token."""
        return float((self.busiest.output_tokens - 1).mean())

    @cached_property
    def mean_context(self) -> float:
        """Mean tokens in the cache of a decoding request: requests weigh as long as they decode."""
        tokens_in = self.busiest.input_tokens.astype(np.float64)
        decodes = np.maximum(self.busiest.output_tokens - 1, 1e-9)
        return float((decodes * (tokens_in + (decodes + 1) / 2)).sum() / decodes.sum())

    @cached_property
    def mean_resident_tokens(self) -> float:
        """As :attr:`mean_context`, less what the request may share with others through the prefix cache."""
        decodes = np.maximum(self.busiest.output_tokens - 1, 1e-9)
        return float((decodes * (self.prefill_tokens + (decodes + 1) / 2)).sum() / decodes.sum())


def bisected(holds: Callable[[float], bool], low: float, high: float, times: int) -> float:
    """The largest factor on a rate that holds, to a ``2 ** times``-th of their distance in logarithms: ``low`` does, ``high``
    does not.

    >>> round(bisected(lambda factor: factor < 3, 1.0, 16.0, 20), 4)
    3.0
    """
    for _ in range(times):
        middle = sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def cached_tokens(trace: Trace) -> Ints:
    """Per request, leading input tokens that an unlimited prefix cache would hold when it arrives."""
    cached = np.zeros(len(trace), dtype=np.int64)
    if trace.prefix_hashes is None:
        return cached
    seen: set[int] = set()
    for row, hashes in enumerate(trace.prefix_hashes):
        hits = next((at for at, item in enumerate(hashes) if item not in seen), len(hashes))
        cached[row] = hits * trace.hash_block_tokens
        seen.update(hashes)
    return np.minimum(cached, trace.input_tokens - 1)


def make_workload(
    trace: Trace,
    model: ModelSpec,
    *,
    max_model_len: int | None = None,
    too_long: Literal["error", "drop", "truncate"] = "error",
) -> Workload:
    """The trace inside the context. Without ``max_model_len`` the longest request decides, rounded up to
    1,024.

    Raises :class:`InputError` for requests that exceed the model's context (unless dropped or truncated),
    for a ``max_model_len`` beyond it, and for traffic that arrives in a single instant: a plan needs a rate.
    """
    limit = model.max_position_embeddings
    if max_model_len is not None and not 2 <= max_model_len <= limit:
        raise InputError(f"max_model_len {max_model_len} is outside 2 … {limit}, the context of {model.name}")
    fitted, _ = trace.fit_context(max_model_len or limit, too_long)
    if fitted.duration_s == 0.0:
        raise InputError("all requests arrive at one instant; a plan needs arrivals over time", where=trace.name)
    longest = int((fitted.input_tokens + fitted.output_tokens).max())
    rounded = min(-(-longest // MAX_MODEL_LEN_STEP) * MAX_MODEL_LEN_STEP, limit)
    return Workload(fitted, max_model_len or rounded)


def bound_text(bound: Bound) -> str:
    """``p99 TTFT of 500 ms``, ``p99 TTFT of 500 ms for chat``."""
    whose = "" if bound.request_class is None else f" for {bound.request_class}"
    return f"p{bound.quantile * 100:g} {bound.metric.upper()} of {bound.seconds * 1e3:g} ms{whose}"
