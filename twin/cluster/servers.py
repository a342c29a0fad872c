"""What a fleet runs: engines on the clock of a simulation, and who gets a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from simpy import Environment

from twin.cluster.data_parallel import Rank, RankGroup
from twin.cluster.replica import Replica
from twin.cluster.router import ROUTERS, internal_lb
from twin.engine.batching import BatchCore, engine_of
from twin.engine.config import EngineConfig
from twin.engine.core import EngineCore, StepCost
from twin.engine.pipeline import PipelineCore, StageCost
from twin.engine.rank import RankCore, SharedCost
from twin.engine.request import Request

OnFinish = Callable[[Request], None]


class Endpoint:
    """One ``vllm serve`` of several data-parallel ranks, behind its own load balancing."""

    def __init__(self, ranks: Sequence[Replica | Rank]) -> None:
        self._ranks = ranks
        self._route = internal_lb(ranks)

    @property
    def load(self) -> int:
        """Unfinished requests of all ranks."""
        return sum(rank.load for rank in self._ranks)

    def submit(self, request: Request) -> None:
        """Queue a request now at the rank that vLLM's internal load balancing chooses."""
        self._route().submit(request)


class Servers:
    """``replicas`` equal servers of ``ranks`` data-parallel ranks each, behind the router ``routing``.

    ``lockstep``: the ranks of a server share their experts and so step together; otherwise each is a replica by itself.
    """

    def __init__(
        self,
        env: Environment,
        config: EngineConfig,
        cost: StepCost,
        *,
        replicas: int = 1,
        ranks: int = 1,
        lockstep: bool = False,
        routing: str = "round_robin",
        leaps: bool = True,
    ) -> None:
        alone = replicas * ranks == 1 or (lockstep and replicas == 1)
        self.engines: list[EngineCore | BatchCore] = []
        self.targets: list[Replica | Rank] = []
        self._hearers: list[Replica | RankGroup] = []
        for index in range(0, replicas * ranks, ranks):
            if lockstep and ranks > 1:
                shared = cast(SharedCost, cost)
                group = RankGroup(
                    env, [RankCore(config, shared, leaps=leaps) for _ in range(ranks)], index, alone=alone
                )
                self._hearers.append(group)
                self.targets += group.ranks
            else:
                for at in range(index, index + ranks):
                    replica = Replica(env, _engine(config, cost, leaps=leaps), at, alone=alone)
                    self._hearers.append(replica)
                    self.targets.append(replica)
        self.engines = [target.engine for target in self.targets]
        whole: Sequence[Replica | Rank | Endpoint] = self.targets
        if ranks > 1:
            whole = [Endpoint(self.targets[at : at + ranks]) for at in range(0, len(self.targets), ranks)]
        if len(whole) == 1:
            self.submit = whole[0].submit
        else:
            route = ROUTERS[routing](whole)
            self.submit = lambda request: route().submit(request)

    def hear(self, on_finish: OnFinish | None) -> None:
        """Who hears of every finished request; nobody unless this is called."""
        for hearer in self._hearers:
            hearer.on_finish = on_finish


def _engine(config: EngineConfig, cost: StepCost, *, leaps: bool) -> EngineCore | BatchCore:
    if config.pipeline_parallel_size > 1:
        return PipelineCore(config, cast(StageCost, cost))
    return engine_of(config, cost, leaps=leaps)
