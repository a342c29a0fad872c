"""How long one waits for the What-if page: 50 moves of its sliders, none of them seen before."""

from __future__ import annotations

import random
import time
from pathlib import Path

import app_pages
import numpy as np
import pytest

from twin.search.space import MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS

MOVES = 50


def test_what_if(benchmark, figure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_RUNS", str(tmp_path))
    page = app_pages.opened("whatif")
    rng, took = random.Random(0), []
    sliders = {
        "load": lambda: round(0.05 * rng.randint(5, 80), 2),
        "replicas": lambda: rng.randint(1, 16),
        "max_num_seqs": lambda: rng.choice(MAX_NUM_SEQS),
        "max_num_batched_tokens": lambda: rng.choice(MAX_NUM_BATCHED_TOKENS),
    }

    def moves() -> None:
        seen = set()
        while len(took) < MOVES:
            name = list(sliders)[len(took) % len(sliders)]
            kind = page.select_slider if name.startswith("max") else page.slider
            kind(key=f"whatif_{name}").set_value(sliders[name]())
            at = tuple(kind(key=f"whatif_{name}").value for kind, name in _places(page, sliders))
            if at in seen:
                continue
            seen.add(at)
            start = time.perf_counter()
            app_pages.ran(page)
            took.append(time.perf_counter() - start)
            assert page.metric

    benchmark.pedantic(moves, rounds=1)
    figure("What-if, slider to new curves, p95 of 50 moves", float(np.quantile(took, 0.95)), "s", at_most=2.0)
    figure("What-if, slider to new curves, median", float(np.median(took)), "s")


def _places(page, names) -> list[tuple[object, str]]:
    return [(page.select_slider if name.startswith("max") else page.slider, name) for name in names]
