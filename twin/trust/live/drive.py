"""Our side of the client: its plan, its process, and what it measured, also where it was cut short."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twin.base import TwinError
from twin.traffic.trace import Trace
from twin.trust.live.server import end_group

CLIENT = Path(__file__).with_name("client.py")
GONE = 3  # the client's exit code for a server that is gone
POLL_S = 2.0  # seldom, as an answer takes the server milliseconds that requests then wait
WRITE_S = 15.0  # for the client to write what it has once it is asked to end

Bench = dict[str, Any]
"""A phase as the client writes it: ``vllm bench serve``'s keys and a few more, see :mod:`twin.trust.live.client`."""

SENTINEL = (16, 128, 32)
"""Requests at once, input and output tokens of the batch that tells the machine's speed: prefill, decode and streaming as
under load, as a few requests alone leave the server's processes more of a small machine than a load does."""
SENTINEL_BATCHES = 5


@dataclass(frozen=True)
class Phase:
    """A load, ``kind`` ``load``, or what stands around it: ``warm-up``, ``sentinel``. Closed loop with ``concurrency``."""

    name: str
    kind: str
    trace: Trace
    concurrency: int | None = None

    def as_row(self) -> dict[str, Any]:
        """As the client takes it."""
        trace = self.trace
        hashes: Sequence[Sequence[int]] = trace.prefix_hashes or [()] * len(trace)
        columns = (trace.arrival_s.tolist(), trace.input_tokens.tolist(), trace.output_tokens.tolist(), hashes)
        return {
            "name": self.name,
            "requests": [list(row) for row in zip(*columns, strict=True)],
            "hash_block_tokens": trace.hash_block_tokens,
            "concurrency": self.concurrency,
        }


class Ended(TwinError):
    """The measurement was cut short; ``measured`` holds the phases until then, the last one partial."""

    def __init__(self, what: str, measured: list[Bench], *, interrupted: bool) -> None:
        super().__init__(what)
        self.measured, self.interrupted = measured, interrupted


def phases(loads: Sequence[tuple[str, Trace, int | None]], warm_up: Trace) -> list[Phase]:
    """A warm-up, then the loads (name, requests, clients of a closed loop), sentinels before, between and after them."""
    found = [Phase("warm-up", "warm-up", warm_up)]
    for place, load in enumerate([None, *loads]):
        if load is not None:
            found.append(Phase(load[0], "load", load[1], load[2]))
        found += [Phase(f"sentinel {place}.{batch}", "sentinel", sentinel()) for batch in range(SENTINEL_BATCHES)]
    return found


def sentinel() -> Trace:
    """Requests that are there at once, and always the same."""
    count, tokens_in, tokens_out = SENTINEL
    return Trace(np.zeros(count), np.full(count, tokens_in), np.full(count, tokens_out), name="sentinel")


def sentinel_s(bench: Bench) -> float:
    """Seconds from a sentinel's first request to its last token; NaN where one failed.

    The whole, not its gaps: on a busy machine several tokens reach the client in one piece.
    """
    if any(bench["errors"]) or not bench["errors"]:
        return float("nan")
    start = min(bench["start_times"])
    return float(max(at + took for at, took in zip(bench["start_times"], bench["latencies"], strict=True)) - start)


def client_plan(
    base_url: str,
    model: str,
    steps: Sequence[Phase],
    *,
    vocab_size: int,
    seed: int,
    body: Mapping[str, object],
    cores: Sequence[int] = (),
) -> dict[str, Any]:
    """What the client needs, as JSON."""
    return {
        "base_url": base_url.rstrip("/"),
        "model": model,
        "body": dict(body),
        "vocab_size": vocab_size,
        "poll_s": POLL_S,
        "seed": seed,
        "cores": list(cores),
        "phases": [step.as_row() for step in steps],
    }


def drive(plan: Mapping[str, Any], folder: Path, tell: Callable[[str], None]) -> list[Bench]:
    """Run the client over the plan; its phases in order.

    Raises :class:`Ended` with what there is when interrupted or when the server is gone, :class:`TwinError` when the client
    itself fails.
    """
    file, out = folder / "plan.json", folder / "phases.jsonl"
    file.write_text(json.dumps(plan), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, CLIENT, file, out],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    said: deque[str] = deque(maxlen=3)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line.strip())
            if " sentinel " not in line and line[:1].isdigit():
                tell(line.strip())
        code = process.wait()
    except KeyboardInterrupt:
        with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
            process.terminate()
            process.wait(WRITE_S)
        raise Ended("interrupted", _read(out), interrupted=True) from None
    finally:
        end_group(process, WRITE_S)
    if code == GONE:
        raise Ended("the server is gone", _read(out), interrupted=False)
    if code:
        raise TwinError(f"the client ended with {code}: {' | '.join(said) or 'no message'}")
    return _read(out)


def _read(out: Path) -> list[Bench]:
    """Whole lines only: a client that was killed may leave a torn one."""
    if not out.exists():
        return []
    lines = out.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]
