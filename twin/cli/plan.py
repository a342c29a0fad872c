"""``twin plan``: what to run for this traffic, model, promises and budget."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twin.cli.common import Format, Session, emit, note, plain, session
from twin.cli.plan_question import Kind, TooLong, rate_factor, request_of, share, traffic_of
from twin.cli.plan_table import option_row, plan_table

if TYPE_CHECKING:
    from twin.plan.plan import Plan, PlanRequest
    from twin.spec.scenario import Scenario

_LENGTHS = "Tokens: 1200, or median=1200,p99=6000."
_FORMATS = "Weights: none,fp8,w4a16 (docs/precisions.md); none,fp8 unless given."
_BOUND = "Promise, in ms unless a unit is given; p99 unless p90:500ms."


def plan(
    traffic: Annotated[Path | None, typer.Option(help="Trace file, or a scenario (YAML) with traffic.")] = None,
    model: Annotated[str | None, typer.Option(help="Name (twin model list) or config.json.")] = None,
    budget: Annotated[str | None, typer.Option(help="120k/month, 2.5M/yr, 64gpu or 400kW.")] = None,
    ttft: Annotated[str | None, typer.Option(help=f"Time to first token. {_BOUND}")] = None,
    tpot: Annotated[str | None, typer.Option(help=f"Time per output token. {_BOUND}")] = None,
    e2el: Annotated[str | None, typer.Option(help=f"Whole request. {_BOUND}")] = None,
    rate: Annotated[str | None, typer.Option(help="×2: twice as many requests a second.")] = None,
    growth: Annotated[str | None, typer.Option(help="5%/month, compounded over --horizon.")] = None,
    horizon: Annotated[float, typer.Option(help="Months ahead that --growth reaches.", min=0)] = 0.0,
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
    headroom: Annotated[str, typer.Option(help="Share of capacity left free at the peak.")] = "20%",
    max_model_len: Annotated[int | None, typer.Option(help="Context; the longest request's unless given.")] = None,
    gpu_memory_utilization: Annotated[float | None, typer.Option(help="As vLLM's.")] = None,
    vllm_version: Annotated[str, typer.Option(help="Release whose rules hold: 0.32 or 0.19.")] = "0.32",
    too_long: Annotated[TooLong, typer.Option(help="Requests beyond the model's context.")] = "error",
    quantization: Annotated[str | None, typer.Option(help=_FORMATS)] = None,
    kv_cache_dtype: Annotated[str | None, typer.Option(help="auto,fp8 unless given.")] = None,
    max_accuracy_loss: Annotated[str | None, typer.Option(help="1%: of the average benchmark score.")] = None,
    min_bits: Annotated[float | None, typer.Option(help="Fewest bits of a weight or cache entry.", min=1)] = None,
    fixed: Annotated[Path | None, typer.Option(help="Scenario: judge this deployment instead.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same plan.", min=0)] = 0,
    jobs: Annotated[int, typer.Option(help="Processes; the plan is the same for any number.", min=1)] = 2,
    out: Annotated[Path, typer.Option("--out", help="Folder that the run folder is made in.")] = Path("runs"),
    fmt: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.table,
) -> int:
    """Answer what to run, what it costs and what it will do: up to three options that keep every promise.

    Exit 3 when nothing does; the answer then says which constraint binds.
    """
    from twin.base import InputError
    from twin.plan.fixed import evaluate_fixed
    from twin.plan.plan import solve
    from twin.spec.scenario import load_scenario

    if node_size not in (1, 8):
        raise InputError(f"--node-size is 1 or 8, not {node_size}")
    today = None if fixed is None else load_scenario(fixed)
    recipe = {
        "request_rate": request_rate,
        "users": users,
        "requests_per_user_hour": requests_per_user_hour,
        "input_len": input_len,
        "output_len": output_len,
        "burstiness": burstiness,
        "num_requests": num_requests,
    }
    asked = traffic_of(traffic, recipe, today, rate_factor(rate, growth, horizon), too_long)
    request, wanted = request_of(
        asked,
        today,
        {
            "model": model,
            "gpu": gpu,
            "budget": budget,
            "price": price,
            "price_book": price_book,
            "vllm_version": vllm_version,
            "gpu_memory_utilization": gpu_memory_utilization,
            "quantization": quantization,
            "kv_cache_dtype": kv_cache_dtype,
            "max_accuracy_loss": max_accuracy_loss,
            "min_bits": min_bits,
        },
        {"ttft": ttft, "tpot": tpot, "e2el": e2el},
        max_gpus=max_gpus,
        node_size=node_size,
        headroom=share(headroom, "--headroom"),
        max_model_len=max_model_len,
        seed=seed,
        jobs=min(jobs, os.cpu_count() or 1),
    )
    for text in request.load.trace.notes:
        note(f"{request.load.trace.name}: {text}")
    if today is not None:
        answer = evaluate_fixed(request, today)
    else:
        with _progress() as progress:
            answer = solve(request, progress)
    answer.payload = dict(plain(answer.payload))  # type: ignore[call-overload]
    if answer.recommended is not None:
        folder = _write_run(answer, request, wanted, out)
        note(f"run folder: {folder}")
    shown: Any = answer.payload
    rows = [option_row(item) for item in [*shown["options"], *shown["near_misses"]]]
    emit(answer.payload, fmt=fmt, table=lambda: plan_table(shown), rows=rows)
    return 0 if answer.recommended is not None else 3


def _write_run(answer: Plan, request: PlanRequest, wanted: Scenario, out: Path) -> Path:
    """The run folder of the recommended option; ``plan.json`` holds the very bytes of ``--format json``."""
    from twin.results.run import write_run
    from twin.spec.engine import EngineSettings
    from twin.spec.scenario import Deployment

    outcome = answer.recommended
    assert outcome is not None
    candidate, config = outcome.candidate, outcome.deployment.config
    deployment = Deployment(
        gpu=candidate.gpu,
        tensor_parallel_size=candidate.tensor_parallel_size,
        replicas=candidate.replicas,
        quantization=candidate.quantization,
        kv_cache_dtype=candidate.kv_cache_dtype,
        routing="least_loaded" if outcome.deployment.routing == "least_loaded" else "round_robin",
    )
    engine = EngineSettings(
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=config.max_model_len,
        gpu_memory_utilization=request.gpu_memory_utilization,
        num_gpu_blocks=config.num_gpu_blocks,
        vllm_version=request.vllm_version,
    )
    scenario = wanted.model_copy(update={"deployment": deployment, "engine": engine})
    return write_run(
        out,
        "plan",
        scenario_yaml=scenario.to_yaml(relative_to=out / "plan"),
        vllm_version=request.vllm_version,
        manifest={"seed": request.seed, "profiles": {p.name: p.digest() for p in request.profiles}},
        documents={"summary.json": outcome.summary, "plan.json": answer.payload},
        requests=outcome.table,
    )


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar per stage on stderr; nothing under ``--quiet`` or when stderr is no terminal."""
    from twin.plan.simulator import silent

    if session.get(Session()).quiet or not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=max(done, total))

        yield show
