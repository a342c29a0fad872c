"""A plan that is being made: how far it is, the front so far, and a button that stops it and keeps what it has."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from twin.base import TwinError
from twin.show import charts, jobs, shell
from twin.show.pages import plan_result
from twin.show.question import Question, command

EVERY_S = 1.0
SO_FAR = "The front so far, simulated on the busiest minutes: it will move. The whole trace comes after."
RISK_LATER = "Risk comes last, of the options that are named: no interval is drawn until then."


def show(job: jobs.Job, state: jobs.State) -> None:
    if state.name == "running":
        shell.heading("Plan", "Being made in the background: this page can be left, and come back to.")
        st.markdown(shell.plain(_asked(Question.from_params(job.question))))
        _watch(job, risk=Question.from_params(job.question).risk)
    elif state.name == "stopped" and state.run is not None:
        plan_result.of_run(state.run.name, resumable=job)
    elif state.name == "stopped":
        shell.heading("Plan", "Stopped.")
        shell.nothing(
            "Stopped before anything was seen on the whole trace", "What was simulated is kept, if there was anything."
        )
        if state.answer.get("front"):
            st.caption(f"The front after {state.answer['simulated']:,} simulations, on the busiest minutes:")
            shell.chart(charts.front(state.answer))
        plan_result.resume(job, state)
    else:
        plan_result.of_answer(state.answer, job)
    with st.expander("The same on the command line", icon=":material/terminal:"):
        st.code(command(job.argv), language="bash", wrap_lines=True)


def _asked(question: Question) -> str:
    said = [question.model, question.traffic or "made-up traffic", question.gpu or "all GPUs"]
    promises = {name: getattr(question, name) for name in ("ttft", "tpot", "e2el")}
    said += [f"{name.upper()} {text}" for name, text in promises.items() if text]
    return " · ".join(filter(None, [*said, question.budget]))


@st.fragment(run_every=EVERY_S)
def _watch(job: jobs.Job, *, risk: bool) -> None:
    try:
        state, progress = job.state, job.progress
    except TwinError:  # another tab has seen it end
        st.rerun(scope="app")
        return
    if state.name != "running":
        st.rerun(scope="app")
    if st.button(
        "Stop", icon=":material/stop:", help="Ends the search with what it has found; it can be gone on with."
    ):
        job.stop()
        st.toast("Stopping: the simulations under way are left, what was found is kept.")
    if not progress.stages:
        st.progress(0.0, "Reading the traffic, screening configurations in closed form…")
    for name, done, total in progress.stages:
        st.progress(min(done / total, 1.0) if total else 0.0, f"{name}: {done:,} of at most {total:,} simulations")
    if progress.front:
        so_far = charts.front({"options": [], "near_misses": [], "front": progress.front})
        shell.chart(replace(so_far, note=SO_FAR + (f" {RISK_LATER}" if risk else "")))
    for note in progress.notes:
        st.caption(shell.plain(note))
