"""The answer of ``twin plan`` for people: tables of 100 columns, and flat rows for csv and md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from twin.cli.class_table import class_lines, serves
from twin.cli.explain_table import explanation_table
from twin.cli.money_table import money_parts, money_row
from twin.cli.risk_table import risk_parts, risk_row

if TYPE_CHECKING:
    from rich.console import RenderableType


LEGEND = (
    "layout: GPUs of a replica × replicas; precision: weights/KV cache; seats/tokens: --max-num-seqs and"
    " --max-num-batched-tokens; use: of capacity at the busiest five minutes"
)


def option_row(item: dict[str, Any]) -> dict[str, object]:
    """An option as one flat row for csv and md."""
    flat = {key: value for key, value in item.items() if not isinstance(value, (dict, list))}
    metrics = {key: value for key, value in item["metrics"].items() if not isinstance(value, (dict, list))}
    quoted = item["accuracy"]["quoted"]
    said = {"accuracy": quoted["text"] if quoted else None, "misses": "; ".join(item.get("misses", []))}
    precision = {name: item["precision"][name] for name in ("expected_accuracy_loss", "accuracy_loss_source")}
    return {**flat, **metrics, **precision, **said, **money_row(item), **risk_row(item)}


def plan_table(payload: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    load = payload["traffic"]
    head = (
        f"{payload['model']}, {load['requests']:,} requests, {load['mean_rate_per_s']:.1f}/s"
        f" ({load['busiest_5min_rate_per_s']:.1f}/s at the busiest five minutes)"
    )
    parts: list[RenderableType] = [Text(head)]
    if payload["options"]:
        parts.append(_options_table("Options that hold", payload["options"]))
        parts.append(Text(LEGEND, style="dim"))
    elif payload.get("interrupted"):
        parts += [Text(line) for line in _so_far(payload)]
    else:
        parts.append(Text(f"Nothing holds. {payload['binding']}", style="bold"))
    if payload["near_misses"]:
        parts.append(_options_table("Near misses", payload["near_misses"]))
        parts += [Text(f"  {i}. {'; '.join(m['misses'])}") for i, m in enumerate(payload["near_misses"], 1)]
    if "fixed" in payload:
        parts.append(Text(_fixed_line(payload["fixed"])))
    parts += [*_deploy(payload), *money_parts(payload), *risk_parts(payload)]
    parts += [explanation_table(item) for item in payload.get("explanation", ())]
    parts += [Text(line) for line in _ruled_out(payload)]
    parts += [Text(f"Note: {text}") for text in payload["notes"]]
    return Group(*parts)


def _so_far(payload: dict[str, Any]) -> Iterator[str]:
    """Of a search that was stopped."""
    yield f"\nStopped after {payload['simulated']:,} configurations. The front so far, on the busiest minutes:"
    for point in payload["front"]:
        latency = ", ".join(f"p99 {name.upper()} {point[f'p99_{name}_ms']:,.0f} ms" for name in ("ttft", "tpot"))
        yield f"  ${point['usd_per_month']:>9,.0f}/month  {latency}  {point['id']}"
    if not payload["front"]:
        yield "  nothing that was simulated holds"


def _ruled_out(payload: dict[str, Any]) -> Iterator[str]:
    titles = {
        "memory": "Engine settings that cannot start or were not wanted:",
        "screen": f"{payload['screened']:,} configurations screened, {payload['simulated']:,} simulated; ruled out:",
    }
    for stage, title in titles.items():
        found = [item for item in payload["rejected"] if item["stage"] == stage]
        if found:
            yield f"\n{title}"
        yield from (f"  {item['count']:>6,}  {item['reason']}" for item in found)


def _options_table(title: str, options: list[dict[str, Any]]) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = {bound["metric"]: f"p{bound['quantile'] * 100:g}" for bound in reversed(options[0]["bounds"])}
    table = Table(
        title=f"\n{title}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in ("", "GPUs", "layout", "precision"):
        table.add_column(name, no_wrap=True)
    latencies = [f"{shown.get(metric, 'p99')} {metric.upper()}" for metric in ("ttft", "tpot")]
    for name in ("seats/tokens", "$/month", *latencies, "use"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, item in enumerate(options, 1):
        label = str(number) if item.get("misses") else "\n".join(name.replace("_", " ") for name in item["names"])
        pools = item.get("pools", [item])
        if len(pools) > 1:
            kinds = f"{item['num_gpus']} in {len(pools)} pools"
            table.add_row(
                label, kinds, *[""] * 3, f"{item['usd_per_month']:,.0f}", *[""] * 2, f"{item['peak_utilisation']:.0%}"
            )
        for pool in pools:
            table.add_row(
                label if len(pools) == 1 else f"  {serves(pool)}",
                f"{pool['num_gpus']} {pool['gpu']}",
                _layout(pool),
                f"{pool['precision']['weights']}/{pool['precision']['kv_cache']}",
                f"{pool['max_num_seqs']}/{pool['max_num_batched_tokens']}",
                f"{pool['usd_per_month']:,.0f}",
                _ms(pool, "ttft", shown),
                _ms(pool, "tpot", shown),
                f"{pool['peak_utilisation']:.0%}",
            )
    return table


def _layout(item: dict[str, Any]) -> str:
    """``TP8 PP2 × 1``, ``TP2 DP4 EP × 1``: a replica's ranks, and how many replicas."""
    words = [f"TP{item['tensor_parallel_size']}"]
    more = {"PP": item["pipeline_parallel_size"], "DP": item["data_parallel_size"]}
    words += [f"{short}{size}" for short, size in more.items() if size > 1]
    words += ["EP"] if item["enable_expert_parallel"] else []
    return f"{' '.join(words)} × {item['replicas']}"


def _ms(item: dict[str, Any], metric: str, shown: dict[str, str]) -> str:
    """The promised quantile, the worse of whole trace and busiest minutes; p99 where none is promised."""
    bounds = [b for b in item["bounds"] if b["metric"] == metric and f"p{b['quantile'] * 100:g}" == shown[metric]]
    value = bounds[0]["worst_s"] * 1e3 if bounds else item["metrics"][f"p99_{metric}_ms"]
    return "–" if value is None else f"{value:,.0f} ms" if value >= 100 else f"{value:,.1f} ms"


def _fixed_line(fixed: dict[str, Any]) -> str:
    if fixed["highest_rate_factor"] is None:
        return "It holds at no rate that was tried."
    return (
        f"Highest rate it holds at the busiest five minutes: {fixed['highest_request_rate_per_s']:.2f}/s"
        f" (×{fixed['highest_rate_factor']:.2f} of today's)."
    )


def _deploy(payload: dict[str, Any]) -> list[RenderableType]:
    """The command of the recommended option, and what is known of its figures' accuracy."""
    from rich.text import Text

    chosen = next((item for item in payload["options"] if item["id"] == payload["recommended"]), None)
    if chosen is None:
        return []
    title = "Deployed" if "fixed" in payload else "Recommended"
    lines = [line for pool in chosen.get("pools", [chosen]) for line in _deployed(pool, title)]
    return [Text(line) for line in [*lines, *class_lines(chosen)]]


def _deployed(chosen: dict[str, Any], title: str) -> list[str]:
    errors = chosen["accuracy"]
    if errors["quoted"]:
        known = f"host times {errors['host_origin'] or 'not fitted'}"
    elif errors["tpot_error"] is None:
        known = "no host time is fitted for this GPU, so real latencies are longer"
    else:
        known = (
            f"whole runs were {errors['tpot_error']:.0%} (TPOT) and {errors['ttft_error']:.0%} (TTFT) off the model"
            f" (host times {errors['host_origin']})"
        )
    price = chosen["usd_per_gpu_hour"]
    said = f"{price['origin']}, {price['date']}" if price["date"] else price["source"]
    replicas = "the replica" if chosen["replicas"] == 1 else f"each of {chosen['replicas']} replicas"
    whose = f" for {serves(chosen)}" if "serves" in chosen else ""
    return [
        f"\n{title}{whose}, on {replicas}:",
        _shell_lines(chosen["vllm_command"]),
        f"Calibration: {chosen['calibrated']} the measured range"
        + (f" ({', '.join(chosen['outside_because'])})" if chosen["outside_because"] else "")
        + f"; {known}.",
        *([f"Accuracy: {errors['quoted']['text']}"] if errors["quoted"] else []),
        *_precision_lines(chosen["precision"]),
        f"Price: ${price['value']:.2f} per GPU hour ({said}).",
    ]


def _precision_lines(precision: dict[str, Any]) -> list[str]:
    loss = precision["expected_accuracy_loss"]
    said = "not published" if loss is None else f"{loss:.1%} of the average benchmark score"
    return [f"Expected accuracy loss: {said} ({precision['accuracy_loss_source']}).", *precision["notes"]]


def _shell_lines(command: str, width: int = 96) -> str:
    """A command broken before its flags, so that it can be pasted from a page of ``width`` columns."""
    lines = ["  "]
    for position, part in enumerate(command.split(" --")):
        piece = part if position == 0 else f"--{part}"
        if len(lines[-1]) + len(piece) > width:
            lines.append("    ")
        lines[-1] += piece + " "
    return "\\\n".join(lines).rstrip()
