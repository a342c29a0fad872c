"""The question of ``twin plan``: its flags as traffic, promises, offers and limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import exp, log1p
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from twin.cli.plan_asked import classes_of, objectives_of, settings_of

if TYPE_CHECKING:
    from twin.plan.annexes import Annexes
    from twin.plan.request import PlanRequest
    from twin.search.precisions import Precisions
    from twin.spec.prices import PriceBook
    from twin.spec.scenario import Scenario, Traffic
    from twin.spec.versions import VersionName

TooLong = Literal["error", "drop", "truncate"]
Kind = Literal["on_demand", "reserved", "spot", "owned"]
Executor = Literal["local", "ray"]
RECIPE = (
    *("request_rate", "users", "requests_per_user_hour", "input_len", "output_len", "burstiness", "num_requests"),
)
OF_A_SCENARIO = ("model", "gpu", "quantization", "kv_cache_dtype")
"""Flags that a deployment to judge leaves no room for."""
OF_RISK: dict[str, Any] = {"worlds": 64, "confidence": "90%"}
"""Flags that say nothing without ``--risk``, and their defaults."""


def rate_factor(rate: str | None, growth: str | None, months: float) -> float:
    """``×2`` and ``5%/month`` over ``months`` as one factor on the rate."""
    from twin.risk.growth import parse_growth
    from twin.traffic.flags import parse_rate_factor

    factor = 1.0 if rate is None else parse_rate_factor(rate)
    if growth is None:
        return factor
    return factor * exp(months * log1p(parse_growth(growth, planned_months=months).per_month))


def share(text: str, flag: str) -> float:
    """``20%`` or ``0.2`` → 0.2. Raises :class:`InputError` unless it is at least 0 and below 1."""
    from twin.base import InputError, parse_share

    found = parse_share(text, what=flag)
    if found is None or not 0 <= found < 1:
        raise InputError(f"{flag}: {text!r} is not a share below 1", allowed=["20%", "0.2"])
    return found


def traffic_of(
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


def request_of(flags: Mapping[str, Any], today: Scenario | None, book: PriceBook) -> tuple[PlanRequest, Scenario]:
    """The question for the plan room, and the same as a scenario that lacks only its deployment.

    ``flags`` of ``twin plan`` by name. With a deployment of ``today`` its model, engine and promises stand where no flag
    says otherwise.
    """
    from twin.base import InputError
    from twin.cluster.deploy import asked_trace
    from twin.plan.asked import asked_of
    from twin.plan.request import PlanRequest
    from twin.search.limits import check_limits
    from twin.search.workload import make_workload
    from twin.spec.model import load_model
    from twin.spec.scenario import Deployment, Scenario
    from twin.spec.slo import Slo, parse_budget

    _check_flags(flags, today)
    factor = rate_factor(flags["rate"], flags["growth"], flags["horizon"])
    recipe = {name: flags[name] for name in RECIPE}
    asked = traffic_of(flags["traffic"], recipe, today, factor, flags["too_long"])
    version, memory = _engine(flags, today)
    name = today.model if today else flags["model"]
    if name is None:
        raise InputError("no model; give --model (twin model list shows the names)")
    spec = load_model(name)
    slo = Slo.of(**{metric: flags[metric] for metric in ("ttft", "tpot", "e2el")})
    budget = None if flags["budget"] is None else parse_budget(flags["budget"])
    if today is not None:
        slo, budget = (slo if slo.bounds else today.slo), budget or today.budget
    longest = today.engine.max_model_len if today else flags["max_model_len"]
    classes, objectives = classes_of(flags, today), objectives_of(flags, today)
    settings, precisions = settings_of(flags), _precisions(flags, spec.quantization)
    if today is None:
        most, node = flags["max_gpus"], flags["node_size"]
        check_limits(spec, budget=budget, max_gpus=most, node_size=node, settings=settings, precisions=precisions)
    kind = flags["price"] or (today.price if today else "on_demand")
    profiles, prices, notes = _offers(today.deployment.gpu if today else flags["gpu"], kind, book, flags["region"])
    seed = flags["seed"]
    load = make_workload(asked_trace(asked, seed), spec, max_model_len=longest, too_long=asked.too_long)
    request = PlanRequest(
        model=spec,
        load=load,
        profiles=profiles,
        prices=prices,
        slo=slo,
        budget=budget,
        budget_text=flags["budget"] or "the scenario's budget",
        max_gpus=flags["max_gpus"],
        node_size=flags["node_size"],
        headroom=share(flags["headroom"], "--headroom"),
        seed=seed,
        notes=notes,
        vllm_version=version,
        gpu_memory_utilization=memory,
        precisions=precisions,
        settings=settings,
        jobs=min(flags["jobs"], os.cpu_count() or 1),
        algorithm=flags["algorithm"],
        executor=flags["executor"],
        ray_address=flags["ray_address"],
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
        classes=classes,
        objectives=objectives,
    )
    return asked_of(request, classes, objectives), wanted


def annexes_of(flags: Mapping[str, Any], wanted: Scenario, book: PriceBook) -> Annexes:
    """What is asked beside the options: bills, risk and an explanation."""
    from twin.plan.annexes import Annexes
    from twin.risk.growth import parse_growth

    growth, traffic = flags["growth"], wanted.traffic
    return Annexes(
        book=book,
        price=wanted.price,
        region=flags["region"],
        growth=None if growth is None else parse_growth(growth, planned_months=flags["horizon"]),
        worlds=flags["worlds"] if flags["risk"] else 0,
        confidence=share(flags["confidence"], "--confidence"),
        recipe=traffic.synthetic,
        rate=traffic.rate,
        explained=flags["explain"],
    )


def _check_flags(flags: Mapping[str, Any], today: Scenario | None) -> None:
    from twin.base import InputError
    from twin.search.algorithms import check_algorithm

    check_algorithm(flags["algorithm"])
    if flags["ray_address"] is not None and flags["executor"] != "ray":
        raise InputError(f"--ray-address {flags['ray_address']} needs the executor: --executor ray")
    if flags["horizon"] and flags["growth"] is None:
        raise InputError("--horizon says how far ahead --growth reaches, and there is no --growth")
    idle = [flag for flag, usual in OF_RISK.items() if flags[flag] != usual]
    if idle and not flags["risk"]:
        raise InputError(f"--{idle[0]} is of --risk, which was not asked for")
    if flags["node_size"] not in (1, 8):
        raise InputError(f"--node-size is 1 or 8, not {flags['node_size']}")
    given = [f"--{name.replace('_', '-')}" for name in OF_A_SCENARIO if flags[name]]
    if today is not None and given:
        raise InputError(f"--fixed judges the deployment of its scenario; leave out {' and '.join(given)}")


def _engine(flags: Mapping[str, Any], today: Scenario | None) -> tuple[VersionName, float]:
    """The release whose rules hold, and the share of memory that it takes."""
    from twin.base import unknown_name
    from twin.spec.versions import VERSIONS

    version = today.engine.vllm_version if today else flags["vllm_version"]
    if version not in VERSIONS:
        raise unknown_name("vLLM version", version, VERSIONS)
    return version, flags["gpu_memory_utilization"] or VERSIONS[version].gpu_memory_utilization


def _precisions(names: Mapping[str, Any], checkpoint: str | None) -> Precisions:
    """The formats asked for and the limits on them. Raises :class:`InputError` for an unknown name or limit."""
    from twin.search.precisions import Precisions
    from twin.spec.precision import kv_cache_name, quantization_name

    weights = [quantization_name(text) for text in _listed(names["quantization"])]
    if checkpoint is None:
        weights = [None if name == "bf16" else name for name in weights]
    limit = names["max_accuracy_loss"]
    return Precisions(
        quantizations=tuple(dict.fromkeys(weights)),
        kv_cache_dtypes=tuple(dict.fromkeys(kv_cache_name(text) for text in _listed(names["kv_cache_dtype"]))),
        max_accuracy_loss=None if limit is None else share(limit, "--max-accuracy-loss"),
        min_bits=names["min_bits"],
    )


def _listed(text: str | None) -> list[str]:
    return [] if text is None else [part.strip() for part in text.split(",")]


def _offers(
    names: str | None, kind: Kind, book: PriceBook, region: str | None
) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """Profiles and their prices: of the GPUs named, else of all that were measured and have a price of this kind."""
    from twin.base import InputError
    from twin.spec.hardware import load_profile, profile_names

    wanted = profile_names() if names is None else list(dict.fromkeys(part.strip() for part in names.split(",")))
    profiles = [load_profile(name) for name in wanted]
    prices: dict[str, Any] = {}
    unpriced: list[str] = []
    assumed: list[str] = []
    refused: InputError | None = None
    if names is None:
        profiles = [profile for profile in profiles if profile.device == "gpu"]
        assumed = [profile.name for profile in profiles if profile.origin == "assumed"]
        profiles = [profile for profile in profiles if profile.origin != "assumed"]
    for profile in profiles:
        try:
            prices[profile.name] = book.price(profile.name, kind, region)
        except InputError as error:
            if region is not None and region not in book.regions:
                raise
            unpriced.append(profile.name)
            refused = refused or error
    if names is not None and refused:
        raise InputError(f"{refused.what}{_priced(prices)}", where=refused.where)
    place = f" in {region}" if region else ""
    if not prices:
        raise InputError(f"no GPU has a price of kind {kind}{place}", where=book.name)
    left_out = {
        f"for want of a price of kind {kind}{place}": unpriced,
        "as their speed is only assumed (--gpu takes them)": assumed,
    }
    notes = tuple(f"left out {why}: {', '.join(gpus)}" for why, gpus in left_out.items() if gpus)
    return tuple(p for p in profiles if p.name in prices), prices, notes


def _priced(prices: Mapping[str, Any]) -> str:
    return f"; leave it out: {', '.join(prices)} of those named can be had" if prices else ""
