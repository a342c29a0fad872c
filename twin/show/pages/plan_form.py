"""The question as a form. What is typed is the URL's and the command line's, to the letter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from twin.base import TwinError
from twin.show import jobs, shell, store
from twin.show.pages.uploaded import refused_upload
from twin.show.question import MADE_UP, Question, command, fault_of
from twin.spec.hardware import profile_names
from twin.spec.model import model_names

KEY = "ask_"
UPLOAD, REFUSED = "plan_upload", "plan_refused"
"""In the session: the file, and whether it was refused."""
TRACE, RATE, USERS = "A trace or a scenario", "A request rate", "A number of users"
OF_KIND = {
    TRACE: ("traffic", "rate"),
    RATE: ("request_rate", "input_len", "output_len", "burstiness", "num_requests"),
    USERS: ("users", "requests_per_user_hour", "input_len", "output_len", "burstiness", "num_requests"),
}
EXAMPLES: dict[str, Any] = {
    "request_rate": 8.0,
    "users": 500.0,
    "requests_per_user_hour": 12.0,
    "input_len": "1200",
    "output_len": "200",
}
"""What stands in a field of made-up traffic when it is first chosen."""
PRICES = {"on_demand": "on demand", "reserved": "reserved", "spot": "spot", "owned": "bought"}
ON_DEMAND = next(iter(PRICES))
LONG = {"error": "refuse the trace", "drop": "leave them out", "truncate": "cut them"}
LENGTHS = "Tokens: 1200, or a distribution: median=1200,p99=6000."
BOUND = "Milliseconds unless a unit is given; of 99 % of requests, p90:500ms of 90 %. Empty: nothing is promised."


def form(question: Question) -> None:
    """The form, filled with ``question`` when that is news, and a button that starts the plan."""
    _fill(question)
    st.session_state[REFUSED] = False
    with st.container(border=True):
        asked = _fields()
    st.query_params.from_dict(asked.to_params())
    st.session_state["asked"] = asked.to_params()
    st.session_state["form"] = {name: value for name, value in st.session_state.items() if str(name).startswith(KEY)}
    try:
        argv = asked.argv(store.trace_files())
    except TwinError as error:
        shell.failed(error)
        return
    if st.session_state[REFUSED]:  # what is chosen above is another trace than the one that was meant
        return
    if st.button("Make the plan", type="primary", icon=":material/play_arrow:", disabled=bool(asked.faults())):
        try:
            job = jobs.start(argv, asked.to_params())
        except TwinError as error:
            shell.failed(error)
        else:
            st.query_params.from_dict({"job": job.id})
            st.rerun()
    with st.expander("The same on the command line", icon=":material/terminal:"):
        st.code(command(argv, Path.cwd()), language="bash", wrap_lines=True)


def _fill(question: Question) -> None:
    """Once for each question that comes from elsewhere: a link, a run, the browser's history."""
    params = question.to_params()
    if f"{KEY}model" in st.session_state and (_touched() or st.session_state.get("asked") == params):
        return
    for name, value in question:
        st.session_state[KEY + name] = value if value is not None or name == "traffic" else _blank(name)
    st.session_state[KEY + "price"] = question.price or ON_DEMAND
    st.session_state[KEY + "gpu"] = [part.strip() for part in (question.gpu or "").split(",") if part.strip()]
    st.session_state[KEY + "kind"] = USERS if question.users is not None else RATE if _made_up(question) else TRACE


def _touched() -> bool:
    """Whether a field changed since the form was last drawn: then an address from before is no news. Who types faster than
    pages are drawn sends it, as the browser has not heard of the later one yet."""
    before = st.session_state.get("form", {})
    return any(name in st.session_state and st.session_state[name] != value for name, value in before.items())


def _made_up(question: Question) -> bool:
    return question.traffic is None and any(getattr(question, name) is not None for name in MADE_UP)


def _blank(name: str) -> Any:
    kind = Question.model_fields[name].annotation
    return EXAMPLES.get(name, "" if kind == str | None else None)


def _text(place: DeltaGenerator, name: str, label: str, **more: Any) -> str:
    """A field of text; what the command line would say of what is typed stands under it."""
    said: str = place.text_input(label, key=KEY + name, **more)
    if fault := fault_of(name, said):
        with place:
            shell.failed(fault)
    return said


def _fields() -> Question:
    kind = st.segmented_control("Traffic", list(OF_KIND), key=KEY + "kind", required=True) or TRACE
    said = _trace() if kind == TRACE else _recipe(kind)
    model, gpus = st.columns([2, 3])
    names = _with(model_names(), "model")
    said["model"] = model.selectbox("Model", names, key=KEY + "model", help="Type to search.")
    said["gpu"] = ",".join(
        gpus.multiselect(
            "GPUs",
            _with(profile_names(), "gpu"),
            key=KEY + "gpu",
            placeholder="all that were measured and have a price",
            help="Hardware that is only assumed is taken when it is named.",
        )
    )
    columns = st.columns(5)
    for column, name, label in zip(columns, ("ttft", "tpot", "e2el"), _PROMISES, strict=False):
        said[name] = _text(column, name, label, help=BOUND, placeholder="none")
    said["budget"] = _text(
        columns[3], "budget", "Budget", placeholder="none", help="120k/month, 2.5M/yr, 64gpu or 400kW."
    )
    said["price"] = columns[4].selectbox("Price", list(PRICES), format_func=PRICES.__getitem__, key=KEY + "price")
    if said["price"] == ON_DEMAND:
        said["price"] = None
    growth, risk = st.columns([2, 3], vertical_alignment="bottom")
    said["growth"] = _text(
        growth, "growth", "Growth of the traffic", placeholder="none", help="5%/month, 60%/yr, or 5%±2%/month."
    )
    said["risk"] = risk.toggle(
        "How sure is it? Try each option in possible worlds (takes several times as long)",
        key=KEY + "risk",
        help="Other days of traffic, errors of the model as measured, prices, growth, a node down.",
    )
    with st.expander("More", icon=":material/more_horiz:"):
        said |= _more(said)
    return Question.model_validate(
        {**_kept(), **{name: value if value != "" else None for name, value in said.items()}}
    )


_PROMISES = ("Time to first token", "Time per output token", "Whole request")


def _kept() -> dict[str, Any]:
    """What has no field of its own."""
    return {"explain": st.session_state.get(KEY + "explain") or None}


def _trace() -> dict[str, Any]:
    trace, rate = st.columns([4, 1])
    with st.expander("Upload a trace", icon=":material/upload:"):
        refused = refused_upload(UPLOAD, KEY + "traffic", store.trace_at)
        if refused is not None:
            shell.failed(refused)
    st.session_state[REFUSED] = refused is not None
    names = list(store.trace_files())
    if st.session_state.get(KEY + "traffic") not in names:
        if wanted := st.session_state.get(KEY + "traffic"):
            st.warning(f"There is no trace {wanted!r} here any more; choose another, or upload it.")
        st.session_state[KEY + "traffic"] = names[0]
    chosen = trace.selectbox("Trace or scenario", names, key=KEY + "traffic", help="A scenario's traffic is taken.")
    times = _text(rate, "rate", "Rate", placeholder="×1", help="×2: twice as many requests a second.")
    return {"traffic": chosen, "rate": times}


def _recipe(kind: str) -> dict[str, Any]:
    said: dict[str, Any] = {"traffic": None}
    for name, value in EXAMPLES.items():
        if st.session_state.get(KEY + name) in (None, ""):
            st.session_state[KEY + name] = value
    columns = st.columns(4)
    if kind == RATE:
        said["request_rate"] = columns[0].number_input("Requests per second", key=KEY + "request_rate", min_value=0.0)
    else:
        said["users"] = columns[0].number_input("Users", key=KEY + "users", min_value=0.0)
        said["requests_per_user_hour"] = columns[1].number_input(
            "Requests of one in an hour", key=KEY + "requests_per_user_hour", min_value=0.0
        )
    said["input_len"] = _text(columns[2], "input_len", "Input tokens", help=LENGTHS)
    said["output_len"] = _text(columns[3], "output_len", "Output tokens", help=LENGTHS)
    return said


def _more(said: dict[str, Any]) -> dict[str, Any]:
    more: dict[str, Any] = {}
    one, two, three, four = st.columns(4)
    more["headroom"] = one.text_input("Head-room at the peak", key=KEY + "headroom") or "20%"
    more["max_gpus"] = two.number_input("Most GPUs", key=KEY + "max_gpus", min_value=1, step=1, placeholder="any")
    more["node_size"] = three.selectbox("GPUs come in", _sizes(), key=KEY + "node_size", format_func=_nodes)
    more["region"] = four.text_input("Region of the prices", key=KEY + "region", placeholder="any")
    more["quantization"] = one.text_input("Weights", key=KEY + "quantization", placeholder="none,fp8")
    more["kv_cache_dtype"] = two.text_input("KV cache", key=KEY + "kv_cache_dtype", placeholder="auto,fp8")
    more["max_accuracy_loss"] = three.text_input("Most accuracy lost", key=KEY + "max_accuracy_loss", placeholder="any")
    more["too_long"] = four.selectbox(
        "Requests beyond the context", list(LONG), key=KEY + "too_long", format_func=LONG.__getitem__
    )
    more["horizon"] = one.number_input("Plan so many months ahead", key=KEY + "horizon", min_value=0.0, step=1.0)
    more["seed"] = two.number_input("Seed", key=KEY + "seed", min_value=0, step=1)
    if said["risk"]:
        more["worlds"] = three.number_input("Possible worlds", key=KEY + "worlds", min_value=8, max_value=4096, step=8)
        more["confidence"] = four.text_input("Must hold in", key=KEY + "confidence") or "90%"
    if said["traffic"] is None:
        more["burstiness"] = three.number_input("Burstiness", key=KEY + "burstiness", min_value=0.0, placeholder="1")
        more["num_requests"] = four.number_input(
            "Requests", key=KEY + "num_requests", min_value=2, step=1, placeholder="auto"
        )
    return more


def _nodes(size: int) -> str:
    return "single GPUs" if size == 1 else f"whole nodes of {size}"


def _sizes() -> list[int]:
    return sorted({1, 8, st.session_state[KEY + "node_size"]})


def _with(names: list[str], field: str) -> list[str]:
    """A name from a link that is none stays choosable, so that the command line says what is wrong with it."""
    held = st.session_state.get(KEY + field) or []
    return [*names, *(name for name in ([held] if isinstance(held, str) else held) if name not in names)]
