"""What a report says, whoever writes it down: the decision first, then what it rests on.

Sections say what the run's JSON says. Nothing is typed by hand: a :class:`~twin.show.report.blocks.Cell` holds each figure
with its place.
"""

from __future__ import annotations

import re

from twin.base import InputError
from twin.results.run import Run
from twin.show.report.blocks import Report, Text
from twin.show.report.decision import decision
from twin.show.report.demand import demand
from twin.show.report.money import money
from twin.show.report.options import options_section
from twin.show.report.power import power
from twin.show.report.reproduce import reproduce
from twin.show.report.risk import risk
from twin.show.report.source import Matter, Talk, matter_of
from twin.show.report.trust import assumptions, validity
from twin.show.words import Say, words

RACK_KW = 40.0
"""A rack with air cooling for dense GPU servers: an assumption, said as one, that ``--rack-kw`` replaces."""

SECTIONS = (decision, demand, options_section, money, risk, power, assumptions, validity, reproduce)


def report(
    run: Run,
    *,
    today: Run | None = None,
    start: str | None = None,
    rack_kw: float | None = None,
    name: str | None = None,
    say: Say | None = None,
    lang: str = "en",
) -> Report:
    """The report of a run of ``twin plan``.

    ``today``: the run of ``twin plan --fixed`` of what is deployed now; ``start``: the calendar month of month 0
    (``2027-01``); ``rack_kw``: what a rack can power (:data:`RACK_KW` unless given); ``name``: of the service. ``say``: words
    of a test, for ``words(lang)``.
    Raises :class:`InputError` for a run that holds no plan, a ``today`` that judges nothing deployed, a month or a power that
    is none, and an unknown language.
    """
    power_kw = RACK_KW if rack_kw is None else rack_kw
    check(run, today, start, power_kw)
    asked = {"start": start, "rack_kw": power_kw, "rack_named": rack_kw is not None, "name": name}
    m = matter_of(run, today, asked, Talk(words(lang) if say is None else say))
    made = tuple(section(m) for section in SECTIONS)
    return Report(title(m), _subtitle(m), made, {"en": "en", "zh": "zh-CN"}.get(lang, lang))


def title(m: Matter) -> Text:
    if m.asked["name"].there:
        return m.t("{name}: capacity plan", name=m.asked["name"].cell("name"))
    return m.t("Capacity plan for {model}", model=m.plan["model"].cell("name"))


def _subtitle(m: Matter) -> Text:
    return m.t(
        "{model}, {requests} requests, {rate} at the busiest five minutes; simulated by twin {version}",
        model=m.plan["model"].cell("name"),
        requests=m.plan["traffic"]["requests"].cell("count"),
        rate=m.plan["traffic"]["busiest_5min_rate_per_s"].cell("rate"),
        version=m.manifest["twin_version"].cell("name"),
    )


def check(run: Run, today: Run | None = None, start: str | None = None, rack_kw: float = RACK_KW) -> None:
    """Raises :class:`InputError` for what :func:`report` cannot be made of."""
    if run.plan is None:
        raise InputError("it holds a simulation, and only a plan has a report", where=run.name)
    if today is not None and (today.plan is None or "fixed" not in today.plan):
        raise InputError("--today takes a run of twin plan --fixed, which judges what is deployed", where=today.name)
    if start is not None and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", start):
        raise InputError(f"--start is a month as 2027-01, not {start!r}")
    if not 0 < rack_kw < float("inf"):
        raise InputError(f"--rack-kw is the power of a rack in kW, above 0, not {rack_kw:g}")
