"""The text that a vLLM server logs: what it says of itself when it starts, and what it did between its periodic lines.

The sentences are those of vLLM 0.19 and 0.32: ``v1/metrics/loggers.py``, ``v1/core/kv_cache_utils.py``, ``v1/engine/core.py``,
``v1/worker/gpu_worker.py``. Any prefix (process, level, time, file) and colours are accepted.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from twin.base import InputError

Facts = dict[str, Any]
GIB = 2**30


@dataclass(frozen=True)
class ServerLog:
    """``facts``: by the names in :data:`FACTS`, and ``engine_args``, the arguments that are not vLLM's defaults.

    Columns of ``intervals``: at_s (since the first line with a time), engine (its number, -1 for all together),
    prompt_tokens_per_s, generation_tokens_per_s, running, waiting, preemptions, kv_cache_usage and prefix_hit_rate (0 to 1,
    NaN where the line does not say).
    """

    facts: Facts
    intervals: pd.DataFrame


def _count(text: str) -> int:
    return int(text.replace(",", ""))


def _gib(text: str) -> int:
    return round(float(text) * GIB)


def _share(text: str) -> float:
    return float(text) / 100


FACTS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("vllm_version", r"(?:LLM engine \(v|server version |█\s+version )(\d[\w.+-]*)", str),
    ("model", r"with config: model='([^']+)'", str),
    ("dtype", r"[ ,]dtype=(?:torch\.)?(\w+)", str),
    ("quantization", r"[ ,]quantization=(\w+)", str),
    ("kv_cache_dtype", r"[ ,]kv_cache_dtype=(\w+)", str),
    ("tensor_parallel_size", r"[ ,]tensor_parallel_size=(\d+)", _count),
    ("pipeline_parallel_size", r"[ ,]pipeline_parallel_size=(\d+)", _count),
    ("data_parallel_size", r"[ ,]data_parallel_size=(\d+)", _count),
    ("max_model_len", r"[ ,]max_seq_len=(\d+)", _count),
    ("max_num_batched_tokens", r"max_num_batched_tokens=(\d+)", _count),
    ("weights_bytes", r"Model loading took ([\d.]+) GiB", _gib),
    ("kv_cache_bytes", r"Available KV cache memory: ([\d.]+) GiB", _gib),
    ("kv_cache_bytes", r"Explicitly set \(([\d.]+)/[\d.]+\) GiB for KV cache", _gib),
    ("kv_cache_tokens", r"KV cache size: ([\d,]+) tokens", _count),
    ("max_concurrency", r"Maximum concurrency for [\d,]+ tokens per request: ([\d.]+)x", float),
    ("graphs_bytes", r"Graph capturing finished in \d+ secs, took ([\d.]+) GiB", _gib),
    ("start_s", r"init engine \([^)]*\) took ([\d.]+) s", float),
    ("num_gpu_blocks", r"num_gpu_blocks_override=(\d+)", _count),
    ("num_gpu_blocks", r"after num_gpu_blocks is: (\d+)", _count),
)
"""Name, the sentence it is in, and how to read it; of several sentences the last counts."""

INTERVAL: tuple[tuple[str, str, Callable[[str], Any], Any], ...] = (
    ("prompt_tokens_per_s", r"Avg prompt throughput: ([\d.]+) tokens/s", float, None),
    ("generation_tokens_per_s", r"Avg generation throughput: ([\d.]+) tokens/s", float, None),
    ("running", r"Running: (\d+) reqs", _count, None),
    ("waiting", r"Waiting: (\d+) reqs", _count, None),
    ("preemptions", r"Preemptions: (\d+)", _count, 0),
    ("kv_cache_usage", r"\w+ KV cache usage: ([\d.]+)%", _share, None),
    ("prefix_hit_rate", r"(?<!External )[Pp]refix cache hit rate: ([\d.]+)%", _share, math.nan),
)
"""Column, its part of the line, how to read it, and what stands for a part that vLLM leaves out (None: it never does)."""

COLOUR = re.compile(r"\x1b\[[\d;]*m")
TIME = re.compile(r"\b(\d\d-\d\d \d\d:\d\d:\d\d)\b")
LEAP_YEAR = "2000-"  # the lines name no year, and a 29th of February must parse
ARGUMENTS = re.compile(r"non-default args: (\{.*\})")
SIMPLE = re.compile(r"'(\w+)': ('[^']*'|-?[\d.]+|True|False|None)(?=[,}])")


def read_server_log(path: Path) -> ServerLog:
    """Facts and intervals of the log at ``path``.

    Raises :class:`InputError` for a file that is not text or has neither, for a periodic line that lacks a part (with its
    line), and for the starts of two different engines in one file.
    """
    facts: Facts = {}
    rows: list[dict[str, Any]] = []
    clock = _Clock()
    for number, line in enumerate(_lines(path), start=1):
        at_s = clock.read(line)
        where = f"{path.name}:{number}"
        if "Avg prompt throughput:" in line:
            rows.append(_interval(line, at_s, where))
        else:
            _take(facts, line, where)
    if not facts and not rows:
        raise InputError("nothing here that a vLLM server logs at level INFO", where=path.name)
    columns = ["at_s", "engine", *(name for name, *_ in INTERVAL)]
    return ServerLog(_with_blocks(facts), pd.DataFrame(rows, columns=columns))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = (error.strerror or "cannot be read") if isinstance(error, OSError) else "not text"
        raise InputError(said, where=path.name) from None
    return COLOUR.sub("", text).splitlines()


class _Clock:
    """Seconds since the first line with a time; the new year's lines come after the old one's."""

    def __init__(self) -> None:
        self._first: datetime | None = None
        self._now = 0.0

    def read(self, line: str) -> float:
        found = TIME.search(line)
        if found is None:
            return self._now
        try:
            stamp = datetime.strptime(LEAP_YEAR + found[1], "%Y-%m-%d %H:%M:%S")
        except ValueError:
            return self._now
        self._first = self._first or stamp
        year_s = 365 * 86400.0
        seconds = (stamp - self._first).total_seconds()
        self._now = seconds + 86400.0 + year_s if seconds < -year_s / 2 else seconds
        return self._now


def _interval(line: str, at_s: float, where: str) -> dict[str, Any]:
    engine = re.search(r"\bEngine (\d+):", line)
    row: dict[str, Any] = {"at_s": at_s, "engine": int(engine[1]) if engine else -1}
    for name, pattern, read, absent in INTERVAL:
        found = re.search(pattern, line)
        if found is None and absent is None:
            raise InputError(f"this line of throughput lacks its {name.replace('_', ' ')}", where=where)
        row[name] = absent if found is None else read(found[1])
    return row


def _take(facts: Facts, line: str, where: str) -> None:
    """What ``line`` says goes into ``facts``; who says two things of one engine's cache or version is not one engine."""
    arguments = ARGUMENTS.search(line)
    if arguments:
        facts["engine_args"] = _arguments(arguments[1])
        return
    for name, pattern, read in FACTS:
        found = re.search(pattern, line)
        if found is None or found[1] == "None":
            continue
        value = read(found[1].rstrip("."))
        if name in ("vllm_version", "kv_cache_tokens") and facts.get(name, value) != value:
            what = f"two engines in one log: {name.replace('_', ' ')} is {facts[name]} and {value}"
            raise InputError(what, where=where)
        facts[name] = value


def _arguments(text: str) -> Facts:
    """vLLM prints a Python dict; one with objects in it keeps its plain values only."""
    try:
        return dict(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return {name: ast.literal_eval(value) for name, value in SIMPLE.findall(text)}


def _with_blocks(facts: Facts) -> Facts:
    """With ``num_gpu_blocks`` worked out where the block size is known.

    The tokens are blocks over blocks per request of the greatest length, times that length (``get_kv_cache_capacity``).
    """
    size = facts.get("engine_args", {}).get("block_size")
    tokens, length = facts.get("kv_cache_tokens"), facts.get("max_model_len")
    if "num_gpu_blocks" in facts or not (size and tokens and length):
        return facts
    return facts | {"num_gpu_blocks": round(tokens * math.ceil(length / size) / length)}
