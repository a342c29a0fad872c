"""The Plan page: ask, watch the plan being made, and read it. Which of the three, and of what, the URL says."""

from __future__ import annotations

import streamlit as st

from twin.base import TwinError
from twin.show import jobs, shell
from twin.show.pages import plan_form
from twin.show.question import Question

LEAD = "What to run for this traffic, model, promises and budget; what it costs, and how sure that is."


def page() -> None:
    if "run" in st.query_params:
        from twin.show.pages import plan_result

        plan_result.of_run(st.query_params["run"])
        return
    if "job" in st.query_params:
        from twin.show.pages import plan_result, plan_running

        job = jobs.find(st.query_params["job"])
        state = job.state
        if state.name == "done" and state.run is not None:
            st.query_params.from_dict({"run": state.run.name})
            plan_result.of_run(state.run.name)
        elif state.name == "failed":
            _ask(Question.from_params(job.question), refused=state)
        else:
            plan_running.show(job, state)
        return
    try:
        question = Question.from_params(st.query_params.to_dict())
    except TwinError as error:
        shell.failed(error)
        question = Question.from_params({})
    _ask(question)


def _ask(question: Question, refused: jobs.State | None = None) -> None:
    shell.heading("Plan", LEAD)
    if refused is not None:
        shell.failed(refused.error)
    plan_form.form(question)

    from twin.show.pages import (
        plan_saved,
    )  # reads run folders, which takes half a second to learn: the form is there first

    plan_saved.lists()
