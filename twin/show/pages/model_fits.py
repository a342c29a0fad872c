"""What of a model fits where, on the Hardware page: the figures of ``twin model show``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from twin.cost.model_payload import CONTEXT, TENSOR_PARALLEL_SIZES, described
from twin.results.run import SCHEMA_VERSION, to_json
from twin.show import shell
from twin.show.formats import NOTHING, count
from twin.spec.model import load_model, model_names
from twin.spec.precision import precision_table

FIRST = "Qwen/Qwen3-32B"
PUBLISHED = "as published"
NO_ROOM = {"the weights do not fit in GPU memory", "the weights leave no room for a KV cache"}


def model_fits() -> None:
    """Raises :class:`InputError` as ``twin model show`` does."""
    one, two, three = st.columns([2, 1, 1])
    names = model_names()
    table = precision_table()
    name = one.selectbox("Model", names, names.index(FIRST), key="model", bind="query-params")
    weights = two.selectbox("Weights", [PUBLISHED, *table.formats], key="quantization", bind="query-params")
    cache = three.selectbox("KV cache", list(table.kv_cache), key="kv_cache_dtype", bind="query-params")
    payload = described(load_model(name), None if weights == PUBLISHED else weights, cache)
    _show(payload, "" if weights == PUBLISHED else f" --quantization {weights}")


def _show(payload: Mapping[str, Any], flags: str) -> None:
    weights, cache = payload["weight_bytes"][payload["format"]], payload["kv_cache_dtype"]
    active = payload["active_parameters"]
    used = "all of them at every token" if active == payload["parameters"] else f"{_short(active)} at a token"
    held = payload["request_bytes"][cache] / 2**30
    shell.figures(
        [
            shell.Figure("Parameters", _short(payload["parameters"]), used),
            shell.Figure(
                "Weights",
                f"{weights / 2**30:,.1f} GiB",
                f"{payload['format']}, published in {payload['published_format']}",
            ),
            shell.Figure(
                "KV cache", f"{payload['kv_bytes_per_token'][cache] / 2**10:,.0f} KiB", "per token, all layers"
            ),
            shell.Figure(
                f"A request of {CONTEXT:,} tokens",
                f"{held:,.2f} GiB",
                f"context: {count(payload['max_model_len'], 'tokens')}",
            ),
        ]
    )
    st.caption(shell.plain("; ".join(f"{layer['count']} × {layer['says']}" for layer in payload["layers"])))
    st.subheader("Tokens of KV cache that fit, by GPUs in tensor parallel", anchor=False)
    st.dataframe(fit_rows(payload), hide_index=True, height="content")
    st.caption(
        f"In brackets: requests of {CONTEXT:,} tokens at once. Compute from: tokens of a step from which products take longer"
        " than reading the weights, at datasheet rates. "
    )
    for text in reasons(payload):
        st.caption(shell.plain(text))
    with st.expander("The same on the command line", icon=":material/terminal:"):
        st.code(f"twin model show {payload['name']}{flags} --kv-cache-dtype {cache}", language="bash")
    text = to_json({"schema_version": SCHEMA_VERSION, **payload})
    shell.downloads([shell.Download("Model (JSON)", "model.json", text, "application/json")])


def reasons(payload: Mapping[str, Any]) -> list[str]:
    """Why GPUs have memory alone (``*``), and why a split is none."""
    alone: dict[str, list[str]] = {}
    for gpu in payload["gpus"]:
        if gpu["not_modelled"]:
            alone.setdefault(gpu["not_modelled"].replace(f"{gpu['gpu']} ", "", 1), []).append(gpu["gpu"])
    splits = {fit["why_not"] for gpu in payload["gpus"] for fit in gpu["fits"]} - NO_ROOM - {None}
    found = [f"* memory alone ({', '.join(gpus)}): {reason.removeprefix('has ')}." for reason, gpus in alone.items()]
    return found + [f"No split: {reason}." for reason in sorted(splits)]


def fit_rows(payload: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each GPU: KV tokens and requests by tensor-parallel size, or why not."""
    rows = []
    for gpu in payload["gpus"]:
        fits = {fit["tensor_parallel_size"]: fit for fit in gpu["fits"]}
        batch = gpu["compute_bound_batch"]
        rows.append(
            {
                "GPU": gpu["gpu"] + ("*" if gpu["not_modelled"] else ""),
                **{f"TP{size}": _fit(fits.get(size)) for size in TENSOR_PARALLEL_SIZES},
                "compute from": NOTHING if batch is None else count(batch, "tokens"),
            }
        )
    return rows


def _fit(fit: Mapping[str, Any] | None) -> str:
    if fit is None:
        return NOTHING
    if fit["why_not"]:
        return "no room" if fit["why_not"] in NO_ROOM else "no split"
    return f"{_short(fit['kv_tokens'])} ({fit['max_concurrency_8k']:,.0f})"


def _short(value: float) -> str:
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g}{unit}"
    return f"{value:g}"
