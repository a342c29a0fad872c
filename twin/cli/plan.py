"""``twin plan``: what to run for this traffic, model, promises and budget."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twin.cli.common import Format, emit, note, plain
from twin.cli.plan_progress import Watching, tell, watched
from twin.cli.plan_question import OF_RISK, Executor, Kind, TooLong, annexes_of, request_of
from twin.cli.plan_run import Search, remembered, search_in, write_plan
from twin.cli.plan_table import option_row, plan_table
from twin.cli.plots import PlotOption, check_plot, plan_charts, plotted

if TYPE_CHECKING:
    from twin.plan.plan import Plan
    from twin.plan.request import PlanRequest
    from twin.spec.scenario import Scenario

_LENGTHS = "Tokens: 1200, or median=1200,p99=6000."
_FORMATS = "Weights: none,fp8,w4a16 (docs/precisions.md); none,fp8 unless given."
_CLASS = "Requests with promises of their own, the first that matches: chat:input<=4000,ttft=500ms,tpot=p90:50ms."
_OBJECTIVE = "What is traded off, of cost,p99_ttft,…,goodput,throughput,energy; cost and latency unless given."
_WEIGHTS = "What recommends: peak:throughput=3,latency=1; windows peak, trough, all, 9-17; also of cost, energy."
_BOUND = "Promise, in ms unless a unit is given; p99 unless p90:500ms."


def plan(
    traffic: Annotated[Path | None, typer.Option(help="Trace file, or a scenario (YAML) with traffic.")] = None,
    model: Annotated[str | None, typer.Option(help="Name (twin model list) or config.json.")] = None,
    budget: Annotated[str | None, typer.Option(help="120k/month, 2.5M/yr, 64gpu or 400kW.")] = None,
    ttft: Annotated[str | None, typer.Option(help=f"Time to first token. {_BOUND}")] = None,
    tpot: Annotated[str | None, typer.Option(help=f"Time per output token. {_BOUND}")] = None,
    e2el: Annotated[str | None, typer.Option(help=f"Whole request. {_BOUND}")] = None,
    rate: Annotated[str | None, typer.Option(help="×2: twice as many requests a second.")] = None,
    growth: Annotated[str | None, typer.Option(help="5%/month, 60%/yr, or with its error 5%±2%/month.")] = None,
    horizon: Annotated[
        float, typer.Option(help="Plan for the traffic of so many months ahead, by --growth.", min=0)
    ] = 0.0,
    request_rate: Annotated[float | None, typer.Option(help="Without a trace: requests per second.")] = None,
    users: Annotated[float | None, typer.Option(help="Without a trace: number of users.")] = None,
    requests_per_user_hour: Annotated[float | None, typer.Option(help="Requests of one user in an hour.")] = None,
    input_len: Annotated[str | None, typer.Option(help=_LENGTHS)] = None,
    output_len: Annotated[str | None, typer.Option(help=_LENGTHS)] = None,
    burstiness: Annotated[float | None, typer.Option(help="1 is Poisson, below is burstier.")] = None,
    num_requests: Annotated[int | None, typer.Option(help="Half an hour's, 1,000 to 20,000.", min=2)] = None,
    gpu: Annotated[str | None, typer.Option(help="a,b (twin hardware list); all unless given.")] = None,
    max_gpus: Annotated[int | None, typer.Option(help="Most GPUs of an option.", min=1)] = None,
    node_size: Annotated[int, typer.Option(help="8 buys whole nodes, 1 single GPUs.")] = 1,
    price_book: Annotated[Path | None, typer.Option(help="YAML with your prices.")] = None,
    price: Annotated[Kind | None, typer.Option(help="Kind of price; on_demand unless given.")] = None,
    region: Annotated[str | None, typer.Option(help="Prices of this region of the price book only.")] = None,
    headroom: Annotated[str, typer.Option(help="Share of capacity left free at the peak.")] = "20%",
    max_model_len: Annotated[int | None, typer.Option(help="Context; the longest request's unless given.")] = None,
    gpu_memory_utilization: Annotated[float | None, typer.Option(help="As vLLM's.")] = None,
    vllm_version: Annotated[str, typer.Option(help="Release whose rules hold: 0.32 or 0.19.")] = "0.32",
    too_long: Annotated[TooLong, typer.Option(help="Requests beyond the model's context.")] = "error",
    quantization: Annotated[str | None, typer.Option(help=_FORMATS)] = None,
    kv_cache_dtype: Annotated[str | None, typer.Option(help="auto,fp8 unless given.")] = None,
    max_accuracy_loss: Annotated[str | None, typer.Option(help="1%: of the average benchmark score.")] = None,
    min_bits: Annotated[float | None, typer.Option(help="Fewest bits of a weight or cache entry.", min=1)] = None,
    max_num_seqs: Annotated[int | None, typer.Option(help="Most seats of a replica.", min=1)] = None,
    tensor_parallel_size: Annotated[str | None, typer.Option(help="Only these: 2,4.")] = None,
    request_class: Annotated[list[str] | None, typer.Option("--class", help=_CLASS)] = None,
    objective: Annotated[str | None, typer.Option(help=_OBJECTIVE)] = None,
    weights: Annotated[list[str] | None, typer.Option(help=_WEIGHTS)] = None,
    fixed: Annotated[Path | None, typer.Option(help="Scenario: judge this deployment instead.")] = None,
    algorithm: Annotated[str, typer.Option(help="How to search: auto, enumerate, nsga2, nsga3 or mobo.")] = "auto",
    risk: Annotated[
        bool, typer.Option("--risk", help="How sure the options are: possible worlds, growth, failures.")
    ] = False,
    worlds: Annotated[int, typer.Option(help="Possible worlds for --risk.", min=8, max=4096)] = OF_RISK["worlds"],
    confidence: Annotated[str, typer.Option(help="With --risk, in how many worlds the recommended holds.")] = OF_RISK[
        "confidence"
    ],
    explain: Annotated[
        str | None, typer.Option(help="Option (id, or recommended …): what binds, what a step up buys.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same plan.", min=0)] = 0,
    jobs: Annotated[int, typer.Option(help="Processes; the plan is the same for any number.", min=1)] = 2,
    executor: Annotated[Executor, typer.Option(help="Where simulations run.")] = "local",
    ray_address: Annotated[str | None, typer.Option(help="host:port of a Ray cluster, for --executor ray.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the search of this folder, and its question.")] = None,
    progress: Annotated[
        Watching, typer.Option(help="On stderr: bars of a terminal, or a JSON object a line.")
    ] = "bars",
    plot: PlotOption = False,
    out: Annotated[Path, typer.Option("--out", help="Folder that the run folder is made in.")] = Path("runs"),
    fmt: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.table,
) -> int:
    """Answer what to run, what it costs and what it will do: up to three options that keep every promise.

    Exit 3 when nothing does; the answer then says which constraint binds. Ctrl-C ends the search with what it has.
    """
    return _answer(remembered(locals(), _defaults(), resume))


def _defaults() -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(plan).parameters.items()}


def _answer(flags: Mapping[str, Any]) -> int:
    """The question that ``flags`` ask, answered on stdout."""
    from twin.plan.fixed import evaluate_fixed
    from twin.plan.plan import solve
    from twin.spec.prices import load_price_book
    from twin.spec.scenario import load_scenario

    fmt, plot = flags["fmt"], flags["plot"]
    check_plot(plot, fmt)
    today = None if flags["fixed"] is None else load_scenario(flags["fixed"])
    book = load_price_book(flags["price_book"])
    request, wanted = request_of(flags, today, book)
    asked = annexes_of(flags, wanted, book)
    for text in request.load.trace.notes:
        note(f"{request.load.trace.name}: {text}")
    if today is not None:
        answer = evaluate_fixed(request, today, asked)
        _finish(answer, request, wanted, flags, None)
    else:
        with (
            search_in(flags["out"], flags, request.facets, flags["resume"]) as search,
            watched(search.journal, flags["progress"]) as running,
        ):
            tell(flags["progress"], search=search.folder.name)
            answer = solve(request, running, asked)
            _finish(answer, request, wanted, flags, search)
    shown: Any = answer.payload
    rows = [option_row(item) for item in [*shown["options"], *shown["near_misses"]]]
    drawn = plan_charts(shown) if plot else []
    emit(answer.payload, fmt=fmt, table=lambda: plotted(plan_table(shown), drawn), rows=rows)
    return 130 if answer.interrupted else 0 if answer.recommended is not None else 3


def _finish(
    answer: Plan, request: PlanRequest, wanted: Scenario, flags: Mapping[str, Any], search: Search | None
) -> None:
    answer.payload = dict(plain(answer.payload))  # type: ignore[call-overload]
    folder = write_plan(answer, request, wanted, flags, search)
    if folder is not None:
        note(f"run folder: {folder}")
        tell(flags["progress"], run=folder.name)
