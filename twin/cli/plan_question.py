"""The question of ``twin plan``: its flags as traffic, promises, offers and limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from twin.plan.plan import PlanRequest
    from twin.plan.precisions import Precisions
    from twin.spec.scenario import Scenario, Traffic

TooLong = Literal["error", "drop", "truncate"]
Kind = Literal["on_demand", "reserved", "spot", "owned"]
OF_A_SCENARIO = ("model", "gpu", "quantization", "kv_cache_dtype")
"""Flags that a deployment to judge leaves no room for."""


def rate_factor(rate: str | None, growth: str | None, months: float) -> float:
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


def request_of(
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
    from twin.base import InputError, unknown_name
    from twin.plan.plan import PlanRequest
    from twin.plan.workload import make_workload
    from twin.spec.model import load_model
    from twin.spec.scenario import Deployment, Scenario
    from twin.spec.slo import Slo, parse_budget
    from twin.spec.versions import VERSIONS

    given = [f"--{name.replace('_', '-')}" for name in OF_A_SCENARIO if names[name]]
    if today is not None and given:
        raise InputError(f"--fixed judges the deployment of its scenario; leave out {' and '.join(given)}")
    version = today.engine.vllm_version if today else names["vllm_version"]
    if version not in VERSIONS:
        raise unknown_name("vLLM version", version, VERSIONS)
    memory = names["gpu_memory_utilization"] or VERSIONS[version].gpu_memory_utilization
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
        vllm_version=version,
        gpu_memory_utilization=memory,
        precisions=_precisions(names, spec.quantization),
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


def _precisions(names: dict[str, Any], checkpoint: str | None) -> Precisions:
    """The formats asked for and the limits on them. Raises :class:`InputError` for an unknown name or limit."""
    from twin.plan.precisions import Precisions
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


def _offers(names: str | None, kind: Kind, book_file: Path | None) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """Profiles and their prices: of the GPUs named, else of all that were measured and have a price of this kind."""
    from twin.base import InputError
    from twin.spec.hardware import load_profile, profile_names
    from twin.spec.prices import load_price_book

    book = load_price_book(book_file)
    wanted = profile_names() if names is None else list(dict.fromkeys(part.strip() for part in names.split(",")))
    profiles = [load_profile(name) for name in wanted]
    prices, unpriced, assumed = {}, [], []
    if names is None:
        profiles = [profile for profile in profiles if profile.device == "gpu"]
        assumed = [profile.name for profile in profiles if profile.origin == "assumed"]
        profiles = [profile for profile in profiles if profile.origin != "assumed"]
    for profile in profiles:
        try:
            prices[profile.name] = book.price(profile.name, kind)
        except InputError:
            if names is not None:
                raise
            unpriced.append(profile.name)
    if not prices:
        raise InputError(f"no GPU has a price of kind {kind}", where=book.name)
    left_out = {
        f"for want of a price of kind {kind}": unpriced,
        "as their speed is only assumed (--gpu takes them)": assumed,
    }
    notes = tuple(f"left out {why}: {', '.join(gpus)}" for why, gpus in left_out.items() if gpus)
    return tuple(p for p in profiles if p.name in prices), prices, notes


def _trace(asked: Traffic, seed: int) -> Any:
    from twin.traffic.readers import read_trace
    from twin.traffic.synthetic import synthesize

    recipe = asked.synthetic
    trace = read_trace(Path(str(asked.trace))) if recipe is None else synthesize(recipe, seed)
    return trace if asked.rate == 1.0 else trace.scaled(asked.rate)
