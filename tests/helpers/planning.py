"""A small plan that runs in a second or two: made-up chat traffic on an 8B model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from twin.plan.request import PlanRequest
from twin.search.workload import Workload, make_workload
from twin.spec.hardware import load_profile
from twin.spec.model import load_model
from twin.spec.prices import load_price_book
from twin.spec.slo import Slo, parse_budget
from twin.traffic.synthetic import recipe_from, synthesize

MODEL = "Qwen/Qwen3-8B"


def workload(rate: float = 6.0, burstiness: float = 1.0, num_requests: int = 800) -> Workload:
    recipe = recipe_from(
        {
            "request_rate": rate,
            "burstiness": burstiness,
            "num_requests": num_requests,
            "input_len": {"median": 700, "p99": 3500},
            "output_len": {"median": 110, "p99": 400},
        }
    )
    return make_workload(synthesize(recipe, 1), load_model(MODEL))


def asked(
    load: Workload, *gpus: str, ttft: str | None = "600ms", tpot: str | None = "30ms", **others: object
) -> PlanRequest:
    book = load_price_book()
    request = PlanRequest(
        model=load_model(MODEL),
        load=load,
        profiles=tuple(load_profile(gpu) for gpu in gpus),
        prices={gpu: book.price(gpu, "on_demand") for gpu in gpus},
        slo=Slo.of(ttft=ttft, tpot=tpot),
        budget=parse_budget("30k/month"),
        budget_text="30k/month",
    )
    return replace(request, **others)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def load() -> Workload:
    return workload()


@pytest.fixture(scope="session")
def ask(load: Workload) -> Callable[..., PlanRequest]:
    return lambda *gpus, **others: asked(load, *(gpus or ("l40s", "h100_sxm", "a100_sxm")), **others)
