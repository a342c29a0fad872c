"""The dashboard: five pages, each imported when it is looked at, so that the first one comes fast."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import streamlit as st

from twin.base import TwinError

PAGES = {
    "plan": ("Plan", ":material/checklist:"),
    "whatif": ("What-if", ":material/tune:"),
    "traffic": ("Traffic", ":material/show_chart:"),
    "hardware": ("Hardware", ":material/memory:"),
    "accuracy": ("Accuracy", ":material/straighten:"),
}
"""By url path, which is also the module under ``twin.show.pages``: title and icon."""

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" fill="#0072B2">'
    '<rect x="1" y="1" width="14" height="6" rx="1"/><rect x="1" y="9" width="14" height="6" rx="1" opacity=".55"/></svg>'
)
"""Drawn here: a browser would fetch a named icon from its vendor, and nothing about a plan leaves this machine."""

LAYOUT, ANSWER = "whatif-layout", "whatif-answer"
"""Keys of the What-if page's columns, and of its answer, which :data:`STYLE` puts above the controls on a narrow screen."""

STYLE = f"""<style>
[data-testid="stColumn"]:has([data-testid="stPlotlyChart"]) {{ min-width: min(100%, 27rem); }}
[data-testid="stCode"] code span {{ color: inherit !important; }} /* its colours are too faint to read */
.stMainBlockContainer {{ max-width: 82rem; padding-top: 3rem; }}
:root {{ color-scheme: light only; }} /* charts are drawn for white, as is their paper: deliberately no dark look */
.twin-on-paper {{ display: none; }}
@media (max-width: 640px) {{
  .st-key-{LAYOUT} > * > [data-testid="stHorizontalBlock"] {{ flex-direction: column; flex-wrap: nowrap; }}
  .st-key-{LAYOUT} > * > * > [data-testid="stColumn"]:last-child,
  .st-key-{LAYOUT} > * > * > [data-testid="stColumn"]:last-child > [data-testid="stVerticalBlock"] {{ display: contents; }}
  .st-key-{LAYOUT} > * > * > [data-testid="stColumn"]:first-child {{ order: -1; width: 100%; }}
  .st-key-{LAYOUT} :has(> .st-key-{ANSWER}) {{ order: -2; }}
}}
@media print {{
  [data-testid="stHeader"], .stButton, .stDownloadButton, [data-testid="stFileUploader"], .modebar {{
    display: none !important; }}
  [data-testid="stApp"], [data-testid="stMain"], [data-testid="stAppViewContainer"] {{
    position: static !important; height: auto !important; overflow: visible !important; }}
  .stMainBlockContainer {{ max-width: none; padding: 0; }}
  [class*="st-key-drawn-"], [data-testid="stElementContainer"], [data-testid="stMetric"], [data-testid="stAlert"] {{
    break-inside: avoid; }}
  h2, h3 {{ break-after: avoid; }}
  .twin-on-paper {{ display: table; width: 100%; border-collapse: collapse; font-size: 8pt; }}
  .twin-on-paper :is(th, td) {{ border: 1px solid #D8DEE4; padding: 2px 4px; text-align: left; }}
  .st-key-options {{ display: none; }}
  [data-testid="stHorizontalBlock"]:has([data-testid="stPlotlyChart"]) {{ flex-direction: column; }}
}}
</style>"""


def main() -> None:
    """One run of the script: the page that the URL names. What a page cannot do is the sentence of the command line."""
    st.set_page_config("twin", ICON, layout="wide")
    st.html(STYLE)
    pages = [st.Page(_opened(path), title=name, icon=icon, url_path=path) for path, (name, icon) in PAGES.items()]
    start = st.Page(_opened("plan"), title="Plan", url_path="start", default=True, visibility="hidden")
    st.navigation([start, *pages], position="top").run()


def shown(path: str) -> None:
    """The page of a url path."""
    from twin.show.shell import failed

    try:
        import_module(f"twin.show.pages.{path}").page()
    except TwinError as error:
        failed(error)


def _opened(path: str) -> Callable[[], None]:
    return lambda: shown(path)
