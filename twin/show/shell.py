"""What all pages share: how a heading, a figure, a chart, an error, nothing, and a download look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from twin.base import TwinError
from twin.show.chart import Chart

ORIGINS = {"measured": "green", "fitted": "blue", "datasheet": "gray", "assumed": "orange"}
"""Colours help; the word is always there."""

DRAWN = "drawn-"
"""Begins the key of a chart with its title, which a printer keeps on one page."""

FIGURE_PX = 190
"""Of a key figure, so that the longest number is not cut."""


@dataclass(frozen=True)
class Download:
    """``data`` may be text, bytes, or what makes them when they are asked for; ``mime`` as browsers know it."""

    label: str
    file: str
    data: str | bytes | Callable[[], str | bytes]
    mime: str


@dataclass(frozen=True)
class Figure:
    """A key figure in words: ``interval`` stands under it, ``delta`` (``+$1,200/month``) beside; ``better`` ``None``: neither
    better nor worse. ``outside``: it lies outside of what was calibrated.
    """

    label: str
    value: str
    interval: str = ""
    delta: str = ""
    better: bool | None = None
    outside: bool = False
    help: str | None = None


def heading(title: str, lead: str) -> None:
    st.title(title, anchor=False)
    st.caption(lead)


def figures(items: Sequence[Figure]) -> None:
    """Side by side, as many as the page is wide."""
    with st.container(horizontal=True, gap="small"):
        for item in items:
            with st.container(width=FIGURE_PX, gap=None):
                _figure(item)


def _figure(item: Figure) -> None:
    falls = item.delta.startswith(("-", "−"))
    colour = "off" if item.better is None else "normal" if item.better != falls else "inverse"
    judged = {True: ", better", False: ", worse", None: ""}[item.better]
    delta = item.delta.replace("−", "-", 1) + judged if item.delta else None
    st.metric(item.label, item.value, delta, delta_color=colour, help=item.help)  # type: ignore[arg-type]
    said = [item.interval, "▲ outside of the calibrated range" if item.outside else ""]
    if any(said):
        st.caption(" · ".join(filter(None, said)))


def origin(name: str, source: str = "", date: str = "") -> str:
    """Markdown: where a figure comes from, as a badge, with its source and date."""
    said = ", ".join(filter(None, (plain(source), date)))
    return f":{ORIGINS.get(name, 'gray')}-badge[{name}]" + (f" {said}" if said else "")


def calibration(option: Mapping[str, Any]) -> str:
    """Markdown: whether an option lies inside of what was calibrated, and why not."""
    if option.get("calibrated") != "outside":
        return ":green-badge[● inside the calibrated range]"
    because = ", ".join(option.get("outside_because", ()))
    return f":orange-badge[▲ outside of the calibrated range]{f' {plain(because)}' if because else ''}"


def plain(text: str) -> str:
    """Text as Markdown that shows just it: dollar signs are no formulas, brackets no links."""
    for sign in "\\$[]*_`~#<:":
        text = text.replace(sign, f"\\{sign}")
    return text


def link(label: str, path: str, query: Mapping[str, str], icon: str | None = None) -> None:
    """To another page of this dashboard, in the same tab; ``path`` is its url path."""
    st.page_link(st.Page(_nowhere, title=label, url_path=path), label=label, icon=icon, query_params=dict(query))


def _nowhere() -> None:
    """Streamlit knows a page by its path; what a link to it would run is never run."""


def chart(drawn: Chart, *, select: bool = False) -> list[str]:
    """Draw it under its title, with its note; with ``select`` the keys of the points that were clicked."""
    from twin.show.draw.plotly_chart import figure

    if drawn.empty:
        st.info(f"{plain(drawn.title)}: this run does not say.")
        return []
    with st.container(key=f"{DRAWN}{drawn.key}"):
        st.markdown(f"**{plain(drawn.title)}**")
        event: Any = st.plotly_chart(
            figure(drawn, titled=False),
            key=f"chart-{drawn.key}",
            theme=None,
            on_select="rerun" if select else "ignore",
            selection_mode=("points",),
            config={"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"], "responsive": True},
        )
    if drawn.note:
        st.caption(plain(drawn.note))
    if not select:
        return []
    return [str(key) for point in event["selection"]["points"] if (key := _key(point.get("customdata"))) is not None]


def _key(customdata: object) -> object:
    """Plotly gives a list, or its one element."""
    if isinstance(customdata, Mapping):
        customdata = list(customdata.values())
    return customdata[0] if isinstance(customdata, list | tuple) and customdata else customdata


def failed(error: TwinError | str) -> None:
    """The sentence that the command line prints."""
    st.error(plain(f"error: {error}"), icon=":material/error:")


def nothing(title: str, hint: str) -> None:
    """An empty state: what would be here, and what to do for it."""
    st.info(f"**{title}**\n\n{hint}")


def downloads(items: Sequence[Download]) -> None:
    """Buttons in a row, which leave the page as it is."""
    with st.container(horizontal=True):
        for item in items:
            st.download_button(
                item.label, item.data, item.file, item.mime, key=f"download-{item.file}", on_click="ignore"
            )
