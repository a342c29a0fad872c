"""Figures of traces, against those published beside the real files and against counting by hand."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from twin.traffic.describe import describe, prefix_hits
from twin.traffic.readers import read_trace
from twin.traffic.trace import Trace

FILES = (
    "AzureLLMInferenceTrace_conv.csv",
    "AzureLLMInferenceTrace_code.csv",
    "mooncake_conversation_trace_0-30min.jsonl.gz",
)


def published(readme: str, file: str) -> dict[str, float]:
    """The figures that the README states in the row of ``file``; ``a/b/c`` are p50/p90/p99."""
    cells = next(line for line in readme.splitlines() if line.startswith(f"| {file} ")).split("|")
    text, found = cells[-2], {"requests": float(cells[-3].replace(",", ""))}
    patterns = {
        "mean_rate_per_s": r"([\d.]+) req/s",
        "peak_1min_rate_per_s": r"peak 1-min ([\d.]+)",
        "interarrival_cv": r"CV ([\d.]+)",
        "prefix": r"([\d.]+) % of 512-token blocks",
    }
    for name, pattern in patterns.items():
        if match := re.search(pattern, text):
            found[name] = float(match[1])
    for name, word in (("input_tokens", "in"), ("output_tokens", "out")):
        match = re.search(rf"\b{word}(?: p50/90/99)? (\d+)/(\d+)/(\d+)", text)
        assert match, text
        found |= {f"{name}.p{q}": float(v) for q, v in zip((50, 90, 99), match.groups(), strict=True)}
    return found


@pytest.mark.parametrize("file", FILES)
def test_agrees_with_the_published_figures(shared: Path, file: str) -> None:
    expected = published((shared / "traces/README.md").read_text(), file)
    assert len(expected) >= 8
    figures = describe(read_trace(shared / "traces" / file))
    for name, value in expected.items():
        if name == "prefix":
            assert round(100 * figures["prefix"]["hit_share_of_blocks"], 1) == value
        elif "." in name:
            column, quantile = name.split(".")
            assert figures[column][quantile] == pytest.approx(value, abs=0.51)
        else:
            assert figures[name] == pytest.approx(value, rel=0.005)


def test_by_hand() -> None:
    trace = Trace(
        [0, 10, 20, 400, 401, 402, 403],  # type: ignore[arg-type]
        [100] * 6 + [800],  # type: ignore[arg-type]
        [1, 2, 3, 4, 5, 6, 7],  # type: ignore[arg-type]
        session=["a", "a", "a", "b", None, "b", "b"],  # type: ignore[arg-type]
        request_class=list("xxyxxxx"),  # type: ignore[arg-type]
    )
    figures = describe(trace)
    assert figures["requests"] == 7
    assert figures["duration_s"] == 403
    assert figures["mean_rate_per_s"] == 7 / 403
    assert figures["peak_1min_rate_per_s"] == 4 / 60
    assert figures["busiest_5min"] == {"start_s": 400, "requests": 4, "rate_per_s": 4 / 300}
    assert figures["input_tokens"] == pytest.approx(
        {
            "mean": 200,
            "p50": 100,
            "p90": 380,
            "p99": 758,
            "max": 800,
            "total": 1400,
        }
    )
    assert figures["sessions"] == {
        "sessions": 2,
        "requests_in_sessions": 6,
        "mean_requests": 3,
        "max_requests": 3,
    }
    assert figures["classes"] == {"x": 6, "y": 1}
    assert figures["prefix"] is None
    json.dumps(figures, allow_nan=False)


def test_all_at_once_has_no_rate() -> None:
    figures = describe(Trace([3, 3], [1, 1], [1, 1]))  # type: ignore[arg-type]
    assert figures["mean_rate_per_s"] is None
    assert figures["interarrival_cv"] is None
    json.dumps(figures, allow_nan=False)


def test_evenly_spaced_arrivals_have_no_burstiness() -> None:
    trace = Trace([number / 3 for number in range(100)], [1] * 100, [1] * 100)  # type: ignore[arg-type]
    assert np.diff(trace.arrival_s).std() > 0, "rounding is there"
    assert describe(trace)["interarrival_cv"] == 0


def test_prefix_hits_by_hand() -> None:
    """Blocks of 10: the second request shares 2 blocks with the first; the third reaches further into a block
    of which the second only had 5 tokens."""
    trace = Trace(
        [0, 1, 2],  # type: ignore[arg-type]
        [30, 25, 28],  # type: ignore[arg-type]
        [1, 1, 1],  # type: ignore[arg-type]
        prefix_hashes=((1, 2, 3), (1, 2, 4), (1, 2, 4)),
        hash_block_tokens=10,
    )
    assert prefix_hits(trace) == {
        "hash_block_tokens": 10,
        "blocks": 9,
        "hit_share_of_blocks": 5 / 9,
        "hit_share_of_input_tokens": (20 + 20 + 5) / 83,
    }
