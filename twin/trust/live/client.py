"""The load on a server: ``python client.py PLAN.json OUT.jsonl``, with nothing but the standard library.

The plan holds ``base_url``, ``model``, ``body`` (more fields of each request), ``vocab_size``, ``seed``, ``poll_s``, ``cores``
(to run on; any, if empty) and ``phases``, run one after the other. A phase: ``name``, ``requests`` as
``[at_s, input_tokens, output_tokens, hashes]``, ``hash_block_tokens``, and ``concurrency`` for a closed loop, which leaves
``at_s`` out of account. Equal hashes give equal tokens; all else of a prompt is new in every phase.

Each phase becomes one line of OUT in the words of ``vllm bench serve --save-detailed``, with ``polls`` of the server's gauges,
``late_s`` (how late each request started) and ``partial``: whether it was cut short, by SIGTERM or a server that is gone.
Times are seconds of the client's ``time.perf_counter()``. Exit 3 when the server is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Row = dict[str, Any]
LEAST_TOKEN = 10  # ids below are special in many vocabularies
GAUGES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_cache_usage",
    "vllm:num_preemptions_total": "preemptions",
}
GONE = 3
START_S = 0.05  # until the first request of a phase
LONGEST_LINE = 2**26  # bytes: the first chunk may hold the prompt's token ids
ALIVE_S = 5.0
FIRST_LOOK_S = 0.25
LOST = (OSError, EOFError, ValueError, asyncio.IncompleteReadError, asyncio.TimeoutError)
"""What a connection that breaks, or an answer that is no HTTP, raises."""


def prompt(number: int, request: list[Any], block: int, seed: str, vocab_size: int) -> list[int]:
    """Token ids: a block for each hash, the same wherever that hash occurs in a phase, then what is this request's alone."""
    _, length, _, hashes = request
    tokens = [token for name in hashes for token in _tokens(f"{seed}#{name}", block, vocab_size)]
    if len(tokens) < length:
        tokens += _tokens(f"{seed}/{number}", length - len(tokens), vocab_size)
    return tokens[:length]


def _tokens(seed: str, count: int, vocab_size: int) -> list[int]:
    return random.Random(seed).choices(range(LEAST_TOKEN, vocab_size), k=count)


def gauges(text: str) -> dict[str, float]:
    """The gauges of a /metrics page, summed over the engines behind it; the fullest KV cache."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        name = GAUGES.get(line.partition("{")[0].partition(" ")[0])
        if name is not None:
            value = float(line.rpartition(" ")[2])
            kept = found.get(name, 0.0)
            found[name] = max(kept, value) if name == "kv_cache_usage" else kept + value
    return found


class Http:
    """HTTP/1.1 with a connection for each request: little stands between the socket and the clock."""

    def __init__(self, base_url: str) -> None:
        url = urlsplit(base_url)
        self._secure, self._path, self._name = url.scheme == "https", url.path.rstrip("/"), url.netloc
        self._host, self._port = url.hostname or "", url.port or (443 if self._secure else 80)

    @contextlib.asynccontextmanager
    async def ask(
        self, path: str, body: bytes = b"", name: str = ""
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """Status and lines of the answer to a GET, or with ``body`` (JSON) to a POST, which the server may know by ``name``."""
        reader, writer = await asyncio.open_connection(
            self._host, self._port, ssl=self._secure or None, limit=LONGEST_LINE
        )
        try:
            head = f"{'POST' if body else 'GET'} {self._path}{path} HTTP/1.1\r\nHost: {self._name}\r\nConnection: close\r\n"
            head += f"X-Request-Id: {name}\r\n" if name else ""
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            status = int((await reader.readline()).split()[1:2][0]) if not reader.at_eof() else 0
            chunked = False
            while (line := (await reader.readline()).strip().lower()) != b"":
                chunked |= line.startswith(b"transfer-encoding:") and line.endswith(b"chunked")
            yield status, _lines(reader, chunked)
        finally:
            writer.close()

    async def text(self, path: str) -> str:
        """The body of a GET that went well, else nothing."""
        async with self.ask(path) as (status, lines):
            return b"\n".join([line async for line in lines]).decode(errors="replace") if status == 200 else ""


async def _lines(reader: asyncio.StreamReader, chunked: bool) -> AsyncIterator[bytes]:
    """Lines as they come, wherever the chunks of the transfer are cut."""
    rest = b""
    while True:
        if chunked:
            size = int((await reader.readline()).split(b";")[0] or b"x", 16)
            piece = (await reader.readexactly(size + 2))[:-2]
        else:
            piece = await reader.read(65536)
        if not piece:
            break
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line
    if rest:
        yield rest


class Phase:
    """One phase against a server."""

    def __init__(self, plan: Row, phase: Row) -> None:
        self.plan, self.phase, self.http = plan, phase, Http(plan["base_url"])
        seed = f"{plan['seed']} {phase['name']}"
        block, size = phase["hash_block_tokens"], plan["vocab_size"]
        self.prompts = [prompt(number, row, block, seed, size) for number, row in enumerate(phase["requests"])]
        self.rows: list[Row] = []
        self.polls: list[list[float]] = []
        self.gone = False

    async def run(self) -> None:
        """Until every request has its answer, or the server is gone."""
        watch = asyncio.create_task(self._watch())
        tasks: set[asyncio.Task[None]] = set()
        try:
            clients = self.phase.get("concurrency")
            async for task in self._closed(clients) if clients else self._open():
                tasks.add(task)
            while tasks and not self.gone:
                _, tasks = await asyncio.wait(tasks, timeout=0.2)
        finally:
            for task in (*tasks, watch):
                task.cancel()
            await asyncio.gather(*tasks, watch, return_exceptions=True)

    async def _open(self) -> Any:
        begun = time.perf_counter() + START_S
        for number, (at, *_) in enumerate(self.phase["requests"]):
            wait = begun + at - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            if self.gone:
                return
            yield asyncio.create_task(self._send(number, begun + at))

    async def _closed(self, clients: int) -> Any:
        numbers: Iterator[int] = iter(range(len(self.phase["requests"])))

        async def one() -> None:
            for number in numbers:
                if self.gone:
                    return
                await self._send(number, time.perf_counter())

        for _ in range(clients):
            yield asyncio.create_task(one())

    async def _send(self, number: int, due: float) -> None:
        _, _, output, _ = self.phase["requests"][number]
        body = {"model": self.plan["model"], "prompt": self.prompts[number], "max_tokens": output, "temperature": 0.0}
        body |= {"ignore_eos": True, "stream": True, "return_token_ids": True} | self.plan["body"]
        payload = json.dumps(body).encode()
        chunks: list[tuple[float, bytes]] = []
        row: Row = {"number": number, "start": time.perf_counter(), "due": due, "chunks": chunks, "error": "unfinished"}
        self.rows.append(row)
        done = False
        try:
            async with self.http.ask("/v1/completions", payload) as (status, lines):
                if status != 200:
                    said = b" ".join([line async for line in lines]).decode(errors="replace")
                    row["error"] = f"{status}: {said[:300]}"
                    return
                async for line in lines:
                    if line.startswith(b"data: {"):
                        chunks.append((time.perf_counter(), line))
                    done |= line.startswith(b"data: [DONE]")
            row["error"] = "" if done else "the answer was cut off"
        except LOST as error:
            row["error"] = f"{type(error).__name__}: {error}"
        self.gone = self.gone or not (done or await self._alive())

    async def _alive(self) -> bool:
        with contextlib.suppress(*LOST):
            async with asyncio.timeout(ALIVE_S), self.http.ask("/health") as (status, _):
                return status == 200
        return False

    async def _watch(self) -> None:
        """Polls the gauges; a poll that fails is left out, as what it would tell the requests tell too."""
        await asyncio.sleep(min(FIRST_LOOK_S, self.plan["poll_s"]))
        while True:
            with contextlib.suppress(*LOST):
                found = gauges(await self.http.text("/metrics"))
                self.polls.append([time.perf_counter(), *(found.get(name, 0.0) for name in GAUGES.values())])
            await asyncio.sleep(self.plan["poll_s"])

    def result(self, partial: bool) -> Row:
        """As ``vllm bench serve --save-detailed`` writes it: requests in the order in which they were sent."""
        rows = [_finished(row) for row in self.rows]
        good = [row for row in rows if not row["error"]]
        wanted = self.phase["requests"]
        begun = min((row["start"] for row in rows), default=0.0)
        duration = max((row["start"] + row["latency"] for row in good), default=begun) - begun
        tokens_in = sum(wanted[row["number"]][1] for row in good)
        tokens_out = sum(row["tokens"] for row in good)
        return {
            "phase": self.phase["name"],
            "partial": partial,
            "model_id": self.plan["model"],
            "num_prompts": len(wanted),
            "max_concurrency": self.phase.get("concurrency"),
            "duration": duration,
            "completed": len(good),
            "failed": len(rows) - len(good),
            "total_input_tokens": tokens_in,
            "total_output_tokens": tokens_out,
            "request_throughput": len(good) / duration if duration else 0.0,
            "output_throughput": tokens_out / duration if duration else 0.0,
            "input_lens": [wanted[row["number"]][1] for row in rows],
            "output_lens": [row["tokens"] for row in rows],
            "ttfts": [row["ttft"] for row in rows],
            "itls": [row["itl"] for row in rows],
            "latencies": [row["latency"] for row in rows],
            "start_times": [row["start"] for row in rows],
            "errors": [row["error"] for row in rows],
            "late_s": [row["start"] - row["due"] for row in rows],
            "numbers": [row["number"] for row in rows],
            "poll_columns": ["time", *GAUGES.values()],
            "polls": self.polls,
        }


def _finished(row: Row) -> Row:
    """Times between chunks, and the tokens in them; a chunk without its token ids counts as one token."""
    times = [at for at, _ in row["chunks"]]
    tokens = 0
    for _, line in row["chunks"]:
        choices = json.loads(line[6:]).get("choices") or [{}]
        tokens += len(choices[0].get("token_ids") or [0])
    return {
        "number": row["number"],
        "start": row["start"],
        "due": row["due"],
        "error": row["error"] or ("" if times else "no token came"),
        "tokens": tokens,
        "ttft": times[0] - row["start"] if times else 0.0,
        "itl": [later - at for at, later in pairwise(times)],
        "latency": times[-1] - row["start"] if times else 0.0,
    }


async def drive(plan: Row, out: Any) -> int:
    """Every phase in turn; 0, or :data:`GONE`."""
    me = asyncio.current_task()
    assert me is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, me.cancel)
    for count, wanted in enumerate(plan["phases"], start=1):
        phase = Phase(plan, wanted)
        gc.collect()
        gc.disable()  # a collection would hold up the clock of every stream
        whole = False
        try:
            await phase.run()
            whole = not phase.gone
        finally:
            gc.enable()
            out.write(json.dumps(phase.result(partial=not whole)) + "\n")
            out.flush()
        print(f"{count}/{len(plan['phases'])} {wanted['name']}", file=sys.stderr, flush=True)
        if phase.gone:
            return GONE
    return 0


def main(plan_file: str, out_file: str) -> int:
    plan = json.loads(Path(plan_file).read_text(encoding="utf-8"))
    if plan.get("cores"):
        os.sched_setaffinity(0, plan["cores"])
    with open(out_file, "w", encoding="utf-8") as out:
        try:
            return asyncio.run(drive(plan, out))
        except asyncio.CancelledError:
            return 130


if __name__ == "__main__":
    sys.path.pop(0)  # our neighbours' names are not for others to import
    sys.exit(main(sys.argv[1], sys.argv[2]))
