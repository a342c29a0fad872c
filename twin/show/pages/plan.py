"""The Plan page: ask, watch the plan being made, and read it. Which of the three, and of what, the URL says."""

from __future__ import annotations

import streamlit as st

from twin.base import TwinError
from twin.show import jobs, shell
from twin.show.pages import plan_form
from twin.show.question import Question

LEAD = "What to run for this traffic, model, promises and budget; what it costs, and how sure that is."
LINK = "plan_link"
"""In the session: the last link that was not whole, what was wrong with it, and what was asked instead."""


def page() -> None:
    if "run" in st.query_params:
        from twin.show.pages import plan_result

        plan_result.of_run(st.query_params["run"])
        return
    if "job" in st.query_params:
        from twin.show.pages import plan_result, plan_running

        try:
            job = jobs.find(st.query_params["job"])
            state = job.state
        except TwinError as error:
            shell.heading("Plan", LEAD)
            shell.failed(error)
            shell.link("To the Plan page, and the plans that are saved", "plan", {}, ":material/arrow_back:")
            return
        if state.name == "done" and state.run is not None:
            st.query_params.from_dict({"run": state.run.name})
            plan_result.of_run(state.run.name)
        elif state.name == "failed":
            _ask(Question.from_params(job.question), refused=state)
        else:
            plan_running.show(job, state)
        return
    question, faults = Question.of_link(params := st.query_params.to_dict())
    told = st.session_state.get(LINK)
    if faults and (told is None or told["params"] != params):
        st.session_state[LINK] = {"params": params, "faults": faults}
    _ask(question)


def _ask(question: Question, refused: jobs.State | None = None) -> None:
    shell.heading("Plan", LEAD)
    if refused is not None:
        shell.failed(refused.error)
    above = st.container()
    plan_form.form(question)
    with above:
        _faults()

    from twin.show.pages import (
        plan_saved,
    )  # reads run folders, which takes half a second to learn: the form is there first

    plan_saved.lists()


def _faults() -> None:
    """What was wrong with the link, until something is changed; the address says what was kept of it already."""
    if told := st.session_state.get(LINK):
        asked = told.setdefault("asked", st.session_state["asked"])
        for fault in told["faults"] if asked == st.session_state["asked"] else ():
            shell.failed(fault)
