"""Runs an experiment on a real vLLM engine; inside vLLM's environment: ``python drive.py PLAN.json OUT.jsonl``.

The plan holds the model's config, the engine's arguments, the mode and the runs (see :mod:`calibrate.experiment.design`);
runs named in ``done`` are skipped. After the line that describes the engine, each run's header, steps and requests are
written together once the run is over, so an interrupted experiment holds whole runs only. Progress goes to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
TIMED = {False: "timed_scheduler.TimedScheduler", True: "timed_scheduler.TimedAsyncScheduler"}
READY_S = 600.0
PROBE_S = 4.0  # of a saturated engine, its start left out, tell its capacity
TOKENS = (10, 30_000)  # ids that every vocabulary here has


def main(plan_file: str, out_file: str) -> None:
    plan = json.loads(Path(plan_file).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        steps = Path(folder) / "steps.jsonl"
        steps.touch()
        os.environ |= plan["env"] | {"TWIN_STEP_LOG": str(steps)}
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        sys.path.insert(0, str(Path(__file__).parent))
        (Path(folder) / "config.json").write_text(json.dumps(plan["model"]), encoding="utf-8")
        engine = (InProcess if plan["mode"] == "in_process" else Server)(plan, folder)
        try:
            with open(out_file, "a", encoding="utf-8") as out:
                Experiment(plan, engine, steps, out).run()
        finally:
            engine.close()


class Experiment:
    """The runs one after the other; a run's load is a share of the capacity that a probe measures first."""

    def __init__(self, plan: Row, engine: Any, steps: Path, out: Any) -> None:
        self.plan, self.engine, self.out = plan, engine, out
        self.steps = steps.open(encoding="utf-8")
        self.capacity = 0.0

    def run(self) -> None:
        self.write({"engine": self.plan["engine"] | self.engine.facts()})
        self.engine.run([[0.0, 64, 8], [0.0, 500, 8]], 0)  # the first steps set things up
        runs = [run for run in self.plan["runs"] if run["run"] not in self.plan["done"]]
        if any(run["load"] is not None for run in runs):
            self.capacity = self.probe(self.plan["probe"])
        begun, before = time.monotonic(), len(self.plan["done"])
        for number, run in enumerate(runs, start=1):
            self.one(before + number - 1, run)
            left = (time.monotonic() - begun) / number * (len(runs) - number)
            print(f"{number}/{len(runs)} {run['run']}, about {left:.0f} s left", file=sys.stderr, flush=True)

    def write(self, *rows: Row) -> None:
        """In one piece, so that a run is in the log whole or torn at its end."""
        self.out.write("".join(json.dumps(row) + "\n" for row in rows))
        self.out.flush()

    def probe(self, lengths: list[list[int]]) -> float:
        """Requests per second that the engine finishes while its seats are full."""
        self.steps.read()
        rows = self.engine.run([[0.0, *pair] for pair in lengths], 1, PROBE_S * 2)
        self.steps.read()
        ends = sorted(row["last_token"] for row in rows)
        half = ends[len(ends) // 4 : -max(len(ends) // 4, 1)]
        return float((len(half) - 1) / max(half[-1] - half[0], 1e-9))

    def one(self, order: int, run: Row) -> None:
        requests = run["requests"]
        if run["load"] is not None:
            rate = run["load"] * self.capacity
            timed = [[at / rate, *lengths] for at, *lengths in requests]
            requests = [row for row in timed if row[0] <= run["seconds"]] or timed[:1]
        self.steps.read()
        rows = self.engine.run(requests, run["seed"])
        lines = [json.loads(line) for line in self.steps.read().splitlines()]
        header = {name: run[name] for name in ("run", "name", "kind", "load")}
        written: list[Row] = [header | {"order": order, "capacity": self.capacity}]
        steps = [line for line in lines if "start" in line]
        for number, (step, after) in enumerate(zip(steps, [*steps[1:], None], strict=True)):
            written.append({"step": number, **self.engine.timed(step, after)})
        arrived = {line["request"]: line["arrived"] for line in lines if "request" in line}
        first: dict[str, float] = {}
        for step in steps:
            for name in step["new"]:
                first.setdefault(name, step["end"])
        for row in rows:
            inner = self.engine.inner_name(row["request"], arrived)
            written.append(row | {"arrived": arrived.get(inner), "first_step_end": first.get(inner)})
        self.write(*written)


def prompt(rng: random.Random, tokens: int) -> list[int]:
    return [rng.randrange(*TOKENS) for _ in range(tokens)]


class InProcess:
    """``LLMEngine`` in this process: a step's seconds are those of ``LLMEngine.step()``."""

    def __init__(self, plan: Row, folder: str) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        from importlib import import_module

        from vllm import SamplingParams
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        module, name = TIMED[plan["async_scheduling"]].split(".")
        arguments = EngineArgs(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            disable_log_stats=True,
            scheduler_cls=getattr(import_module(module), name),
            **plan["engine_args"],
        )
        self.engine = LLMEngine.from_engine_args(arguments)
        self.sampling = lambda tokens: SamplingParams(
            max_tokens=tokens, ignore_eos=True, detokenize=False, temperature=0.0
        )
        self.count = 0
        self.walls: list[tuple[float, float]] = []

    def facts(self) -> Row:
        return engine_facts(self.engine.vllm_config)

    def run(self, requests: list[list[float]], seed: int, limit_s: float | None = None) -> list[Row]:
        rng, engine = random.Random(seed), self.engine
        todo = [(at, prompt(rng, int(tokens_in)), int(tokens_out)) for at, tokens_in, tokens_out in requests]
        rows: dict[str, Row] = {}
        begun = time.perf_counter()
        while todo or engine.has_unfinished_requests():
            now = time.perf_counter() - begun
            if limit_s is not None and now > limit_s:
                todo.clear()
            while todo and todo[0][0] <= now:
                _, tokens, output = todo.pop(0)
                self.count += 1
                name = f"{self.count:08d}"
                rows[name] = {
                    "request": name,
                    "sent": time.perf_counter(),
                    "input_tokens": len(tokens),
                    "output_tokens": output,
                }
                engine.add_request(name, {"prompt_token_ids": tokens}, self.sampling(output))
            if not engine.has_unfinished_requests():
                time.sleep(max(0.0, todo[0][0] - now) if todo else 0.0)
                continue
            start = time.perf_counter()
            outputs = engine.step()
            end = time.perf_counter()
            self.walls.append((start, end))
            for output in outputs:
                row = rows[output.request_id]
                row.setdefault("first_token", end)
                row["last_token"] = end
        return list(rows.values())

    def timed(self, step: Row, after: Row | None) -> Row:
        """With the wall time of the call of ``LLMEngine.step()`` in which the step's output was taken."""
        while self.walls[0][1] < step["end"]:
            self.walls.pop(0)
        begin, end = self.walls[0]
        return step | {"seconds": end - begin}

    def inner_name(self, name: str, known: dict[str, float]) -> str | None:
        return next((other for other in known if other.startswith(name)), None)

    def close(self) -> None:
        pass


class Server:
    """``vllm serve``, driven over HTTP: a step lasts until the next begins, as long as there is work.

    The server is in this process's group, which whoever started us ends as a whole.
    """

    def __init__(self, plan: Row, folder: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        arguments: list[str] = []
        for name, value in plan["engine_args"].items():
            flag = "--" + name.replace("_", "-")
            if isinstance(value, bool):
                arguments.append(flag if value else flag.replace("--", "--no-", 1))
            else:
                arguments += [flag, str(value)]
        command = [sys.executable, plan["serve"], folder]
        command += ["--load-format", "dummy", "--skip-tokenizer-init", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--scheduler-cls", TIMED[plan["async_scheduling"]], *arguments]
        sys.path.append(str(Path(plan["serve"]).parent))
        from client import Http  # type: ignore[import-not-found]
        from cores import give_cores  # type: ignore[import-not-found]

        self.http = Http(f"http://127.0.0.1:{self.port}")
        self.model, self.plan = folder, plan
        self.output = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(command, stdout=self.output, stderr=subprocess.STDOUT, env=dict(os.environ))
        self.count = 0
        self._await_ready()
        if plan["engine"]["device"] == "cpu":
            give_cores(os.getpgid(0), plan["engine"]["threads"])

    def _await_ready(self) -> None:
        import urllib.request

        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                self.output.seek(0)
                said = self.output.read().decode(errors="replace").strip().splitlines()[-15:]
                raise SystemExit("the server did not start:\n" + "\n".join(said))
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2).close()
                return
            time.sleep(0.5)
        raise SystemExit(f"the server was not ready after {READY_S:.0f} s")

    def facts(self) -> Row:
        import vllm

        return {"vllm_version": vllm.__version__}

    def run(self, requests: list[list[float]], seed: int, limit_s: float | None = None) -> list[Row]:
        return asyncio.run(self._run(requests, seed, limit_s))

    async def _run(self, requests: list[list[float]], seed: int, limit_s: float | None) -> list[Row]:
        rng = random.Random(seed)
        todo = [(at, prompt(rng, int(tokens_in)), int(tokens_out)) for at, tokens_in, tokens_out in requests]
        begun = time.perf_counter()
        tasks = []
        for at, tokens, output in todo:
            wait = at - (time.perf_counter() - begun)
            if limit_s is not None and at > limit_s:
                break
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self._send(tokens, output)))
        return list(await asyncio.gather(*tasks))

    async def _send(self, tokens: list[int], output: int) -> Row:
        self.count += 1
        name = f"twin{self.count:08d}"
        body = {
            "model": self.model,
            "prompt": tokens,
            "max_tokens": output,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "return_token_ids": True,
            "detokenize": False,
        }
        payload = json.dumps(body).encode()
        row: Row = {
            "request": name,
            "sent": time.perf_counter(),
            "input_tokens": len(tokens),
            "output_tokens": output,
        }
        async with self.http.ask("/v1/completions", payload, name) as (status, lines):
            if status != 200:
                said = b" ".join([line async for line in lines]).decode(errors="replace")
                raise SystemExit(f"the server refused a request: {said[:500]}")
            async for line in lines:
                if line.startswith(b"data: {"):
                    now = time.perf_counter()
                    row.setdefault("first_token", now)
                    row["last_token"] = now
        return row

    def timed(self, step: Row, after: Row | None) -> Row:
        """Until the next step began if work was left, else until its own output was taken."""
        end = after["start"] if after is not None and step["work"] else step["end"]
        return step | {"seconds": end - step["start"]}

    def inner_name(self, name: str, known: dict[str, float]) -> str | None:
        return next((other for other in known if name in other), None)

    def close(self) -> None:
        """Asks the server to end, with its engine; what does not obey ends with our process group."""
        for end in (self.process.terminate, self.process.kill):
            if self.process.poll() is None:
                end()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(20.0)
        self.output.close()


def engine_facts(config: Any) -> Row:
    import vllm

    return {
        "vllm_version": vllm.__version__,
        "async_scheduling": bool(config.scheduler_config.async_scheduling),
        "cuda_graphs": not config.model_config.enforce_eager,
        "block_size": config.cache_config.block_size,
    }


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    handler: Callable[..., None] = interrupt
    signal.signal(signal.SIGTERM, handler)
    main(sys.argv[1], sys.argv[2])
