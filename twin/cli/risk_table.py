"""Risk for people: a row per option, what matters most to the recommended one, and what would change it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN_INPUTS = 4
SHOWN_TURNS = 5


def risk_parts(payload: dict[str, Any]) -> list[RenderableType]:
    """What a plan's table says of risk; nothing where the plan was made without.

    Reads ``risk`` of each option and ``risk`` of the plan (``sensitivity``, ``would_change``).
    """
    from rich.text import Text

    judged = [option for option in payload["options"] if option.get("risk")]
    if not judged:
        return []
    parts: list[RenderableType] = [_table(judged)]
    for option in judged:
        parts.append(Text(f"  {_name(option)}: {option['risk']['text']}."))
        if promise := _promise(option["risk"].get("bounds", [])):
            parts.append(Text(f"    At 90 % it could promise {promise}."))
    ours = next((o["risk"] for o in judged if o["id"] == payload.get("recommended")), judged[0]["risk"])
    if "usd_per_month" in ours:
        parts.append(Text(f"$/month: {ours['usd_per_month']['how']}."))
    of_plan = payload.get("risk") or {}
    if (ranked := of_plan.get("sensitivity")) and "tail" in ranked:
        parts += [
            Text(f"What moves the {name} most, from its 5 to its 95 % point: {_inputs(ranked[name])}.")
            for name in ("cost", "tail")
        ]
    if turns := of_plan.get("would_change"):
        parts.append(Text("What would change the recommendation, the nearest first:"))
        parts += [Text(f"  {turn['text']}") for turn in turns[:SHOWN_TURNS]]
    return parts


def risk_row(option: dict[str, Any]) -> dict[str, object]:
    """The risk of an option as flat columns for csv and md; empty without."""
    risk = option.get("risk")
    if not risk or "probability_held" not in risk:
        return {}
    growth = risk["growth"] or {}
    return {
        "probability_held": risk["probability_held"]["value"],
        "probability_held_stderr": risk["probability_held"]["stderr"],
        "headroom_factor": risk["headroom"]["factor"],
        "usd_per_month_p5": risk["usd_per_month"]["p5"],
        "usd_per_month_p95": risk["usd_per_month"]["p95"],
        "breaks_in_month": growth.get("breaks_in_month"),
        "holds_one_node_down": risk["down"]["node"]["holds"],
        "share_of_traffic_one_node_down": risk["down"]["node"]["share_of_traffic"],
    }


def _table(options: list[dict[str, Any]]) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title="\nRisk",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", no_wrap=True)
    for name in ("P(held)", "head-room", "$/month, 5 to 95 %", "growth breaks it", "one node down"):
        table.add_column(name, justify="right", no_wrap=True)
    for option in options:
        risk = option["risk"]
        if "probability_held" not in risk:
            table.add_row(_name(option, "\n"), *["–"] * 5)
            continue
        held, cost, node = risk["probability_held"], risk["usd_per_month"], risk["down"]["node"]
        table.add_row(
            _name(option, "\n"),
            f"all {risk['worlds']}" if held["value"] == 1 else f"{held['value']:.0%} ± {held['stderr']:.0%}",
            f"×{risk['headroom']['factor']:.2f}",
            f"{cost['p5']:,.0f}–{cost['p95']:,.0f}" if cost["p5"] < cost["p95"] else f"{cost['value']:,.0f}, no spread",
            _month(risk["growth"]),
            "holds" if node["holds"] else f"{node['share_of_traffic']:.0%} of traffic",
        )
    return table


def _month(growth: dict[str, Any] | None) -> str:
    if growth is None:
        return "no growth given"
    month = growth["breaks_in_month"]
    return f"> {growth['months']} months" if month is None else "now" if month == 0 else f"month {month}"


def _inputs(ranked: list[dict[str, Any]]) -> str:
    felt = [row for row in ranked if row["effect"] > row["error"]][:SHOWN_INPUTS]
    return (
        ", ".join(f"{row['input']} ({row['effect']:.0%} ± {row['error']:.0%})" for row in felt) or "nothing stands out"
    )


def _promise(bounds: list[dict[str, Any]]) -> str:
    """The tightest bounds that hold in nine worlds of ten, each by itself."""
    said = []
    for bound in bounds:
        of = f" of {bound['request_class']}" if "request_class" in bound else ""
        said.append(f"p{bound['quantile'] * 100:g} {bound['metric'].upper()}{of} {_ms(bound['promised_at_90_s'])}")
    return ", ".join(said)


def _name(option: dict[str, Any], between: str = ", ") -> str:
    return between.join(name.replace("_", " ") for name in option["names"]) or str(option["id"])


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:,.0f} ms" if value >= 100 else f"{value:,.1f} ms"
