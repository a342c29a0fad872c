"""The Traffic page: what a trace looks like, and traffic made up. Figures are those of ``twin traffic show``."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from twin.base import InputError, TwinError
from twin.results.run import SCHEMA_VERSION, to_json
from twin.show import charts, shell, store, traffic_charts
from twin.show.formats import count, counted, share
from twin.show.pages.made_up import ask
from twin.show.pages.uploaded import refused_upload
from twin.traffic import bins
from twin.traffic.by_hour import load_by_hour
from twin.traffic.describe import describe, figure_rows
from twin.traffic.flags import parse_rate_factor
from twin.traffic.trace import Trace

FIRST = "chat.yaml"
SOURCES = ("A trace", "Made up")


@dataclass(frozen=True)
class Looked:
    """All that is shown of a trace; the trace itself is not kept."""

    figures: Mapping[str, Any]
    rates: Mapping[str, Any]
    heat: Mapping[str, Any]
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    prefixes: bool


@dataclass(frozen=True)
class Asked:
    """Where the requests come from: ``key`` names them in the cache, ``plan`` asks the Plan page for the same."""

    key: str
    name: str
    make: Callable[[], Trace]
    plan: Mapping[str, str]
    command: str


def page() -> None:
    shell.heading(
        "Traffic", "What a request trace looks like: when it comes, how long it is, how much could be cached."
    )
    source = st.segmented_control(
        "Traffic", SOURCES, default=SOURCES[0], key="source", bind="query-params", required=True
    )
    try:
        asked = _made_up() if source == SOURCES[1] else _file()
        looked = _look(asked.key, asked.make)
    except TwinError as error:
        shell.failed(error)
        return
    _show(asked, looked)


@st.cache_resource(max_entries=8, show_spinner="Reading the requests…")
def _look(key: str, _make: Callable[[], Trace]) -> Looked:
    trace = _make()
    return Looked(
        describe(trace),
        bins.rates(trace),
        load_by_hour(trace),
        bins.lengths(trace.input_tokens),
        bins.lengths(trace.output_tokens),
        trace.prefix_hashes is not None,
    )


def _file() -> Asked:
    place, scale = st.columns([3, 1], vertical_alignment="bottom")
    with st.expander("Upload a trace", icon=":material/upload:"):
        refused = refused_upload("upload", "trace", lambda path: _look(_key(path, 1.0), partial(store.trace_at, path)))
    files = store.trace_files()
    _say_missing(st.query_params.get("trace"), files)
    names = sorted(files, key=lambda name: name != FIRST)
    name = place.selectbox("Trace", names, key="trace", bind="query-params")
    rate = scale.text_input("Rate", "×1", key="rate", bind="query-params", help="×2: twice as many requests a second.")
    if refused is not None:
        raise refused
    factor = parse_rate_factor(rate)
    path = files[name]
    return Asked(
        key=_key(path, factor),
        name=name,
        make=partial(store.trace_at, path, factor),
        plan={"traffic": name, **({} if factor == 1.0 else {"rate": rate})},
        command=f"twin traffic show {path.name}" if factor == 1.0 else f"twin traffic scale {path.name} --rate {rate}",
    )


def _key(path: Path, factor: float) -> str:
    stamp = path.stat()
    return f"{path}|{stamp.st_mtime_ns}|{stamp.st_size}|{factor:g}"


def _say_missing(wanted: str | None, files: Mapping[str, Path]) -> None:
    """A link may name an upload that is not here any more."""
    if wanted is not None and wanted not in files:
        try:
            store.trace_file(wanted)
        except InputError as error:
            shell.failed(error)


def _made_up() -> Asked:
    recipe = ask()
    return Asked(recipe.key, "synthetic", recipe.make, recipe.plan, recipe.command)


def _show(asked: Asked, looked: Looked) -> None:
    figures = looked.figures
    st.subheader(shell.plain(asked.name), anchor=False)
    for note in figures["notes"]:
        st.warning(shell.plain(note), icon=":material/info:")
    shell.figures(_key_figures(figures))
    shell.link("Plan for this traffic", "plan", asked.plan, ":material/checklist:")
    left, right = st.columns(2)
    with left:
        shell.chart(traffic_charts.arrivals(figures, looked.rates))
        shell.chart(traffic_charts.lengths("input", figures["input_tokens"], looked.inputs))
    with right:
        shell.chart(traffic_charts.token_rates(figures, looked.rates))
        shell.chart(traffic_charts.lengths("output", figures["output_tokens"], looked.outputs))
    shell.chart(charts.load_by_hour(looked.heat))
    if figures["classes"]:
        shell.chart(traffic_charts.classes(figures))
    _take_away(asked, looked)


def _key_figures(figures: Mapping[str, Any]) -> list[shell.Figure]:
    busy, prefix, sessions = figures["busiest_5min"], figures["prefix"], figures["sessions"]
    rate = figures["mean_rate_per_s"]
    found = [
        shell.Figure("Requests", count(figures["requests"]), f"in {duration(figures['duration_s'])}"),
        shell.Figure("Mean rate", count(rate, "/s"), f"fullest minute {count(figures['peak_1min_rate_per_s'], '/s')}"),
        shell.Figure(
            "Busiest five minutes",
            count(busy["rate_per_s"], "/s"),
            f"{counted(busy['requests'], 'request')}, {duration(busy['start_s'])} after the first",
            help="What a plan must hold: the fullest window of five minutes, wherever it begins.",
        ),
        shell.Figure(
            "Burstiness",
            count(figures["interarrival_cv"]),
            "of the gaps: 1 is Poisson, more is bursts",
            help="Coefficient of variation of the times between arrivals.",
        ),
    ]
    found += [_tokens(name, figures[f"{name}_tokens"]) for name in ("input", "output")]
    if prefix:
        said = f"of input tokens; {share(prefix['hit_share_of_blocks'])} of {count(prefix['blocks'], 'blocks')}"
        most = "What a prefix cache that starts cold and never evicts could save: a real one saves less."
        found.append(shell.Figure("Could be cached", share(prefix["hit_share_of_input_tokens"]), said, help=most))
    if sessions:
        said = f"{counted(sessions['mean_requests'], 'request')} each, at most {count(sessions['max_requests'])}"
        found.append(shell.Figure("Sessions", count(sessions["sessions"]), said))
    return found


def _tokens(name: str, figures: Mapping[str, Any]) -> shell.Figure:
    said = " · ".join(f"{quantile} {count(round(figures[quantile]))}" for quantile in ("p50", "p90", "p99"))
    return shell.Figure(f"Mean {name} tokens", count(round(figures["mean"])), f"{said} · most {count(figures['max'])}")


def duration(seconds: float) -> str:
    """``6.9 days``, ``58 minutes``.

    >>> duration(599_832.2), duration(3480), duration(0.25)
    ('6.94 days', '58 minutes', '0.25 seconds')
    """
    unit = next((name for name, size in traffic_charts.UNITS.items() if seconds >= 1.5 * size), "seconds")
    return f"{seconds / traffic_charts.UNITS[unit]:,.3g} {unit}"


def _take_away(asked: Asked, looked: Looked) -> None:
    with st.expander("All figures, and the same on the command line", icon=":material/terminal:"):
        st.code(asked.command, language="bash")
        rows = [{"figure": row["figure"], "value": f"{row['value']:,.6g}"} for row in figure_rows(looked.figures)]
        st.dataframe(rows, hide_index=True)
    stem = Path(asked.name).stem or "trace"
    shell.downloads(
        [
            shell.Download("Figures (JSON)", f"{stem}.json", figures_json(looked), "application/json"),
            shell.Download("Rates over time (CSV)", f"{stem}_rates.csv", rates_csv(looked.rates), "text/csv"),
            shell.Download("Requests (CSV)", f"{stem}_requests.csv", partial(_written, asked.make, "csv"), "text/csv"),
            shell.Download(
                "Requests (JSON lines)",
                f"{stem}_requests.jsonl",
                partial(_written, asked.make, "mooncake"),
                "application/jsonl",
            ),
        ]
    )
    if looked.prefixes:
        st.caption("Which prompts share a beginning has no place in a CSV: the JSON lines (Mooncake's format) keep it.")


def figures_json(looked: Looked) -> str:
    """What ``twin traffic show --format json`` prints."""
    return to_json({"schema_version": SCHEMA_VERSION, **looked.figures})


def rates_csv(rates: Mapping[str, Any]) -> str:
    """The table behind the charts over time."""
    names = [name for name in rates if name != "bin_s"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*(rates[name] for name in names), strict=True))
    return text.getvalue()


def _written(make: Callable[[], Trace], to: str) -> str:
    """Made when it is asked for: a million requests are many bytes."""
    from twin.traffic.writers import WRITERS

    return WRITERS[to](make())
