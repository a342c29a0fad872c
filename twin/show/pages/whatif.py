"""The What-if page: a deployment under a load, at once, beside a pinned one."""

from __future__ import annotations

import streamlit as st

from twin.base import TwinError
from twin.results.run import Run
from twin.show import shell
from twin.show.dashboard import ANSWER, LAYOUT
from twin.show.pages import whatif_form, whatif_result, whatif_whole
from twin.show.pages.whatif_answer import answer_of, look_closer
from twin.show.saved import run_named
from twin.show.what_if import Answer, Setting, pin, pinned

LINK, PIN, START = "whatif-link", "whatif-pin", "whatif-start"
"""In the session: the address as the page last wrote it, what is pinned, and what the controls were filled with."""


def page() -> None:
    shell.heading("What-if", "A deployment under a load, and what a change does, against the one that you pin.")
    try:
        _fill(dict(st.query_params))
    except TwinError as error:
        shell.failed(error)
        shell.nothing("The link could not be read", "[Start from the defaults](?), or from an option of a saved plan.")
        return
    _body()


def _fill(params: dict[str, str]) -> None:
    """Once for each address that the page did not write itself. Who comes back from another page finds it as it was."""
    session = st.session_state
    if session.get(LINK) == params and whatif_form.filled():
        return
    if not params and LINK in session:
        params = dict(session[LINK])
    run, pins = _run(params.get("run")), params.pop("pin", None)
    setting = Setting.from_params(params, run)
    session[PIN] = None if pins is None else _of_pin(pins)
    session[START] = setting
    whatif_form.fill(setting)


@st.fragment
def _body() -> None:
    """Controls and answer; a moved control runs this again, not the page around it."""
    start: Setting = st.session_state[START]
    run, pinned_setting = _run(start.run), st.session_state[PIN]
    with st.container(key=LAYOUT):
        left, right = st.columns([1, 3], gap="medium")
    with left:
        setting = whatif_form.controls(start, run)
        _pins(setting, pinned_setting)
    params = _write(setting, run, pinned_setting)
    with right:
        try:
            with st.spinner("Replaying the busiest minutes…"):
                answer = answer_of(setting, run)
        except TwinError as error:
            shell.failed(error)
            return
        baseline = _baseline(pinned_setting)
        with st.container(key=ANSWER):
            whatif_result.show(answer, baseline)
        look_closer(setting, run)
        whatif_whole.show(answer, params)
        whatif_result.drawn(answer, baseline)


def _pins(setting: Setting, baseline: Setting | None) -> None:
    with st.container(horizontal=True):
        st.button(
            "Pin as baseline",
            icon=":material/keep:",
            help="Compare with this what you change from here.",
            disabled=setting == baseline,
            on_click=_hold,
            args=(setting,),
        )
        if baseline is not None:
            st.button("Unpin", icon=":material/keep_off:", on_click=_hold, args=(None,))


def _hold(setting: Setting | None) -> None:
    st.session_state[PIN] = setting


def _write(setting: Setting, run: Run | None, baseline: Setting | None) -> dict[str, str]:
    """The address says what is shown, so that a link to it shows the same. Returns its parameters."""
    params = setting.to_params(run)
    if baseline is not None:
        params["pin"] = pin(baseline.to_params(_run(baseline.run)))
    if dict(st.query_params) != params:
        st.query_params.from_dict(params)
    st.session_state[LINK] = params
    return params


def _baseline(setting: Setting | None) -> Answer | None:
    if setting is None:
        return None
    try:
        return answer_of(setting, _run(setting.run))
    except TwinError as error:
        st.warning(f"The baseline cannot be shown: {shell.plain(str(error))}")
        return None


def _of_pin(text: str) -> Setting:
    params = pinned(text)
    return Setting.from_params(params, _run(params.get("run")))


def _run(name: str | None) -> Run | None:
    return None if name is None else run_named(name)
