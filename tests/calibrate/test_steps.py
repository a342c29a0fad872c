"""Fits of single engine steps: known coefficients come back, drift and noise are told from error."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from calibrate.steps import Steps, by_load, drift, fit_requests, fit_steps, noise_floor, price, usual_s
from twin.base import InputError
from twin.cost.layout import HostCosts
from twin.spec.hardware import HardwareProfile, load_profile
from twin.spec.model import load_model

TRUTH = HostCosts(
    step_s=2e-3, sequence_s=2e-5, kernel_overlap_s=-3e-6, gemm_stretch=1.2, prefill_stretch=0.8, decode_stretch=1.6
)


@pytest.fixture(scope="module")
def profile() -> HardwareProfile:
    return load_profile("l40s")


def steps(model: str, seed: int, runs: int = 6, each: int = 60) -> Steps:
    rng = np.random.default_rng(seed)
    rows = []
    for run in range(runs):
        for step in range(each):
            prefills = [[int(rng.integers(1, 700)), int(rng.integers(0, 500))] for _ in range(rng.integers(0, 3))]
            decodes = int(rng.integers(0 if prefills else 1, 100))
            rows.append(
                {
                    "run": f"{model} {run}",
                    "kind": "fit",
                    "load": [0.2, 0.6][run % 2],
                    "step": step,
                    "prefills": prefills,
                    "num_prefills": len(prefills),
                    "prefill_tokens": sum(chunk for chunk, _ in prefills),
                    "decodes": decodes,
                    "context": decodes * int(rng.integers(16, 3000)),
                    "start_s": run * 10 + 0.1 * step,
                    "seconds": 1.0,
                }
            )
    return Steps(load_model(model), pd.DataFrame(rows))


def timed(profile: HardwareProfile, part: Steps, host: HostCosts, noise: float, seed: int = 0) -> Steps:
    seconds = price(profile, part, host) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(part.table)))
    return replace(part, table=part.table.assign(seconds=seconds))


def test_what_made_the_steps_comes_back(profile: HardwareProfile) -> None:
    seen = [timed(profile, steps(name, 1), TRUTH, 0.02) for name in ("Qwen/Qwen3-8B", "Qwen/Qwen2.5-7B")]
    found = fit_steps(profile, seen)
    assert found.names == (
        "step_s",
        "sequence_s",
        "kernel_overlap_s",
        "gemm_stretch",
        "prefill_stretch",
        "decode_stretch",
    )
    for name, value, error in zip(found.names, found.values, found.stderr, strict=True):
        assert abs(value - getattr(TRUTH, name)) < 4 * error, name
    unseen = timed(profile, steps("meta-llama/Llama-3.1-8B", 2), TRUTH, 0.0)
    assert price(profile, unseen, found.host()) == pytest.approx(unseen.seconds, rel=0.03)
    assert found.held_out.mape == pytest.approx(0.016, abs=0.004)  # the mean of |noise| of 2 %


def test_coefficients_that_do_not_pay_are_left_out(profile: HardwareProfile) -> None:
    plain = HostCosts(step_s=3e-3, sequence_s=3e-5)
    found = fit_steps(profile, [timed(profile, steps("Qwen/Qwen3-8B", 3), plain, 0.03)])
    assert found.names == ("step_s", "sequence_s")


def test_asynchronous_scheduling_hides_a_part_of_the_host(profile: HardwareProfile) -> None:
    """Synchronous and asynchronous steps of one engine together tell what is hidden."""
    slow, quick = HostCosts(step_s=5e-3, sequence_s=3e-5), HostCosts(step_s=2e-3, sequence_s=3e-5)
    parts = [
        timed(profile, steps("Qwen/Qwen3-8B", 6), slow, 0.01),
        timed(profile, replace(steps("Qwen/Qwen3-8B", 7), asynchronous=True), quick, 0.01),
    ]
    found = fit_steps(profile, parts)
    assert found.names == ("step_s", "sequence_s", "async_overlap_s")
    assert found.values[2] == pytest.approx(3e-3, rel=0.2)
    assert found.host(asynchronous=False).step_s - found.host(asynchronous=True).step_s == found.values[2]


@pytest.mark.parametrize("pads", [True, False])
def test_whether_graphs_pad_is_told_by_the_steps(pads: bool, profile: HardwareProfile) -> None:
    """Decode batches just above a captured size cost as much as the next one, or not."""
    rows = steps("Qwen/Qwen2.5-7B", 8)
    batches = np.random.default_rng(0).choice([9, 17, 33, 257, 273, 300], len(rows.table))
    table = rows.table.assign(prefills=[[]] * len(batches), prefill_tokens=0, num_prefills=0, decodes=batches)
    truth = Steps(rows.model, table.assign(context=batches * 100), padded=pads)
    seen = replace(timed(profile, truth, HostCosts(step_s=1e-4), 0.001), padded=True)
    assert fit_steps(profile, [seen]).padded == pads


def test_strays_do_not_bend_the_fit(profile: HardwareProfile) -> None:
    plain = HostCosts(step_s=3e-3, sequence_s=3e-5)
    seen = timed(profile, steps("Qwen/Qwen3-8B", 4), plain, 0.01)
    stray = seen.table["seconds"].where(np.arange(len(seen.table)) % 25 > 0, seen.table["seconds"] * 8)
    found = fit_steps(profile, [Steps(seen.model, seen.table.assign(seconds=stray))])
    assert price(profile, seen, found.host()) == pytest.approx(
        price(profile, seen, plain), rel=0.03
    )  # their mean is 28 % up


def test_too_few_steps_are_refused_with_how_many_more(profile: HardwareProfile) -> None:
    few = timed(profile, steps("Qwen/Qwen3-8B", 5, runs=1, each=12), TRUTH, 0.0)
    with pytest.raises(InputError, match="12 steps are too few: 8 more are needed"):
        fit_steps(profile, [few])


def sentinels(slowness: tuple[float, ...], noise: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {
            "run": f"sentinel {k}",
            "name": "sentinel",
            "step": i,
            "start_s": 100.0 * k,
            "seconds": (0.01 if i else 0.05) * slow * np.exp(noise * rng.standard_normal()),
            "num_prefills": int(i == 0),
            "prefill_tokens": 48 * (i == 0),
            "decodes": 0 if i == 0 else 4,
            "context": 200 + 4 * i,
        }
        for k, slow in enumerate(slowness)
        for i in range(20)
    ]
    return pd.DataFrame(rows)


def test_drift_is_what_identical_runs_say() -> None:
    table = sentinels((1.0, 1.1, 1.0, 0.9, 1.0))
    usual = usual_s([table])
    assert usual == pytest.approx(0.01)
    assert drift(table, np.array([100.0, 300.0, 400.0]), usual) == pytest.approx([1.1, 0.9, 1.0])
    assert drift(table, np.array([-50.0, 150.0]), usual) == pytest.approx([1.0, np.sqrt(1.1)])
    assert drift(table.iloc[:0], np.array([1.0]), usual).tolist() == [1.0]


def test_another_days_log_is_measured_against_the_same_usual() -> None:
    one, other = sentinels((1.0,) * 5), sentinels((1.3,) * 3)
    assert drift(other, np.array([50.0]), usual_s([one, other])) == pytest.approx([1.3])


def test_the_noise_floor_is_what_identical_steps_differ_by() -> None:
    assert noise_floor(sentinels((1.0,) * 50, noise=0.05)) == pytest.approx(0.04, rel=0.15)  # mean |x| of 5 %
    steady = (1.0, 1.1, 1.21, 1.331, 1.4641)  # a drift that its neighbours tell is not noise, but for the ends
    assert noise_floor(sentinels(steady)) < 0.05
    assert noise_floor(sentinels((1.0, 1.5, 1.0, 1.5, 1.0))) > 0.2  # one that they do not tell is
    assert np.isnan(noise_floor(sentinels((1.0, 1.1))))


def test_errors_by_load() -> None:
    table = pd.DataFrame({"load": [0.2, 0.2, 0.8], "seconds": [1.0, 2.0, 4.0]})
    low, high = by_load(table, np.array([1.1, 1.8, 4.0]))
    assert (low["steps"], low["load"], high["mape"]) == (2, 0.2, 0.0)
    assert low["mape"] == pytest.approx(0.1)
    assert low["bias"] == pytest.approx(0.0)
    assert low["total_bias"] == pytest.approx(-0.1 / 3)


def test_time_before_the_first_token_outside_the_engine() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(10, 2000, 200)
    outside = (8e-3 + 3e-6 * tokens) * np.exp(0.1 * rng.standard_normal(200))
    values, stderr = fit_requests(pd.DataFrame({"outside_s": outside, "input_tokens": tokens}))
    assert values == pytest.approx([8e-3, 3e-6], rel=0.1)
    assert np.all(stderr < 0.2 * values)
    with pytest.raises(InputError, match="7 more are needed"):
        fit_requests(pd.DataFrame({"outside_s": outside[:3], "input_tokens": tokens[:3]}))
