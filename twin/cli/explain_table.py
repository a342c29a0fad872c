"""``twin plan --explain OPTION`` for people: sentences first, then two tables of at most 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

RESOURCES = {
    "compute": "compute",
    "memory_bandwidth": "memory bandwidth",
    "network": "links among GPUs",
    "host": "the host",
    "latency": "kernels starting",
}
PIECES = {
    "gemm": "matrix products",
    "experts": "routed experts",
    "attention": "attention",
    "elementwise": "norms, element-wise",
    "exchanges": "all-reduces, exchanges",
    "head": "head and logits",
    "host": "host, every step",
    "throttle": "power limit",
    "launches": "waiting for launches",
    "levers": "levers",
}
LIMITS = {"seats": "seats (--max-num-seqs)", "kv_blocks": "KV blocks"}
LEAST_SAID = 0.05
"""Shares below it are left out of sentences."""


def explanation_table(payload: Mapping[str, Any]) -> RenderableType:
    """Of :func:`twin.plan.explain.explain`'s JSON."""
    from rich.console import Group
    from rich.text import Text

    said = [Text(line) for line in (f"Why {payload['id']} is as fast as it is", *_sentences(payload))]
    said[0].stylize("bold")
    return Group(*said, "", _shares(payload["phases"]), "", _steps(payload["next_steps"]), *_notes(payload))


def _sentences(payload: Mapping[str, Any]) -> Iterator[str]:
    phases = payload["phases"]
    prefill, peak, day = phases["prefill"], phases["decode_at_peak"], phases["decode_over_day"]
    steps = "one step" if prefill["steps"] == 1 else f"{prefill['steps']} steps"
    cached = f" after {prefill['cached_tokens']:,} cached" if prefill["cached_tokens"] else ""
    yield _phase(f"Prefill of {prefill['prompt_tokens']:,} tokens{cached} in {steps}", prefill)
    ranks = payload["data_parallel_size"]
    apart = "" if ranks == 1 else f" on each of {ranks} ranks"
    yield _phase(f"Decode at the peak, {_batch_of(peak)}{apart}", peak)
    yield _phase(f"Decode over the whole trace, {_batch_of(day)}{apart}", day)
    both = phases["peak"]
    yield f"While busy at the peak, prompts take {both['prefill_share']:.0%} of the time: {_bound(both)}."
    yield _batch_line(payload["batch"])
    yield _kv_line(payload["kv_cache"])
    yield _slack_line(payload["slack"])


def _batch_of(phase: Mapping[str, Any]) -> str:
    return f"{phase['running']:,} together at {phase['mean_context']:,.0f} tokens"


def _phase(what: str, phase: Mapping[str, Any]) -> str:
    return f"{what}: {_time(phase['seconds'])}, {_bound(phase)}."


def _bound(phase: Mapping[str, Any]) -> str:
    """``bound by memory bandwidth (71 %); then kernels starting 12 %, the host 9 %``."""
    shares = sorted(phase["resources"].items(), key=lambda item: -item[1])
    (first, most), rest = shares[0], [(name, share) for name, share in shares[1:] if share >= LEAST_SAID]
    said = f"bound by {RESOURCES[first]} ({most:.0%})"
    if first == "compute" and phase["throttled"] >= LEAST_SAID:
        said = f"bound by compute ({most:.0%}, of which {phase['throttled']:.0%} the power limit)"
    more = ", ".join(f"{RESOURCES[name]} {share:.0%}" for name, share in rest)
    return said + (f"; then {more}" if more else "")


def _batch_line(batch: Mapping[str, Any]) -> str:
    room = f"{batch['seats']:,.0f} seats, KV cache for {batch['kv_requests']:,.0f} mean requests"
    running = f"{batch['running_at_peak']:,.1f} requests run at the peak on a replica with {room}"
    if batch["bound_by"] == "arrivals":
        said = f"Arrivals bound the batch: {running}; {LIMITS[batch['first_limit']]} would bind first."
    else:
        said = f"{LIMITS[batch['bound_by']][0].upper()}{LIMITS[batch['bound_by']][1:]} bound the batch: {running}."
    if batch["num_preemptions"]:
        said += f" Bursts ran out of blocks: {batch['num_preemptions']:,.0f} preemptions."
    return said


def _kv_line(cache: Mapping[str, Any]) -> str:
    hits = cache["prefix_cache_hit_rate"]
    shared = f"; {hits:.0%} of prompt tokens were found in it" if hits else ""
    return f"The KV cache was {cache['mean_usage']:.0%} full on average and {cache['peak_usage']:.0%} at most{shared}."


def _slack_line(slack: Mapping[str, Any]) -> str:
    each = []
    for item in slack["limits"]:
        if "value_s" in item:
            each.append(f"{item['bound']} at {_time(item['value_s'])} ({item['of_limit']:.0%})")
        else:
            each.append(f"{item['bound']} with {item['utilisation']:.0%} in use ({item['of_limit']:.0%})")
    beyond = "Furthest beyond" if slack["nearest_of_limit"] > 1 else "Nearest to"
    return f"{beyond} its limit is the {slack['nearest']}. Of their limits: {', '.join(each)}."


def _shares(phases: Mapping[str, Any]) -> Table:
    from twin.cli.hardware_table import plain_table

    names = {
        "prefill": "prefill",
        "decode_at_peak": "decode, peak",
        "decode_over_day": "decode, all",
        "peak": "both, peak",
    }
    table = plain_table("Where the time goes", "<", *names.values())
    columns = [phases[name] for name in names]
    for key, labels in (("resources", RESOURCES), ("pieces", PIECES)):
        for name, label in labels.items():
            shares = [phase[key].get(name, 0.0) for phase in columns]
            if max(shares) >= 0.0005:
                table.add_row(label, *(f"{share:.1%}" for share in shares))
        if key == "resources":
            table.add_section()
            table.add_row(*[""] * (len(names) + 1))
    return table


def _steps(found: Mapping[str, Any]) -> Table:
    from twin.cli.hardware_table import plain_table

    table = plain_table(
        "What the next step up buys", "<", "GPUs", "requests/s", "more", "$/month", "more", "<held back by"
    )
    table.add_row(
        "as it is", "", f"{found['requests_per_s']:.1f}", "", f"{found['usd_per_month']:,.0f}", "", found["limited_by"]
    )
    for step in found["steps"]:
        if step["why_not"]:
            table.add_row(step["step"], "", "–", "", "", "", step["why_not"])
            continue
        table.add_row(
            step["step"],
            str(step["num_gpus"]),
            f"{step['requests_per_s']:.1f}",
            _more(step["requests_per_s_more"], ".1f"),
            f"{step['usd_per_month']:,.0f}",
            _more(step["usd_per_month_more"], ",.0f"),
            "; ".join(filter(None, (step["limited_by"], step["over"]))),
        )
    return table


def _more(difference: float, form: str) -> str:
    """With its sign; a difference that does not show has none."""
    shown = format(abs(difference), form)
    return "0" if not shown.strip("0.,") else f"{'+' if difference > 0 else '-'}{shown}"


def _notes(payload: Mapping[str, Any]) -> Iterator[str]:
    steps = payload["next_steps"]
    how = (
        "in proportion to the closed form" if steps["tails_known"] else "in proportion to the closed form's means alone"
    )
    peak = f"(the peak is {steps['peak_requests_per_s']:.1f})"
    yield f"Requests/s: the most that keeps the promise {peak}; as it is by simulation, the others {how}."


def _time(seconds: float) -> str:
    return (
        f"{seconds:,.1f} s"
        if seconds >= 10
        else f"{seconds * 1e3:,.1f} ms"
        if seconds < 0.1
        else f"{seconds * 1e3:,.0f} ms"
    )
