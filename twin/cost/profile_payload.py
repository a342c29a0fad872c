"""Hardware profiles as JSON: what ``twin hardware list``, ``show`` and ``compare`` print, and the rows that csv and md take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from twin.base import Estimate
from twin.cost.parts import Part, parts, unseen
from twin.cost.standard import OPERATIONS, Priced, priced
from twin.spec.hardware import HardwareProfile, HostFit
from twin.spec.kernels import Collective

FIGURE = ("value", "unit", "stderr", "origin", "source", "date")
KNOWN = FIGURE[3:]
RATES = {"flops_per_s": "FLOP/s", "bytes_per_s": "B/s", "launch_s": "s", "p": ""}


def listed(profile: HardwareProfile) -> dict[str, object]:
    """A profile in a line: its name, how much memory the device has, and where its speed comes from."""
    return {
        "name": profile.name,
        "label": profile.label,
        "memory_bytes": int(profile.facts.memory_bytes.value),
        "origin": profile.origin,
    }


def facts_of(profile: HardwareProfile) -> dict[str, tuple[Estimate | None, str]]:
    """Every fact by name, with its unit; ``None`` where the device has no such thing."""
    facts = profile.facts
    return {
        "memory_bytes": (facts.memory_bytes, "B"),
        "mem_bw_bytes_per_s": (facts.mem_bw_bytes_per_s, "B/s"),
        **{f"flops_{name}": (getattr(facts.flops, name), "FLOP/s") for name in type(facts.flops).model_fields},
        "num_sms": (facts.num_sms, "SMs" if profile.device == "gpu" else "cores"),
        "board_power_w": (facts.board_power_w, "W"),
        "intra_node_link_bytes_per_s": (facts.intra_node_link_bytes_per_s, "B/s"),
        "pcie_bytes_per_s": (facts.pcie_bytes_per_s, "B/s"),
    }


def described(profile: HardwareProfile) -> dict[str, object]:
    """A profile: facts, kernels with their share of the datasheet's peak, host, notes, and the names of what is assumed."""
    facts, fits = facts_of(profile).items(), list(parts(profile))
    assumed = [name for name, (figure, _) in facts if figure is not None and figure.origin == "assumed"]
    assumed += [part.name for part in fits if part.assumed]
    if profile.host is not None:
        times = {name: figure for name, figure in profile.host if isinstance(figure, Estimate)}
        guessed = [name for name, figure in times.items() if figure.origin == "assumed"]
        assumed += ["host times"] if len(guessed) == len(times) else guessed
    return {
        "name": profile.name,
        "label": profile.label,
        "device": profile.device,
        "origin": profile.origin,
        "num_gpus_per_node": profile.facts.num_gpus_per_node,
        "assumed": assumed,
        "facts": [{"fact": name, **_figure(figure, unit)} for name, (figure, unit) in facts if figure],
        "kernels": [_kernel(profile, part) for part in fits],
        "host": None if profile.host is None else _host(profile.host),
        "notes": list(profile.fit_notes),
    }


def _figure(figure: Estimate, unit: str) -> dict[str, object]:
    return {"unit": unit, **figure.model_dump()}


def _host(host: HostFit) -> dict[str, object]:
    figures = {name: figure for name, figure in host if isinstance(figure, Estimate)}
    return {
        **{name: getattr(host, name) for name in ("vllm_version", "tpot_error", "ttft_error", "steps")},
        "coefficients": [
            {"coefficient": name, **_figure(figure, "×" if name.endswith("_stretch") else "s")}
            for name, figure in figures.items()
        ],
    }


def _kernel(profile: HardwareProfile, part: Part) -> dict[str, object]:
    """One fit: what it reaches, where it was measured, and its errors on shapes that it was not fitted to."""
    held_out = part.held_out
    return {
        "kernel": part.name,
        "family": part.family,
        **part.provenance.model_dump(),
        **(_links(profile, part.fit) if isinstance(part.fit, Collective) else _rates(profile, part)),
        "held_out": None if held_out is None else held_out.model_dump(),
        "measured_over": {name: list(ends) for name, ends in part.span.items()} or None,
    }


def _rates(profile: HardwareProfile, part: Part) -> dict[str, object]:
    """The coefficients, rates as a share of the peak of the kernel's own precision and of the memory."""
    known = type(profile.facts.flops).model_fields
    words = (word.partition("_")[0] for word in part.name.split())
    precision = next((word for word in words if word in known), "bf16")
    peaks = {
        "flops_per_s": getattr(profile.facts.flops, precision),
        "bytes_per_s": profile.facts.mem_bw_bytes_per_s,
    }
    found = {name: getattr(part.fit, name, None) for name in RATES}
    return {name: _reached(figure, peaks.get(name)) for name, figure in found.items() if figure is not None}


def _links(profile: HardwareProfile, fit: Collective) -> dict[str, object]:
    """Bytes that the largest message moves over each link per second (2·(n−1)/n of the message); the smallest's time."""
    first, last = fit.segments[0], fit.segments[-1]
    bus = 2 * (fit.num_gpus - 1) / fit.num_gpus * last.message_bytes[-1] / (last.us[-1] * 1e-6)
    return {
        "bytes_per_s": _reached(Estimate(value=bus, origin="measured"), profile.facts.intra_node_link_bytes_per_s),
        "launch_s": _reached(Estimate(value=first.us[0] * 1e-6, origin="measured"), None),
    }


def _reached(figure: Estimate, peak: Estimate | None) -> dict[str, object]:
    share = None if peak is None else figure.value / peak.value
    return {"value": figure.value, "stderr": figure.stderr, "share_of_peak": share, "seen": not unseen(figure)}


def figure_rows(payload: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """One row per figure of a described profile."""
    for item in payload["facts"]:
        yield {"section": "fact", "name": item["fact"], "figure": "value", **{key: item[key] for key in FIGURE}}
    for item in payload["kernels"]:
        known = {key: item[key] for key in KNOWN}
        for figure in _kernel_figures(item):
            yield {"section": "kernel", "name": item["kernel"], **figure, **known}
    for item in (payload["host"] or {}).get("coefficients", ()):
        yield {"section": "host", "name": item["coefficient"], "figure": "value", **{key: item[key] for key in FIGURE}}


def _kernel_figures(item: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    for name, unit in RATES.items():
        if found := item.get(name):
            yield {"figure": name, "value": found["value"], "unit": unit, "stderr": found["stderr"]}
            if found["share_of_peak"] is not None:
                yield {"figure": f"{name} of peak", "value": found["share_of_peak"]}
    for among, errors in (item["held_out"] or {}).items():
        yield from ({"figure": f"{among} {name}", "value": v} for name, v in errors.items() if v is not None)
    if item["measured_over"]:
        yield {"figure": "measured over", "value": item["measured_over"]}


def compared(profiles: Mapping[str, HardwareProfile]) -> dict[str, object]:
    """Facts and priced operations by profile; ``ratio`` is to the first, for operations of speed: above 1 is faster.

    A profile has ``null`` where its device lacks the figure; rows that none has are left out.
    """
    facts = {name: facts_of(profile) for name, profile in profiles.items()}
    prices = {name: priced(profile) for name, profile in profiles.items()}
    first = next(iter(profiles))
    rows: list[dict[str, Any]] = [
        {"fact": fact, "unit": unit, "values": _fact_cells({name: facts[name][fact][0] for name in profiles})}
        for fact, (_, unit) in facts[first].items()
    ]
    costs: list[dict[str, Any]] = [
        {"operation": o.name, "unit": "s", "values": _cost_cells({name: prices[name][o.name] for name in profiles})}
        for o in OPERATIONS
    ]
    heads = [
        {"id": key, "name": profile.name, "label": profile.label, "device": profile.device, "origin": profile.origin}
        for key, profile in profiles.items()
    ]
    return {
        "profiles": heads,
        "facts": [row for row in rows if any(row["values"].values())],
        "operations": [row for row in costs if any(row["values"].values())],
    }


def _fact_cells(figures: Mapping[str, Estimate | None]) -> dict[str, dict[str, object] | None]:
    base = next(iter(figures.values()))
    return {
        name: None
        if figure is None
        else {"value": figure.value, "ratio": base and figure.value / base.value, "origin": figure.origin}
        for name, figure in figures.items()
    }


def _cost_cells(costs: Mapping[str, Priced | None]) -> dict[str, dict[str, object] | None]:
    base = next(iter(costs.values()))
    return {
        name: None if cost is None else {**vars(cost), "ratio": base and base.seconds / cost.seconds}
        for name, cost in costs.items()
    }


def comparison_rows(payload: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """One row per figure and profile; a device that lacks it has an empty value."""
    for section, key in (("facts", "fact"), ("operations", "operation")):
        for item in payload[section]:
            for name, found in item["values"].items():
                cell = found or {}
                yield {
                    "figure": item[key],
                    "unit": item["unit"],
                    "profile": name,
                    "value": cell.get("value", cell.get("seconds")),
                    "low90": cell.get("low90_s"),
                    "high90": cell.get("high90_s"),
                    **{column: cell.get(column) for column in ("ratio", "inside", "origin")},
                }
