"""The question of the What-if page: one deployment under one load, as the page's address holds it, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from pydantic import Field, ValidationError

from twin.base import HOURS_PER_MONTH, Frozen, InputError
from twin.cluster.deploy import asked_trace
from twin.plan.explain import phases
from twin.plan.load_curve import REQUESTS, at_load
from twin.plan.promise import Fleet as Priced
from twin.plan.served import Served, candidate_of, kind_of
from twin.results.metrics import summarize
from twin.results.run import Run
from twin.results.timeline import timeline
from twin.search.evaluate import Deployment
from twin.search.workload import Workload, make_workload
from twin.show.store import SCENARIO_SUFFIXES, trace_file
from twin.spec.prices import load_price_book
from twin.spec.scenario import Scenario, Traffic, load_scenario
from twin.spec.yaml import Document, check
from twin.traffic.flags import parse_lengths
from twin.traffic.trace import TooLong

MADE_UP, OF_RUN = "made up", "of the run"
"""Beside the names of traces: where traffic comes from."""
LEAST_LOAD, MOST_LOAD = 0.25, 4.0
BUSY_S, FEW, MANY = 1800, 1000, 20_000
"""Made-up traffic lasts half an hour, but for so few or so many requests."""
OF_DEPLOYMENT = (
    *("gpu", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel"),
    *("replicas", "kv_cache_dtype", "routing"),
)
OF_ENGINE = ("max_num_seqs", "max_num_batched_tokens")
PROMISES = ("ttft", "tpot", "e2el")


class Setting(Frozen):
    """Fields are those of a scenario under its names. ``run`` and ``option``: where it started from, and whose traffic, engine
    and money it keeps. ``traffic``: a trace's name as pages show it, or one of the words above. ``load``: factor on its rate.
    """

    run: str | None = None
    option: str = "recommended"
    model: str = "Qwen/Qwen3-32B"
    traffic: str = "chat.yaml"
    request_rate: float = Field(5.0, gt=0, allow_inf_nan=False)
    input_len: str = "median=800,p99=4000"
    output_len: str = "median=200,p99=900"
    too_long: TooLong = "error"
    gpu: str = "h100_sxm"
    tensor_parallel_size: int = 2
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False
    replicas: int = 2
    quantization: str = "fp8"
    kv_cache_dtype: str = "auto"
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    routing: str = "least_loaded"
    ttft: str = "2s"
    tpot: str = "50ms"
    e2el: str = ""
    price: str = "on_demand"
    load: float = Field(1.0, ge=LEAST_LOAD, le=MOST_LOAD)

    @classmethod
    def from_params(cls, params: Mapping[str, str], run: Run | None = None) -> Setting:
        """From the query of an address, on top of the option of ``run`` that it names.

        Raises :class:`InputError` for a value of another kind, and for an option that the run lacks.
        """
        start = cls() if run is None else of_run(run, params.get("option", cls.model_fields["option"].default))
        known = {name: text for name, text in params.items() if name in cls.model_fields}
        try:
            return cls.model_validate({**start.model_dump(), **known})
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            raise InputError(f"{first['msg']}, not {known.get(name)!r}", where=name) from None

    def to_params(self, run: Run | None = None) -> dict[str, str]:
        """What differs from the run's option, or from the defaults."""
        start = type(self)() if run is None else of_run(run, self.option)
        same = dict(start)
        about = {} if self.run is None else {"run": self.run, "option": self.option}
        return about | {name: _text(value) for name, value in self if value != same[name] and name not in about}

    @property
    def key(self) -> str:
        """Of everything but the load."""
        return self.model_dump_json(exclude={"load"})


def pinned(text: str) -> dict[str, str]:
    """Parameters of a setting inside another's address."""
    return dict(parse_qsl(text))


def pin(params: Mapping[str, str]) -> str:
    return urlencode(params)


def of_run(run: Run, option: str) -> Setting:
    """A run's option; of a simulation its deployment. Raises :class:`InputError` for an unknown one, and for several pools."""
    asked = run.question
    where = dict(asked.deployment) | dict(asked.engine)
    if run.plan is not None:
        where |= run.option(option)
        if len(where.get("pools", ())) > 1:
            raise InputError("this option is a fleet of several pools, and here is one deployment", where=option)
    written = {name: [text] if isinstance(text, str) else text for name, text in asked.slo.model_dump().items()}
    try:
        return Setting.model_validate(
            {
                "run": run.name,
                "option": option,
                "model": asked.model,
                "traffic": OF_RUN,
                "too_long": asked.traffic.too_long,
                **{name: where[name] for name in (*OF_DEPLOYMENT, *OF_ENGINE)},
                "quantization": where["quantization"] or "none",
                **{name: ", ".join(written.get(name, ())) for name in PROMISES},
                "price": asked.price,
            }
        )
    except ValidationError as error:
        raise InputError(f"another schema wrote this: {error.errors()[0]['msg']}", where=run.name) from None


def scenario_of(setting: Setting, run: Run | None) -> Scenario:
    """The setting as a scenario that ``twin simulate`` takes. Raises :class:`InputError` with its sentence."""
    base = None if run is None else run.question
    where: dict[str, Any] = {} if base is None else base.deployment.model_dump()
    engine: dict[str, Any] = {} if base is None else base.engine.model_dump(exclude={"num_gpu_blocks"})
    where |= {name: getattr(setting, name) for name in OF_DEPLOYMENT}
    where["quantization"] = None if setting.quantization == "none" else setting.quantization
    traffic = _traffic(setting, base)
    data = {
        "name": "what-if",
        "model": setting.model,
        "traffic": traffic.model_copy(update={"rate": traffic.rate * setting.load}),
        "deployment": where,
        "engine": engine | {name: getattr(setting, name) for name in OF_ENGINE},
        "slo": {name: _several(text) for name in PROMISES if (text := getattr(setting, name).strip())},
        "price": setting.price,
        "seed": 0 if base is None else base.seed,
    }
    return check(Document("", data), Scenario).resolved()


def _traffic(setting: Setting, base: Scenario | None) -> Traffic:
    if setting.traffic == OF_RUN:
        if base is None:
            raise InputError(
                "there is no run whose traffic this could be", where="traffic", allowed=[MADE_UP, "a trace"]
            )
        found = base.traffic
    elif setting.traffic == MADE_UP:
        recipe = {
            "request_rate": setting.request_rate,
            "num_requests": int(min(max(setting.request_rate * BUSY_S, FEW), MANY)),
            "input_len": parse_lengths(setting.input_len, what="input_len"),
            "output_len": parse_lengths(setting.output_len, what="output_len"),
        }
        found = check(Document("", {"synthetic": recipe}), Traffic)
    else:
        path = trace_file(setting.traffic)
        found = load_scenario(path).traffic if path.suffix in SCENARIO_SUFFIXES else Traffic(trace=str(path))
    return found.model_copy(update={"too_long": setting.too_long})


def traffic_key(scenario: Scenario, setting: Setting) -> str:
    """What decides the requests and how they fit the model; of a file also when it was written."""
    asked = scenario.traffic.model_copy(update={"rate": scenario.traffic.rate / setting.load})
    file = asked.trace and Path(asked.trace)
    stamp = file.stat().st_mtime_ns if file and file.is_file() else 0
    return f"{asked.model_dump_json()} {scenario.seed} {stamp} {scenario.model} {setting.traffic == OF_RUN}"


def workload_of(scenario: Scenario, setting: Setting) -> Workload:
    """The traffic at its own rate. Raises :class:`InputError` as ``twin plan`` does."""
    asked = scenario.traffic.model_copy(update={"rate": scenario.traffic.rate / setting.load})
    longest = scenario.engine.max_model_len if setting.traffic == OF_RUN else None
    return make_workload(
        asked_trace(asked, scenario.seed), scenario.model_spec, max_model_len=longest, too_long=asked.too_long
    )


def served_of(scenario: Scenario, load: Workload) -> Served:
    """The deployment under ``load``, its longest sequence that of the requests."""
    engine = scenario.engine.model_copy(update={"max_model_len": load.max_model_len})
    return Served.of_scenario(scenario.model_copy(update={"engine": engine}), load)


@dataclass(frozen=True)
class Here:
    """At one load: a curve's ``point`` (with what a curve says of itself), what happened ``over_time``, and ``where`` time goes
    (an explanation's phases)."""

    point: Mapping[str, Any]
    over_time: Mapping[str, Any]
    where: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Answer:
    """Everything that is shown of a setting; ``money`` as of :func:`money_of`, ``requests`` of the whole trace."""

    setting: Setting
    scenario: Scenario
    curve: Mapping[str, Any]
    here: Here
    money: Mapping[str, Any]
    requests: int


def here(scenario: Scenario, served: Served, factor: float, requests: int = REQUESTS) -> Here:
    """The busiest minutes, of about so many ``requests``, at ``factor`` times their rate."""
    point, happened = at_load(served, factor, requests=requests)
    candidate, config, fleet = candidate_of(scenario, served.fleet), served.fleet.config, served.fleet
    first, last = float(point["start_s"]), float(point["start_s"]) + float(point["span_s"])  # type: ignore[arg-type]
    load = Workload(served.load.trace.slice(first, last).scaled(factor), served.load.max_model_len)
    use = float(str(point["utilisation"]))
    deployment = Deployment(candidate, config, fleet.cost, 0.0, use, fleet.routing)
    kind = kind_of(scenario, fleet)
    priced = Priced(
        kind,
        config.max_num_seqs,
        config.max_num_batched_tokens,
        config.num_gpu_blocks,
        fleet.replicas,
        0.0,
        load,
    )
    found = phases(deployment, priced, summarize(happened))
    return Here(point, timeline(happened), {"id": served.id, "phases": found})


def money_of(scenario: Scenario) -> dict[str, Any]:
    """USD per month with its spread and source; ``{"why": …}`` where the price book has no such price."""
    try:
        price = load_price_book().price(scenario.deployment.gpu, scenario.price)
    except InputError as error:
        return {"why": str(error)}
    scale = scenario.deployment.num_gpus * HOURS_PER_MONTH
    low, high = (scale * (price.value if end is None else end) for end in (price.low, price.high))
    return {
        "usd_per_month": scale * price.value,
        "usd_per_month_low": low,
        "usd_per_month_high": high,
        "origin": price.origin,
        "source": price.source,
        "date": price.date,
    }


def _several(text: str) -> str | list[str]:
    """``p90:300ms, p99:1s`` → both."""
    parts = [part.strip() for part in text.split(",")]
    return parts[0] if len(parts) == 1 else parts


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.10g}" if isinstance(value, float) else str(value)
