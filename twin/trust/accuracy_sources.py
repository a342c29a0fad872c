"""The accuracy page's other sources: the profiles' own errors and provenance, the scheduler's comparison, real engines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from twin.base import Estimate, InputError, Provenance
from twin.cost.parts import Family, Part, parts
from twin.spec.hardware import HardwareProfile
from twin.spec.kernels import Errors
from twin.trust.accuracy import Verdict
from twin.trust.markdown import figure, percent, signed, table

FAMILIES: dict[Family, str] = {
    "gemm": "matrix products",
    "decode_attention": "decode attention",
    "prefill_attention": "prefill attention",
    "all_reduce": "all-reduce",
    "elementwise": "element-wise",
    "formats": "other formats",
    "attention_variants": "windows, head sizes",
    "latent": "latent attention",
    "recurrent": "linear attention",
    "experts": "experts",
    "exchanges": "exchanges",
}
KERNEL, ENGINE, OWN, DEVICE = OWNERS = (
    "device and kernel",
    "engine: one figure for all GPUs",
    "engine and server of each device",
    "device",
)
HOST = {
    "step_s": "host time per step",
    "sequence_s": "per sequence in it",
    "token_s": "per token in it",
    "request_s": "per request before its first token",
    "input_token_s": "per input token",
    "async_overlap_s": "what asynchronous scheduling hides",
    "kernel_overlap_s": "what a launch inside a CUDA graph hides",
    "compute_stretch": "clocks under sustained load",
    "reduce_skew_s": "ranks that wait for each other",
    "launch_s": "the host's launch of a kernel outside CUDA graphs",
    "cold_start_s": "the first requests of an engine without warm-up",
    "client_s": "what a benchmark's client adds",
}
"""Coefficients in words; those that are not here stand under their own names."""
FACTS = {
    "memory_bytes": "memory",
    "mem_bw_bytes_per_s": "memory bandwidth",
    "num_sms": "processors",
    "board_power_w": "board power",
    "intra_node_link_bytes_per_s": "links",
    "pcie_bytes_per_s": "PCIe",
}
VERIFIED = {"mean_tpot_ms": "TPOT", "mean_ttft_ms": "TTFT", "p99_itl_ms": "p99 ITL", "request_throughput": "requests/s"}


def kernels(profiles: Sequence[HardwareProfile]) -> str:
    """Held-out error on serving shapes by GPU and family, a range where a family has several kernels."""
    names = [family for family in FAMILIES]
    rows = []
    for profile in profiles:
        found = list(parts(profile))
        title = f"{profile.name} (assumed)" if profile.origin == "assumed" else profile.name
        held = [errors.coverage90 for part in found if (errors := _serving(part)) and errors.coverage90 is not None]
        cells = [_range([e.mape for part in found if part.family == name and (e := _serving(part))]) for name in names]
        rows.append([title, *cells, _range(held, 0)])
    return (
        "Mean absolute error of kernel times on serving shapes that were left out of the fit as whole shapes; for assumed GPUs,"
        " on GPUs of their class left out as a whole. A range is over precisions, head sizes or numbers of GPUs; `twin hardware"
        " show` has each. The last column is how many held-out timings lie inside 90 % intervals set without them.\n\n"
        + table(("device", *(FAMILIES[name] for name in names), "in 90 %"), rows)
    )


def _serving(part: Part) -> Errors | None:
    return part.held_out.serving if part.held_out else None


def _range(values: Sequence[float], digits: int = 1) -> str:
    if not values:
        return "–"
    ends = [percent(value, digits) for value in (min(values), max(values))]
    return " – ".join(dict.fromkeys(ends))


def steps(profiles: Sequence[HardwareProfile]) -> str:
    """Errors of single engine steps, of the profiles that keep them; empty without any."""
    rows = [
        [profile.name, how.replace("_", " "), f"{e.n:,}", percent(e.mape), signed(e.bias), percent(e.coverage90, 0)]
        for profile in profiles
        for how, e in ((profile.host and profile.host.steps) or {}).items()
    ]
    if not rows:
        return ""
    told = "Whole steps of a real vLLM in runs that the fit had not seen.\n\n"
    return told + table(("device", "vLLM driven", "steps", "error", "bias", "in 90 %"), rows, text=2)


def lockstep(readme: str | None) -> str:
    """The scheduler's comparison, with the figures of the README's lockstep block where it has one."""
    told = "The scheduler is held to vLLM's own, step for step (`make lockstep`, README: *As vLLM, step for step*)."
    _, _, rest = (readme or "").partition("<!-- lockstep -->")
    block, closed, _ = rest.partition("<!-- /lockstep -->")
    if not closed:
        return told
    try:
        last = json.loads(block)
        return f"{told} In the last run {last['mismatches']:,} of {last['steps']:,} steps differed."
    except (ValueError, KeyError):
        raise InputError("the block between the lockstep markers is not its summary", where="README") from None


def verdicts(found: Sequence[Verdict]) -> str:
    """A table per verified scenario: predicted / measured and the error of each judged metric, by load."""
    if not found:
        return "No verdict of a real engine (`twin verify`) is at hand."
    told = (
        "A real vLLM was started, driven and measured, and the very same requests were simulated (`twin verify`). Each cell:"
        " predicted / measured, error. *Machine*: how long a small batch that is always the same took just before and after,"
        " against the profile: what the machine itself drifts by."
    )
    return "\n\n".join([told, *(_verdict(item.name, item.payload) for item in found)])


def _verdict(name: str, payload: dict[str, Any]) -> str:
    place = payload.get("words") or payload["profile"]
    title = f"### {payload['scenario']}: {payload['model']}"
    if payload.get("partial"):
        return f"{title}\n\n{place}. Partial, not judged: {payload.get('why') or 'interrupted'} (`{name}`)."
    moved = (payload.get("drift") or {}).get("moved")
    verdict = payload["verdict"] + (f": {payload['why']}" if payload.get("why") else "")
    about = f"{place}. Verdict: **{verdict}**; the machine's speed moved by {percent(moved, 0)} meanwhile (`{name}`)."
    rows = [_load(at) for at in payload["loads"]]
    return f"{title}\n\n{about}\n\n" + table(("load", "requests", *VERIFIED.values(), "machine", "holds"), rows)


def _load(at: dict[str, Any]) -> list[str]:
    metrics = {row["metric"]: row for row in at["metrics"]}
    judged = [row["holds"] for row in metrics.values() if row.get("holds") is not None]
    holds = "–" if not judged else "yes" if all(judged) else "NO"
    clients = f"{at['concurrency']} clients" if at.get("load") is None and at.get("concurrency") else at["name"]
    around = [slow for slow in at.get("sentinels_around", ()) if slow == slow]  # NaN: one failed
    return [
        clients.removeprefix("load "),
        str(at["requests"]),
        *(_cell(metrics.get(name)) for name in VERIFIED),
        " to ".join(f"×{slow:.2f}" for slow in around) or "–",
        holds,
    ]


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row.get("measured") is None:
        return "–"
    return f"{figure(row['predicted'])} / {figure(row['measured'])}, {signed(row['error'])}"


def drawn_from(profiles: Sequence[HardwareProfile]) -> str:
    """Coefficients, what they belong to, the data behind them, and for which devices: from the profiles' provenance."""
    devices: dict[tuple[str, str, str, str], list[str]] = {}
    common = _common(profiles)
    for profile in profiles:
        for what, owner, known in _figures(profile, common):
            data = f"{_data(known.source)} ({known.date})"
            devices.setdefault((owner, known.origin, data, what), []).append(profile.name)
    alike: dict[tuple[str, str, str, str], list[str]] = {}
    for (owner, origin, data, what), names in devices.items():
        alike.setdefault((owner, origin, data, ", ".join(dict.fromkeys(names))), []).append(what)
    order = ["fitted", "measured", "datasheet", "assumed"]
    rows = [
        [", ".join(words), owner, f"**{origin}**" if origin == "assumed" else origin, data, names]
        for (owner, origin, data, names), words in sorted(
            alike.items(), key=lambda item: (OWNERS.index(item[0][0]), order.index(item[0][1]), item)
        )
    ]
    told = "From the provenance that every coefficient keeps. What is **assumed** was not measured on that device.\n\n"
    return told + table(("what", "belongs to", "is", "data", "devices"), rows, text=5)


def _common(profiles: Sequence[HardwareProfile]) -> set[str]:
    """Host coefficients that one fit gives to every GPU: the same figure wherever it was fitted."""
    values: dict[str, list[float]] = {}
    for profile in profiles:
        for name, fit in (profile.host or ()) if profile.device == "gpu" else ():
            if isinstance(fit, Estimate) and fit.origin == "fitted":
                values.setdefault(name, []).append(fit.value)
    return {name for name, found in values.items() if len(found) > 1 and len(set(found)) == 1}


def _figures(profile: HardwareProfile, common: set[str]) -> Iterator[tuple[str, str, Provenance | Estimate]]:
    """Everything that a profile says: what it is, what it belongs to, and where it comes from."""
    for part in parts(profile):
        yield FAMILIES[part.family], KERNEL, part.provenance
    for name, fit in profile.host or ():
        if isinstance(fit, Estimate):
            shared = profile.device == "gpu" and name in common
            yield HOST.get(name, name.replace("_", " ")), ENGINE if shared else OWN, fit
    for name, fact in profile.facts:
        if isinstance(fact, Estimate):
            yield FACTS.get(name, name.replace("_", " ")), DEVICE, fact


def _data(source: str) -> str:
    """The source without the files inside a database or the names in a mean: one line for all that it gave."""
    head, comma, tail = source.partition(", ")
    inside = comma and (tail.startswith("data/") or tail.endswith(".yaml"))
    return head if inside else source.partition(": ")[0] if source.startswith("the mean over ") else source
