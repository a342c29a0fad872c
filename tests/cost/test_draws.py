"""Worlds drawn from a profile: centred on it, as wide as its errors say, and never outside physics."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from twin.base import Provenance
from twin.cost import operators as ops
from twin.cost.collectives import all_reduce_s
from twin.cost.draws import draw, family_spread, shape_spread
from twin.cost.layout import HostCosts, Layout
from twin.cost.parts import dense, interval90, parts, relative_stderr
from twin.cost.step import StepModel
from twin.spec.hardware import HardwareProfile, HostFit, load_profile
from twin.spec.kernels import Errors, HeldOut
from twin.spec.model import load_model

H200 = load_profile("h200_sxm")
A100 = load_profile("a100_sxm")
DRAWS = 1500


def assumed(profile: HardwareProfile, stderr: float = 0.25) -> HardwareProfile:
    """As a profile from class averages is: wide coefficients, the error that leaving a GPU out shows, no table."""
    wide = Errors(mape=0.2, bias=0.05, n=1000, interval90=(0.65, 1.6), coverage90=0.9)
    kernel = profile.kernels.gemm["bf16"]
    figures = {
        name: getattr(kernel, name).model_copy(
            update={"stderr": stderr * getattr(kernel, name).value, "origin": "assumed"}
        )
        for name in ("flops_per_s", "bytes_per_s", "launch_s")
    }
    guessed = kernel.model_copy(
        update={
            **figures,
            "table": None,
            "held_out": HeldOut(overall=wide, serving=wide),
            "provenance": Provenance(origin="assumed", source="class average", date="2026-11-21"),
        }
    )
    return profile.model_copy(update={"kernels": profile.kernels.model_copy(update={"gemm": {"bf16": guessed}})})


def gemm_log_s(profile: HardwareProfile, m: int) -> float:
    return log(float(ops.gemm_s(profile, "bf16", m, 8192, 8192)))


def worlds(profile: HardwareProfile, count: int = DRAWS) -> list[HardwareProfile]:
    rng = np.random.default_rng(5)
    return [draw(profile, rng) for _ in range(count)]


def test_the_same_state_gives_the_same_world() -> None:
    one, two = (draw(H200, np.random.default_rng(9)) for _ in range(2))
    assert one == two
    assert one != draw(H200, np.random.default_rng(10))
    assert one != H200


def test_a_drawn_profile_is_a_whole_profile() -> None:
    world = draw(H200, np.random.default_rng(1))
    assert HardwareProfile.model_validate(world.model_dump()) == world
    cost = StepModel(load_model("Qwen/Qwen3-32B"), world, Layout(2), max_tokens=512)
    assert 0 < cost.step_s([(None, 300, 0)], 16, 16000) < 1


def test_mean_and_spread_of_a_measured_family() -> None:
    logs = np.array([[gemm_log_s(world, m) for m in (1, 8192)] for world in worlds(H200, 600)])
    centre = [gemm_log_s(H200, m) for m in (1, 8192)]
    spread = family_spread(H200)["gemm"]
    assert logs.mean(axis=0) == pytest.approx(centre, abs=4 * spread / np.sqrt(600))
    # The family's factor and the coefficient's own error, which are independent.
    kernel = H200.kernels.gemm["bf16"]
    own = [relative_stderr(kernel.bytes_per_s), relative_stderr(kernel.flops_per_s)]
    assert logs.std(axis=0) == pytest.approx([np.hypot(spread, sigma) for sigma in own], rel=0.15)
    assert np.corrcoef(logs.T)[0, 1] > 0.9, "one factor moves the family"


def test_the_factor_is_the_error_that_a_model_sees() -> None:
    """gemm: four projections halve the shape error; attention has one head layout; both of the fits' own figures."""
    spread = family_spread(H200)
    gemms = [H200.kernels.gemm[dtype].held_out.serving for dtype in dense(H200.kernels)]
    shapes = np.sqrt(np.mean([shape_spread(errors) ** 2 for errors in gemms]))
    assert 0.7 * shapes / 2 < spread["gemm"] <= 1.1 * shapes / 2
    decodes = [fit.kernel.held_out.serving for fit in H200.kernels.decode_attention]
    shapes = np.sqrt(np.mean([shape_spread(errors) ** 2 for errors in decodes]))
    assert 0.8 * shapes < spread["decode_attention"] <= 1.1 * shapes


def test_intervals_and_spread_of_a_normal_error_agree() -> None:
    rng = np.random.default_rng(0)
    ratio = np.exp(rng.normal(0, 0.06, 200_000))
    mape = float(np.abs(np.log(ratio)).mean())
    low, high = np.quantile(ratio, [0.05, 0.95]).tolist()
    known, guessed = Errors(mape=mape, bias=0, n=9, interval90=(low, high)), Errors(mape=mape, bias=0, n=9)
    assert shape_spread(known) == pytest.approx(0.06, rel=0.01)
    assert shape_spread(guessed) == pytest.approx(0.06, rel=0.01)
    assert interval90(guessed) == pytest.approx((low, high), rel=0.01)
    assert interval90(known) == (low, high)


def test_an_assumed_profile_spreads_much_wider() -> None:
    measured = np.std([gemm_log_s(world, 64) for world in worlds(H200, 400)])
    guessed = np.std([gemm_log_s(world, 64) for world in worlds(assumed(H200), 400)])
    assert guessed > 5 * measured
    # As wide as what leaving a GPU out showed: (0.65, 1.6) is 90 % of a spread of 0.27, and the bias.
    assert guessed == pytest.approx(np.hypot(log(1.6 / 0.65) / 3.29, 0.05), rel=0.15)
    # A known spread of coefficients is not counted twice.
    assert family_spread(assumed(H200, 0.9))["gemm"] == 0.0


def test_every_draw_stays_within_physics() -> None:
    for world in worlds(A100, 300):
        for part in parts(world):
            for name in ("flops_per_s", "bytes_per_s", "launch_s"):
                if (figure := getattr(part.fit, name, None)) is not None:
                    assert figure.value > 0
            assert getattr(part.fit, "p", None) is None or part.fit.p.value >= 1  # type: ignore[union-attr]
        assert float(all_reduce_s(world, 8, 2**20)) > 0
        host = world.host
        assert host is not None
        assert min(host.step_s.value, host.sequence_s.value, host.request_s.value, host.input_token_s.value) >= 0
        assert host.compute_stretch.value >= 1


def test_what_the_data_did_not_see_stays() -> None:
    """A coefficient with an error as large as itself: no measured time depends on it."""
    kernel = H200.kernels.gemm["bf16"]
    rate = kernel.flops_per_s
    open_rate = rate.model_copy(update={"stderr": 3 * rate.value})
    gemm = {"bf16": kernel.model_copy(update={"flops_per_s": open_rate})}
    profile = H200.model_copy(update={"kernels": H200.kernels.model_copy(update={"gemm": gemm})})
    for world in worlds(profile, 20):
        drawn = world.kernels.gemm["bf16"]
        # Only the family's factor moves it, as it moves the launch and the bandwidth.
        assert 0.8 < drawn.flops_per_s.value / rate.value < 1.25


def host_profile(correlation: float, **figures: tuple[float, float]) -> HardwareProfile:
    assert H200.host is not None
    blank = H200.host.kernel_overlap_s
    fitted = {name: blank.model_copy(update={"value": v, "stderr": s}) for name, (v, s) in figures.items()}
    tied = {
        "correlated": ("step_s", "kernel_overlap_s"), "correlation": ((1.0, correlation), (correlation, 1.0))
    }  # fmt: skip
    rest = {name: getattr(H200.host, name) for name in ("sequence_s", "request_s", "input_token_s", "compute_stretch")}
    return H200.model_copy(update={"host": HostFit(**{**rest, **fitted, **tied})})


def test_host_coefficients_keep_mean_spread_and_correlation() -> None:
    profile = host_profile(0.9, step_s=(5e-4, 1e-4), kernel_overlap_s=(-2e-7, 1e-7), sequence_s=(1e-5, 2e-6))
    hosts = [HostCosts.of(world) for world in worlds(profile)]
    rows = np.array([(h.step_s, h.kernel_overlap_s, h.sequence_s) for h in hosts])
    assert rows.mean(axis=0) == pytest.approx([5e-4, -2e-7, 1e-5], rel=0.05)
    assert rows.std(axis=0) == pytest.approx([1e-4, 1e-7, 2e-6], rel=0.06)
    assert np.corrcoef(rows.T)[0, 1] == pytest.approx(0.9, abs=0.02)
    assert abs(np.corrcoef(rows.T)[0, 2]) < 0.1


def test_host_coefficients_pile_up_at_their_bounds() -> None:
    profile = host_profile(0.0, request_s=(1e-6, 0.1), step_s=(5e-4, 1e-4), kernel_overlap_s=(5e-7, 1e-7))
    drawn = np.array([HostCosts.of(world).request_s for world in worlds(profile, 400)])
    assert drawn.min() == 0.0
    assert 0.4 < (drawn == 0.0).mean() < 0.6
