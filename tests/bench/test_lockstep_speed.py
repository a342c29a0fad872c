"""twin's engine against vLLM's own scheduler on the same workload, in the same run."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lockstep"))

from compare import busy_case, oracle_environment, speed
from twin_side import time_engine


@pytest.mark.skipif(oracle_environment("0.32") is None, reason="vLLM is not installed (make oracle)")
def test_engine_against_vllms_scheduler(benchmark, figure) -> None:
    benchmark.pedantic(time_engine, args=(busy_case("0.32"),), rounds=3)
    figure("engine against vLLM's scheduler, same workload", speed()["times_faster"], "times", at_least=100)
