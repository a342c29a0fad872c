"""Hardware profiles as tables for people: what ``twin hardware show`` and ``compare`` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twin.show.units import LABELS, si

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

BESIDE_THE_FIRST = 2  # profiles in one table of 100 columns


def _shown(origin: str) -> str:
    """Where a figure comes from; what is assumed stands out, also without colours."""
    return f"[bold yellow]{origin.upper()}[/]" if origin == "assumed" else origin


def plain_table(title: str, *columns: str) -> Table:
    """Columns named ``<…`` are text, the others numbers."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold italic")
    for column in columns:
        table.add_column(column.removeprefix("<"), justify="left" if column.startswith("<") else "right")
    return table


def profile_tables(payload: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group

    kind = f"a node has {payload['num_gpus_per_node']}" if payload["device"] == "gpu" else "CPU"
    head = f"[bold]{payload['name']}[/]: {payload['label']} ({kind}), speed {_shown(payload['origin'])}"
    assumed = [LABELS.get(name, name) for name in payload["assumed"]]
    tail = [f"[bold yellow]ASSUMED[/], not measured on this device: {', '.join(assumed)}."] if assumed else []
    return Group(
        head,
        *tail,
        "",
        _facts(payload["facts"]),
        "",
        _kernels(payload["kernels"]),
        "Error: mean absolute error on serving shapes left out of the fit. 90 %: measured over predicted;"
        " inside: measurements in such an interval set without them.\nA rate that no measured time depends on"
        " is not shown. All-reduce: bytes over each link; its share is of the link.",
        "",
        _ranges(payload["kernels"]),
        "",
        *_host(payload["host"]),
        *_sources(payload),
        *(f"Note: {note}" for note in payload["notes"]),
    )


def _facts(facts: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table("Facts", "<", "value", "<origin", "<source")
    for item in facts:
        source = f"{item['source']} ({item['date']})"
        table.add_row(LABELS[item["fact"]], si(item["value"], item["unit"]), _shown(item["origin"]), source)
    return table


def _kernels(kernels: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table(
        "Kernels", "<", "FLOP/s", "of peak", "B/s", "of peak", "launch", "error", "90 %", "inside", "<origin"
    )
    for item in kernels:
        errors = (item["held_out"] or {}).get("serving") or {}
        table.add_row(
            item["kernel"],
            *_reached(item.get("flops_per_s"), "FLOP/s"),
            *_reached(item.get("bytes_per_s"), "B/s"),
            si(item["launch_s"]["value"], "s"),
            _percent(errors.get("mape"), ".1%"),
            _interval(errors.get("interval90")),
            _percent(errors.get("coverage90"), ".0%"),
            _shown(item["origin"]),
        )
    return table


def _reached(figure: Mapping[str, Any] | None, unit: str) -> tuple[str, str]:
    if figure is None or not figure["seen"]:
        return "–", "–"
    return si(figure["value"], unit).removesuffix(unit), _percent(figure["share_of_peak"], ".0%")


def _percent(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)


def _interval(bounds: Sequence[float] | None) -> str:
    """``±4%``, or ``−3/+6%`` where the sides differ: how far 90 % of measurements are from the prediction."""
    if bounds is None:
        return "–"
    low, high = (round(100 * (bound - 1)) for bound in bounds)
    return f"±{high}%" if -low == high else f"{low:+d}/{high:+d}%".replace("-", "−")


def _ranges(kernels: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table("Measured over", "<", "timings", "<sizes")
    for item in kernels:
        spans = (item["measured_over"] or {}).items()
        sizes = ", ".join(f"{name} {_size(low)}–{_size(high)}" for name, (low, high) in spans)
        count = (item["held_out"] or {}).get("overall", {}).get("n")
        table.add_row(item["kernel"], f"{count:,}" if count and sizes else "–", sizes or "[bold yellow]nothing[/]")
    return table


def _size(value: float) -> str:
    for scale, suffix in ((2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki")):
        if value >= 4 * scale or (value >= scale and value % scale == 0):
            return f"{value / scale:.3g}{suffix}"
    return f"{value:g}"


def _host(host: Mapping[str, Any] | None) -> list[RenderableType]:
    if host is None:
        return ["Host: nothing fitted; its time counts as 0.", ""]
    version = f", vLLM {host['vllm_version']}" if host["vllm_version"] else ""
    table = plain_table(f"Host{version}", "<", "value", "±", "<origin", "<source")
    for item in host["coefficients"]:
        stderr = "–" if item["stderr"] is None else si(item["stderr"], item["unit"])
        name = item["coefficient"].removesuffix("_s").replace("_", " ")
        table.add_row(name, si(item["value"], item["unit"]), stderr, _shown(item["origin"]), item["source"])
    errors = {"TPOT of whole runs": host["tpot_error"], "TTFT": host["ttft_error"]}
    said = [f"{name} {value:.1%}" for name, value in errors.items() if value is not None]
    for mode, step in (host["steps"] or {}).items():
        found = step if isinstance(step, Mapping) else step.model_dump()
        said.append(f"single steps {mode.replace('_', ' ')} {found['mape']:.1%}")
    return [table, f"Error on what was left out: {', '.join(said)}." if said else "", ""]


def _sources(payload: Mapping[str, Any]) -> list[str]:
    """Each file that kernels come from, once."""
    dated = dict.fromkeys(f"{item['source']} ({item['date']})" for item in payload["kernels"])
    return ["[bold italic]Kernels from[/]", *dated, ""]


def comparison_tables(payload: Mapping[str, Any]) -> RenderableType:
    """The first profile with two others at a time."""
    from rich.console import Group

    base, *others = (item["id"] for item in payload["profiles"])
    groups = [others[i : i + BESIDE_THE_FIRST] for i in range(0, len(others), BESIDE_THE_FIRST)]
    tables = [table for group in groups for table in (_comparison(payload, base, group), "")]
    return Group(
        *tables,
        f"× is against {base}: of the figure, for operations of the speed (above 1 is faster). ± holds 90 % of"
        " measurements\n(of a what-if: as on the real device). ~ outside the measured range,"
        " ! assumed, not measured on this device.",
    )


def _comparison(payload: Mapping[str, Any], base: str, others: Sequence[str]) -> Table:
    table = plain_table("", "<", base, *(column for name in others for column in (name, "")))
    for section, key in (("facts", "fact"), ("operations", "operation")):
        for item in payload[section]:
            values = item["values"]
            name = LABELS.get(item[key], item[key])
            rest = [text for other in others for text in (_cell(values[other], item["unit"]), _times(values[other]))]
            table.add_row(name, _cell(values[base], item["unit"]), *rest)
        table.add_section()
    return table


def _cell(cell: Mapping[str, Any] | None, unit: str) -> str:
    if cell is None:
        return "–"
    mark = "!" if cell["origin"] == "assumed" else "" if cell.get("inside", True) else "~"
    if "seconds" not in cell:
        return mark + si(cell["value"], unit)
    bounds = None if cell["low90_s"] is None else [cell[key] / cell["seconds"] for key in ("low90_s", "high90_s")]
    return f"{mark}{si(cell['seconds'], 's')} {_interval(bounds) if bounds else ''}".strip()


def _times(cell: Mapping[str, Any] | None) -> str:
    return "" if cell is None or cell["ratio"] is None else f"×{cell['ratio']:.2f}"
