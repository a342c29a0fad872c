"""The one request table that every reader fills and every simulation walks through.

A :class:`Trace` is a frozen set of equally long columns. Its clock starts at the first arrival
(``arrival_s[0] == 0``) and never runs backwards; ties keep the row order of their file. All lengths are in
tokens, all times in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from twin.base import InputError
from twin.traffic.columns import Floats, Ints, Objects, first_row, token_counts, whole_numbers

if TYPE_CHECKING:
    import pandas as pd

MOONCAKE_BLOCK_TOKENS = 512

TooLong = Literal["error", "drop", "truncate"]
Hashes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in arrival order. Arrays are copied on construction and read-only afterwards.

    ``arrival_s`` float64 (n,), shifted so that the first is 0, non-decreasing. ``input_tokens`` and
    ``output_tokens`` int64 (n,), at least 1. ``session`` and ``request_class`` object (n,) or ``None``.

    ``prefix_hashes``: per request the ids of its prompt's blocks of ``hash_block_tokens`` tokens, chained as
    Mooncake's: one id names a block *and everything before it*, so two requests with the same id agree on
    all tokens up to there.
    The last block may be partly filled; requests that share its id agree as far as both reach.

    ``started_at``: the first arrival on the file's own clock (UTC where it names a zone), ``None`` where it has
    none or the trace was sped up.

    ``notes`` says in plain sentences what was done to the rows (sorted, dropped). Raises :class:`InputError`.
    """

    arrival_s: Floats
    input_tokens: Ints
    output_tokens: Ints
    session: Objects | None = None
    request_class: Objects | None = None
    prefix_hashes: Hashes | None = None
    hash_block_tokens: int = MOONCAKE_BLOCK_TOKENS
    name: str = "trace"
    notes: tuple[str, ...] = ()
    started_at: datetime | None = None

    def __post_init__(self) -> None:
        arrival = np.array(self.arrival_s, dtype=np.float64)
        if arrival.ndim != 1 or not arrival.size:
            raise InputError("the trace has no requests", where=self.name)
        if not np.isfinite(arrival).all():
            raise InputError(f"arrival of request {first_row(~np.isfinite(arrival))} is not finite", where=self.name)
        if (backwards := np.diff(arrival) < 0).any():
            raise InputError(f"request {first_row(backwards) + 1} arrives before the one above it", where=self.name)
        self._set("arrival_s", arrival - arrival[0])
        for column in ("input_tokens", "output_tokens"):
            self._set(column, token_counts(getattr(self, column), column, self.name))
        for column in ("session", "request_class"):
            if getattr(self, column) is not None:
                self._set(column, np.array(getattr(self, column), dtype=object))
        if self.prefix_hashes is not None:
            object.__setattr__(self, "prefix_hashes", tuple(map(tuple, self.prefix_hashes)))
        self._check_shapes()

    def _set(self, column: str, values: NDArray[Any]) -> None:
        values.flags.writeable = False
        object.__setattr__(self, column, values)

    def _check_shapes(self) -> None:
        for column in ("input_tokens", "output_tokens", "session", "request_class", "prefix_hashes"):
            values = getattr(self, column)
            if values is not None and len(values) != len(self):
                raise InputError(f"{column} has {len(values)} rows, arrival_s {len(self)}", where=self.name)
        if self.hash_block_tokens < 1:
            raise InputError("hash_block_tokens must be at least 1", where=self.name)
        if self.prefix_hashes is not None:
            held = np.fromiter(map(len, self.prefix_hashes), np.int64, len(self))
            if (over := held > -(-self.input_tokens // self.hash_block_tokens)).any():
                row = first_row(over)
                raise InputError(
                    f"request {row} has {held[row]} prefix hashes of {self.hash_block_tokens} tokens"
                    f" but only {self.input_tokens[row]} input tokens",
                    where=self.name,
                )

    @classmethod
    def from_rows(
        cls,
        arrival: NDArray[Any],
        input_tokens: NDArray[Any],
        output_tokens: NDArray[Any],
        *,
        session: Objects | None = None,
        request_class: Objects | None = None,
        prefix_hashes: Sequence[Sequence[int]] | None = None,
        name: str = "trace",
        notes: tuple[str, ...] = (),
        **others: Any,
    ) -> Trace:
        """A trace from rows as they lie in a file: unsorted rows are sorted stably, rows without a prompt or
        without an answer (failed requests) are dropped; both are counted in ``notes``.

        ``arrival`` is float64 seconds or int64 nanoseconds (exact for 7-digit fractions), from any origin.
        """
        late = int((arrival < np.maximum.accumulate(arrival)).sum()) if arrival.size else 0
        order = np.argsort(arrival, kind="stable") if late else np.arange(arrival.size)
        no_output = output_tokens == 0
        no_input = (input_tokens == 0) & ~no_output
        rows = order[~(no_output | no_input)[order]]
        if arrival.size and not rows.size:
            raise InputError("every request has zero input or zero output tokens", where=name)
        happened = (
            (late, "out of order and sorted by arrival"),
            (int(no_output.sum()), "dropped because they have zero output tokens"),
            (int(no_input.sum()), "dropped because they have zero input tokens"),
        )
        kept = arrival[rows]
        if rows.size and kept.dtype == np.int64:
            others.setdefault("started_at", datetime(1970, 1, 1) + timedelta(microseconds=int(kept[0]) // 1000))
            kept = (kept - kept[0]) / 1e9
        return cls(
            kept,
            input_tokens[rows],
            output_tokens[rows],
            session=None if session is None else session[rows],
            request_class=None if request_class is None else request_class[rows],
            prefix_hashes=None if prefix_hashes is None else tuple(tuple(prefix_hashes[row]) for row in rows),
            name=name,
            notes=(*notes, *(f"{_rows(count)} {what}" for count, what in happened if count)),
            **others,
        )

    def __len__(self) -> int:
        return int(self.arrival_s.size)

    @property
    def duration_s(self) -> float:
        """Last arrival minus first arrival."""
        return float(self.arrival_s[-1])

    def clock_at(self, seconds: float) -> datetime | None:
        """The file's own clock so many seconds after the first arrival, where it has one."""
        return None if self.started_at is None else self.started_at + timedelta(seconds=seconds)

    def take(self, rows: NDArray[Any], *, note: str | None = None) -> Trace:
        """The requests at ``rows`` (indices ascending, or a mask), on a clock that starts at the first of
        them."""
        index = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        hashes = self.prefix_hashes
        return replace(
            self,
            arrival_s=self.arrival_s[index],
            input_tokens=self.input_tokens[index],
            output_tokens=self.output_tokens[index],
            session=None if self.session is None else self.session[index],
            request_class=None if self.request_class is None else self.request_class[index],
            prefix_hashes=None if hashes is None else tuple(hashes[row] for row in index),
            started_at=self.clock_at(float(self.arrival_s[index[0]])) if len(index) else None,
            notes=self.notes if note is None else (*self.notes, note),
        )

    def slice(self, start_s: float, end_s: float) -> Trace:
        """Requests that arrive in ``[start_s, end_s)``. Raises :class:`InputError` when there are none."""
        first, last = np.searchsorted(self.arrival_s, [start_s, end_s])
        if first >= last:
            raise InputError(f"no request arrives between {start_s:g} s and {end_s:g} s", where=self.name)
        return self.take(np.arange(first, last))

    def busiest_span(self, seconds: float) -> tuple[float, float]:
        """``(start_s, end_s)`` of the window of ``seconds``, open at its end, in which most requests
        arrive. It begins at an arrival; the earliest of equals. A shorter trace lies in it whole."""
        if not seconds > 0:
            raise InputError(f"a window must be longer than 0 s, not {seconds:g} s", where=self.name)
        held = np.searchsorted(self.arrival_s, self.arrival_s + seconds) - np.arange(len(self))
        # ties share a start; searchsorted from the first of them counts them all
        start_s = float(self.arrival_s[int(np.argmax(held))])
        return start_s, start_s + seconds

    def busiest_window(self, seconds: float) -> Trace:
        """The requests of :meth:`busiest_span`."""
        return self.slice(*self.busiest_span(seconds))

    def scaled(self, rate_factor: float) -> Trace:
        """The same requests ``rate_factor`` times as fast: rate ×2 divides every arrival time by 2."""
        if not (np.isfinite(rate_factor) and rate_factor > 0):
            raise InputError(f"a rate factor must be a number above 0, not {rate_factor:g}", where=self.name)
        note = f"arrival times divided by {rate_factor:g} (rate ×{rate_factor:g})"
        return replace(self, arrival_s=self.arrival_s / rate_factor, started_at=None, notes=(*self.notes, note))

    def repeated(self, times: int) -> Trace:
        """The trace ``times`` times end to end, one mean inter-arrival time between the copies.

        Each copy is made of new conversations: its sessions are renamed and its prefix hashes are disjoint
        from the other copies', so a repeat neither gains nor loses prefix hits.
        """
        if times < 1:
            raise InputError(f"a trace is repeated at least once, not {times} times", where=self.name)
        period_s = self.duration_s * len(self) / max(1, len(self) - 1)
        copies = range(times)
        stride = 1 + max((max(ids, default=0) for ids in self.prefix_hashes or ()), default=0)
        return replace(
            self,
            arrival_s=np.concatenate([self.arrival_s + copy * period_s for copy in copies]),
            input_tokens=np.tile(self.input_tokens, times),
            output_tokens=np.tile(self.output_tokens, times),
            session=None if self.session is None else _renamed(self.session, times),
            request_class=None if self.request_class is None else np.tile(self.request_class, times),
            prefix_hashes=None
            if self.prefix_hashes is None
            else tuple(tuple(i + copy * stride for i in ids) for copy in copies for ids in self.prefix_hashes),
            notes=(*self.notes, f"repeated {times} times end to end") if times > 1 else self.notes,
        )

    def fit_context(self, max_model_len: int, mode: TooLong = "error") -> tuple[Trace, int]:
        """The trace with every request inside ``input + output <= max_model_len``, and how many were not.

        ``error`` raises :class:`InputError` with the count; ``drop`` leaves those requests out; ``truncate``
        cuts the end of the prompt (its beginning, which prefix caching can share, stays), and the output
        only where it alone leaves no room for one prompt token.
        """
        if max_model_len < 2:
            raise InputError(f"max_model_len must be at least 2, not {max_model_len}", where=self.name)
        long = self.input_tokens + self.output_tokens > max_model_len
        count = int(long.sum())
        if not count:
            return self, 0
        share = f"{count:,} of {len(self):,} requests exceed the model's context of {max_model_len:,} tokens"
        if mode == "error":
            raise InputError(
                f"{share} (input + output); choose what to do with --too-long",
                where=self.name,
                allowed=("error", "drop", "truncate"),
            )
        if mode == "drop":
            if count == len(self):
                raise InputError(f"{share}: nothing would be left", where=self.name)
            return self.take(~long, note=f"{share} and were dropped"), count
        output = np.minimum(self.output_tokens, max_model_len - 1)
        inputs = np.minimum(self.input_tokens, max_model_len - output)
        blocks = -(-inputs // self.hash_block_tokens)
        hashes = self.prefix_hashes
        cut = replace(
            self,
            input_tokens=inputs,
            output_tokens=output,
            prefix_hashes=None
            if hashes is None
            else tuple(i[:n] for i, n in zip(hashes, blocks.tolist(), strict=True)),
            notes=(*self.notes, f"{share} and were truncated"),
        )
        return cut, count

    def to_frame(self) -> pd.DataFrame:
        """A data frame with one column per field that is present; name and block size in ``attrs``."""
        import pandas as pd

        columns = ("arrival_s", "input_tokens", "output_tokens", "session", "request_class")
        frame = pd.DataFrame({c: getattr(self, c) for c in columns if getattr(self, c) is not None})
        if self.prefix_hashes is not None:
            frame["prefix_hashes"] = pd.Series(list(self.prefix_hashes), dtype=object)
        frame.attrs = {
            "name": self.name,
            "hash_block_tokens": self.hash_block_tokens,
            "notes": list(self.notes),
            "started_at": self.started_at,
        }
        return frame

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Trace:
        """The inverse of :meth:`to_frame`; rows may be in any order (see :meth:`from_rows`)."""
        if missing := {"arrival_s", "input_tokens", "output_tokens"} - set(frame.columns):
            raise InputError(f"the frame has no column {min(missing)!r}", allowed=frame.columns)
        attrs: Mapping[str, Any] = {str(key): value for key, value in frame.attrs.items()}
        name = str(attrs.get("name", "trace"))
        optional = {c: frame[c].to_numpy(object) for c in ("session", "request_class") if c in frame}
        return cls.from_rows(
            frame["arrival_s"].to_numpy(np.float64),
            whole_numbers(frame["input_tokens"], "input_tokens", name),
            whole_numbers(frame["output_tokens"], "output_tokens", name),
            session=optional.get("session"),
            request_class=optional.get("request_class"),
            prefix_hashes=list(frame["prefix_hashes"]) if "prefix_hashes" in frame else None,
            hash_block_tokens=int(attrs.get("hash_block_tokens", MOONCAKE_BLOCK_TOKENS)),
            name=name,
            notes=tuple(attrs.get("notes", ())),
            started_at=attrs.get("started_at"),
        )


def _rows(count: int) -> str:
    return f"{count:,} rows were" if count != 1 else "1 row was"


def _renamed(session: Objects, times: int) -> Objects:
    copies = [session] + [
        np.array([None if s is None else f"{s}#{copy}" for s in session], dtype=object) for copy in range(1, times)
    ]
    return np.concatenate(copies)
