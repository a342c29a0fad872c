"""What was asked before: plans being made, and plans that are saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from twin.base import TwinError
from twin.results.run import Run
from twin.show import formats, jobs, saved, shell
from twin.show.question import Question

MOST = 30
STATES = {"running": "being made", "done": "done", "failed": "failed", "stopped": "stopped"}
HEADINGS = ("Plans being made", "Plans that did not come to their end")


def lists() -> None:
    _under_way()
    st.subheader("Saved plans", anchor=False)
    found = saved.plans(MOST)
    if not found:
        shell.nothing(
            "No plan is saved yet", "The question above needs no changes: make the plan, and it will be here."
        )
        return
    event = st.dataframe(
        [_row(item) if isinstance(item, Run) else _torn(item) for item in found],
        hide_index=True,
        column_config={"USD/month": st.column_config.NumberColumn(format="%,d")},
        on_select="rerun",
        selection_mode=("single-row", "single-cell"),
        key="saved_plans",
    )
    st.caption("A click opens a plan.")
    picked = [*event.selection.rows, *(row for row, _ in event.selection.cells)]
    if picked:
        st.query_params.from_dict({"run": found[picked[0]].name})
        st.rerun()


def _row(run: Run) -> dict[str, Any]:
    plan: Mapping[str, Any] = run.plan or {}
    best = next((o for o in plan["options"] if o["id"] == plan["recommended"]), None)
    return {
        "Plan": run.name,
        "Model": plan["model"],
        "Traffic": _traffic(plan["traffic"]),
        "Promised": ", ".join(f"{name.upper()} {text}" for name, text in run.scenario.get("slo", {}).items())
        or "nothing",
        "Answer": "stopped" if plan["interrupted"] else "nothing holds" if best is None else fleet(best),
        "USD/month": None if best is None else round(best["usd_per_month"]),
        "P(held)": formats.held((best or {}).get("risk")),
    }


def _torn(item: saved.Unreadable) -> dict[str, Any]:
    return {"Plan": item.name, "Answer": f"cannot be read: {item.why}"}


def fleet(option: Mapping[str, Any]) -> str:
    """``2 b200_sxm, TP2 × 1``."""
    kinds = [f"{pool['num_gpus']} {pool['gpu']}" for pool in option.get("pools", [option])]
    return f"{' + '.join(kinds)}, {formats.layout(option)}"


def _traffic(load: Mapping[str, Any]) -> str:
    return f"{load['name']}, {load['busiest_5min_rate_per_s']:.3g}/s at the peak"


def _under_way() -> None:
    """Those that are being made, and apart from them those that failed or were stopped; what is done is among the saved."""
    found: dict[str, list[tuple[jobs.Job, jobs.State, Question]]] = {heading: [] for heading in HEADINGS}
    for job in jobs.jobs():
        try:
            state, question = job.state, Question.of_link(job.question)[0]
        except TwinError:  # forgotten by another page meanwhile
            continue
        if state.name != "done" or state.run is None:
            found[HEADINGS[state.name != "running"]].append((job, state, question))
    for heading, some in found.items():
        if some:
            st.subheader(heading, anchor=False)
        for job, state, question in some:
            _job(job, state, question)


def _job(job: jobs.Job, state: jobs.State, question: Question) -> None:
    text, button = st.columns([5, 1], vertical_alignment="center")
    what = " · ".join(filter(None, (question.traffic or "made-up traffic", question.model)))
    said = f": {state.error}" if state.error else ""
    text.markdown(f"**{STATES[state.name]}** · {shell.plain(what + said)}")
    if button.button("Look", key=f"look-{job.id}"):
        st.query_params.from_dict({"job": job.id})
        st.rerun()
    if state.name != "running" and button.button("Forget", key=f"forget-{job.id}"):
        job.remove()
        st.rerun()
