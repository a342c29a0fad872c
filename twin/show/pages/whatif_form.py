"""The controls of the What-if page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from twin.results.run import Run
from twin.search.space import MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS, TENSOR_PARALLEL_SIZES
from twin.show import store
from twin.show.what_if import LEAST_LOAD, MADE_UP, MOST_LOAD, OF_RUN, Setting
from twin.spec.hardware import profile_names
from twin.spec.model import model_names
from twin.spec.precision import precision_table
from twin.spec.prices import PRICE_KINDS
from twin.traffic.trace import TooLong

KEY = "whatif_"
MOST_REPLICAS = 16
LENGTHS = "Tokens: 1200, or a distribution: median=1200,p99=6000."
BOUND = "Milliseconds unless a unit is given; p99 unless p90:500ms. Empty: nothing is promised."
ROUTINGS = ("least_loaded", "round_robin", "internal_lb")
LONG: dict[TooLong, str] = {"error": "refuse the trace", "drop": "leave them out", "truncate": "cut them"}


def fill(setting: Setting) -> None:
    """Put a setting that comes from elsewhere (an address, a run) into the controls."""
    for name, value in setting:
        st.session_state[KEY + name] = value


def filled() -> bool:
    """Whether the controls were there in the last run: those of a page that is left are forgotten."""
    return KEY + "load" in st.session_state


def controls(setting: Setting, run: Run | None) -> Setting:
    """The setting as the controls stand; what has none stays that of ``setting``."""
    said: dict[str, Any] = {"load": st.slider(
        "Load, times the trace's rate", LEAST_LOAD, MOST_LOAD, step=0.05, format="×%.2f", key=KEY + "load"
    )}  # fmt: skip
    most = max(MOST_REPLICAS, 2 * setting.replicas)
    said["replicas"] = st.slider("Replicas", 1, most, key=KEY + "replicas")
    said["max_num_seqs"] = _steps("Seats of a replica", "max_num_seqs", MAX_NUM_SEQS, "--max-num-seqs")
    said["max_num_batched_tokens"] = _steps(
        "Tokens of a step", "max_num_batched_tokens", MAX_NUM_BATCHED_TOKENS, "--max-num-batched-tokens"
    )
    said["gpu"] = _choice("GPU", "gpu", profile_names())
    said["tensor_parallel_size"] = _steps(
        "GPUs of a replica", "tensor_parallel_size", TENSOR_PARALLEL_SIZES, "--tensor-parallel-size"
    )
    formats = precision_table()
    left, right = st.columns(2)
    with left:
        said["quantization"] = _choice("Weights", "quantization", ["none", *formats.formats])
    with right:
        said["kv_cache_dtype"] = _choice("KV cache", "kv_cache_dtype", list(formats.kv_cache))
    said["model"] = _choice("Model", "model", model_names())
    said |= _traffic(run)
    with st.expander("Promises, routing, price", icon=":material/more_horiz:"):
        said |= _more()
    return Setting.model_validate({**dict(setting), **said})


def _traffic(run: Run | None) -> dict[str, Any]:
    known = [*([OF_RUN] if run is not None else []), MADE_UP, *store.trace_files()]
    said: dict[str, Any] = {"traffic": _choice("Traffic", "traffic", known)}
    if said["traffic"] == MADE_UP:
        said["request_rate"] = st.number_input("Requests a second", min_value=0.001, key=KEY + "request_rate")
        said["input_len"] = st.text_input("Input tokens", key=KEY + "input_len", help=LENGTHS)
        said["output_len"] = st.text_input("Output tokens", key=KEY + "output_len", help=LENGTHS)
    return said


def _more() -> dict[str, Any]:
    labels = {"ttft": "Time to first token", "tpot": "Time per output token", "e2el": "Whole request"}
    said: dict[str, Any] = {
        name: st.text_input(label, key=KEY + name, help=BOUND, placeholder="none") for name, label in labels.items()
    }
    said["routing"] = _choice("Routing among replicas", "routing", ROUTINGS)
    said["price"] = _choice("Price", "price", PRICE_KINDS)
    said["too_long"] = st.selectbox(
        "Requests beyond the context", list(LONG), key=KEY + "too_long", format_func=LONG.__getitem__
    )
    return said


def _choice(label: str, name: str, known: Sequence[str]) -> str:
    """One of ``known``; what an address asks for beside them stays choosable, and the page says what is wrong with it."""
    held = st.session_state.get(KEY + name)
    names = [*known, *([held] if held is not None and held not in known else [])]
    chosen: str = st.selectbox(label, names, key=KEY + name)
    return chosen


def _steps(label: str, name: str, usual: Sequence[int], flag: str) -> int:
    held = st.session_state.get(KEY + name)
    values = sorted({*usual, *([held] if held is not None else [])})
    chosen: int = st.select_slider(label, values, key=KEY + name, help=flag)
    return chosen
