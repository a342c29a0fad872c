"""The accuracy page: what was gathered, in plain words and small tables (Markdown)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from twin.base import InputError
from twin.spec.accuracy import METRICS, Accuracy, Errors
from twin.spec.hardware import HardwareProfile
from twin.spec.versions import VERSIONS
from twin.trust.accuracy import Evidence, LogRun, fitted_on, left_out, overall
from twin.trust.accuracy_sources import drawn_from, kernels, lockstep, steps, verdicts
from twin.trust.markdown import percent, signed, table
from twin.trust.validate import By, not_predicted, versions

KINDS: tuple[Literal["gpu", "layout"], ...] = ("gpu", "layout")
MARKERS = ("<!-- accuracy -->", "<!-- /accuracy -->")
BY: dict[By, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "gpu_model": ("By GPU and model", ("GPU", "model"), ("system", "model")),
    "layout": ("By layout (GPUs per replica)", ("TP",), ("tp_size",)),
    "concurrency": ("By load (clients that each wait for an answer)", ("clients",), ("concurrency",)),
}
WORDS = (
    "*Error* is the mean absolute difference between predicted and measured, relative to measured, over runs; *p90* is what"
    " nine in ten runs stay below; *bias* is the mean difference, with its sign (+: the twin says too much). *In 90 %* is how"
    " many measurements lie inside the predicted 90 % bounds: 90 % would be right. TTFT is the time to the first token, TPOT"
    " the time per token after it, E2EL the whole request. Saturated: requests wait for KV memory or a seat."
)


def page(evidence: Evidence, accuracy: Accuracy, pictures: Mapping[str, str], readme: str | None = None) -> str:
    """The whole page. ``pictures``: file names of what was drawn, by what they show (``runs``, ``requests``).

    ``readme``: the README's text, whose lockstep block is quoted.
    """
    sections = [
        f"# How wrong is it?\n\nMade by `twin accuracy` ({accuracy.date}) from"
        f" {_listed(f'`{source.file}`' for source in accuracy.sources)} and the shipped profiles; no figure is typed by hand.",
        "## The short answer\n\n" + short_table(evidence, accuracy) + "\n\n" + WORDS,
        "## Recorded benchmark runs\n\n" + _runs(evidence, pictures.get("runs")),
        "## What was not fitted\n\n" + _not_fitted(evidence, pictures.get("requests")),
        "## Kernels\n\n" + kernels(evidence.profiles),
        "## The engine\n\n" + lockstep(readme) + "\n\n" + verdicts(evidence.verdicts),
        "## What was fitted on what\n\n" + drawn_from(evidence.profiles),
        "## Where not to believe it\n\n" + _limits(evidence, accuracy),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def with_block(readme: str, block: str, name: str) -> str:
    """``readme`` with what stands between :data:`MARKERS` replaced. Raises :class:`InputError` without them."""
    begin, end = (readme.find(marker) for marker in MARKERS)
    if begin < 0 or end < begin:
        raise InputError(f"no line {MARKERS[0]} with {MARKERS[1]} after it", where=name)
    return f"{readme[: begin + len(MARKERS[0])]}\n\n{block.strip()}\n\n{readme[end:]}"


def short_table(evidence: Evidence, accuracy: Accuracy) -> str:
    """One row per GPU and kind of measurement, saturated runs and what was left out of fits apart."""
    rows = [
        _short(f"{gpu}, {errors.n} {errors.kind}", errors, "yes" if errors.fitted else "no")
        for gpu, found in accuracy.gpus.items()
        for errors in found
    ]
    if whole := overall(evidence):
        rows.append(_short(f"all {whole.n} runs", whole, ""))
    apart = {
        "saturated": (accuracy.saturated, ""),
        "their layout left out of the fit": (accuracy.unseen_layout, "no"),
        "their GPU left out of the fit": (accuracy.unseen_gpu, "no"),
    }
    rows += [_short(f"{title}, {e.n} runs", e, fitted) for title, (e, fitted) in apart.items() if e is not None]
    return table(("measured", "fitted on these", "TPOT error", "TTFT", "E2EL", "TPOT / TTFT in 90 %"), rows, text=2)


def _short(title: str, errors: Errors, fitted: str) -> list[str]:
    inside = errors.inside_90 or {}
    held = " / ".join(percent(inside.get(name), 0) for name in METRICS[:2]) if inside else "–"
    return [title, fitted, *(percent(getattr(errors, name)) for name in METRICS), held]


def _runs(evidence: Evidence, picture: str | None) -> str:
    runs = evidence.runs
    if runs is None:
        return "No table of runs is at hand."
    missing = not_predicted(runs.predictions)
    left = sum(int(str(item["count"])) for item in missing)
    parts = [
        f"{len(runs.rows) - left} of {len(runs.rows)} recorded runs are predicted from their configuration alone; what was"
        " measured is read afterwards. The client keeps a number of requests in flight, each with random lengths. Runs in which"
        " the simulation sees requests wait for KV memory or a seat are *saturated* and stand apart: there a small error in the"
        " time of a step is a large one in waiting."
    ]
    if runs.derived_e2el:
        parts.append("Measured E2EL is TTFT + TPOT × (mean output length − 1), as the table does not have it.")
    if picture:
        parts.append(f"![predicted against measured, run by run]({picture})")
    parts += [f"### {title}\n\n{_grouped(runs.errors(by), *columns)}" for by, (title, *columns) in BY.items()]
    told = [
        f"{item['rows']} runs {'of vLLM ' + str(item['stated']) if item['stated'] else 'whose release is told by their date'}"
        f" are simulated as {item['modelled']}"
        for item in versions(runs.rows, runs.predictions)
    ]
    parts.append(f"Releases: {'; '.join(told) or '–'}.")
    if missing:
        reasons = [[str(item["count"]), str(item["reason"]).split(" (allowed", 1)[0]] for item in missing]
        parts.append("### Not predicted\n\n" + table(("runs", "why"), reasons, text=2))
    return "\n\n".join(parts)


def _grouped(errors: Sequence[Mapping[str, Any]], names: Sequence[str], columns: Sequence[str]) -> str:
    figures = ("TPOT error", "p90", "bias", "in 90 %", "TTFT error", "p90", "bias", "in 90 %", "E2EL error")
    rows = []
    for row in errors:
        key = [str(row[name]).rsplit("/", 1)[-1] for name in columns]
        cells = []
        for metric in METRICS[:2]:
            of = {name: row.get(f"{metric}_{name}") for name in ("mape", "p90", "bias", "inside_90")}
            cells += [percent(of["mape"]), percent(of["p90"]), signed(of["bias"]), percent(of["inside_90"], 0)]
        saturated = "saturated" if row["saturated"] else ""
        rows.append([*key, saturated, str(row["rows"]), *cells, percent(row.get("e2el_mape"))])
    return table((*names, "", "runs", *figures), rows, text=len(names) + 1)


def _not_fitted(evidence: Evidence, picture: str | None) -> str:
    parts = ["An error on what a model was fitted to flatters it. These are errors on what it had not seen."]
    without = {kind: left_out(evidence.profiles, kind) for kind in KINDS}
    rows = [
        [gpu, str(e.n), *(percent(getattr(without[kind].get(gpu), m, None)) for kind in KINDS for m in METRICS[:2])]
        for gpu, e in without["gpu"].items()
    ]
    if rows:
        head = ("GPU", "runs", "TPOT error without the GPU", "TTFT", "TPOT error without their layout", "TTFT")
        told = "Runs of engines since vLLM 0.16 are of one model per GPU: without the GPU is also without the model."
        parts.append(
            f"### Host times fitted without a GPU, or without a tensor-parallel size\n\n{told}\n\n{table(head, rows)}"
        )
    if evidence.logs:
        parts.append("### Request logs\n\n" + _logs(evidence.logs, evidence.profiles))
        if picture:
            parts.append(f"![distributions, measured and predicted]({picture})")
    parts += [f"Not replayed: {item.run}: {item.error}." for item in evidence.not_replayed]
    if told := steps(evidence.profiles):
        parts.append("### Single steps of an engine\n\n" + told)
    return "\n\n".join(parts)


def _logs(logs: Sequence[LogRun], profiles: Sequence[HardwareProfile]) -> str:
    statistics = ("mean", "p50", "p90", "p99")
    rows = []
    for run in logs:
        deployment, clock = run.predicted.scenario.deployment, run.predicted.clock
        what = f"{run.predicted.run}, {len(run.measured)} requests"
        what += f" ({deployment.tensor_parallel_size} × {run.gpu}, {clock} clock)"
        for metric in ("queue", *METRICS):
            if run.error(metric, "ks") is None:
                continue
            cells = [signed(run.error(metric, statistic)) for statistic in statistics]
            ks = run.error(metric, "ks")
            rows.append([what, metric.upper() if metric in METRICS else metric, *cells, f"{ks:.2f}"])
            what = ""
        rows.append(["", "makespan", signed(run.error("makespan", "total")), "", "", "", ""])
    return (
        f"The recorded arrivals and lengths are replayed. {_use(logs, profiles)} KS is the largest gap between the measured and"
        " the predicted cumulative distribution (0: the same).\n\n"
        + table(("run", "", *(f"{name} error" for name in statistics), "KS"), rows, text=2)
    )


def _use(logs: Sequence[LogRun], profiles: Sequence[HardwareProfile]) -> str:
    """Whether the logs went into a fit, by the profiles' word."""
    used = sorted({run.file for run in logs if any(fitted_on(profile, run.file) for profile in profiles)})
    return f"Profiles were fitted on {_listed(used)}." if used else "No profile names these logs as a source."


def _limits(evidence: Evidence, accuracy: Accuracy) -> str:
    assumed = [profile.name for profile in evidence.profiles if profile.origin == "assumed"]
    found = []
    if accuracy.saturated is not None:
        sizes = [
            f"{m.upper()} {percent(size)}" for m in METRICS if (size := getattr(accuracy.saturated, m)) is not None
        ]
        found.append(
            f"**Saturation.** Where requests wait for KV memory the error was {', '.join(sizes)}"
            f" ({accuracy.saturated.n} runs). Plan with head-room; which side of saturation a load is on is itself uncertain."
        )
    if assumed:
        found.append(
            f"**Assumed GPUs**: {', '.join(assumed)}. Nothing was timed on them: their kernels are averages of other devices of"
            " their class on datasheet rates, with the errors above marked assumed. They are planned with only when named."
        )
    without = [
        profile.name
        for profile in evidence.profiles
        if profile.device == "gpu"
        and profile.host
        and profile.host.step_s.origin == "assumed"
        and profile.name not in assumed
    ]
    if without:
        found.append(
            f"**GPUs whose host times were never fitted**: {', '.join(without)}. Their kernels were timed; what a running"
            " engine adds was fitted on other GPUs."
        )
    if evidence.runs is not None:
        models = sorted(
            {
                row["model"]
                for row, guess in zip(evidence.runs.rows, evidence.runs.predictions, strict=True)
                if not guess["reason"]
            }
        )
        logged = sorted({run.predicted.scenario.model for run in evidence.logs})
        also = f" The request logs are of {_listed(logged)}." if logged else ""
        found.append(f"**Other models.** The benchmark runs above are of {_listed(models) or 'no model'}.{also}")
    found += [
        "**Outside the calibrated range.** A plan says `outside` where the operating point lies beyond what kernels were timed"
        " over; the error there is unknown.",
        "**Network time** is never in the figures: they start and end at the server.",
        "**Latent and linear attention, ranks that share experts, pipeline stages and several nodes** are priced from kernel"
        " timings alone: no run of them was at hand to compare with. Speculative decoding is not priced; what"
        " cannot be priced is refused, not guessed.",
        "**Cold starts.** Loading weights and capturing graphs are not modelled; how long the first requests of a server"
        " without warm-up wait differs between servers, and is known only where such runs were fitted.",
        f"**Other releases than vLLM {' and '.join(VERSIONS)}.** Older and newer ones are simulated as the nearest of these.",
    ]
    return "\n".join(f"- {text}" for text in found)


def _listed(names: Iterable[str]) -> str:
    *most, last = [*names] or [""]
    return f"{', '.join(most)} and {last}" if most else last
