"""The fit report: figures that follow from the data, one page, the same bytes each time, bad input in a sentence."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from calibrate.judge import Judged
from calibrate.report import DENSE, summaries, target_of, write_report
from calibrate.report_panels import FAMILIES, family_of, running_median
from twin.base import InputError
from twin.cost.parts import parts
from twin.spec.hardware import load_profile

pytest.importorskip("matplotlib")
L40S = load_profile("l40s")


def judged(kernel: str, count: int = 400, spread: float = 0.05, serving: float = 0.5) -> Judged:
    """Log-normal measurements around predictions over many sizes."""
    rng = np.random.default_rng(len(kernel))
    predicted = np.exp(rng.uniform(np.log(4e-6), np.log(4e-3), count))
    return Judged(
        gpu="l40s",
        kernel=kernel,
        size=predicted * 1e12,
        measured_s=predicted * np.exp(rng.normal(0, spread, count)),
        predicted_s=predicted,
        serving=rng.random(count) < serving,
    )


def everything() -> list[Judged]:
    few = ("all-reduce", "element-wise")
    found = [
        judged(part.name, 16 if part.name.startswith(few) else 400) for part in parts(L40S) if part.family in DENSE
    ]
    return [*found, judged("engine step (in process)", serving=1.0), judged("engine step (server)", serving=1.0)]


def test_every_fitted_part_has_a_family_and_the_issues_targets() -> None:
    assert {family_of(item.kernel) for item in everything()} == set(FAMILIES)
    assert target_of("gemm bf16", "h100_sxm") == 0.05
    assert target_of("gemm fp8", "h100_sxm") == 0.10
    assert target_of("all-reduce 8 GPUs", "h100_sxm") == 0.06
    assert target_of("engine step (server)", "h100_sxm") == 0.08
    assert target_of("element-wise", "h100_sxm") is None
    assert target_of("gemm bf16", "l40s") is None  # only reported
    assert target_of("engine step (server)", "a_cpu") == 0.08
    with pytest.raises(InputError, match="no family"):
        family_of("convolution")


def test_the_table_shows_the_profiles_errors_and_else_the_rows_own() -> None:
    step = judged("engine step (in process)", 4000, serving=1.0)
    found = {item.kernel: item for item in summaries(L40S, [judged("gemm bf16"), step])}
    assert found["gemm bf16"].errors.mape == L40S.kernels.gemm["bf16"].held_out.serving.mape
    assert found["gemm bf16"].target is None
    held = load_profile("h200_sxm")
    (kept,) = summaries(held, [judged("gemm bf16")])
    assert kept.target == 0.05
    assert kept.missed == (held.kernels.gemm["bf16"].held_out.serving.mape > 0.05)
    own = found["engine step (in process)"].errors
    relative = step.predicted_s / step.measured_s - 1
    assert own.mape == pytest.approx(np.abs(relative).mean())
    assert own.bias == pytest.approx(relative.mean())
    assert own.interval90 is not None
    low, high = own.interval90
    ratio = step.measured_s / step.predicted_s
    assert ((ratio >= low) & (ratio <= high)).mean() == pytest.approx(0.9, abs=0.002)
    assert not found["engine step (in process)"].missed


def test_the_interval_is_of_serving_shapes_only() -> None:
    item = judged("engine step (server)", 2000)
    wild = Judged(
        item.gpu, item.kernel, item.size, np.where(item.serving, item.measured_s, 9 * item.measured_s),
        item.predicted_s, item.serving,
    )  # fmt: skip
    assert summaries(L40S, [wild])[0].errors == summaries(L40S, [item])[0].errors


@pytest.mark.parametrize("suffix", [".pdf", ".png", ".svg"])
def test_one_page_the_same_bytes_each_time(tmp_path: Path, suffix: str) -> None:
    one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    for path in (one, two):
        write_report(path, L40S, everything())
    raw = one.read_bytes()
    assert raw == two.read_bytes()
    assert len(raw) < 4_000_000
    start = {".pdf": b"%PDF", ".png": b"\x89PNG", ".svg": b"<?xml"}[suffix]
    assert raw.startswith(start)
    if suffix == ".pdf":
        assert raw.count(b"/Type /Page\n") + raw.count(b"/Type /Page ") == 1
        assert b"/MediaBox [ 0 0 841.68 595.44 ]" in raw, "A4, landscape"


def test_nothing_is_cut_off_or_overlaps(tmp_path: Path) -> None:
    """Text of the page lies on it, and titles, tables and footer keep clear of each other."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from calibrate.report import FONT, PAGE_INCHES, _page

    with mpl.rc_context(FONT):
        figure = Figure(figsize=PAGE_INCHES)
        canvas = FigureCanvasAgg(figure)
        _page(figure, L40S, everything())
        canvas.draw()
        boxes = [axes.get_tightbbox() for axes in figure.axes] + [text.get_window_extent() for text in figure.texts]
    assert len(boxes) == 2 * len(FAMILIES) + 2 + 3
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    for one, other in itertools.combinations(boxes, 2):
        assert one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0


def test_few_points_and_a_single_kernel_are_drawn(tmp_path: Path) -> None:
    write_report(
        tmp_path / "r.png", L40S, [judged("gemm bf16", 2, serving=1.0), judged("element-wise", 1, serving=0.0)]
    )
    assert (tmp_path / "r.png").stat().st_size > 10_000


def test_the_running_median_follows_a_bend() -> None:
    size = np.logspace(0, 6, 1200)
    left = np.where(size > 1e3, 5.0, -5.0) + np.random.default_rng(0).normal(0, 1, 1200)
    middles, medians = running_median(size, left)
    assert np.all(np.diff(middles) > 0)
    assert medians[middles < 500] == pytest.approx(-5, abs=0.5)
    assert medians[middles > 2000] == pytest.approx(5, abs=0.5)


def test_bad_input_leaves_the_old_page(tmp_path: Path) -> None:
    old = tmp_path / "r.pdf"
    old.write_bytes(b"old")
    item = judged("gemm bf16")
    zero = Judged(item.gpu, item.kernel, item.size, item.measured_s * 0, item.predicted_s, item.serving)
    cases = [([], "no held-out measurement of l40s"), ([zero], "not a positive number")]
    cases.append(([judged("convolution")], "of no family"))
    for rows, said in cases:
        with pytest.raises(InputError, match=said):
            write_report(old, L40S, rows)
    with pytest.raises(InputError, match=r"not written as \.doc.*allowed: \.pdf"):
        write_report(tmp_path / "r.doc", L40S, [item])
    assert old.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["r.pdf"]
