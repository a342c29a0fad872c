"""``twin simulate``: what a deployment does under its traffic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twin.base import InputError
from twin.cli.common import Format, SeedOption, SetOption, changes, emit, note
from twin.cli.plan_progress import Watching, tell
from twin.cli.plots import PlotOption, check_plot, curve_charts, plotted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from twin.spec.scenario import Scenario


def simulate(
    scenario: Annotated[Path, typer.Argument(help="Scenario (YAML).", show_default=False)],
    overrides: SetOption = None,
    seed: SeedOption = None,
    with_curve: Annotated[
        bool, typer.Option("--load-curve", help="Also latency at other rates: the busiest minutes, slower and faster.")
    ] = False,
    plot: PlotOption = False,
    progress: Annotated[Watching, typer.Option(help="What stderr tells: notes for people, or JSON.")] = "bars",
    out: Annotated[Path, typer.Option("--out", help="Folder that the run folder is made in.")] = Path("runs"),
    fmt: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.table,
) -> None:
    """Replay a scenario's traffic through its deployment and say how it does, with vllm bench serve's names."""
    from twin.cluster.deploy import run_scenario
    from twin.plan.load_curve import load_curve
    from twin.plan.served import Served
    from twin.results.metrics import METRICS, summarize
    from twin.results.money import usd_per_month, usd_per_mtok
    from twin.results.run import write_run
    from twin.results.timeline import timeline
    from twin.spec.precision import precision_notes
    from twin.spec.scenario import load_scenario

    check_plot(plot, fmt)
    question = load_scenario(scenario, changes(overrides, seed))
    stored = question.deployment.quantization or question.model_spec.quantization
    for text in precision_notes(
        question.profile, quantization=stored, kv_cache_dtype=question.deployment.kv_cache_dtype
    ):
        note(text)
    hourly = _usd_per_hour(question)
    simulated = run_scenario(question)
    summary = summarize(simulated, question.slo.request_bounds_s())
    throughput = float(str(summary["output_throughput"]))
    curve = load_curve(Served.of_scenario(question)) if with_curve or plot else None
    payload: dict[str, object] = {
        "scenario": question.name,
        "model": question.model,
        "deployment": question.deployment.model_dump(mode="json"),
        "vllm_version_modelled": question.engine.vllm_version,
        "num_gpus": question.deployment.num_gpus,
        "usd_per_hour": hourly,
        "usd_per_month": None if hourly is None else usd_per_month(hourly),
        "usd_per_mtok": None if hourly is None else usd_per_mtok(hourly, throughput),
        **summary,
        "seed": question.seed,
        **({"load_curve": curve} if curve else {}),
    }
    folder = write_run(
        out,
        question.name,
        scenario_yaml=question.to_yaml(relative_to=out / question.name),
        vllm_version=question.engine.vllm_version,
        manifest={"seed": question.seed, "profiles": {question.profile.name: question.profile.digest()}},
        documents={"summary.json": payload, "timeline.json": timeline(simulated)},
        requests=simulated.table,
    )
    note(f"run folder: {folder}")
    tell(progress, run=folder.name)
    units = {metric.name: metric.unit for metric in METRICS}
    rows = [{"metric": key, "value": value} for key, value in payload.items() if not isinstance(value, dict)]
    drawn = curve_charts(curve) if plot else []
    emit(payload, fmt=fmt, table=lambda: plotted(_table(payload, units), drawn), rows=rows)


def _usd_per_hour(question: Scenario) -> float | None:
    """``None`` for what has no price: hardware that one has, not rents, can be simulated all the same."""
    from twin.spec.prices import load_price_book

    try:
        price = load_price_book(None).price(question.deployment.gpu, question.price)
    except InputError as error:
        note(f"no cost: {error}")
        return None
    return question.deployment.num_gpus * price.value


def _table(payload: dict[str, object], units: dict[str, str]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    from twin.show.formats import counted

    where = payload["deployment"]
    assert isinstance(where, dict)
    changes = where.get("hardware")
    changed = f" with {', '.join(f'{name} {change}' for name, change in _flat(changes))}" if changes else ""
    head = (
        f"{payload['scenario']}: {payload['model']} on {where['replicas']} × {where['gpu']}{changed} TP"
        f" {where['tensor_parallel_size']}, vLLM {payload['vllm_version_modelled']}:"
        f" {counted(int(str(payload['completed'])), 'request')}, {payload['load']}"
    )
    latency = Table(title=head, title_justify="left")
    for name in ("ms", "mean", "p50", "p90", "p95", "p99", "max"):
        latency.add_column(name, justify="left" if name == "ms" else "right")
    for metric in ("ttft", "tpot", "itl", "e2el", "queue"):
        values = [payload[f"{statistic}_{metric}_ms"] for statistic in ("mean", "p50", "p90", "p95", "p99", "max")]
        latency.add_row(metric.upper(), *("–" if v is None else f"{float(str(v)):,.1f}" for v in values))
    rest = Table(show_header=False)
    for name in ("request_throughput", "output_throughput", "request_goodput", "slo_attainment", "mean_num_running",
                 "max_num_waiting", "mean_kv_cache_usage", "peak_kv_cache_usage", "busy", "useful_slots",
                 "num_preemptions",
                 "prefix_cache_hit_rate"):  # fmt: skip
        value = float(str(payload[name]))
        rest.add_row(name, f"{value:.1%}" if units[name] == "share" else f"{value:,.2f} {units[name]}")
    cost = "no price"
    if payload["usd_per_hour"] is not None:
        cost = f"${payload['usd_per_hour']:,.2f}/h, ${payload['usd_per_mtok']:,.2f} per Mtok of output"
    rest.add_row("cost", cost)
    return Group(latency, rest, "Times are on the server clock: network time is not in them.")


def _flat(changes: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Changes to the hardware by dotted name."""
    found: list[tuple[str, object]] = []
    for name, value in changes.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found
