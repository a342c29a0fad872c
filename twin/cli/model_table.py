"""``twin model show`` for people: at most 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

NO_ROOM = {"the weights do not fit in GPU memory", "the weights leave no room for a KV cache"}


def model_tables(payload: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group

    return Group(*_head(payload), "", _bytes(payload), "", _gpus(payload), *_tail(payload))


def _head(payload: Mapping[str, Any]) -> Iterator[str]:
    total, active = payload["parameters"], payload["active_parameters"]
    used = "" if active == total else f", {_count(active)} active"
    yield f"[bold]{payload['name']}[/]: {_count(total)} parameters{used}, {payload['max_model_len']:,} tokens of context"
    for layer in payload["layers"]:
        yield f"  {layer['count']:>3} × {layer['says']}"
    if payload["left_out"]:
        yield f"Left out: {', '.join(payload['left_out'])}."


def _bytes(payload: Mapping[str, Any]) -> Table:
    from twin.cli.hardware_table import plain_table

    published, weights = payload["published_format"], payload["weight_bytes"]
    shown = {name: size for name, size in weights.items() if size != weights["bf16"] or name == "bf16"}
    table = plain_table("Weights and KV cache", "<weights", "", "<KV cache", "per token", "8,192 tokens")
    cache = payload["kv_bytes_per_token"]
    for i in range(max(len(shown), len(cache))):
        weight = list(shown.items())[i : i + 1]
        kv = list(cache.items())[i : i + 1]
        left = [
            (name + (" (published)" if name == published else ""), f"{size / 2**30:,.1f} GiB") for name, size in weight
        ]
        right = [(name, _size(size), f"{payload['request_bytes'][name] / 2**30:.2f} GiB") for name, size in kv]
        table.add_row(*(left or [("", "")])[0], *(right or [("", "", "")])[0])
    return table


def _gpus(payload: Mapping[str, Any]) -> Table:
    from twin.cli.hardware_table import plain_table

    title = f"KV tokens, and requests of 8,192 tokens at once, by GPUs in TP ({payload['format']} weights"
    sizes = sorted({fit["tensor_parallel_size"] for gpu in payload["gpus"] for fit in gpu["fits"]})
    table = plain_table(
        f"{title}, KV {payload['kv_cache_dtype']})", "<", *(str(size) for size in sizes), "compute from"
    )
    for gpu in payload["gpus"]:
        fits = {fit["tensor_parallel_size"]: fit for fit in gpu["fits"]}
        batch = gpu["compute_bound_batch"]
        name = gpu["gpu"] + ("*" if gpu["not_modelled"] else "")
        table.add_row(name, *(_fit(fits.get(size)) for size in sizes), "–" if batch is None else f"{batch:,}")
    return table


def _fit(fit: Mapping[str, Any] | None) -> str:
    if fit is None:
        return ""
    if fit["why_not"]:
        return "no room" if fit["why_not"] in NO_ROOM else "no split"
    return f"{_count(fit['kv_tokens'])} ({fit['max_concurrency_8k']:,.0f})"


def _tail(payload: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"A token takes {_count(payload['flops_per_token'])} FLOPs beside attention. Compute from: tokens of a step from which"
        " products take longer than reading weights, at datasheet rates (–: not modelled there, or the rate is not known)."
    )
    if payload["state_bytes_per_request"]:
        state = payload["state_bytes_per_request"] / 2**20
        block = f"a block of {payload['kv_block_size']:,} tokens is as large as that of one layer"
        yield f"A request also holds {state:,.1f} MiB of recurrent state; {block}."
    windows = {group["window"] for group in payload["kv_groups"] if group["window"]}
    if windows:
        yield f"Layers with windows keep {', '.join(map(str, sorted(windows)))} tokens; per token counts while all are in them."
        yield "Requests at once are as vLLM reckons when it starts: windows, and the tokens of two steps."
    reasons: dict[str, list[str]] = {}
    for gpu in payload["gpus"]:
        if gpu["not_modelled"]:
            reasons.setdefault(gpu["not_modelled"].replace(f"{gpu['gpu']} ", "", 1), []).append(gpu["gpu"])
    for reason, gpus in reasons.items():
        yield f"* memory only ({', '.join(gpus)}): {reason.removeprefix('has ')}."
    splits = sorted(
        {f["why_not"] for g in payload["gpus"] for f in g["fits"] if f["why_not"] and f["why_not"] not in NO_ROOM}
    )
    for reason in splits:
        yield f"No split: {reason}."


def _count(value: float) -> str:
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:g}"


def _size(value: float) -> str:
    return f"{value / 2**10:,.1f} KiB"
