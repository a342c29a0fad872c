"""The request table of a simulation: one row per request, what ``requests.parquet`` holds."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from twin.engine.core import REQUEST_COLUMNS

Floats = NDArray[np.float64]

COLUMNS = REQUEST_COLUMNS[1:]
"""The table's columns; the engine's own index, which gives the order, is not one of them."""


@dataclass(frozen=True)
class RequestTable:
    """Times in seconds of simulated time, shape (n, len(COLUMNS)), one row per request in order of arrival."""

    values: Floats

    @classmethod
    def of(cls, finished: Iterable[array[float]]) -> RequestTable:
        """From what engines wrote as requests finished, flat rows of ``REQUEST_COLUMNS``; sorted by index."""
        rows = np.concatenate([np.frombuffer(flat, dtype=np.float64) for flat in finished])
        rows = rows.reshape(-1, len(REQUEST_COLUMNS))
        return cls(rows[np.argsort(rows[:, 0], kind="stable"), 1:])

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, column: str) -> Floats:
        return self.values[:, COLUMNS.index(column)]

    def where(self, mask: NDArray[np.bool_]) -> RequestTable:
        """The rows where ``mask`` holds."""
        return RequestTable(self.values[mask])

    def arriving(self, start_s: float, end_s: float) -> RequestTable:
        """The requests that arrive in [start_s, end_s)."""
        arrival = self["arrival_s"]
        return self.where((arrival >= start_s) & (arrival < end_s))

    @cached_property
    def ttft_s(self) -> Floats:
        """Server clock: arrival at the API to the first token; network excluded."""
        return self["first_token_s"] - self["arrival_s"]

    @cached_property
    def e2el_s(self) -> Floats:
        """Arrival at the API to the last token."""
        return self["finished_s"] - self["arrival_s"]

    @cached_property
    def tpot_s(self) -> Floats:
        """(E2EL - TTFT) / (output tokens - 1); NaN for one output token, where it is undefined."""
        gaps = self["output_tokens"] - 1.0
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(gaps > 0, (self["finished_s"] - self["first_token_s"]) / gaps, np.nan)

    @cached_property
    def queue_s(self) -> Floats:
        """Time between reaching the engine and being scheduled first."""
        return self["scheduled_s"] - self["queued_s"]
