"""The options of a plan and its front, to choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import streamlit as st

from twin.show import charts, formats, shell
from twin.show.pages.plan_saved import fleet

Json = Mapping[str, Any]


def options(plan: Json) -> None:
    """Named options and near misses, one row each; a click looks at it."""
    every = [*plan["options"], *plan["near_misses"]]
    if not every:
        return
    st.subheader("Options", anchor=False)
    rows = [option_row(item) for item in every]
    st.html(_on_paper(rows))
    event = st.dataframe(
        rows,
        hide_index=True,
        on_select="rerun",
        selection_mode=("single-row", "single-cell"),
        key="options",
    )
    st.caption(
        "Cost and use as planned; P(held): share of possible worlds in which every promise holds; promised quantiles: the worse"
        " of the whole trace and its busiest five minutes. A click looks at an option."
    )
    picked = [*event.selection.rows, *(row for row, _ in event.selection.cells)]
    if picked and st.query_params.get("option") != every[picked[0]]["id"]:
        _choose(every[picked[0]]["id"])
        st.rerun()


def _on_paper(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for a printer: the one of the screen scrolls, which paper does not."""
    head = "".join(f"<th>{escape(str(name))}</th>" for name in rows[0])
    cells = ["".join(f"<td>{escape(str(value))}</td>" for value in row.values()) for row in rows]
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f'<table class="twin-on-paper"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def option_row(item: Json) -> dict[str, Any]:
    risk = item.get("risk", {})
    cost = risk.get("usd_per_month")
    row = {
        "": "near miss" if item.get("misses") else ", ".join(n.replace("_", " ") for n in item.get("names") or ()),
        "Fleet": fleet(item),
        "Precision": _precision(item),
        "USD/month": formats.usd(item["usd_per_month"]),
        "5 to 95 %": f"{formats.usd(cost['p5'])} – {formats.usd(cost['p95'])}" if cost else formats.NOTHING,
        "P(held)": formats.held(risk),
    }
    for bound in item["bounds"]:
        of = f" {bound['request_class']}" if bound.get("request_class") else ""
        name = f"p{bound['quantile'] * 100:g} {bound['metric'].upper()}{of}"
        row[f"{name} ≤ {formats.seconds(bound['seconds'])}"] = formats.seconds(bound["worst_s"])
    row["Use"] = formats.share(item["peak_utilisation"])
    row["Calibrated"] = f"▲ {item['calibrated']}" if item["calibrated"] == "outside" else item["calibrated"]
    return row


def _precision(item: Json) -> str:
    pools = item.get("pools", [item])
    return " + ".join(dict.fromkeys(f"{p['precision']['weights']}/{p['precision']['kv_cache']}" for p in pools))


def front(plan: Json) -> None:
    """Cost against latency; a click on a point looks at the option, or says what is known of the point."""
    if not plan["front"]:
        return
    st.subheader("What else there is", anchor=False)
    metric = (
        st.segmented_control("Latency", ["TTFT", "TPOT"], default="TTFT", key="front_metric", required=True) or "TTFT"
    )
    wide, narrow = st.columns([3, 1])
    with wide:
        picked = shell.chart(charts.front(plan, metric=metric.lower()), select=True)
    with narrow:
        _point(plan, picked[0] if picked else None)


def _point(plan: Json, name: str | None) -> None:
    if name is None:
        st.caption("Click a point to see what it is.")
        return
    if any(item["id"] == name for item in [*plan["options"], *plan["near_misses"]]):
        if st.query_params.get("option") != name:
            _choose(name)
            st.rerun()
        st.caption("This is the option shown above.")
        return
    point = next((item for item in plan["front"] if item["id"] == name), None)
    if point is None:
        return
    st.markdown(f"`{name}`")
    st.metric("Cost", formats.usd(point["usd_per_month"], "month"))
    st.metric("p99 TTFT", formats.ms(point["p99_ttft_ms"]))
    st.metric("p99 TPOT", formats.ms(point["p99_tpot_ms"]))
    if point.get("probability_held") is not None:
        st.metric("P(held)", formats.share(point["probability_held"]))
    st.caption("On the front, and not among the named options: bills and risk are told of those.")


def _choose(name: str) -> None:
    st.query_params["option"] = name
