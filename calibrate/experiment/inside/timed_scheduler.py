"""vLLM's schedulers, writing one JSON line per step; for ``--scheduler-cls``, in process and behind the server.

The lines go to the file that ``TWIN_STEP_LOG`` names. All times are ``time.perf_counter()``, on Linux one clock for all
processes: ``start``, when ``schedule()`` began; ``scheduled``, when it was done; ``end``, when the step's output had been
taken. ``work`` says whether requests were left then. ``prefills`` holds [tokens, context] of each chunk, ``context`` the
cached tokens that the decodes read, their new ones included. ``arrived`` and ``first`` are when a request was queued and when
the step that gave its first token ended.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler


class _Timed:
    """What both schedulers get; steps in flight are a queue, since the asynchronous engine has two."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._log = open(os.environ["TWIN_STEP_LOG"], "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._preempted = 0
        self._flying: dict[int, dict[str, Any]] = {}

    def _write(self, row: dict[str, Any]) -> None:
        self._log.write(json.dumps(row) + "\n")

    def add_request(self, request: Any) -> None:
        self._write({"request": request.request_id, "arrived": time.perf_counter()})
        super().add_request(request)  # type: ignore[misc]

    def _preempt_request(self, request: Any, *args: Any, **more: Any) -> None:
        self._preempted += 1
        super()._preempt_request(request, *args, **more)  # type: ignore[misc]

    def schedule(self, *args: Any, **more: Any) -> Any:
        start = time.perf_counter()
        output = super().schedule(*args, **more)  # type: ignore[misc]
        scheduled = time.perf_counter()
        prefills, decodes, context, new = [], 0, 0, []
        for name, tokens in output.num_scheduled_tokens.items():
            request = self.requests[name]  # type: ignore[attr-defined]
            before = request.num_computed_tokens - tokens
            if before >= request.num_prompt_tokens:
                decodes += 1
                context += before + 1
            else:
                prefills.append([tokens, before])
                if before + tokens >= request.num_prompt_tokens:
                    new.append(name)
        if output.num_scheduled_tokens:
            self._flying[id(output)] = {
                "start": start,
                "scheduled": scheduled,
                "prefills": prefills,
                "decodes": decodes,
                "context": context,
                "waiting": len(self.waiting),  # type: ignore[attr-defined]
                "preempted": self._preempted,
                "new": new,
            }
            self._preempted = 0
        return output

    def update_from_output(self, output: Any, *args: Any, **more: Any) -> Any:
        result = super().update_from_output(output, *args, **more)  # type: ignore[misc]
        row = self._flying.pop(id(output), None)
        if row is not None:
            row["end"] = time.perf_counter()
            row["work"] = bool(self.running or self.waiting)  # type: ignore[attr-defined]
            self._write(row)
        return result


class TimedScheduler(_Timed, Scheduler):
    """The synchronous scheduler."""


class TimedAsyncScheduler(_Timed, AsyncScheduler):
    """The scheduler of asynchronous engines."""
