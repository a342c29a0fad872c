"""What a plan rests on, a view at a time: latency and load, where the time goes, money, risk, what was ruled out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from twin.base import TwinError
from twin.results.compare import compare, side
from twin.results.run import Run
from twin.show import charts, formats, shell

Json = Mapping[str, Any]
Option = Json | None

RISK_OFF = "The plan was made without risk. Change the question, and ask how sure it is."


def sections(run: Run, plan: Json, option: Option, baseline: Run | None) -> None:
    """A view of :data:`VIEWS`, which the URL names; the first unless it does. Without an option there is only why."""
    if option is None:
        ruled_out(plan)
        return
    views = {name: draw for name, draw in VIEWS.items() if baseline is not None or draw is not _compared}
    first = next(iter(views))
    if st.session_state.get("view", first) not in views or "view" not in st.session_state:
        wanted = st.query_params.get("view")
        st.session_state["view"] = wanted if wanted in views else first
    chosen = st.segmented_control("View", list(views), key="view", required=True, label_visibility="collapsed") or first
    if chosen != first:
        st.query_params["view"] = chosen
    else:
        st.query_params.pop("view", None)
    views[chosen](run, plan, option, baseline)


def _load(run: Run, plan: Json, option: Option, baseline: Run | None) -> None:
    curves = plan.get("load_curves") or ([plan["load_curve"]] if plan.get("load_curve") else [])
    if not curves:
        shell.nothing("No latency against load", "This run does not hold it; a plan made now does.")
    others = {} if baseline is None or baseline.plan is None else baseline.plan
    before = others.get("load_curves") or [others.get("load_curve")]
    for at, curve in enumerate(curves):
        if option is not None and len(curves) == 1 and curve["id"] != option["id"]:
            st.info(f"Of the recommended option `{curve['id']}`; What-if draws it for this one.")
        left, right = st.columns(2)
        pinned = before[at] if at < len(before) else None
        with left:
            shell.chart(charts.load_curve(curve, "ttft", pinned))
        with right:
            shell.chart(charts.load_curve(curve, "tpot", pinned))
    st.subheader("As the trace was replayed", anchor=False)
    drawn = [one for one in charts.timeline(run.timeline) if not one.empty]
    if not drawn:
        shell.nothing("No time line", "This run does not hold one: nothing held, or an older twin wrote it.")
    if drawn and option is not None and option["id"] != plan["recommended"]:
        st.info("Of the recommended option, which the run replayed request by request.")
    columns = st.columns(2)
    for at, one in enumerate(drawn):
        with columns[at % 2]:
            shell.chart(one)


def _time(run: Run, plan: Json, option: Option, baseline: Run | None) -> None:
    found = plan.get("explanation") or []
    if not found:
        shell.nothing(
            "Why it is as fast as it is was not asked",
            "It costs no simulation: `twin plan --resume " + run.name + " --explain recommended`.",
        )
        return
    if option is not None and option["id"] not in [item["id"] for item in found]:
        st.info(f"Explained is `{found[0]['id']}`.")
    for item in found:
        left, right = st.columns([3, 2])
        with left:
            shell.chart(charts.bottleneck(item))
        with right:
            st.markdown(_why(item))
        if item.get("next_steps"):
            st.markdown("**What the next step up buys**")
            st.dataframe(_steps(item["next_steps"]), hide_index=True)
            st.caption("As it is by simulation; the others in proportion to the closed form.")


def _why(item: Json) -> str:
    """The explanation's own words, as a list."""
    batch, cache, slack = item["batch"], item["kv_cache"], item["slack"]
    lines = [
        f"**{name.replace('_', ' ')}**: bound by {phase['bound_by'].replace('_', ' ')}"
        for name, phase in item["phases"].items()
        if phase
    ]
    lines.append(f"{batch['bound_by'].replace('_', ' ')} bound the batch; {batch['first_limit']} would bind first")
    lines.append(
        f"{batch['running_at_peak']:.1f} requests run at the peak on a replica with {batch['seats']:,.0f} seats"
    )
    lines.append(
        f"KV cache {formats.share(cache['mean_usage'])} full on average, {formats.share(cache['peak_usage'])} at most"
    )
    if slack.get("nearest_of_limit") is not None:
        lines.append(f"nearest to its limit: {slack['nearest']} ({formats.share(slack['nearest_of_limit'])} of it)")
    return "\n".join(f"- {line}" for line in lines)


def _steps(steps: Json) -> list[dict[str, Any]]:
    return [
        {
            "step": step["step"],
            "requests/s": formats.count(step.get("requests_per_s")),
            "more": formats.count(step.get("requests_per_s_more")),
            "USD/month": formats.usd(step.get("usd_per_month")),
            "held back by": step.get("why_not") or step.get("limited_by") or "",
        }
        for step in ({**steps, "step": "as it is"}, *steps["steps"])
    ]


def _money(run: Run, plan: Json, option: Option, baseline: Run | None) -> None:
    money = (option or {}).get("money")
    if option is None or not money:
        shell.nothing("No bill", "This option has none: near misses are not billed.")
        return
    left, right = st.columns([2, 3])
    with left:
        st.markdown(f"**The bill, {shell.plain(formats.usd(money['usd_per_month'], 'month'))}**")
        for line in money["lines"]:
            badge = shell.origin(line["origin"], line["source"], line["date"])
            st.markdown(f"{shell.plain(line['name'])}: **{shell.plain(formats.usd(line['usd_per_month']))}** {badge}")
        if idle := money.get("idle"):
            spare = formats.usd(idle["usd_per_month"])
            st.caption(
                shell.plain(f"{spare} of it ({formats.share(idle['share'])}) pays for capacity that no request uses.")
            )
        if money["unpriced"]:
            st.caption(f"Not priced: {', '.join(dict.fromkeys(item['item'] for item in money['unpriced']))}.")
    with right:
        shell.chart(charts.cost_tree(option))
    months = money["tco"]["months"]
    st.markdown(f"**Ways to pay over {months} months**")
    st.dataframe(
        [
            {
                "way": kind.replace("_", " "),
                "USD/month today": formats.usd(way["usd_per_month"]),
                "USD per GPU hour": formats.usd(way["usd_per_gpu_hour"]),
                "USD per Mtok": formats.usd(way["usd_per_mtok"]),
                f"USD over {months} months": formats.usd(way["tco_usd"]),
                "prices are": ", ".join(dict.fromkeys(line["origin"] for line in way["lines"])),
            }
            for kind, way in sorted(money["ways"].items(), key=lambda item: item[1]["tco_usd"])
        ],
        hide_index=True,
    )
    shell.chart(charts.cumulative_cost(option))


def _risk(run: Run, plan: Json, option: Option, baseline: Run | None) -> None:
    risk = (option or {}).get("risk")
    if option is None or not risk:
        shell.nothing("How sure it is was not asked", RISK_OFF)
        return
    st.markdown(f"**{shell.plain(risk['text'])}.**")
    left, right = st.columns(2)
    with left:
        shell.chart(charts.risk_bands(option))
    with right:
        shell.chart(charts.growth(option))
    for what, down in risk["down"].items():
        st.markdown(f"- one {what} down: {shell.plain(down['text'])}")
    of_plan = plan.get("risk") or {}
    if of_plan.get("would_change"):
        st.subheader("What would change the recommendation, the nearest first", anchor=False)
        st.markdown("\n".join(f"- {shell.plain(turn['text'])}" for turn in of_plan["would_change"]))
    if of_plan.get("sensitivity"):
        left, right = st.columns(2)
        with left:
            shell.chart(charts.sensitivity(of_plan, "cost"))
        with right:
            shell.chart(charts.sensitivity(of_plan, "tail"))
    with st.expander("How the worlds are drawn"):
        st.markdown("\n".join(f"- {shell.plain(text)}" for text in risk.get("how", ())))


def _ruled(run: Run, plan: Json, option: Option, baseline: Run | None) -> None:
    ruled_out(plan)


def ruled_out(plan: Json) -> None:
    """How many configurations were left out, and why; and what every plan says beside its figures."""
    st.markdown(f"{plan['screened']:,} configurations screened in closed form, {plan['simulated']:,} simulated.")
    stages = {"memory": "cannot start, or was not wanted", "screen": "ruled out in closed form"}
    rows = [
        {"configurations": item["count"], "why": item["reason"], "": stages.get(item["stage"], item["stage"])}
        for item in plan["rejected"]
    ]
    if rows:
        st.dataframe(rows, hide_index=True)
    st.markdown("\n".join(f"- {shell.plain(text)}" for text in plan["notes"]))


def _trust(run: Run, plan: Json, option: Option, baseline: Run | None) -> None:
    """What is known of the figures' accuracy, and where the price and the accuracy loss come from."""
    for pool in (option or {}).get("pools", [option] if option else []):
        st.markdown(f"**{pool['num_gpus']} {pool['gpu']}** {shell.calibration(pool)}")
        accuracy, price, precision = pool["accuracy"], pool["usd_per_gpu_hour"], pool["precision"]
        if accuracy["quoted"]:
            st.markdown(f"- {shell.plain(accuracy['quoted']['text'])}")
        st.markdown(f"- host times: {shell.origin(accuracy['host_origin'] or 'assumed')}")
        badge = shell.origin(price["origin"], price.get("note") or price["source"], price["date"])
        st.markdown(f"- price: {shell.plain(formats.usd(price['value'], 'GPU hour'))} {badge}")
        loss = precision["expected_accuracy_loss"]
        said = "not published" if loss is None else formats.share(loss, 1)
        st.markdown(f"- expected accuracy loss: {said} ({shell.plain(precision['accuracy_loss_source'])})")
    st.caption(
        f"twin {run.manifest['twin_version']}, models vLLM {run.manifest['vllm_version_modelled']}, seed {run.manifest['seed']}"
    )


def _compared(run: Run, plan: Json, option: Option, baseline: Run | None) -> None:
    if baseline is None or option is None:
        return
    try:
        said = compare(side(baseline), side(run, option["id"]))
    except TwinError as error:
        shell.failed(error)
        return
    rows = [
        {
            "figure": row["figure"].replace("_", " "),
            "unit": row["unit"],
            baseline.name: row["a"],
            run.name: row["b"],
            "difference": row["difference"],
            "better": {"a": baseline.name, "b": run.name}.get(row["better"], ""),
        }
        for row in said["figures"]
        if row["group"] not in ("risk", "money", "power", "energy")
    ]
    st.dataframe(rows, hide_index=True)
    for title, key in (("The answers differ in", "answer"), ("The questions differ in", "question")):
        if said[key]:
            st.markdown(f"**{title}**")
            st.dataframe(
                [{"": i["field"], baseline.name: str(i["a"]), run.name: str(i["b"])} for i in said[key]],
                hide_index=True,
            )


VIEWS: dict[str, Callable[[Run, Json, Option, Run | None], None]] = {
    "Latency and load": _load,
    "Where the time goes": _time,
    "Money": _money,
    "Risk": _risk,
    "Evidence": _trust,
    "Ruled out": _ruled,
    "Baseline": _compared,
}
