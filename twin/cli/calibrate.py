"""``twin calibrate``: hardware profiles from measured kernels."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twin.cli.common import Format, emit, note, write_atomic

if TYPE_CHECKING:
    from rich.console import RenderableType

    from twin.spec.hardware import HardwareProfile

calibrate_app = typer.Typer(help="Fit hardware profiles to measurements.", no_args_is_help=True)

COLUMNS = (
    "gpu",
    "kernel",
    "serving_mape",
    "serving_bias",
    "serving_n",
    "overall_mape",
    "overall_bias",
    "overall_n",
)


@calibrate_app.callback()
def calibrate() -> None:
    """Fit hardware profiles to measurements."""


@calibrate_app.command("import")
def import_(
    database: Annotated[
        Path | None,
        typer.Option(help="Folder of the measured-kernel database; the installed aiconfigurator-core without it."),
    ] = None,
    gpu: Annotated[list[str] | None, typer.Option(help="Only this GPU; may be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the profiles.")] = Path("hwprofiles"),
    date: Annotated[str | None, typer.Option(help="Date that the profiles carry; today without it.")] = None,
    fmt: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.table,
) -> None:
    """Fit one profile per GPU to the measured-kernel database and report the held-out errors of each kernel.

    A host section that a profile in OUT already has is kept. Each profile is written whole or not at all.
    """
    _require_extra()
    from datetime import UTC, datetime

    from calibrate.importers import find_database
    from calibrate.profiles import build_profile, importable, keep_host, to_yaml

    systems = find_database(database)
    stamp = date or datetime.now(UTC).date().isoformat()
    rows: list[dict[str, object]] = []
    for name in gpu or importable(systems):
        profile = keep_host(build_profile(systems, name, stamp, note), out / f"{name}.yaml")
        write_atomic(out / f"{name}.yaml", to_yaml(profile))
        note(f"{name}: profile written")
        rows += error_rows(profile)
    emit({"kernels": rows}, fmt=fmt, table=lambda: _table(rows), rows=rows)


@calibrate_app.command("fit")
def fit(
    runs: Annotated[Path, typer.Option(help="Table of closed-loop runs with measured means (CSV).")],
    out: Annotated[Path, typer.Option(help="Folder of the profiles; their host sections are rewritten.")] = Path(
        "hwprofiles"
    ),
    date: Annotated[str | None, typer.Option(help="Date that the coefficients carry; today without it.")] = None,
    fmt: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.table,
) -> None:
    """Fit what a running engine adds to its kernels, with the simulation in the loop and the kernels fixed.

    Profiles in OUT without runs of their own take the mean of the others, marked assumed.
    """
    _require_extra()
    from datetime import UTC, datetime

    from calibrate.host import fit_hosts
    from calibrate.profiles import to_yaml
    from twin.spec.hardware import load_profile

    stamp = date or datetime.now(UTC).date().isoformat()
    profiles = {path.stem: load_profile(path) for path in sorted(out.glob("*.yaml")) if path.stem != "prices"}
    sections = fit_hosts(runs, note, stamp, list(profiles))
    for name, section in sections.items():
        write_atomic(out / f"{name}.yaml", to_yaml(profiles[name].model_copy(update={"host": section})))
    rows: list[dict[str, object]] = [
        {"gpu": name, **section.model_dump(include={"tpot_error", "ttft_error", "source"})}
        for name, section in sections.items()
    ]
    emit({"hosts": rows}, fmt=fmt, table=lambda: _plain_table(rows), rows=rows)


def _plain_table(rows: list[dict[str, object]]) -> RenderableType:
    from rich.table import Table

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:.1%}" if isinstance(value, float) else str(value) for value in row.values()))
    return table


def error_rows(profile: HardwareProfile) -> list[dict[str, object]]:
    """One row per fitted kernel of a profile: its held-out errors on serving shapes and on all."""
    kernels = profile.kernels
    attention = (
        ("decode attention", kernels.decode_attention),
        ("prefill attention", kernels.prefill_attention),
    )
    named = [
        *((f"gemm {dtype}", kernel.held_out) for dtype, kernel in kernels.gemm.items()),
        *((f"{what} {fit.kv} d{fit.head_dim}", fit.kernel.held_out) for what, fits in attention for fit in fits),
        *((f"all-reduce {fit.num_gpus} GPUs", fit.held_out) for fit in kernels.all_reduce),
        ("element-wise", kernels.elementwise.held_out),
    ]
    return [
        {
            "gpu": profile.name,
            "kernel": name,
            **{f"serving_{key}": value for key, value in found.serving.model_dump().items()},
            **{f"overall_{key}": value for key, value in found.overall.model_dump().items()},
        }
        for name, found in named
        if found is not None
    ]


def _require_extra() -> None:
    from twin.base import InputError

    if importlib.util.find_spec("scipy") is None:
        raise InputError("twin calibrate needs SciPy: pip install 'twin[calibrate]'")


def _table(rows: list[dict[str, object]]) -> RenderableType:
    from rich.table import Table

    table = Table(title="Error on shapes left out of the fit")
    for column in COLUMNS:
        table.add_column(column.replace("_", " "), justify="left" if column in COLUMNS[:2] else "right")
    for row in rows:
        table.add_row(*(f"{v:.1%}" if isinstance(v := row[c], float) else str(v) for c in COLUMNS))
    return table
