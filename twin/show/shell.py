"""What all pages share: how a chart, an error, nothing, and a download look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from twin.base import TwinError
from twin.show.chart import Chart


@dataclass(frozen=True)
class Download:
    """``data`` may be text or bytes; ``mime`` as browsers know it."""

    label: str
    file: str
    data: str | bytes
    mime: str


def heading(title: str, lead: str) -> None:
    st.title(title)
    st.caption(lead)


def chart(drawn: Chart, *, select: bool = False) -> list[str]:
    """Draw it with its note; with ``select`` the keys of the points that were clicked."""
    from twin.show.plotly_chart import figure

    if drawn.empty:
        st.info(f"{drawn.title}: nothing to draw.")
        return []
    event: Any = st.plotly_chart(
        figure(drawn), key=f"chart-{drawn.key}", theme=None, on_select="rerun" if select else "ignore"
    )
    if drawn.note:
        st.caption(drawn.note)
    if not select:
        return []
    return [point["customdata"][0] for point in event["selection"]["points"] if point.get("customdata")]


def failed(error: TwinError) -> None:
    """The sentence that the command line prints."""
    st.error(f"error: {error}")


def nothing(title: str, hint: str) -> None:
    """An empty state: what would be here, and what to do for it."""
    st.info(f"**{title}**\n\n{hint}")


def downloads(items: Sequence[Download]) -> None:
    for column, item in zip(st.columns(len(items)), items, strict=True):
        column.download_button(item.label, item.data, item.file, item.mime, key=f"download-{item.file}")
