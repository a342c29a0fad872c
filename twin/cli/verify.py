"""``twin verify``: start the engine that is here, drive it with the scenario's requests, and compare with the simulation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twin.cli.common import Format, SeedOption, SetOption, changes, emit, note

if TYPE_CHECKING:
    from rich.console import RenderableType

    from twin.spec.scenario import Scenario


def verify(
    what: Annotated[Path, typer.Argument(metavar="SCENARIO|RUN", help="Scenario (YAML), or a run folder.")],
    option: Annotated[str | None, typer.Option(help="Option of a plan's run folder; the recommended one.")] = None,
    base_url: Annotated[str | None, typer.Option(help="A vLLM server that runs already; nothing is started.")] = None,
    load: Annotated[
        str | None, typer.Option(help="Shares of the engine's predicted capacity: 20%,50%,80%. The scenario's own.")
    ] = None,
    duration: Annotated[str, typer.Option(help="Of the slice of the trace, at each load.")] = "60s",
    python: Annotated[
        Path | None, typer.Option(help="A Python that has vLLM; this one, or make oracle's, without it.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Hardware profile of this machine: a name or a YAML file.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of a checkpoint; made-up weights without it.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the server that is started; a free one.")] = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder that the run folder is made in.")] = Path("runs"),
    fmt: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.table,
) -> int:
    """Run a scenario on a real vLLM here, simulate the very same requests, and say whether they agree.

    Without the scenario's hardware a small model of the same family stands in on what is here. Exit 4 where a prediction is
    off by more than the scenario's `verify` thresholds.
    """
    from twin.base import InputError, parse_duration
    from twin.trust.verify import Asked, verify

    scenario = _scenario(what, option, changes(overrides, seed))
    if load is not None and scenario.client is not None:
        raise InputError("a closed loop has no load to choose: leave --load or the scenario's client out")
    asked = Asked(
        loads=() if load is None else tuple(_load(item) for item in load.split(",")),
        duration_s=parse_duration(duration, what="--duration", bare="s"),
        base_url=base_url,
        port=port,
        python=python,
        profile=profile,
        weights=weights,
        out=out,
    )
    if asked.duration_s <= 0:
        raise InputError(f"--duration is above 0 s, not {duration}")
    payload, folder = verify(scenario, asked, note)
    note(f"run folder: {folder}")
    rows = [{"load": at["name"], **row} for at in payload["loads"] for row in at["metrics"]]
    emit(payload, fmt=fmt, table=lambda: _table(payload), rows=rows)
    return 0 if payload["verdict"] == "pass" else 4


def _load(text: str) -> float:
    """``80%`` or ``0.8`` → 0.8."""
    from twin.base import InputError, parse_share

    share = parse_share(text, what="--load")
    if share is None or share <= 0:
        raise InputError(f"--load: {text.strip()!r} is not a share above 0", allowed=["80%", "0.8"])
    return share


def _scenario(what: Path, option: str | None, overrides: list[str]) -> Scenario:
    """The scenario of a file or a run folder, with another option of its plan if one is named."""
    from twin.base import InputError
    from twin.spec.scenario import load_scenario

    if what.is_dir() and not (what / "scenario.yaml").is_file():
        raise InputError("not a run folder: it has no scenario.yaml", where=str(what))
    if option is None:
        return load_scenario(what / "scenario.yaml" if what.is_dir() else what, overrides)
    if not (what / "plan.json").is_file():
        raise InputError("--option names one of a plan's, and this is no plan's run folder", where=str(what))
    return load_scenario(what / "scenario.yaml", [*_changes(what / "plan.json", option), *overrides])


def _changes(plan: Path, option: str) -> list[str]:
    """What an option's deployment is, as changes to the scenario of the recommended one."""
    import json

    from twin.base import InputError, unknown_name

    try:
        answer: dict[str, Any] = json.loads(plan.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError("not a plan: not valid JSON", where=str(plan)) from None
    known = {item["id"]: item for item in [*answer["options"], *answer["near_misses"]]}
    known |= {name: item for item in answer["options"] for name in item["names"]}
    if option not in known:
        raise unknown_name("option", option, known, where=str(plan))
    chosen = known[option]
    fields = {
        "deployment": ("gpu", "tensor_parallel_size", "replicas", "quantization", "kv_cache_dtype", "routing"),
        "engine": ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "num_gpu_blocks"),
    }
    return [
        f"{section}.{name}={'null' if chosen[name] is None else chosen[name]}"
        for section, names in fields.items()
        for name in names
    ]


def _table(payload: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    parts: list[RenderableType] = [
        f"Verified: {payload['words']}; vLLM {payload['vllm_version']}, simulated as {payload['vllm_version_modelled']}."
    ]
    parts += [f"Changed: {', '.join(payload['changed'])}."] if payload["changed"] else []
    for at in payload["loads"]:
        table = Table(title=_head(at), title_justify="left")
        for name in ("", "predicted", "measured", "error", "within", "holds"):
            table.add_column(name, justify="left" if name == "" else "right")
        for row in at["metrics"]:
            table.add_row(
                _shown(row["metric"]),
                *(_figure(row["metric"], row[key]) for key in ("predicted", "measured")),
                _percent(row["error"]),
                "" if row["threshold"] is None else f"{row['threshold']:.0%}",
                {None: "", True: "yes", False: "NO"}[row["holds"]],
            )
        parts.append(table)
    moved = payload["drift"]["moved"]
    parts.append(
        f"A small batch that is always the same took up to {moved:.0%} longer at one time than at another: the machine's drift."
    )
    parts.append(f"Verdict: {payload['verdict']}{': ' + payload['why'] if payload['why'] else ''}")
    return Group(*parts)


def _head(at: dict[str, Any]) -> str:
    load = f"{at['concurrency']} clients" if at["load"] is None and at["concurrency"] else at["name"]
    reached = "" if at["load_reached"] is None else f", reached {at['load_reached']:.0%}"
    failed = f", {at['failed']} failed" if at["failed"] else ""
    return (
        f"{load}{reached}: {at['requests']} requests{failed}, lengths ×{at['length_factor']:g}, rate"
        f" ×{at['rate_factor']:.3g},"
        f" sent late by {at['started_late_ms']['p50']:.1f} ms (most {at['started_late_ms']['max']:.0f})"
    )


def _shown(name: str) -> str:
    return name.removesuffix("_ms").replace("_", " ") + (" ms" if name.endswith("_ms") else "")


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if name.endswith("usage") else f"{value:,.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1%}"
