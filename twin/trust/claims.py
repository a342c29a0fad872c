"""Claims people repeat about serving, put to the twin: scenarios that differ in one thing, and what is said of them.

``scenarios/claims/claims.yaml`` holds the claims; its neighbours are the scenarios. A case that the twin refuses (a precision
that the GPU lacks, a model that does not fit) says why instead of giving figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path

from pydantic import model_validator

from twin.base import Frozen, InputError, TwinError, unknown_name
from twin.cluster.deploy import memory_of, run_scenario
from twin.results.metrics import METRICS, summarize
from twin.spec.scenario import Scenario, load_scenario
from twin.spec.yaml import check, read_yaml
from twin.trust.markdown import figure as digits
from twin.trust.markdown import percent, table

AGREES = 0.1
"""A claimed ratio and the twin's agree if neither is more than a tenth above the other."""

OF_MEMORY: Mapping[str, tuple[str, Callable[[Scenario], float]]] = {
    "weight_gb": ("GB", lambda s: memory_of(s).weight_bytes * s.deployment.tensor_parallel_size / 1e9),
    "kv_tokens": ("tokens", lambda s: float(memory_of(s).kv_tokens)),
}
"""Figures of one replica that need no simulation: unit and formula."""

AT_ONCE = "capacity_requests"
"""Requests per second when all of them are sent at once: what the deployment can serve at most."""

UNITS: Mapping[str, str] = {
    **{metric.name: metric.unit for metric in METRICS},
    **{f"mean_{metric.name}_ms": "ms" for metric in METRICS if metric.unit == "ms"},
    **{name: unit for name, (unit, _) in OF_MEMORY.items()},
    AT_ONCE: "requests/s",
}


class Claim(Frozen):
    """``cases``: what changes in the scenario (``section.field=value``), in order, what is compared with first.

    ``figures``: what the twin computes, each with what is claimed of some cases (of two or more their ratio counts);
    ``at_least`` names those of which more is no contradiction.
    """

    name: str
    claim: str
    scenario: str
    cases: dict[str, tuple[str, ...]]
    figures: dict[str, dict[str, float]]
    why: str
    at_least: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Claim:
        if len(self.cases) < 2:
            raise ValueError("a claim compares two cases or more")
        for name, claimed in self.figures.items():
            if name not in UNITS:
                raise ValueError(str(unknown_name("figure", name, UNITS)))
            if strange := claimed.keys() - self.cases.keys():
                raise ValueError(f"{name}: {sorted(strange)[0]!r} is no case (allowed: {', '.join(self.cases)})")
        return self


class Claims(Frozen):
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Verdict:
    """The twin's figures by case, and why it refuses the cases that have none."""

    claim: Claim
    values: Mapping[str, Mapping[str, float]]
    refused: Mapping[str, str]

    def ratio(self, figure: str) -> tuple[float, float] | None:
        """(claimed, the twin's) of the last case of which something is claimed, over the first; None where there are no two."""
        claimed = self.claim.figures[figure]
        named = [case for case in self.claim.cases if case in claimed]
        if len(named) < 2 or not {named[0], named[-1]} <= self.values.keys():
            return None
        got = [self.values[case][figure] for case in (named[0], named[-1])]
        return claimed[named[-1]] / claimed[named[0]], got[1] / got[0] if got[0] else float("inf")

    def judgement(self, figure: str) -> str:
        """``agrees``, or how many times as much the twin gets; empty where nothing can be compared."""
        found = self.ratio(figure)
        if found is None:
            return ""
        said, got = found
        least = figure in self.claim.at_least
        if got > 0 and (abs(log(got / said)) <= log(1 + AGREES) or (least and got > said)):
            return f"agrees: {'at least ' if least else ''}× {said:.3g} claimed, × {got:.3g} here"
        return f"differs: × {said:.3g} claimed, × {got:.3g} here"


def read_claims(path: Path, names: Sequence[str] = ()) -> list[Claim]:
    """Those of a file, or those of them that are named. Raises :class:`InputError` for what is wrong in it."""
    claims = check(read_yaml(path), Claims).claims
    known = {claim.name: claim for claim in claims}
    for name in names:
        if name not in known:
            raise unknown_name("claim", name, known)
    return [known[name] for name in names] if names else list(claims)


def judge(claim: Claim, folder: Path) -> Verdict:
    """Run every case of a claim; ``folder`` holds its scenario. Raises :class:`InputError` for a scenario that is not there."""
    if not (folder / claim.scenario).is_file():
        raise InputError(f"no such scenario: {claim.scenario}", where=claim.name)
    values: dict[str, dict[str, float]] = {}
    refused: dict[str, str] = {}
    for case, changes in claim.cases.items():
        try:
            values[case] = _figures(claim, folder / claim.scenario, changes)
        except TwinError as error:
            refused[case] = str(error)
    return Verdict(claim, values, refused)


def _figures(claim: Claim, path: Path, changes: Sequence[str]) -> dict[str, float]:
    scenario = load_scenario(path, changes)
    found = {name: of(scenario) for name, (_, of) in OF_MEMORY.items() if name in claim.figures}
    if claim.figures.keys() - found.keys() - {AT_ONCE}:
        summary = summarize(run_scenario(scenario))
        found |= {name: float(str(summary[name])) for name in claim.figures if name in summary}
    if AT_ONCE in claim.figures:
        rushed = load_scenario(path, [*changes, "traffic.synthetic.request_rate=.inf"])
        found[AT_ONCE] = float(str(summarize(run_scenario(rushed))["request_throughput"]))
    return {name: found[name] for name in claim.figures}


def rows_of(verdicts: Sequence[Verdict]) -> list[dict[str, object]]:
    """One row per claim, figure and case."""
    return [
        {
            "claim": verdict.claim.name,
            "figure": figure,
            "unit": UNITS[figure],
            "case": case,
            "twin": verdict.values.get(case, {}).get(figure),
            "claimed": claimed.get(case),
            "refused": verdict.refused.get(case),
        }
        for verdict in verdicts
        for figure, claimed in verdict.claim.figures.items()
        for case in verdict.claim.cases
    ]


def cells(verdict: Verdict) -> list[list[str]]:
    """A line per figure: its name and unit, a cell per case (with what is claimed), the judgement."""
    lines = []
    for name, claimed in verdict.claim.figures.items():
        line = [f"{name} ({UNITS[name]})"]
        relative = len(claimed) > 1 and 1 in claimed.values()  # claimed as a ratio to the case that is 1
        for case in verdict.claim.cases:
            got = verdict.values.get(case)
            text = "–" if got is None else shown(name, got[name])
            said = claimed.get(case)
            line.append(text if said is None or relative else f"{text} (said: {shown(name, said)})")
        lines.append([*line, verdict.judgement(name)])
    return lines


def shown(name: str, value: float) -> str:
    """A figure in its unit, three digits."""
    return percent(value) if UNITS[name] == "share" else digits(value)


def page(verdicts: Sequence[Verdict]) -> str:
    """The page of all claims (Markdown)."""
    parts = [
        "# What people say, and what the twin gets\n\nMade by `twin claims`; no figure of the twin's is typed by hand. A claim"
        f" agrees where its ratio and the twin's lie within {AGREES:.0%} of each other. *said* is what the claim says."
    ]
    for verdict in verdicts:
        claim = verdict.claim
        changes = [
            f"- *{case}*: " + (", ".join(f"`{text}`" for text in made) or "as it stands")
            for case, made in claim.cases.items()
        ]
        refused = [f"- The twin refuses *{case}*: {why}" for case, why in verdict.refused.items()]
        parts += [
            f"## {claim.claim}",
            f"`scenarios/claims/{claim.scenario}`\n\n" + "\n".join(changes),
            table(["", *claim.cases, "verdict"], cells(verdict)),
            *(["\n".join(refused)] if refused else []),
            claim.why,
        ]
    return "\n\n".join(parts) + "\n"
