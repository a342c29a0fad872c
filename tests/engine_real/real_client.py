"""The choice of vLLM's own data-parallel client, on sequences that arrive as JSON lines; runs inside vLLM's environment.

A line is ``{"ranks": n, "ops": [...]}``; an operation is null (a request: which rank?), a rank (one of its requests is done)
or a list of [waiting, running, KV usage] (the coordinator published). One line out: the ranks picked.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from itertools import count
from types import SimpleNamespace

with contextlib.redirect_stdout(sys.stderr):
    from vllm.v1.engine.core_client import DPLBAsyncMPClient


def bare_client(ranks: int) -> DPLBAsyncMPClient:
    """A client without sockets: only what the choice reads, as ``__init__`` sets it for one API server."""
    client = object.__new__(DPLBAsyncMPClient)
    client.core_engines = [rank.to_bytes(2, "little") for rank in range(ranks)]
    client.lb_engines = [[0, 0, 0.0][: width()] for _ in range(ranks)]
    client.client_count, client.client_index, client.eng_start_index = 1, 0, 0
    client.reqs_in_flight = {}
    client.engine_inflight = Counter()
    return client


def width() -> int:
    """Numbers per rank: 0.19 has no KV usage."""
    return 3 if "kv_cache_usage" in DPLBAsyncMPClient.get_core_engine_for_request.__code__.co_varnames else 2


def picks(ranks: int, ops: list) -> list[int]:
    client, numbers = bare_client(ranks), count()
    sent: list[list[str]] = [[] for _ in range(ranks)]
    picked = []
    for op in ops:
        if op is None:
            name = str(next(numbers))
            request = SimpleNamespace(request_id=name, data_parallel_rank=None, pooling_params=None)
            rank = client.core_engines.index(client.get_core_engine_for_request(request))
            sent[rank].append(name)
            picked.append(rank)
        elif isinstance(op, list):
            client.lb_engines = [row[: width()] for row in op]
        elif sent[op]:
            done = SimpleNamespace(finished_requests={sent[op].pop(0)})
            with contextlib.suppress(StopIteration):
                DPLBAsyncMPClient.process_engine_outputs(client, done).send(None)
    return picked


for line in sys.stdin:
    print(json.dumps(picks(**json.loads(line))), flush=True)
