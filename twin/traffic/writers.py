"""Writing a trace so that :func:`twin.traffic.readers.read_trace` reads the same one, complete or not at
all."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twin.base import TwinError, unknown_name
from twin.traffic.trace import MOONCAKE_BLOCK_TOKENS, Trace


def request_rows(trace: Trace) -> list[dict[str, object]]:
    """One flat row per request; session and class where the trace has them. Prefix hashes are left out."""
    columns = _columns(trace)
    values = [getattr(trace, c).tolist() for c in columns]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def _columns(trace: Trace) -> list[str]:
    names = [c for c in ("session", "request_class") if getattr(trace, c) is not None]
    return ["arrival_s", "input_tokens", "output_tokens", *names]


def as_csv(trace: Trace) -> str:
    """The plain CSV of ``twin``. Arrivals are written so that reading them gives the same float64."""
    import csv
    import io

    names = _columns(trace)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*(getattr(trace, name).tolist() for name in names), strict=True))
    return text.getvalue()


def as_mooncake(trace: Trace) -> str:
    """Mooncake JSON lines (timestamps in ms, rounded to ns), with ``session_id`` and ``request_class`` where
    present.

    Raises :class:`TwinError` for prefix hashes of blocks other than 512 tokens, which the format cannot say.
    """
    if trace.prefix_hashes is not None and trace.hash_block_tokens != MOONCAKE_BLOCK_TOKENS:
        raise TwinError(
            f"Mooncake's blocks have {MOONCAKE_BLOCK_TOKENS} tokens, this trace's {trace.hash_block_tokens}",
            where=trace.name,
        )
    return "".join(json.dumps(row) + "\n" for row in _mooncake_rows(trace))


def _mooncake_rows(trace: Trace) -> Iterator[dict[str, Any]]:
    hashes = trace.prefix_hashes
    for index, row in enumerate(request_rows(trace)):
        ms = round(float(trace.arrival_s[index]) * 1e3, 6)
        yield {
            "timestamp": int(ms) if ms.is_integer() else ms,
            "input_length": row["input_tokens"],
            "output_length": row["output_tokens"],
            **({} if hashes is None else {"hash_ids": list(hashes[index])}),
            **({} if row.get("session") is None else {"session_id": row["session"]}),
            **({} if row.get("request_class") is None else {"request_class": row["request_class"]}),
        }


WRITERS: dict[str, Callable[[Trace], str]] = {"csv": as_csv, "mooncake": as_mooncake}


def format_for(path: Path) -> str:
    """``mooncake`` for ``.jsonl`` and ``.jsonl.gz``, else ``csv``."""
    return "mooncake" if ".jsonl" in path.suffixes[-2:] else "csv"


def write_trace(trace: Trace, path: str | Path, to: str | None = None) -> None:
    """Write ``trace`` as ``to`` (of :data:`WRITERS`; from the file's name when ``None``), gzipped if it ends
    in ``.gz``.
    Raises :class:`TwinError` when it cannot be written."""
    target = Path(path)
    if to is not None and to not in WRITERS:
        raise unknown_name("trace format", to, WRITERS)
    data = WRITERS[to or format_for(target)](trace).encode()
    write_atomic(target, gzip.compress(data, mtime=0) if target.suffix == ".gz" else data)


def write_atomic(path: Path, data: bytes) -> None:
    """All of ``data`` in ``path`` or no change: a temporary file beside it, then renamed."""
    if path.is_dir():
        raise TwinError(f"cannot write {str(path)!r}: it is a folder")
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise TwinError(f"cannot write {str(path)!r}: {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
