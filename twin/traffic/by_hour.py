"""When load comes: requests per second by day and hour, or by smaller steps where a trace is short."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from twin.traffic.trace import Trace

DAY_S, HOUR_S, MINUTE_S = 86_400, 3_600, 60
MOST_ROWS = 400
"""Days that a picture can show; times of a trace that spans more are hardly in seconds."""
LEAST_COVER = 0.1
"""Share of a cell that the trace must cover for a rate: its last moment is none."""


class _Grid(NamedTuple):
    """``row_s`` and ``column_s``: how long a row and a cell last; the labels with a clock, and without (``{n}`` counts)."""

    longer_than_s: float
    row_s: int
    column_s: int
    rows: str
    columns: str
    row: str
    column: str
    plain_row: str
    plain_column: str


_GRIDS = (
    _Grid(DAY_S, DAY_S, HOUR_S, "day", "hour of the day", "%Y-%m-%d", "%H:00", "day {n1}", "{n} h"),
    _Grid(HOUR_S, HOUR_S, 5 * MINUTE_S, "hour", "minutes into the hour", "%m-%d %H:00", ":%M", "hour {n1}", "{n5} min"),
    _Grid(-1, 5 * MINUTE_S, MINUTE_S, "five minutes", "minutes into them", "%H:%M", "+{n} min", "{n5} min", "+{n} min"),
)


def load_by_hour(trace: Trace) -> dict[str, Any]:
    """A heat map as JSON: ``rows`` and ``columns`` (labels), ``values[row][column]``, their ``unit``, and the titles of both.

    A trace of more than a day is cut into days × hours, of more than an hour into hours × 5 minutes, a shorter one into
    5 minutes × minutes. Rows begin where the file's clock does (midnight, the full hour), ``clock``: ``of the file``; else, or
    where it has none, at the first request: ``since the first request``. A value is requests per second over the part of
    the cell that the trace covers; ``None`` where that is less than a tenth of it. No rows beyond 400 days.
    """
    grid = next(grid for grid in _GRIDS if trace.duration_s > grid.longer_than_s)
    begins = None if trace.started_at is None else _begin(trace.started_at, grid.row_s)
    offset_s = 0.0 if begins is None or trace.started_at is None else (trace.started_at - begins).total_seconds()
    count = int((offset_s + trace.duration_s) // grid.row_s) + 1
    count = 0 if count > MOST_ROWS else count
    values = _rates(trace, offset_s, count, grid) if count else []
    clock = begins or datetime(1970, 1, 1)
    row, column = (grid.plain_row, grid.plain_column) if begins is None else (grid.row, grid.column)
    return {
        "rows": [_label(row, clock, n, grid.row_s) for n in range(count)],
        "columns": [_label(column, clock, n, grid.column_s) for n in range(grid.row_s // grid.column_s)],
        "values": values,
        "unit": "requests/s",
        "row_title": grid.rows,
        "column_title": grid.columns if begins else grid.columns.replace("hour of the day", "hours into the day"),
        "clock": "since the first request" if begins is None else "of the file",
    }


def _begin(at: datetime, row_s: int) -> datetime:
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + timedelta(seconds=(at - midnight).total_seconds() // row_s * row_s)


def _rates(trace: Trace, offset_s: float, count: int, grid: _Grid) -> list[list[float | None]]:
    cells = count * grid.row_s // grid.column_s
    arrived = np.minimum((trace.arrival_s + offset_s) // grid.column_s, cells - 1).astype(np.int64)
    requests = np.bincount(arrived, minlength=cells)
    starts = np.arange(cells, dtype=np.float64) * grid.column_s
    covered = np.clip(
        np.minimum(starts + grid.column_s, offset_s + trace.duration_s) - np.maximum(starts, offset_s), 0, None
    )
    known = covered >= LEAST_COVER * grid.column_s
    rate = requests / np.where(known, covered, 1.0)
    flat = [float(value) if there else None for value, there in zip(rate, known, strict=True)]
    width = grid.row_s // grid.column_s
    return [flat[row * width : (row + 1) * width] for row in range(count)]


def _label(text: str, begins: datetime, n: int, step_s: int) -> str:
    return (begins + timedelta(seconds=n * step_s)).strftime(text).format(n=n, n1=n + 1, n5=5 * n)
