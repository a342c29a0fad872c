"""The whole trace of the What-if page: ``twin simulate`` in the background, and what it said."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import streamlit as st

from twin.base import TwinError
from twin.results.run import write_folder
from twin.show import jobs, shell
from twin.show.formats import count, ms, share
from twin.show.store import runs_folder
from twin.show.what_if import Answer

SAID = "whatif-whole"
"""In the session: answers by address, as a job is forgotten once its run folder tells everything."""
EVERY_S = 1.0


def show(answer: Answer, params: Mapping[str, str]) -> None:
    """A button, how far it is, or what came of it."""
    asked = {name: text for name, text in params.items() if name != "pin"}
    said: dict[str, Mapping[str, Any]] = st.session_state.setdefault(SAID, {})
    known = said.get(_key(asked))
    if known is not None:
        _show(known)
        return
    job = next((job for job in jobs.jobs(jobs.SIMULATIONS) if job.question == asked), None)
    if job is None:
        if st.button(f"Run the whole trace ({answer.requests:,} requests)", icon=":material/play_arrow:"):
            _start(answer, asked)
        return
    state = job.state
    if state.name == "running":
        _watch(job, answer.requests)
    elif state.name == "done":
        said[_key(asked)] = state.answer
        _show(state.answer)
    else:
        if state.name == "failed":
            st.error(shell.plain(f"error: {state.error}"), icon=":material/error:")
        else:
            st.info("The whole trace was stopped before it was through.")
        st.button("Try again", icon=":material/replay:", on_click=job.remove)


def _start(answer: Answer, asked: Mapping[str, str]) -> None:
    scenario = answer.scenario
    folder = runs_folder() / ".what-if" / _key({**asked, "scenario": scenario.model_dump_json()})
    try:
        if not folder.exists():
            write_folder(folder, {"what-if.yaml": scenario.to_yaml(relative_to=folder)})
        jobs.start(["simulate", str(folder / "what-if.yaml")], asked, jobs.SIMULATIONS)
    except TwinError as error:
        shell.failed(error)
        return
    st.rerun()


@st.fragment(run_every=EVERY_S)
def _watch(job: jobs.Job, requests: int) -> None:
    try:
        running = job.state.name == "running"
    except TwinError:  # another tab has seen it end
        running = False
    if not running:
        st.rerun(scope="app")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Stop", icon=":material/stop:", on_click=job.stop)
        st.caption(f"Simulating {requests:,} requests in the background; this page can be left.")


def _show(said: Mapping[str, Any]) -> None:
    st.subheader(f"The whole trace: {said['completed']:,} requests", anchor=False)
    shell.figures(
        [
            shell.Figure("p99 TTFT", ms(said["p99_ttft_ms"])),
            shell.Figure("p99 TPOT", ms(said["p99_tpot_ms"])),
            shell.Figure("Output tokens", count(said["output_throughput"], "/s")),
            shell.Figure("KV cache, peak", share(said["peak_kv_cache_usage"])),
            shell.Figure("Keep every bound", share(said["slo_attainment"], 1)),
            shell.Figure("Load", str(said["load"])),
        ]
    )
    st.caption("Of the engine as modelled: no interval. Kept among the saved runs.")


def _key(asked: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(sorted(asked.items())).encode()).hexdigest()[:12]
