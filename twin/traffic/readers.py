"""Readers of public trace formats, recognised by their content and never by their name.

- ``azure``: CSV ``TIMESTAMP,ContextTokens,GeneratedTokens``; 2023 without a zone, 7-digit fractions;
  2024 with ``+00:00``
- ``burstgpt``: CSV ``Timestamp,…,Request tokens,Response tokens,…`` in seconds, v1 and v2
  (with ``Session ID``)
- ``mooncake``: JSON lines ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids``
  (blocks of 512 tokens)
- ``vllm``: the JSON of ``vllm bench serve --save-result --save-detailed``: ``start_times``, ``input_lens``,
  ``output_lens``
- ``csv``: any other CSV (comma, semicolon or tab) whose columns go by names in :data:`PLAIN`

Any of them may be gzipped. Times are read as integer nanoseconds where the file has dates, so fractions of
seven digits keep their order exactly. A new format is one function and one line in :data:`FORMATS` (and one
in :func:`recognise`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.base import InputError, unknown_name
from twin.traffic.columns import Ints, Objects, bad_count
from twin.traffic.csv_table import REQUIRED, Columns, read_csv, read_header
from twin.traffic.source import Source, bad_length, load, parse_json
from twin.traffic.trace import Trace

# Names are compared in lower case with spaces and dashes as underscores; of several the first listed is
# taken.
PLAIN: Columns = {
    "arrival": (
        *("arrival_s", "arrival_time_s", "arrival", "arrival_time", "arrived_at", "timestamp", "timestamp_s"),
        *("time", "time_s", "start_time", "start_time_s", "request_time", "arrival_ms", "arrival_time_ms"),
        *("timestamp_ms", "time_ms", "arrival_us", "timestamp_us", "arrival_ns", "timestamp_ns"),
    ),
    "input_tokens": (
        *("input_tokens", "num_input_tokens", "prompt_tokens", "num_prompt_tokens", "num_prefill_tokens"),
        *(
            "input_length",
            "input_len",
            "prompt_length",
            "prompt_len",
            "context_tokens",
            "request_tokens",
            "isl",
        ),
    ),
    "output_tokens": (
        *("output_tokens", "num_output_tokens", "completion_tokens", "generated_tokens", "num_decode_tokens"),
        *("output_length", "output_len", "response_tokens", "osl"),
    ),
    "session": ("session", "session_id", "conversation", "conversation_id", "chat_id"),
    "request_class": ("request_class", "class", "priority_class", "tenant"),
}
AZURE: Columns = {
    "arrival": ("timestamp",),
    "input_tokens": ("contexttokens",),
    "output_tokens": ("generatedtokens",),
}
BURSTGPT: Columns = {
    "arrival": ("timestamp",),
    "input_tokens": ("request_tokens",),
    "output_tokens": ("response_tokens",),
    "session": ("session_id",),
    "request_class": ("log_type",),
}


def read_trace(path: str | Path, *, format: str | None = None) -> Trace:
    """The trace in ``path``. ``format`` is one of :data:`FORMATS`; without it the content decides.

    Raises :class:`InputError` with file and line: missing or unreadable file, a folder, empty, truncated
    gzip, not text, unknown format or columns, a value that is missing, not a number, negative or not finite.
    """
    if format is not None and format not in FORMATS:
        raise unknown_name("trace format", format, FORMATS)
    source = load(Path(path))
    return FORMATS[format or recognise(source)](source)


def recognise(source: Source) -> str:
    """The key in :data:`FORMATS` that the content belongs to."""
    head = source.text.lstrip()
    if head[:1] in (b"{", b"["):
        keys = _json_keys(source, head)
        if "input_length" in keys:
            return "mooncake"
        if keys & {"input_lens", "request_throughput"}:
            return "vllm"
        raise InputError(
            "this JSON is neither a Mooncake trace (timestamp, input_length, output_length)"
            " nor a detailed result of vllm bench serve (start_times, input_lens, output_lens)",
            where=source.name,
        )
    names = set(read_header(source)[1])
    for name, columns in (("azure", AZURE), ("burstgpt", BURSTGPT)):
        if all(names & set(columns[field]) for field in REQUIRED):
            return name
    return "csv"


def _json_keys(source: Source, head: bytes) -> set[str]:
    try:
        value = json.loads(head.split(b"\n", 1)[0])
    except (ValueError, RecursionError):
        value = parse_json(source, source.text.decode(), 1)  # one object over many lines
    return set(value) if isinstance(value, dict) else set()


def _azure(source: Source) -> Trace:
    return read_csv(source, AZURE, known=True)


def _burstgpt(source: Source) -> Trace:
    return read_csv(source, BURSTGPT, known=True)


def _plain(source: Source) -> Trace:
    return read_csv(source, PLAIN, known=False)


def _json_counts(source: Source, values: list[Any], what: str, line: Callable[[int], int]) -> Ints:
    numbers = _json_numbers(source, values, what, line)
    if (row := bad_count(numbers)) is not None:
        raise bad_length(source, what, values[row], line(row))
    return numbers.astype(np.int64)


def _json_numbers(source: Source, values: list[Any], what: str, line: Callable[[int], int]) -> NDArray[np.float64]:
    for row, value in enumerate(values):
        # not <=, so that NaN is caught too; 1e18 is beyond any clock, in any unit
        if type(value) not in (int, float) or not abs(value) <= 1e18:
            raise InputError(f"{what} is {value!r}, not a finite number", where=source.at(line(row)))
    return np.array(values, dtype=np.float64)


def _mooncake(source: Source) -> Trace:
    """FAST'25 traces; also optional ``session_id`` and ``request_class``, as :func:`twin.traffic.writers`
    adds."""
    lines = [(n, line) for n, line in enumerate(source.text.split(b"\n"), 1) if line.strip()]
    rows: list[dict[str, Any]] = []
    for number, text in lines:
        row = parse_json(source, text, number)
        if not isinstance(row, dict):
            raise InputError("this line is not a JSON object", where=source.at(number))
        rows.append(row)
        for key in ("timestamp", "input_length", "output_length"):
            if key not in row:
                error = unknown_name("key", key, row)
                raise InputError(f"{key!r} is missing", where=source.at(number), nearest=error.nearest)

    def line(row: int) -> int:
        return lines[row][0]

    ids = [row.get("hash_ids") or () for row in rows]
    for index, value in enumerate(ids):
        if value and not (type(value) is list and all(type(i) is int for i in value)):
            raise InputError("hash_ids is not a list of whole numbers", where=source.at(line(index)))

    def labels(key: str) -> Objects | None:
        values = [row.get(key) for row in rows]
        return np.array(values, dtype=object) if any(v is not None for v in values) else None

    return Trace.from_rows(
        _json_numbers(source, [row["timestamp"] for row in rows], "timestamp", line) / 1e3,
        _json_counts(source, [row["input_length"] for row in rows], "input_length", line),
        _json_counts(source, [row["output_length"] for row in rows], "output_length", line),
        session=labels("session_id"),
        request_class=labels("request_class"),
        prefix_hashes=ids if any(ids) else None,
        name=source.name,
    )


def _vllm(source: Source) -> Trace:
    """Failed requests have ``output_lens`` 0 there and are dropped (vLLM ``benchmarks/serve.py``,
    calculate_metrics)."""
    result = parse_json(source, source.text.decode(), 1)
    if not isinstance(result, dict):
        raise InputError("this is not one JSON object", where=source.name)
    keys = ("start_times", "input_lens", "output_lens")
    for key in keys:
        if not isinstance(result.get(key), list):
            raise InputError(
                f"{key!r} is missing: run vllm bench serve with --save-result --save-detailed",
                where=source.name,
            )
    starts, inputs, outputs = (result[key] for key in keys)
    if not len(starts) == len(inputs) == len(outputs):
        raise InputError("start_times, input_lens and output_lens differ in length", where=source.name)
    return Trace.from_rows(
        _json_numbers(source, starts, "start_times", lambda row: 1),
        _json_counts(source, inputs, "input_lens", lambda row: 1),
        _json_counts(source, outputs, "output_lens", lambda row: 1),
        name=source.name,
    )


FORMATS: dict[str, Callable[[Source], Trace]] = {
    "azure": _azure,
    "burstgpt": _burstgpt,
    "mooncake": _mooncake,
    "vllm": _vllm,
    "csv": _plain,
}
