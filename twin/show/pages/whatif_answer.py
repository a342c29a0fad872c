"""What the What-if page knows of a setting: a quick answer while a slider moves, a closer one once it rests.

The quick one replays as much of the busiest ten minutes as a second allows; the closer one, for most traffic, all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import streamlit as st

from twin.plan.load_curve import CLOSER_REQUESTS, busiest, load_curve
from twin.plan.served import Served
from twin.results.run import Run
from twin.search.workload import Workload
from twin.show.what_if import Answer, Here, Setting, here, money_of, scenario_of, served_of, traffic_key, workload_of
from twin.spec.scenario import Scenario

KNOWN = "whatif-closer"
"""In the session: what was looked at closer."""
RESTS_S = 1.0
MOST_KNOWN = 64


@dataclass
class _Closer:
    curves: dict[str, dict[str, object]] = field(default_factory=dict)
    heres: dict[tuple[str, float], Here] = field(default_factory=dict)

    def forget_the_oldest(self) -> None:
        for kept in (self.curves, self.heres):
            while len(kept) > MOST_KNOWN:
                del kept[next(iter(kept))]  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Asked:
    """A setting as it is simulated. ``key``: of everything but the load."""

    setting: Setting
    scenario: Scenario
    served: Served
    key: str

    @property
    def here_key(self) -> tuple[str, float]:
        return self.key, self.setting.load


def answer_of(setting: Setting, run: Run | None) -> Answer:
    """The closer answer, as far as it is known. Raises :class:`TwinError` with the sentence of ``twin simulate``."""
    asked, known = _asked(setting, run), _known()
    curve = known.curves.get(asked.key) or _curve(asked.key, asked.served)
    here_now = known.heres.get(asked.here_key) or _here(asked.key, setting.load, asked.scenario, asked.served)
    requests = len(asked.served.load.trace)
    return Answer(setting, asked.scenario, curve, here_now, money_of(asked.scenario), requests)


def look_closer(setting: Setting, run: Run | None) -> None:
    """Below a quick answer: once the controls have rested, the whole ten minutes, and the page again."""
    asked, known = _asked(setting, run), _known()
    if asked.key in known.curves and asked.here_key in known.heres:
        return
    if len(busiest(asked.served)[0]) == len(busiest(asked.served, CLOSER_REQUESTS)[0]):
        return  # the quick answer was of all of them already
    st.session_state[RESTS] = None
    _rested(asked)


RESTS = "whatif-rests"
"""In the session: the setting that was there when the page last came to rest."""


@st.fragment(run_every=RESTS_S)
def _rested(asked: _Asked) -> None:
    """Its first run is the page's own, and only says what will come; a moved control ends it before its second."""
    if st.session_state.get(RESTS) != asked.here_key:
        st.session_state[RESTS] = asked.here_key
        st.caption("A closer look, at up to ten minutes, follows when the controls rest.")
        return
    bar = st.progress(0.0, "Looking closer…")

    def progress(done: int, total: int) -> None:  # drawing lets a moved control end this
        bar.progress(done / (total + 1), f"Looking closer: {done} of {total + 1} loads")

    known = _known()
    if asked.key not in known.curves:
        known.curves[asked.key] = load_curve(asked.served, requests=CLOSER_REQUESTS, progress=progress)
    known.heres[asked.here_key] = here(asked.scenario, asked.served, asked.setting.load, CLOSER_REQUESTS)
    known.forget_the_oldest()
    st.rerun(scope="app")


def _known() -> _Closer:
    found: _Closer = st.session_state.setdefault(KNOWN, _Closer())
    return found


def _asked(setting: Setting, run: Run | None) -> _Asked:
    scenario = scenario_of(setting, run)
    traffic = traffic_key(scenario, setting)
    load = _workload(traffic, partial(workload_of, scenario, setting))
    key = f"{setting.key} {traffic} {scenario.profile.digest()}"
    return _Asked(setting, scenario, served_of(scenario, load), key)


@st.cache_resource(max_entries=4, show_spinner="Reading the requests…")
def _workload(key: str, _make: Callable[[], Workload]) -> Workload:
    return _make()


@st.cache_resource(max_entries=256, show_spinner=False)
def _curve(key: str, _served: Served) -> dict[str, object]:
    return load_curve(_served)


@st.cache_resource(max_entries=256, show_spinner=False)
def _here(key: str, factor: float, _scenario: Scenario, _served: Served) -> Here:
    return here(_scenario, _served, factor)
