"""Results of vLLM's own benchmark become rows that the fit takes, or a sentence why not."""

import json
from pathlib import Path
from typing import Any

import pytest

from calibrate.server_logs import COLUMNS, closed_loop_row
from twin.base import InputError

FACTS = {
    "system": "h100_sxm", "model": None, "precision": "fp8", "tp_size": 2, "vllm_version": "0.19.0", "kv_cache_dtype": "fp8",
}  # fmt: skip


def result(**changes: Any) -> dict[str, Any]:
    """A closed loop of four clients."""
    lengths = [1024 - 5 * i for i in range(40)]
    return {
        "model_id": "meta-llama/Llama-3.1-70B",
        "input_lens": lengths,
        "output_lens": [256] * 40,
        "ttfts": [0.1] * 40,
        "mean_ttft_ms": 100.0,
        "mean_tpot_ms": 21.5,
        "max_concurrency": 4,
        "completed": 40,
    } | changes


def row(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(result(**changes)), encoding="utf-8")
    return closed_loop_row(path, **FACTS)  # type: ignore[arg-type]


def test_a_closed_loop_is_a_row_of_the_table(tmp_path: Path) -> None:
    found = row(tmp_path)
    assert tuple(found) == COLUMNS
    assert (found["model"], found["isl"], found["osl"]) == ("meta-llama/Llama-3.1-70B", 1024, 256)
    assert (found["concurrency"], found["mean_tpot_ms"]) == (4, 21.5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_concurrency": None}, "run.json: an open loop"),
        ({"request_rate": 0.5}, "an open loop"),
        ({"completed": 38}, "2 of 40 requests failed"),
        ({"input_lens": [1024] * 39 + [100]}, "input lengths from 100 to 1024"),
        ({"ttfts": [0.1] * 39 + [0.0]}, "is not a positive number"),
        ({"ttfts": [0.1] * 39 + [float("nan")]}, "is not a positive number"),
        ({"mean_tpot_ms": -1.0}, "mean_tpot_ms is -1.0"),
        ({"max_concurrency": 16}, "40 prompts for 16 clients: the replay sends 10 for each"),
    ],
)
def test_what_the_replay_is_not_is_refused(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        row(tmp_path, **changes)


def test_a_result_without_details_says_which_flags_write_them(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"mean_ttft_ms": 1.0}))
    with pytest.raises(InputError, match="'input_lens' is missing: vllm bench serve writes it with --save-result"):
        closed_loop_row(path, **FACTS)  # type: ignore[arg-type]
