"""``twin plan``: what to run for this traffic, model, promises and budget."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from twin.cli.common import Format, Session, emit, note, plain, session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from twin.plan.plan import Plan, PlanRequest
    from twin.spec.scenario import Scenario, Traffic

TooLong = Literal["error", "drop", "truncate"]
Kind = Literal["on_demand", "reserved", "spot", "owned"]

_LENGTHS = "Tokens: 1200, or median=1200,p99=6000."
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
    gpu_memory_utilization: Annotated[float, typer.Option(help="As vLLM's.")] = 0.92,
    too_long: Annotated[TooLong, typer.Option(help="Requests beyond the model's context.")] = "error",
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
    asked = _traffic(traffic, recipe, today, _factor(rate, growth, horizon), too_long)
    request, wanted = _request(
        asked,
        today,
        {"model": model, "gpu": gpu, "budget": budget, "price": price, "price_book": price_book},
        {"ttft": ttft, "tpot": tpot, "e2el": e2el},
        max_gpus=max_gpus,
        node_size=node_size,
        headroom=_headroom(headroom),
        max_model_len=max_model_len,
        gpu_memory_utilization=gpu_memory_utilization,
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
    rows = [_row(item) for item in [*_items(answer.payload, "options"), *_items(answer.payload, "near_misses")]]
    emit(answer.payload, fmt=fmt, table=lambda: _table(answer.payload), rows=rows)
    return 0 if answer.recommended is not None else 3


def _factor(rate: str | None, growth: str | None, months: float) -> float:
    """``×2`` and ``5%/month`` over ``months`` as one factor on the rate."""
    from twin.base import InputError, split_number
    from twin.traffic.flags import parse_rate_factor

    factor = 1.0 if rate is None else parse_rate_factor(rate)
    if growth is None:
        return factor
    value, unit = split_number(growth, what="--growth")
    periods = {"%": 1.0, "%/month": 1.0, "%/yr": 12.0, "%/year": 12.0}
    if unit.replace(" ", "") not in periods or value <= -100:
        raise InputError(f"--growth: {growth!r} is not a growth", allowed=["5%/month", "60%/yr"])
    return float(factor * (1 + value / 100) ** (months / periods[unit.replace(" ", "")]))


def _headroom(text: str) -> float:
    from twin.base import InputError, split_number

    value, unit = split_number(text, what="--headroom")
    share = value / 100 if unit == "%" else value
    if unit not in ("", "%") or not 0 <= share < 1:
        raise InputError(f"--headroom: {text!r} is not a share below 1", allowed=["20%", "0.2"])
    return share


def _traffic(
    file: Path | None, recipe: dict[str, Any], today: Scenario | None, factor: float, too_long: TooLong
) -> Traffic:
    """The one source of traffic that the flags name. Raises :class:`InputError` for none, or for two."""
    from twin.base import InputError
    from twin.spec.scenario import Traffic, load_scenario

    given = [f"--{name.replace('_', '-')}" for name, value in recipe.items() if value is not None]
    if file is not None and given:
        raise InputError(f"{given[0]} describes made-up traffic; leave it out, or leave out --traffic")
    if file is not None and file.suffix in (".yaml", ".yml"):
        source = load_scenario(file).traffic
    elif file is not None:
        source = Traffic(trace=str(file))
    elif given:
        source = Traffic(synthetic=_recipe(recipe))
    elif today is not None:
        source = today.traffic
    else:
        raise InputError(
            "no traffic",
            allowed=["--traffic FILE", "--request-rate", "--users with --requests-per-user-hour"],
        )
    too_long = source.too_long if too_long == "error" else too_long
    return source.model_copy(update={"rate": source.rate * factor, "too_long": too_long})


def _recipe(flags: dict[str, Any]) -> Any:
    from twin.base import InputError
    from twin.traffic.flags import parse_lengths
    from twin.traffic.synthetic import recipe_from

    per_user, users, rate = flags["requests_per_user_hour"], flags["users"], flags["request_rate"]
    if (users is None) != (per_user is None):
        raise InputError("--users and --requests-per-user-hour go together")
    if (users is None) == (rate is None):
        raise InputError("give --request-rate, or --users with --requests-per-user-hour, one of the two")
    if flags["input_len"] is None or flags["output_len"] is None:
        raise InputError("traffic without a trace needs --input-len and --output-len")
    per_second = rate if rate is not None else users * per_user / 3600.0
    if not 0 < per_second < float("inf"):
        raise InputError(f"the request rate must be a number above 0, not {per_second:g} requests per second")
    count = flags["num_requests"] or int(min(max(per_second * 1800, 1000), 20_000))
    return recipe_from(
        {
            "request_rate": per_second,
            "burstiness": 1.0 if flags["burstiness"] is None else flags["burstiness"],
            "num_requests": count,
            "input_len": parse_lengths(flags["input_len"], what="--input-len"),
            "output_len": parse_lengths(flags["output_len"], what="--output-len"),
        },
        where="twin plan",
    )


def _request(
    asked: Traffic,
    today: Scenario | None,
    names: dict[str, Any],
    promises: dict[str, str | None],
    *,
    max_model_len: int | None,
    seed: int,
    **others: Any,
) -> tuple[PlanRequest, Scenario]:
    """The question for the plan room, and the same as a scenario that lacks only its deployment.

    With a deployment of ``today`` its model, engine and promises stand where no flag says otherwise.
    """
    from twin.base import InputError
    from twin.plan.plan import PlanRequest
    from twin.plan.workload import make_workload
    from twin.spec.model import load_model
    from twin.spec.scenario import Deployment, Scenario
    from twin.spec.slo import Slo, parse_budget

    if today is not None and (names["model"] or names["gpu"]):
        raise InputError("--fixed judges the model and the GPU of its scenario; leave out --model and --gpu")
    name = today.model if today else names["model"]
    if name is None:
        raise InputError("no model; give --model (twin model list shows the names)")
    spec = load_model(name)
    slo = Slo.of(**promises)
    budget = None if names["budget"] is None else parse_budget(names["budget"])
    if today is not None:
        slo, budget = (slo if slo.bounds else today.slo), budget or today.budget
        max_model_len = today.engine.max_model_len
    kind = names["price"] or (today.price if today else "on_demand")
    profiles, prices, notes = _offers(today.deployment.gpu if today else names["gpu"], kind, names["price_book"])
    load = make_workload(_trace(asked, seed), spec, max_model_len=max_model_len, too_long=asked.too_long)
    request = PlanRequest(
        model=spec,
        load=load,
        profiles=profiles,
        prices=prices,
        slo=slo,
        budget=budget,
        budget_text=names["budget"] or "the scenario's budget",
        seed=seed,
        notes=notes,
        **others,
    )
    wanted = Scenario(
        name="plan",
        model=name,
        traffic=asked,
        deployment=Deployment(gpu=profiles[0].name),
        slo=slo,
        budget=budget,
        price=kind,
        seed=seed,
    )
    return request, wanted


def _offers(names: str | None, kind: Kind, book_file: Path | None) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """Profiles and their prices: of the GPUs named, else of all that have a price of this kind."""
    from twin.base import InputError
    from twin.spec.hardware import load_profile, profile_names
    from twin.spec.prices import load_price_book

    book = load_price_book(book_file)
    wanted = profile_names() if names is None else list(dict.fromkeys(part.strip() for part in names.split(",")))
    profiles = [load_profile(name) for name in wanted]
    prices, unpriced = {}, []
    for profile in profiles:
        try:
            prices[profile.name] = book.price(profile.name, kind)
        except InputError:
            if names is not None:
                raise
            unpriced.append(profile.name)
    if not prices:
        raise InputError(f"no GPU has a price of kind {kind}", where=book.name)
    notes = (f"left out for want of a price of kind {kind}: {', '.join(unpriced)}",) if unpriced else ()
    return tuple(p for p in profiles if p.name in prices), prices, notes


def _trace(asked: Traffic, seed: int) -> Any:
    from twin.traffic.readers import read_trace
    from twin.traffic.synthetic import synthesize

    recipe = asked.synthetic
    trace = read_trace(Path(str(asked.trace))) if recipe is None else synthesize(recipe, seed)
    return trace if asked.rate == 1.0 else trace.scaled(asked.rate)


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
        quantization="fp8" if candidate.quantization else None,
        kv_cache_dtype="fp8" if candidate.kv_cache_dtype == "fp8" else "auto",
        routing="least_loaded" if outcome.deployment.routing == "least_loaded" else "round_robin",
    )
    engine = EngineSettings(
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=config.max_model_len,
        gpu_memory_utilization=request.gpu_memory_utilization,
        num_gpu_blocks=config.num_gpu_blocks,
    )
    scenario = wanted.model_copy(update={"deployment": deployment, "engine": engine})
    return write_run(
        out,
        "plan",
        scenario_yaml=scenario.to_yaml(relative_to=out / "plan"),
        manifest={"seed": request.seed, "profiles": {p.name: p.digest() for p in request.profiles}},
        documents={"summary.json": outcome.summary, "plan.json": answer.payload},
        requests=outcome.table,
    )


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar per stage on stderr; nothing under ``--quiet`` or when stderr is no terminal."""
    from twin.plan.search import silent

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


def _items(payload: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return list(payload[key])


def _row(item: dict[str, Any]) -> dict[str, object]:
    """An option as one flat row for csv and md."""
    flat = {key: value for key, value in item.items() if not isinstance(value, (dict, list))}
    metrics = {key: value for key, value in item["metrics"].items() if not isinstance(value, (dict, list))}
    return {**flat, **metrics, "misses": "; ".join(item.get("misses", []))}


def _table(payload: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    load = payload["traffic"]
    head = (
        f"{payload['model']}, {load['requests']:,} requests, {load['mean_rate_per_s']:.1f}/s"
        f" ({load['busiest_5min_rate_per_s']:.1f}/s at the busiest five minutes)"
    )
    parts: list[RenderableType] = [Text(head)]
    if payload["options"]:
        parts.append(_options_table("Options that hold", payload["options"]))
    else:
        parts.append(Text(f"Nothing holds. {payload['binding']}", style="bold"))
    if payload["near_misses"]:
        parts.append(_options_table("Near misses", payload["near_misses"]))
        parts += [Text(f"  {i}. {'; '.join(m['misses'])}") for i, m in enumerate(payload["near_misses"], 1)]
    if "fixed" in payload:
        parts.append(Text(_fixed_line(payload["fixed"])))
    parts += _deploy(payload)
    if payload["rejected"]:
        said = f"{payload['screened']:,} configurations screened, {payload['simulated']:,} simulated; ruled out:"
        parts.append(Text(f"\n{said}"))
        parts += [Text(f"  {item['count']:>6,}  {item['reason']}") for item in payload["rejected"]]
    parts += [Text(f"Note: {text}") for text in payload["notes"]]
    return Group(*parts)


def _options_table(title: str, options: list[dict[str, Any]]) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = {bound["metric"]: f"p{bound['quantile'] * 100:g}" for bound in reversed(options[0]["bounds"])}
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("", "GPUs", "layout", "weights/KV"):
        table.add_column(name)
    latencies = [f"{shown.get(metric, 'p99')} {metric.upper()}" for metric in ("ttft", "tpot")]
    for name in ("seats/tokens", "$/month", *latencies, "use"):
        table.add_column(name, justify="right")
    for number, item in enumerate(options, 1):
        label = str(number) if item.get("misses") else "\n".join(name.replace("_", " ") for name in item["names"])
        table.add_row(
            label,
            f"{item['num_gpus']} {item['gpu']}",
            f"TP{item['tensor_parallel_size']} × {item['replicas']}",
            f"{item['quantization'] or 'bf16'}/{item['kv_cache_dtype']}",
            f"{item['max_num_seqs']}/{item['max_num_batched_tokens']}",
            f"{item['usd_per_month']:,.0f}",
            _ms(item, "ttft", shown),
            _ms(item, "tpot", shown),
            f"{item['peak_utilisation']:.0%}",
        )
    return table


def _ms(item: dict[str, Any], metric: str, shown: dict[str, str]) -> str:
    """The promised quantile, the worse of whole trace and busiest minutes; p99 where none is promised."""
    bounds = [b for b in item["bounds"] if b["metric"] == metric and f"p{b['quantile'] * 100:g}" == shown[metric]]
    value = bounds[0]["worst_s"] * 1e3 if bounds else item["metrics"][f"p99_{metric}_ms"]
    return "–" if value is None else f"{value:,.0f} ms" if value >= 100 else f"{value:,.1f} ms"


def _fixed_line(fixed: dict[str, Any]) -> str:
    if fixed["highest_rate_factor"] is None:
        return "It holds at no rate that was tried."
    return (
        f"Highest rate it holds at the busiest five minutes: {fixed['highest_request_rate_per_s']:.2f}/s"
        f" (×{fixed['highest_rate_factor']:.2f} of today's)."
    )


def _deploy(payload: dict[str, Any]) -> list[RenderableType]:
    """The command of the recommended option, and what is known of its figures' accuracy."""
    from rich.text import Text

    chosen = next((item for item in payload["options"] if item["id"] == payload["recommended"]), None)
    if chosen is None:
        return []
    errors = chosen["accuracy"]
    if errors["tpot_error"] is None:
        known = "no host time is fitted for this GPU, so real latencies are longer"
    else:
        known = (
            f"whole runs were {errors['tpot_error']:.0%} (TPOT) and {errors['ttft_error']:.0%} (TTFT) off the model"
            f" (host times {errors['host_origin']})"
        )
    price = chosen["usd_per_gpu_hour"]
    replicas = "the replica" if chosen["replicas"] == 1 else f"each of {chosen['replicas']} replicas"
    lines = [
        f"\n{'Deployed' if 'fixed' in payload else 'Recommended'}, on {replicas}:",
        _shell_lines(chosen["vllm_command"]),
        f"Calibration: {chosen['calibrated']} the measured range"
        + (f" ({', '.join(chosen['outside_because'])})" if chosen["outside_because"] else "")
        + f"; {known}.",
        f"Price: ${price['value']:.2f} per GPU hour ({price['origin']}, {price['date']}).",
    ]
    return [Text(line) for line in lines]


def _shell_lines(command: str, width: int = 96) -> str:
    """A command broken before its flags, so that it can be pasted from a page of ``width`` columns."""
    lines = ["  "]
    for position, part in enumerate(command.split(" --")):
        piece = part if position == 0 else f"--{part}"
        if len(lines[-1]) + len(piece) > width:
            lines.append("    ")
        lines[-1] += piece + " "
    return "\\\n".join(lines).rstrip()
