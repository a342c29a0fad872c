"""A plan, read: the decision, its options, and the front. Every number is the run's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from twin.base import TwinError
from twin.results.compare import compare, side
from twin.results.run import Run
from twin.show import formats, jobs, saved, shell, store
from twin.show.pages import plan_detail, plan_downloads, plan_options, plan_saved
from twin.show.question import Question
from twin.show.words import words

Json = Mapping[str, Any]


def of_run(name: str, resumable: jobs.Job | None = None) -> None:
    """The run folder of that name among the saved. Raises :class:`InputError` for none, and for a torn one."""
    run = saved.run_named(name)
    if run.plan is None:
        shell.heading(run.name, "A simulation.")
        shell.nothing("This run is a simulation, not a plan", "`twin compare` sets it beside a plan.")
        return
    plan = run.plan
    shell.heading(run.name, _asked(plan, run.scenario.get("slo") or {}, run.scenario.get("budget")))
    _bar(run)
    _decided(run)
    if plan["interrupted"] and resumable is not None:
        resume(resumable, resumable.state)
    baseline = _baseline(run)
    chosen = _chosen(plan)
    if chosen is not None:
        _figures(run, chosen, baseline)
    plan_options.options(plan)
    plan_options.front(plan)
    plan_detail.sections(run, plan, chosen, baseline)
    plan_downloads.show(run, baseline, chosen)


def of_answer(plan: Json, job: jobs.Job) -> None:
    """A plan that left no run folder, as nothing could be simulated: why."""
    shell.heading("Plan", _asked(plan, {}, None))
    st.error(f"**Nothing holds.** {shell.plain(plan['binding'] or '')}", icon=":material/block:")
    resume(job, job.state)
    plan_detail.ruled_out(plan)


def _asked(plan: Json, slo: Json, budget: Any) -> str:
    load = plan["traffic"]
    said = [
        plan["model"],
        f"{load['name']}: {load['requests']:,} requests, {load['mean_rate_per_s']:.1f}/s"
        f" ({load['busiest_5min_rate_per_s']:.1f}/s at the busiest five minutes)",
        *(f"{name.upper()} {text if isinstance(text, str) else ' and '.join(text)}" for name, text in slo.items()),
    ]
    return shell.plain(" · ".join(said))


def resume(job: jobs.Job, state: jobs.State) -> None:
    """Buttons that go on with what was stopped, or ask again."""
    with st.container(horizontal=True):
        if state.resumable is not None and st.button("Go on with the search", icon=":material/play_arrow:"):
            try:
                following = job.resume()
            except TwinError as error:
                shell.failed(error)
            else:
                st.query_params.from_dict({"job": following.id})
                st.rerun()
        if st.button("Change the question", icon=":material/edit:"):
            st.query_params.from_dict(Question.from_params(job.question).to_params())
            st.rerun()


def _bar(run: Run) -> None:
    """Where to go from here."""
    with st.container(horizontal=True):
        if st.button("Ask something new", icon=":material/add:"):
            st.query_params.clear()
            st.session_state.pop("asked", None)
            st.rerun()
        if run.flags and st.button("Change this question", icon=":material/edit:"):
            question = Question.from_flags(run.flags, run.path, store.trace_files())
            st.query_params.from_dict(question.to_params())
            st.rerun()


def _decided(run: Run) -> None:
    """The decision as the report says it: one sentence, what must not be missed, and the facts under it."""
    from twin.show.report.blocks import Facts, Paragraph, Text
    from twin.show.report.content import RACK_KW
    from twin.show.report.decision import decision
    from twin.show.report.forms import plain
    from twin.show.report.source import Talk, matter_of

    say = words("en")
    matter = matter_of(run, None, {"start": None, "rack_kw": RACK_KW, "name": None}, Talk(say))

    def told(text: Text) -> str:
        return shell.plain(plain(text, say))

    for block in decision(matter).blocks:
        if isinstance(block, Paragraph) and block.kind == "verdict":
            box, icon = (st.success, "check_circle") if matter.recommended.there else (st.error, "block")
            box(f"**{told(block.text)}**", icon=f":material/{icon}:")
        elif isinstance(block, Paragraph) and block.kind == "warning":
            st.warning(told(block.text), icon=":material/warning:")
        elif isinstance(block, Facts):
            st.markdown("\n".join(f"- **{told(name)}**: {told(said)}" for name, said in block.rows))


def _baseline(run: Run) -> Run | None:
    """The run that this one is held against: pinned in the URL."""
    names = [name for name in saved.run_names() if name != run.name]
    if not names:
        return None
    pinned = st.query_params.get("baseline")
    if pinned is not None and pinned not in names:
        try:
            saved.run_named(pinned)
        except TwinError as error:
            shell.failed(error)
    st.session_state["baseline"] = pinned if pinned in names else None
    name = st.selectbox(
        "Against a baseline", names, index=None, key="baseline", placeholder="none pinned", on_change=_pin, width=320
    )
    if name is None:
        return None
    try:
        return saved.run_named(name)
    except TwinError as error:
        shell.failed(error)
        return None


def _pin() -> None:
    name = st.session_state["baseline"]
    if name is None:
        st.query_params.pop("baseline", None)
    else:
        st.query_params["baseline"] = name


def _chosen(plan: Json) -> Json | None:
    """The option that is looked at: the URL's, the recommended, the first there is, the nearest miss."""
    every = {item["id"]: item for item in [*plan["options"], *plan["near_misses"]]}
    wanted = st.query_params.get("option") or plan["recommended"]
    return every.get(wanted) or next(iter(every.values()), None)


def _figures(run: Run, option: Json, baseline: Run | None) -> None:
    st.subheader(title(option), anchor=False)
    st.markdown(f"`{option['id']}` {shell.calibration(option)}")
    deltas = _deltas(run, option, baseline)
    if baseline is not None:
        _against(run, option, baseline)
    risk = option.get("risk", {})
    cost = risk.get("usd_per_month")
    figures = [
        shell.Figure(
            "Cost",
            formats.usd(option["usd_per_month"], "month"),
            f"price: {_price(run, option)}" + (f"; {_between(cost, formats.usd)}" if cost else ""),
            help=f"{formats.usd(option['usd_per_mtok'])} per million output tokens"
            if option.get("usd_per_mtok")
            else None,
            **deltas("usd_per_month", formats.usd),
        ),
        shell.Figure(
            "P(every promise holds)",
            formats.held(risk) if risk else "not asked",
            f"± {formats.share(risk['probability_held']['stderr'])} over {risk['worlds']} possible worlds"
            if risk
            else "",
            **deltas("probability_held.value", formats.share),
        ),
        *(_promise(bound, risk, option, deltas) for bound in option["bounds"]),
        shell.Figure(
            "In use at the peak",
            formats.share(option["peak_utilisation"]),
            "of what the fleet could serve",
            **deltas("peak_utilisation", formats.share),
        ),
    ]
    shell.figures(figures)
    for text in option.get("misses", ()):
        st.warning(shell.plain(text))


def _against(run: Run, option: Json, baseline: Run) -> None:
    """Whether the two may be held against one another."""
    try:
        said = compare(side(baseline), side(run, option["id"]))
    except TwinError as error:
        shell.failed(error)
        return
    st.caption(f"Differences are to {shell.plain(baseline.name)}.")
    for text in said["warnings"]:
        st.warning(shell.plain(text), icon=":material/warning:")


def title(option: Json) -> str:
    names = ", ".join(name.replace("_", " ") for name in option.get("names") or ())
    return f"{plan_saved.fleet(option)}" + (f" ({names})" if names else "")


def _price(run: Run, option: Json) -> str:
    """The kind of price that the cost is at, which options are compared by."""
    from twin.show.report.forms import word

    return word(option.get("money", {}).get("kind") or str(run.scenario["price"]), words("en"))


def _between(spread: Json, form: Any) -> str:
    low, high = form(spread["p5"]), form(spread["p95"])
    return f"5 to 95 % of worlds: {shell.plain(low)} – {shell.plain(high)}" if low != high else "no spread known"


def _promise(bound: Json, risk: Json, option: Json, deltas: Any) -> shell.Figure:
    """A promised quantile against its limit, with its spread over the worlds."""
    key = ("metric", "quantile", "request_class")
    spread = next((b for b in risk.get("bounds", ()) if all(b.get(k) == bound.get(k) for k in key)), None)
    name = f"p{bound['quantile'] * 100:g} {bound['metric'].upper()}"
    of = f" of {bound['request_class']}" if bound.get("request_class") else ""
    between = ""
    if spread:
        between = f"; 5 to 95 % of worlds: {formats.seconds(spread['p5_s'])} – {formats.seconds(spread['p95_s'])}"
    return shell.Figure(
        f"{name}{of}",
        formats.seconds(bound["worst_s"]),
        f"promised {formats.seconds(bound['seconds'])}{between}",
        outside=option.get("calibrated") == "outside",
        help="The worse of the whole trace and its busiest five minutes.",
        **deltas(f"promised p{bound['quantile'] * 100:g} {bound['metric']}{of}", formats.ms),
    )


def _deltas(run: Run, option: Json, baseline: Run | None) -> Any:
    """By a figure's name of ``twin compare``: its difference to the baseline in words, and whether that is better."""
    rows: dict[str, Json] = {}
    if baseline is not None:
        try:
            said = compare(side(baseline), side(run, option["id"]))
            rows = {
                row["figure"]: row for row in reversed(said["figures"])
            }  # names of the bill come after the option's
        except TwinError:
            rows = {}

    def of(name: str, form: Any) -> dict[str, Any]:
        row = rows.get(name)
        if row is None or not row["difference"]:
            return {}
        sign = "+" if row["difference"] > 0 else "-"
        better = None if row["better"] is None else row["better"] == "b"
        return {"delta": f"{sign}{form(abs(row['difference']))}", "better": better}

    return of
