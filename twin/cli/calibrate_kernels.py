"""``twin calibrate kernels``: time the kernels of this machine's device, here or in another Python that has torch."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twin.base import InputError, TwinError
from twin.cli.common import Format, Session, emit, session

if TYPE_CHECKING:
    from rich.console import RenderableType

INTERRUPTED = 130


class Device(StrEnum):
    """What is measured."""

    cpu = "cpu"
    cuda = "cuda"


class Family(StrEnum):
    gemm = "gemm"
    decode = "decode"
    prefill = "prefill"
    elementwise = "elementwise"
    copy = "copy"
    all_reduce = "all_reduce"


class Dtype(StrEnum):
    bf16 = "bf16"
    fp8 = "fp8"
    int8 = "int8"


def kernels(
    device: Annotated[Device, typer.Option(help="What to measure.")],
    out: Annotated[
        Path, typer.Option(help="Log of measurements (JSON lines); an existing one of this machine goes on.")
    ],
    quick: Annotated[bool, typer.Option("--quick", help="A sample of the points, about 2 minutes in all.")] = False,
    family: Annotated[list[Family] | None, typer.Option(help="Only these kernels; may be repeated.")] = None,
    dtype: Annotated[list[Dtype] | None, typer.Option(help="Only these precisions of matrix products.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores without it.")] = None,
    wait: Annotated[str, typer.Option(help="How long to wait for a busy device to become quiet.")] = "0s",
    python: Annotated[
        Path | None,
        typer.Option(help="A Python with torch; this one if it has it, else the one of $TWIN_ORACLE."),
    ] = None,
    fmt: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.table,
) -> int:
    """Time matrix products, attention, element-wise kernels, copies and all-reduce of this machine's device.

    No device setting is changed. Each point is written when it is done; the same command goes on after an interruption.
    """
    from calibrate.measure.log import read_log
    from calibrate.measure.tables import summary

    arguments = ["--device", device.value, "--out", str(out), "--wait", wait]
    arguments += ["--quick"] * quick + ["--quiet"] * session.get(Session()).quiet
    arguments += [word for item in family or [] for word in ("--family", item.value)]
    arguments += [word for item in dtype or [] for word in ("--dtype", item.value)]
    arguments += ["--threads", str(threads)] if threads else []
    outcome = measure(python or find_python(), arguments)
    if outcome is None:
        return INTERRUPTED
    log = read_log(out)
    rows = summary(log)
    payload = {"machine": log.machine, **outcome, "families": rows}
    emit(payload, fmt=fmt, table=lambda: _table(rows), rows=rows)
    return 0


def find_python() -> Path:
    """This interpreter if it has torch, else that of the engine's environment; :class:`InputError` without either."""
    if importlib.util.find_spec("torch") is not None:
        return Path(sys.executable)
    oracle = os.environ.get("TWIN_ORACLE", "")
    found = Path(oracle) / "bin" / "python"
    if oracle and found.is_file():
        return found
    raise InputError(
        "timing kernels needs torch: pip install 'twin[calibrate]', or --python PATH of a Python that has it"
    )


def measure(python: Path, arguments: list[str]) -> dict[str, Any] | None:
    """Run ``calibrate.measure`` in ``python`` (with its notes on our stderr); ``None`` when it was interrupted.

    Raises the child's own :class:`InputError`, or :class:`TwinError` when it ended in another way.
    """
    with tempfile.TemporaryDirectory() as folder:
        for package in ("twin", "calibrate"):  # ours alone: the rest of this environment may be of another Python
            found = importlib.util.find_spec(package)
            assert found is not None
            assert found.origin is not None
            (Path(folder) / package).symlink_to(Path(found.origin).parent)
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [str(python), "-m", "calibrate.measure", *arguments]
        try:
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        except OSError as error:
            raise InputError(f"cannot run Python: {error.strerror}", where=str(python)) from None
        return _result(child)


def _result(child: subprocess.Popen[str]) -> dict[str, Any] | None:
    try:
        said, _ = child.communicate()
    except KeyboardInterrupt:  # a terminal interrupts both; a signal to us alone is handed on
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
        child.communicate()
        return None
    if child.returncode in (INTERRUPTED, -signal.SIGINT):
        return None
    try:
        result: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise TwinError(f"the measuring process ended with code {child.returncode} and no result") from None
    error = result.get("error")
    if error is None:
        return result
    kind = InputError if error["exit_code"] == InputError.exit_code else TwinError
    raise kind(error["what"], where=error["where"], allowed=error["allowed"], nearest=error["nearest"])


def _table(rows: list[dict[str, object]]) -> RenderableType:
    from rich.table import Table

    table = Table("kernel", "kind", "points", "median spread", "best rate", title="Measured kernels")
    for row in rows:
        flops = row.get("best_flops_per_s")
        rate = f"{flops:.3g} FLOP/s" if flops else f"{row['best_bytes_per_s']:.3g} B/s"
        table.add_row(str(row["family"]), str(row["kind"]), str(row["points"]), f"{row['median_spread']:.1%}", rate)
    return table
