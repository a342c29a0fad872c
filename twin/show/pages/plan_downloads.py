"""What is taken away from a plan: the command that deploys it, its files, and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from twin.base import TwinError
from twin.results.run import Run, to_json
from twin.show import saved, shell
from twin.show.words import words

Json = Mapping[str, Any]

PAPERS = {
    "html": ("HTML", "text/html"),
    "pdf": ("PDF", "application/pdf"),
    "xlsx": ("Excel", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    "md": ("Markdown", "text/markdown"),
}
MOST_FLEETS = 200
"""Saved runs, the newest first, among which those of today's fleet are looked for."""
LANGS = {"en": "English", "zh": "中文"}


def show(run: Run, baseline: Run | None, option: Json | None) -> None:
    st.divider()
    if option is not None:
        _deploy(run, option)
    st.subheader("Take it away", anchor=False)
    _report(run, baseline)
    assert run.plan is not None
    rows = [_flat(item) for item in [*run.plan["options"], *run.plan["near_misses"]]]
    shell.downloads(
        [
            shell.Download(
                "Scenario (YAML)", f"{run.name}-scenario.yaml", _text(run, "scenario.yaml"), "application/yaml"
            ),
            shell.Download("Plan (JSON)", f"{run.name}.json", to_json(run.plan), "application/json"),
            shell.Download("Summary (JSON)", f"{run.name}-summary.json", to_json(run.summary), "application/json"),
            shell.Download(
                "Options (CSV)", f"{run.name}-options.csv", pd.DataFrame(rows).to_csv(index=False), "text/csv"
            ),
        ]
    )


def _deploy(run: Run, option: Json) -> None:
    st.subheader("Run it", anchor=False)
    for pool in option.get("pools", [option]):
        replicas = "the replica" if pool["replicas"] == 1 else f"each of {pool['replicas']} replicas"
        st.caption(f"On {replicas}, {pool['num_gpus']} {pool['gpu']} in all:")
        st.code(pool["vllm_command"], language="bash", wrap_lines=True)
    shell.link(
        "What if traffic, prices or settings change?",
        "whatif",
        {"run": run.name, "option": option["id"]},
        ":material/tune:",
    )


@dataclass(frozen=True)
class Asked:
    """What a report is asked beside its run: flags of ``twin report``; ``today`` is a run's name."""

    today: str | None = None
    start: str | None = None
    rack_kw: float | None = None
    name: str | None = None


def _report(run: Run, baseline: Run | None) -> None:
    """Made when it is asked for: a PDF takes seconds. What it cannot be made of is said before."""
    from twin.show.report.content import RACK_KW, check

    kind, lang, more, button = st.columns([3, 2, 1, 3], vertical_alignment="bottom")
    paper = kind.segmented_control(
        "Report", list(PAPERS), default="html", format_func=lambda p: PAPERS[p][0], required=True
    )
    tongue = lang.segmented_control("Language", list(LANGS), default="en", format_func=LANGS.__getitem__, required=True)
    paper, tongue = paper or "html", tongue or "en"
    with more.popover("Options", icon=":material/settings:"):
        asked = _options(baseline)
    try:
        today = None if asked.today is None else saved.run_named(asked.today)
        check(run, today, asked.start, RACK_KW if asked.rack_kw is None else asked.rack_kw)
    except TwinError as error:
        shell.failed(error)
        return

    def made() -> bytes:
        return report_bytes(run.name, paper, tongue, asked)

    button.download_button(
        f"Download the report ({PAPERS[paper][0]})",
        made,
        f"{run.name}-report.{paper}",
        PAPERS[paper][1],
        key="download-report",
        on_click="ignore",
        type="primary",
        icon=":material/download:",
    )


def _options(baseline: Run | None) -> Asked:
    """Flags of ``twin report`` as fields."""
    from twin.show.report.content import RACK_KW

    fleets = _fleets()
    pinned = baseline.name if baseline is not None and baseline.name in fleets else None
    name = st.text_input("Name of the service", key="report_name", placeholder="none")
    start = st.text_input(
        "First month",
        key="report_start",
        placeholder="2027-01",
        help="Calendar month of month 0: months have dates then.",
    )
    power = st.number_input(
        "Power of a rack, kW", value=None, key="report_rack_kw", step=5.0, placeholder=f"{RACK_KW:g} is assumed"
    )
    today = st.selectbox(
        "Today's fleet",
        fleets,
        index=None if pinned is None else fleets.index(pinned),
        key="report_today",
        placeholder="none" if fleets else "no run of twin plan --fixed is saved",
        help="A run of twin plan --fixed: what is deployed now, and what doing nothing keeps.",
    )
    return Asked(today, start.strip() or None, power, name.strip() or None)


def _fleets() -> list[str]:
    """Names of saved runs that judge what is deployed."""
    found = [item for item in saved.plans(MOST_FLEETS) if isinstance(item, Run)]
    return [item.name for item in found if item.plan and "fixed" in item.plan]


@st.cache_data(max_entries=16, show_spinner=False)
def report_bytes(name: str, paper: str, lang: str, asked: Asked) -> bytes:
    """What ``twin report`` writes."""
    from twin.show.report.content import report

    run, say = saved.run_named(name), words(lang)
    now = None if asked.today is None else saved.run_named(asked.today)
    if paper == "xlsx":
        from twin.show.report.xlsx import workbook

        return workbook(run, now, say, rack_kw=asked.rack_kw, start=asked.start, name=asked.name)
    found = report(run, today=now, start=asked.start, rack_kw=asked.rack_kw, name=asked.name, lang=lang)
    if paper == "pdf":
        from twin.show.report.pdf import pdf

        return pdf(found, say)
    if paper == "md":
        from twin.show.report.markdown import markdown

        return markdown(found, say).encode()
    from twin.show.report.html import html

    return html(found, say).encode()


def _flat(option: Json) -> dict[str, Any]:
    """An option as one row: its own figures, its metrics, and what is said of its risk."""
    risk = option.get("risk") or {}
    held, cost = risk.get("probability_held") or {}, risk.get("usd_per_month") or {}
    own = {key: value for key, value in option.items() if not isinstance(value, dict | list)}
    return {
        **own,
        **{key: value for key, value in option["metrics"].items() if not isinstance(value, dict | list)},
        "probability_held": held.get("value"),
        "probability_held_stderr": held.get("stderr"),
        "usd_per_month_p5": cost.get("p5"),
        "usd_per_month_p95": cost.get("p95"),
        "misses": "; ".join(option.get("misses", ())),
    }


def _text(run: Run, file: str) -> str:
    try:
        return (run.path / file).read_text(encoding="utf-8")
    except OSError as error:
        raise TwinError(f"cannot be read: {error.strerror}", where=file) from None
