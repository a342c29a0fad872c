"""The host fit: known coefficients come back from runs that the simulation itself wrote, and what is not told is said."""

from itertools import product

import numpy as np
import pytest

from calibrate.host import (
    KEPT,
    UNITS,
    JointFit,
    MeasuredRun,
    _joined,
    fit_jointly,
    host_section,
    left_out,
    log_errors,
)
from twin.base import Estimate, InputError
from twin.cost.layout import HostCosts
from twin.spec.hardware import HostFit
from twin.trust.closed_loop import BenchmarkRun, predict

TRUE = HostCosts(
    step_s=4e-4, sequence_s=3e-5, request_s=1e-2, input_token_s=1e-6, kernel_overlap_s=8e-7, compute_stretch=1.35,
    reduce_skew_s=2e-6, cold_start_s=0.2,
)  # fmt: skip
MODEL = "meta-llama/Llama-3.1-70B"


def made_up(gpu: str, ranks: tuple[int, ...], **more: object) -> list[MeasuredRun]:
    found = []
    for size, isl, clients in product(ranks, (256, 1024, 4096), (2, 8, 32)):
        run = BenchmarkRun(
            system=gpu, model=MODEL, precision="fp8", isl=isl, osl=96, concurrency=clients, tp_size=size, **more
        )  # type: ignore[arg-type]
        seen = predict(run, host=TRUE)
        found.append(MeasuredRun(run, "", seen.ttft_s, seen.tpot_s))
    return found


@pytest.fixture(scope="module")
def runs() -> dict[str, list[MeasuredRun]]:
    return {"h200_sxm": made_up("h200_sxm", (1, 4)), "b200_sxm": made_up("b200_sxm", (1, 8))}


@pytest.fixture(scope="module")
def fit(runs: dict[str, list[MeasuredRun]]) -> JointFit:
    return fit_jointly(runs)


def test_the_runs_are_explained_and_the_coefficients_come_back(
    runs: dict[str, list[MeasuredRun]], fit: JointFit
) -> None:
    for gpu, items in runs.items():
        assert np.abs(log_errors(items, fit.host(gpu))).mean() < 0.01
    for name in ("sequence_s", "compute_stretch", "reduce_skew_s", "kernel_overlap_s"):
        assert fit.of("h200_sxm", name) == pytest.approx(getattr(TRUE, name), rel=0.25)
    assert fit.of("b200_sxm", "cold_start_s") == pytest.approx(0.2, rel=0.25)
    # A GPU without runs has the host's figures too, and the least of what is a GPU's own.
    assert fit.host("l40s").step_s == fit.host("h200_sxm").step_s
    both = [fit.of(gpu, "cold_start_s") for gpu in runs]
    assert fit.of("l40s", "cold_start_s") == min(both)


def test_what_was_left_out_is_predicted_by_a_fit_that_did_not_see_it(
    runs: dict[str, list[MeasuredRun]], fit: JointFit
) -> None:
    told: list[str] = []
    errors = left_out(runs, fit, told.append)
    assert set(errors) == {"layout_left_out", "gpu_left_out"}
    assert all(len(part) for kind in errors.values() for part in kind.values())
    assert any("without b200_sxm" in line for line in told)


def test_a_section_tells_fitted_from_assumed(runs: dict[str, list[MeasuredRun]], fit: JointFit) -> None:
    seen = {gpu: log_errors(items, fit.host(gpu)) for gpu, items in runs.items()}
    unseen = {"layout_left_out": seen, "gpu_left_out": {"h200_sxm": seen["h200_sxm"] + 0.5}}
    own = host_section(fit, "h200_sxm", seen, unseen, "", "runs.csv", "2026-11-21")
    other = host_section(fit, "l40s", seen, unseen, "", "runs.csv", "2026-11-21")
    assert own.step_s.origin == "fitted"
    assert other.step_s.origin == "assumed"
    assert own.runs is not None
    assert own.runs["fitted"].n == len(runs["h200_sxm"])
    assert other.tpot_error is not None
    assert own.tpot_error is not None
    assert other.tpot_error > own.tpot_error  # of GPUs left out, where the GPU has no runs
    assert own.correlated is not None
    assert set(own.correlated) == set(UNITS) - {
        "launch_s",
        "client_s",
    }  # which no dense run of an engine without warm-up tells


def test_a_newer_generation_keeps_what_it_cannot_tell(runs: dict[str, list[MeasuredRun]], fit: JointFit) -> None:
    kept = {name: fit.of("", name) for name in KEPT}
    again = fit_jointly(runs, fit, kept)
    assert set(again.names).isdisjoint(KEPT)
    assert all(getattr(again.host("h200_sxm"), name) == value for name, value in kept.items())


def test_a_gpu_without_newer_runs_keeps_what_the_older_tell() -> None:
    def section(step_s: float, client_s: float) -> HostFit:
        figures = {name: Estimate(value=1.0, origin="fitted", source="runs.csv", date="2026-11-21") for name in UNITS}
        changed = {"step_s": step_s, "client_s": client_s}
        figures |= {name: figures[name].model_copy(update={"value": value}) for name, value in changed.items()}
        return HostFit(**figures)  # type: ignore[arg-type]

    newer, older = section(2e-4, 0.03), section(5e-4, 0.0)
    for own, step_s in ((True, 2e-4), (False, 5e-4)):
        joined = _joined(newer, older, own=own)
        assert joined.step_s.value == step_s
        assert joined.client_s is not None
        assert joined.client_s.value == 0.03


def test_one_rank_and_warmed_up_servers_do_not_tell_skew_and_cold_start() -> None:
    warm = made_up("h200_sxm", (1,))[:6]
    with pytest.raises(InputError, match="6 runs are too few for 6 host coefficients: 6 more are needed"):
        fit_jointly({"h200_sxm": warm})
