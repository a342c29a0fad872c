"""A small plan whose options are put into possible worlds."""

from __future__ import annotations

import pytest
from planning import asked, workload

from twin.plan.choice import recommended_of
from twin.plan.found import Running, searched
from twin.plan.plan import screened
from twin.plan.request import PlanRequest
from twin.search.evaluate import Outcome


@pytest.fixture(scope="session")
def request_() -> PlanRequest:
    return asked(workload(num_requests=250), "l40s", "h100_sxm")


@pytest.fixture(scope="session")
def whole(request_: PlanRequest) -> list[Outcome]:
    _, _, judged = screened(request_)
    return searched(request_, judged, judged.alive(), Running()).whole


@pytest.fixture(scope="session")
def ours(whole: list[Outcome]) -> Outcome:
    found = recommended_of([outcome for outcome in whole if outcome.holds])
    assert found is not None
    return found
