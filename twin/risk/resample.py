"""Busy minutes as they might have been on another day: a block bootstrap of those that were recorded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.random import Generator

from twin.traffic.trace import Hashes, Trace

BLOCKS = 10
"""Minutes are put together from so many blocks: half a minute each of five, which keeps bursts shorter than that."""

COMMON_SPAN = 0.5
"""A prefix that is used over more than this share of the minutes is everybody's (a system prompt); else a conversation's."""


@dataclass(frozen=True)
class Resampler:
    """Draws other minutes like ``busiest``: blocks of it, each from anywhere in it, one behind the other.

    The rate stays on average, as do the bursts within a block and what a request is (lengths, class, prefixes); how many
    requests there are, and which meet, is drawn. Only these minutes are drawn from: at a peak requests are others than on
    average over the day. How high another day's peak is, one day cannot tell.
    """

    busiest: Trace

    def draw(self, rng: Generator) -> Trace:
        """One draw. The same state of ``rng`` gives the same."""
        trace, number = self.busiest, len(self.busiest)
        period = trace.duration_s * number / max(number - 1, 1)  # one mean gap from the last to the first
        length = period / BLOCKS
        if length <= 0:
            return trace
        rows, arrival_s = [], []
        for block, start in enumerate(rng.uniform(0.0, period, BLOCKS).tolist()):
            ahead = (trace.arrival_s - start) % period  # behind the end it goes on at the beginning
            found = np.flatnonzero(ahead < length)
            found = found[np.argsort(ahead[found], kind="stable")]
            rows.append(found)
            arrival_s.append(block * length + ahead[found])
        row = np.concatenate(rows)
        if not row.size:
            return trace
        return replace(
            trace,
            arrival_s=np.concatenate(arrival_s),
            input_tokens=trace.input_tokens[row],
            output_tokens=trace.output_tokens[row],
            session=None if trace.session is None else trace.session[row],
            request_class=None if trace.request_class is None else trace.request_class[row],
            prefix_hashes=None if trace.prefix_hashes is None else self._prefixes(trace.prefix_hashes, row.tolist()),
        )

    def _prefixes(self, hashes: Hashes, rows: list[int]) -> Hashes:
        """Of the drawn rows. One that is drawn again is another conversation: it shares with the first only what all share."""
        drawn: Counter[int] = Counter()
        names: dict[tuple[int, int], int] = {}
        free, found = 1 + max((max(ids, default=0) for ids in hashes), default=0), []
        for row in rows:
            copy = drawn[row]
            drawn[row] += 1
            own = hashes[row] if copy == 0 else tuple(
                item if item in self._common else names.setdefault((copy, item), free + len(names)) for item in hashes[row]
            )  # fmt: skip
            found.append(own)
        return tuple(found)

    @cached_property
    def _common(self) -> frozenset[int]:
        """Ids whose first and last use lie far apart."""
        first: dict[int, float] = {}
        last: dict[int, float] = {}
        for when, ids in zip(self.busiest.arrival_s.tolist(), self.busiest.prefix_hashes or (), strict=False):
            for item in ids:
                first.setdefault(item, when)
                last[item] = when
        span = COMMON_SPAN * self.busiest.duration_s
        return frozenset(item for item, when in first.items() if last[item] - when > span)
