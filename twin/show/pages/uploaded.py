"""An upload of a trace, on whichever page: kept and chosen, or refused with the sentence of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from twin.base import TwinError
from twin.show import store

KNOWN = (
    "Azure, Mooncake, BurstGPT, vllm bench serve --save-detailed, or a CSV with arrival, input and output tokens;"
    " may be gzipped"
)


def refused_upload(key: str, trace: str, read: Callable[[Path], object]) -> TwinError | None:
    """Ask for a file, keep it, and choose it in the session's ``trace``; ``read`` says whether it is one.

    What ``read`` refuses is not kept, and its sentence is given until the file is taken out or another trace is chosen: till
    then a page shows nothing of another trace.
    """
    session = st.session_state
    uploaded = st.file_uploader(KNOWN, key=key)
    if uploaded is None or session.get(f"{key}_seen") == uploaded.file_id:
        return None
    file, chosen, refusal = session.get(f"{key}_refused", (None, None, None))
    if file == uploaded.file_id:
        if chosen == session.get(trace):
            return refusal  # type: ignore[no-any-return]
        session[f"{key}_seen"] = uploaded.file_id
        return None
    try:
        path = _kept(uploaded.name, uploaded, read)
    except TwinError as error:
        session[f"{key}_refused"] = uploaded.file_id, session.get(trace), error
        return error
    session[trace] = store.shown_name(path)
    session[f"{key}_seen"] = uploaded.file_id
    return None


def _kept(name: str, content: object, read: Callable[[Path], object]) -> Path:
    path = store.keep_upload(name, content)  # type: ignore[arg-type]
    try:
        read(path)
    except TwinError:
        store.drop_upload(path)
        raise
    return path
