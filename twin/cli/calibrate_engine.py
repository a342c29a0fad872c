"""``twin calibrate engine``: a designed experiment on a real vLLM engine, each step timed."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twin.cli.calibrate_kernels import Device
from twin.cli.common import Format, emit, note

if TYPE_CHECKING:
    from rich.console import RenderableType


class Mode(StrEnum):
    """How the engine is driven: in one process, or as people deploy it."""

    in_process = "in_process"
    server = "server"


def engine(
    out: Annotated[Path, typer.Option(help="Step log (JSON lines); one that exists is gone on with.")],
    device: Annotated[Device, typer.Option(help="Device of the engine.")] = Device.cpu,
    mode: Annotated[Mode, typer.Option(help="In process, or behind vLLM's own server.")] = Mode.in_process,
    model: Annotated[str, typer.Option(help="Shape of the model, weights made up: small, wide or 8b.")] = "small",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of the engine; all but one without it.", min=1)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="About two minutes.")] = False,
    seed: Annotated[int, typer.Option(help="Of the lengths and arrivals.", min=0)] = 0,
    wait: Annotated[str, typer.Option(help="How long to wait for a busy device to be quiet.")] = "0s",
    python: Annotated[
        Path | None, typer.Option(help="A Python that has vLLM; this one, or make oracle's, without it.")
    ] = None,
    fmt: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.table,
) -> None:
    """Run prefills, decodes, mixtures and loads on a real vLLM engine with made-up weights, and time every step.

    An interrupted experiment keeps its whole runs and goes on from there. `twin calibrate fit --engine` fits the log.
    """
    from calibrate.experiment.run import run
    from calibrate.measure.machine import refuse_if_busy
    from calibrate.step_log import read_steps
    from twin.base import parse_duration
    from twin.trust.live.runtime import engine_version, find_python

    interpreter = find_python(python)
    engine_version(interpreter, device.value)
    refuse_if_busy(device.value, wait_s=parse_duration(wait, what="--wait", bare="s"), tell=note)
    used = threads or max(len(os.sched_getaffinity(0)) - 1, 1)
    run(interpreter, device.value, mode.value, model, out, threads=used, quick=quick, seed=seed, tell=note)
    log = read_steps(out)
    rows: list[dict[str, object]] = [
        {
            "kind": kind,
            "runs": int(part["run"].nunique()),
            "steps": len(part),
            "median_step_ms": round(1e3 * float(part["seconds"].median()), 3),
        }
        for kind, part in log.steps.groupby("kind")
    ]
    payload = {"log": out.name, "engine": log.engine, "runs": rows, "requests": len(log.requests)}
    emit(payload, fmt=fmt, table=lambda: _table(rows), rows=rows)


def _table(rows: list[dict[str, object]]) -> RenderableType:
    from rich.table import Table

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    return table
