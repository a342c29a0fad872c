"""Spreads of left-out errors: of known data the known figure, and a check that has not seen what it checks."""

from __future__ import annotations

import numpy as np
import pytest

from calibrate.risk import spread
from twin.spec.engine_errors import load_risk


def test_normal_errors_need_no_widening_and_hold() -> None:
    rng = np.random.default_rng(0)
    groups = {name: 0.1 * rng.standard_normal(4000) for name in ("a", "b", "c")}
    found = spread(groups, {})
    assert found.sigma == pytest.approx(0.1, rel=0.03)
    assert found.widen == pytest.approx(1.0, abs=0.03)
    assert all(held.after == pytest.approx(0.9, abs=0.02) for held in found.groups.values())


def test_a_bias_that_all_share_widens() -> None:
    """Engines that are all 20 % slower than said: the root mean square alone would promise too much."""
    rng = np.random.default_rng(1)
    groups = {name: 0.2 + 0.02 * rng.standard_normal(500) for name in ("a", "b")}
    found = spread(groups, {})
    assert found.widen == 1.0  # Z·rms lies above already
    skewed = {name: np.concatenate([np.full(80, 0.0), np.full(20, 0.3)]) for name in ("a", "b")}
    wide = spread(skewed, {})
    assert wide.widen > 1.0
    assert all(held.before < 0.9 <= held.after for held in wide.groups.values())


def test_the_check_has_not_seen_its_gpu() -> None:
    """The one GPU that is far off holds under a spread that it is part of, and not under the others'."""
    rng = np.random.default_rng(2)
    groups = {name: 0.01 * rng.standard_normal(200) for name in ("a", "b")}
    groups |= {"c": 0.5 + 0.01 * rng.standard_normal(200), "c, older": 0.5 + 0.01 * rng.standard_normal(200)}
    found = spread(groups, {})
    assert found.groups["c"].after > 0.7
    assert found.groups["c"].checked == 0.0
    assert found.groups["c, older"].checked == 0.0
    assert found.groups["a"].checked == 1.0


def test_the_shipped_spreads_are_those_of_the_shipped_errors() -> None:
    data = load_risk()
    for at, quantity in enumerate(("tpot", "ttft")):
        groups = {name: np.array(pairs)[:, at] for name, pairs in data.runs["unseen"].items()}
        again = spread(groups, {})
        kept = data.spreads["unseen"][quantity]  # type: ignore[index]
        assert again.sigma == pytest.approx(kept.sigma, rel=1e-2)
        assert again.widen == pytest.approx(kept.widen, rel=1e-2)
