"""A scenario in one YAML file: what is asked (traffic, promises, budget) and what runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_serializer,
    field_validator,
    model_validator,
)

from twin.base import Frozen, InputError, parse_share
from twin.spec.classes import RequestClass, check_classes
from twin.spec.engine import EngineSettings
from twin.spec.hardware import HardwareProfile, load_profile
from twin.spec.hypothetical import Hypothetical, hypothetical
from twin.spec.layout import Fabric, check_layout, replica_gpus
from twin.spec.model import ModelSpec, load_model
from twin.spec.objectives import USUAL_OBJECTIVES, Objectives
from twin.spec.precision import KvCacheDtype, Quantization, check_precision
from twin.spec.prices import PriceKind
from twin.spec.slo import Budget, Slo
from twin.spec.yaml import check, read_yaml
from twin.traffic.flags import parse_rate_factor
from twin.traffic.synthetic import SyntheticTraffic
from twin.traffic.trace import TooLong

Routing = Literal["round_robin", "least_loaded", "internal_lb"]


class Traffic(Frozen):
    """Either a trace file or a recipe. ``rate`` multiplies its speed (``×2``)."""

    trace: str | None = None
    synthetic: SyntheticTraffic | None = None
    rate: float = Field(1.0, gt=0, allow_inf_nan=False)
    too_long: TooLong = "error"

    @field_validator("rate", mode="before")
    @classmethod
    def _factor(cls, value: Any) -> Any:
        try:
            return parse_rate_factor(value) if isinstance(value, str) else value
        except InputError as error:
            raise ValueError(str(error).removeprefix("--rate: ")) from None

    @model_validator(mode="after")
    def _one(self) -> Traffic:
        if (self.trace is None) == (self.synthetic is None):
            raise ValueError("give trace or synthetic, one of the two")
        return self


class Deployment(Frozen):
    """Replicas of one kind; each is one ``vllm serve`` of ``data_parallel_size`` ranks on ``tensor_parallel_size`` ×
    ``pipeline_parallel_size`` GPUs each (:mod:`twin.spec.layout`).

    ``routing`` chooses a replica; among ranks vLLM's own balancing does. ``inter_node`` is the network of a replica on several
    nodes. Data-parallel ranks of a dense model are independent engines; those of a mixture of experts step together.
    ``hardware`` changes figures of the GPU, for one that does not exist (:mod:`twin.spec.hypothetical`).
    ``cpu_cores`` for each replica, and its ``api_server_count`` (vLLM's; 1 where only cores are given): with either, requests
    wait for a core that tokenises (:mod:`twin.cluster.frontend`); with neither there are cores enough.
    """

    gpu: str
    hardware: Hypothetical | None = None
    tensor_parallel_size: PositiveInt = 1
    pipeline_parallel_size: PositiveInt = 1
    data_parallel_size: PositiveInt = 1
    enable_expert_parallel: bool = False
    replicas: PositiveInt = 1
    quantization: Quantization = None
    kv_cache_dtype: KvCacheDtype = "auto"
    routing: Routing = "round_robin"
    inter_node: Fabric = Fabric()
    api_server_count: PositiveInt | None = None
    cpu_cores: PositiveInt | None = None

    @property
    def num_gpus(self) -> int:
        return replica_gpus(self) * self.replicas


class Client(Frozen):
    """A closed loop: ``concurrency`` clients, each sending its next request when the last is done."""

    concurrency: PositiveInt
    num_prompts: PositiveInt


def _share(value: Any) -> Any:
    """``5%`` → 0.05; other values as they are."""
    if not isinstance(value, str):
        return value
    try:
        share = parse_share(value, what="share")
    except InputError as error:
        raise ValueError(str(error)) from None
    if share is None:
        raise ValueError(f"{value!r} is not a share such as 5% or 0.05")
    return share


Share = Annotated[float, BeforeValidator(_share), Field(gt=0, allow_inf_nan=False)]


class VerifyBounds(Frozen):
    """How far ``twin verify`` lets a prediction be off: of mean TPOT, of mean TTFT (below 80 % load), of request and output
    throughput, of the p99 of ITL."""

    tpot: Share = 0.05
    ttft: Share = 0.10
    throughput: Share = 0.02
    p99_itl: Share = 0.15


class Scenario(Frozen):
    """One question, complete: every default is in it once :meth:`resolved`."""

    name: str = Field("scenario", pattern=r"^[\w.-]+$")
    model: str
    hf_overrides: dict[str, Any] | None = None
    traffic: Traffic
    deployment: Deployment
    engine: EngineSettings = EngineSettings()
    slo: Slo = Slo()
    budget: Budget | None = None
    price: PriceKind = "on_demand"
    seed: NonNegativeInt = 0
    client: Client | None = None
    verify: VerifyBounds = VerifyBounds()
    classes: tuple[RequestClass, ...] = ()
    objectives: Objectives = USUAL_OBJECTIVES

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[RequestClass, ...]) -> tuple[RequestClass, ...]:
        try:
            check_classes(classes)
        except InputError as error:
            raise ValueError(str(error)) from None
        return classes

    @field_serializer("budget", when_used="unless-none")
    def _budget(self, budget: Budget) -> Any:
        return budget.model_dump()

    @cached_property
    def model_spec(self) -> ModelSpec:
        """With ``hf_overrides`` in place of what its config.json says, as vLLM's ``--hf-overrides``.

        Raises :class:`InputError` for an unknown model, or fields that make none.
        """
        return load_model(self.model, self.hf_overrides)

    @cached_property
    def profile(self) -> HardwareProfile:
        """The GPU's, with the changes asked for.

        Raises :class:`InputError`, at its field, for an unknown GPU or a change to what it does not have.
        """
        with _field("deployment.gpu"):
            profile = load_profile(self.deployment.gpu)
        with _field("deployment.hardware"):
            return hypothetical(profile, self.deployment.hardware or Hypothetical())

    def resolved(self) -> Scenario:
        """With vLLM's defaults filled in and every rule across fields checked.

        Raises :class:`InputError`, at the field (``deployment.gpu``), for an unknown model or GPU, a layout
        or precision that they cannot run, or engine settings that vLLM refuses.
        """
        deployment = self.deployment
        with _field("model"):
            model = self.model_spec
        profile = self.profile
        check_layout(model, deployment, profile.facts.num_gpus_per_node)
        if deployment.routing == "internal_lb" and deployment.data_parallel_size > 1 < deployment.replicas:
            raise InputError(
                "internal_lb is what the ranks of one vllm serve have: for several replicas of several ranks choose another",
                where="deployment.routing",
            )
        with _field("deployment.kv_cache_dtype" if deployment.quantization is None else "deployment.quantization"):
            stored = deployment.quantization or model.quantization
            check_precision(profile, quantization=stored, kv_cache_dtype=deployment.kv_cache_dtype)
            if useless := model.format_obstacle(deployment.quantization):
                raise InputError(useless)
        with _field("engine"):
            engine = self.engine.resolved(profile, model.max_position_embeddings)
        return self.model_copy(update={"engine": engine})

    def to_yaml(self, relative_to: Path | None = None) -> str:
        """The scenario with every field, in the order of the class; reading it back gives the same scenario.

        ``relative_to``: the folder that the text will stand in, so that files it names are found from there.
        """
        data = self.model_dump(mode="json")
        if relative_to is not None:
            _map_paths(data, lambda path: os.path.relpath(path, relative_to))
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)


def load_scenario(path: Path, overrides: Iterable[str] = ()) -> Scenario:
    """The resolved scenario of a YAML file, with ``overrides`` such as ``engine.max_num_seqs=512`` applied.

    Files named in it are found from the folder of the YAML file. Raises :class:`InputError` with file, line,
    what is allowed and the nearest name.
    """
    document = read_yaml(path)
    for override in overrides:
        document.set(override)
    document.data.setdefault("name", path.stem)
    _map_paths(document.data, lambda name: os.path.normpath(path.parent / name))
    scenario = check(document, Scenario)
    try:
        return scenario.resolved()
    except InputError as error:
        field = tuple((error.where or "").split("."))
        known = field[0] in Scenario.model_fields
        raise _moved(error, document.at(field)) if known else error from None


def _map_paths(data: dict[str, Any], change: Callable[[str], str]) -> None:
    """Apply ``change`` to every relative path in plain scenario data."""
    traffic = data.get("traffic")
    synthetic = traffic.get("synthetic") if isinstance(traffic, dict) else None
    places: list[tuple[Any, str, bool]] = [
        (traffic, "trace", True),
        (synthetic, "lengths_from", True),
        (data, "model", False),
        (data.get("deployment"), "gpu", False),
    ]
    for section, key, always in places:
        name = section.get(key) if isinstance(section, dict) else None
        if isinstance(name, str) and not os.path.isabs(name) and (always or name.endswith((".json", ".yaml"))):
            section[key] = str(change(name))


@contextmanager
def _field(name: str) -> Iterator[None]:
    """Errors inside are about the field ``name``, unless they name a place themselves."""
    try:
        yield
    except InputError as error:
        raise _moved(error, error.where or name) from None


def _moved(error: InputError, where: str) -> InputError:
    return InputError(error.what, where=where, allowed=error.allowed, nearest=error.nearest)
