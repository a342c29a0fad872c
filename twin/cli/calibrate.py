"""``twin calibrate``: hardware profiles from measurements, each with the error it has on what it was not fitted to."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twin.base import InputError
from twin.cli.calibrate_engine import engine
from twin.cli.calibrate_kernels import kernels
from twin.cli.common import Format, emit, note, write_atomic

if TYPE_CHECKING:
    from rich.console import RenderableType

    from calibrate.engine_host import EngineErrors
    from calibrate.judge import Judged
    from twin.spec.hardware import HardwareProfile

calibrate_app = typer.Typer(help="Measure, and fit hardware profiles to measurements.", no_args_is_help=True)
calibrate_app.command("kernels")(kernels)
calibrate_app.command("engine")(engine)

PROFILES = Path("hwprofiles")
OutOption = Annotated[Path, typer.Option(help="Folder of the profiles.")]
DateOption = Annotated[str | None, typer.Option(help="Date that the figures carry; today without it.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result.")]


@calibrate_app.callback()
def calibrate() -> None:
    """Measure, and fit hardware profiles to measurements."""


@calibrate_app.command("import")
def import_(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Logs of a vLLM server: results of vllm bench serve --save-detailed, engine stamps, its text."
        ),
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Table of runs that the results are added to (CSV).")] = None,
    system: Annotated[str | None, typer.Option(help="GPU that the results were measured on.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of the results; what they name without it.")] = None,
    precision: Annotated[str, typer.Option(help="bf16 or fp8 weights.")] = "bf16",
    kv_cache_dtype: Annotated[str, typer.Option(help="As vLLM's.")] = "auto",
    tp_size: Annotated[int, typer.Option(help="Tensor-parallel size of the results.", min=1)] = 1,
    vllm_version: Annotated[str, typer.Option(help="Release that the results were measured on.")] = "",
    database: Annotated[
        Path | None,
        typer.Option(help="Folder of the measured-kernel database; the installed aiconfigurator-core without it."),
    ] = None,
    gpu: Annotated[list[str] | None, typer.Option(help="Only this GPU; may be repeated.")] = None,
    out: OutOption = PROFILES,
    report: Annotated[Path | None, typer.Option(help="Folder for a one-page fit report (PDF) of each GPU.")] = None,
    date: DateOption = None,
    fmt: FormatOption = Format.table,
) -> None:
    """Fit one profile per GPU to the measured-kernel database and report the held-out errors of each kernel.

    A host section that a profile in OUT already has is kept. Each profile is written whole or not at all.
    Given logs of a vLLM server instead, tell what is in them; with --runs, write its benchmark's results as a table of runs
    for `twin calibrate fit --runs`.
    """
    if results and runs is None:
        return _show_logs(results, fmt)
    if runs is not None:
        facts: dict[str, object] = {
            "system": system, "model": model, "precision": precision, "tp_size": tp_size, "vllm_version": vllm_version,
            "kv_cache_dtype": kv_cache_dtype,
        }  # fmt: skip
        return _import_results(results or [], runs, facts, fmt)
    _require_scipy()
    from calibrate.importers import find_database
    from calibrate.profile_yaml import to_yaml
    from calibrate.profiles import build_profile, importable, keep_host

    systems = find_database(database)
    rows: list[dict[str, object]] = []
    for name in gpu or importable(systems):
        judged: list[Judged] = []
        built = build_profile(systems, name, _today(date), note, judged)
        profile = keep_host(built, out / f"{name}.yaml")
        write_atomic(out / f"{name}.yaml", to_yaml(profile))
        note(f"{name}: profile written")
        if report is not None:
            _report(report / f"{name}.pdf", profile, judged)
        rows += error_rows(profile)
    emit({"kernels": rows}, fmt=fmt, table=lambda: _kernel_table(rows), rows=rows)


def _show_logs(logs: list[Path], fmt: Format) -> None:
    """Requests become one row per run, a server's text one row of what it says of itself and of its load."""
    from calibrate.server_text import read_server_log
    from twin.trust.request_log import read_requests, summary

    rows: list[dict[str, object]] = []
    for path in logs:
        if path.suffix in (".json", ".csv"):
            table = summary(read_requests(path)).to_dict("records")
            rows += [{"log": path.name} | {str(name): value for name, value in row.items()} for row in table]
        else:
            found = read_server_log(path)
            busy = found.intervals[found.intervals["running"] > 0]
            means = {name: busy[name].mean() for name in ("generation_tokens_per_s", "running", "kv_cache_usage")}
            rows.append({"log": path.name, **found.facts, **{f"mean_{name}": value for name, value in means.items()}})
    emit({"logs": rows}, fmt=fmt, table=lambda: _facts_table(rows), rows=rows)


def _facts_table(rows: list[dict[str, object]]) -> RenderableType:
    """One column per log, as there are more facts than fit side by side."""
    from rich.table import Table

    table = Table("", *(str(row.get("run", row.get("log", row.get("source")))) for row in rows))
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(name, "") for row in rows]
        table.add_row(name, *(f"{value:,.4g}" if isinstance(value, float) else str(value) for value in values))
    return table


def _import_results(results: list[Path], runs: Path | None, facts: dict[str, object], fmt: Format) -> None:
    from calibrate.server_logs import COLUMNS, closed_loop_row
    from twin.cli.common import csv_text
    from twin.spec.hardware import load_profile
    from twin.trust.table import read_table

    if not results or runs is None or facts["system"] is None:
        raise InputError("results become runs with --runs TABLE and --system GPU")
    load_profile(str(facts["system"]))
    rows = [closed_loop_row(path, **facts) for path in results]  # type: ignore[arg-type]
    before = read_table(runs)[1] if runs.exists() else []
    known = {row.get("source") for row in before}
    new = [row for row in rows if row["source"] not in known]
    table = [{name: row.get(name, "") for name in COLUMNS} | row for row in [*before, *new]]
    write_atomic(runs, csv_text(table))
    note(f"{len(new)} runs added to {runs}, {len(table)} in all")
    emit({"runs": rows}, fmt=fmt, table=lambda: _facts_table(rows), rows=rows)


@calibrate_app.command("fit")
def fit(
    kernels: Annotated[Path | None, typer.Option(help="Kernel timings (twin calibrate kernels).")] = None,
    engine: Annotated[
        list[Path] | None, typer.Option(help="Step log (twin calibrate engine); may be repeated.")
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Closed-loop runs with measured means (CSV).")] = None,
    name: Annotated[str | None, typer.Option(help="Profile that --kernels makes or --engine completes.")] = None,
    out: OutOption = PROFILES,
    report: Annotated[Path | None, typer.Option(help="One-page fit report with plots (pdf, png or svg).")] = None,
    date: DateOption = None,
    fmt: FormatOption = Format.table,
) -> None:
    """Fit a profile's kernels to timings, and what a running engine adds to them to its steps or to whole runs.

    With --runs every profile in OUT gets its host section, fitted with the simulation in the loop to the runs of all GPUs
    together; where the table has no runs of a GPU it is marked assumed.
    """
    _require_scipy()
    if runs is not None and not (kernels or engine):
        return _fit_runs(runs, out, _today(date), fmt)
    if runs is not None or name is None or not (kernels or engine):
        raise InputError("give --runs TABLE, or --name NAME with --kernels LOG, --engine LOG or both")
    return _fit_measured(name, kernels, engine or [], out, report, _today(date), fmt)


def _fit_measured(
    name: str, kernels: Path | None, engine: list[Path], out: Path, report: Path | None, date: str, fmt: Format
) -> None:
    """A profile from our own measurements: kernels, then the engine on top of them."""
    from calibrate.engine_host import fit_engine
    from calibrate.measured import profile_from_log
    from calibrate.profile_yaml import to_yaml
    from calibrate.profiles import keep_host
    from calibrate.step_log import read_steps
    from twin.spec.hardware import load_profile

    path = out / f"{name}.yaml"
    judged: list[Judged] = []
    profile = load_profile(path) if kernels is None else keep_host(profile_from_log(kernels, name, date, judged), path)
    found: list[EngineErrors] = []
    if engine:
        host, found, steps = fit_engine(profile, [read_steps(log) for log in engine], date, note)
        profile = profile.model_copy(update={"host": host})
        judged += steps
    write_atomic(path, to_yaml(profile))
    note(f"{name}: profile written")
    if report is not None:
        _report(report, profile, judged)
    rows = error_rows(profile)
    payload = {"kernels": rows, "engine": [_engine_payload(item) for item in found]}
    emit(payload, fmt=fmt, table=lambda: _measured_table(rows, found), rows=rows)


def _fit_runs(runs: Path, out: Path, date: str, fmt: Format) -> None:
    from calibrate.host import fit_hosts
    from calibrate.profile_yaml import to_yaml
    from twin.spec.hardware import load_profile

    found = {path.stem: load_profile(path) for path in sorted(out.glob("*.yaml")) if path.stem != "prices"}
    profiles = {name: profile for name, profile in found.items() if profile.device == "gpu"}
    if not profiles:
        raise InputError("no profiles to fit a host to", where=str(out))
    sections = fit_hosts(runs, note, date, list(profiles))
    for name, (host, older) in sections.items():
        changed = profiles[name].model_copy(update={"host": host, "older_host": older})
        write_atomic(out / f"{name}.yaml", to_yaml(changed))
    rows: list[dict[str, object]] = [
        {
            "gpu": name,
            "vllm_version": section.vllm_version,
            "origin": section.step_s.origin,
            **section.model_dump(include={"tpot_error", "ttft_error", "source"}),
        }
        for name, found in sections.items()
        for section in found
        if section is not None
    ]
    emit({"hosts": rows}, fmt=fmt, table=lambda: _plain_table(rows), rows=rows)


def error_rows(profile: HardwareProfile) -> list[dict[str, object]]:
    """One row per fitted kernel of a profile: its held-out errors on serving shapes and on all."""
    from twin.cost.parts import parts

    return [
        {
            "gpu": profile.name,
            "kernel": part.name,
            **{f"serving_{key}": value for key, value in part.held_out.serving.model_dump().items()},
            **{f"overall_{key}": value for key, value in part.held_out.overall.model_dump().items()},
            "origin": part.provenance.origin,
        }
        for part in parts(profile)
        if part.held_out is not None
    ]


def engine_rows(found: list[EngineErrors]) -> list[dict[str, object]]:
    """Errors of whole steps of test runs, one row per mode and load, and one for all loads."""
    rows: list[dict[str, object]] = []
    for item in found:
        test = item.test
        rows += [{"mode": item.mode, **row, "load": f"{row['load']:.0%}"} for row in item.loads]
        rows.append({"mode": item.mode, "load": "all", "steps": test.n, "mape": test.mape, "bias": test.bias})
    return rows


def _engine_payload(item: EngineErrors) -> dict[str, object]:
    fit = item.fit
    return {
        "mode": item.mode,
        "coefficients": dict(zip(fit.names, fit.values.tolist(), strict=True)),
        "held_out": fit.held_out,
        "test": item.test,
        "loads": item.loads,
        "noise_floor": item.noise_floor,
        "drift": item.drift,
    }


def _require_scipy() -> None:
    if importlib.util.find_spec("scipy") is None:
        raise InputError("fitting needs SciPy: pip install 'twin[kernels]' or 'twin[calibrate]'")


def _today(date: str | None) -> str:
    from datetime import UTC, datetime

    return date or datetime.now(UTC).date().isoformat()


def _report(path: Path, profile: HardwareProfile, judged: list[Judged]) -> None:
    from calibrate.report import write_report

    write_report(path, profile, judged)
    note(f"{profile.name}: report written to {path}")


def _measured_table(rows: list[dict[str, object]], found: list[EngineErrors]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    steps = Table(title="Whole steps of runs that the fit has not seen")
    names = ("mode", "load", "steps", "mape", "bias")
    for name in names:
        steps.add_column(name, justify="left" if name == "mode" else "right")
    for row in engine_rows(found):
        steps.add_row(*(_cell(row[name]) for name in names))
    notes = [
        f"{item.mode.replace('_', ' ')}: {', '.join(item.fit.names)}; 90 % interval holds {item.test.coverage90:.0%};"
        f" identical steps differ by {item.noise_floor:.1%}, the machine drifted from ×{item.drift[0]:.2f} to"
        f" ×{item.drift[1]:.2f}"
        for item in found
    ]
    return Group(_kernel_table(rows), steps, *notes) if found else _kernel_table(rows)


COLUMNS = (
    "gpu",
    "kernel",
    "serving_mape",
    "serving_bias",
    "serving_coverage90",
    "serving_n",
    "overall_mape",
    "overall_n",
)


def _kernel_table(rows: list[dict[str, object]]) -> RenderableType:
    from rich.table import Table

    table = Table(title="Error on shapes left out of the fit")
    for column in COLUMNS:
        heading = column.replace("coverage90", "in 90 %").replace("_", " ")
        table.add_column(heading, justify="left" if column in COLUMNS[:2] else "right")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in COLUMNS))
    return table


def _plain_table(rows: list[dict[str, object]]) -> RenderableType:
    from rich.table import Table

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    return table


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if isinstance(value, float) else str(value)
