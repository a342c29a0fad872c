"""What the What-if page shows of an answer: verdict, key figures, curves, time line, where time goes, downloads."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import streamlit as st

from twin.results.run import to_json
from twin.show import charts, shell
from twin.show.chart import Chart, Rule
from twin.show.formats import count, layout, ms, share, usd
from twin.show.what_if import Answer

NINETY = "90%"
LESS, MORE = False, True


def show(answer: Answer, baseline: Answer | None) -> None:
    point = answer.here.point
    _verdict(answer)
    shell.figures(_figures(answer, baseline))
    st.caption(
        f"Shows the {point['fidelity']}, at ×{answer.setting.load:g} their rate.{shell.plain(_against(answer, baseline))}"
    )


def _against(answer: Answer, baseline: Answer | None) -> str:
    """What the deltas are to; what follows from the load alone is no merit of a setting."""
    if baseline is None:
        return ""
    said = f" Deltas are against {_name(baseline)} at {_load(baseline)}"
    if _same_load(answer, baseline):
        return f"{said}."
    return f"{said}, and here it is {_load(answer)}: tokens, cache and utilisation are neither better nor worse."


def _load(answer: Answer) -> str:
    return f"×{answer.setting.load:g}, {count(answer.here.point['request_rate_per_s'], '/s')}"


def _same_load(answer: Answer, baseline: Answer) -> bool:
    """Whether both are asked the same requests as fast."""
    mine, other = answer.scenario.traffic, baseline.scenario.traffic
    return mine == other and answer.here.point["request_rate_per_s"] == baseline.here.point["request_rate_per_s"]


def drawn(answer: Answer, baseline: Answer | None) -> None:
    """Curves, time line, where time goes, and downloads."""
    before = baseline.curve if baseline else None
    curves = [_marked(charts.load_curve(answer.curve, metric, before), answer) for metric in ("ttft", "tpot")]
    _pair(curves)
    st.caption(shell.plain(curves[0].note))
    over_time = charts.timeline(answer.here.over_time)
    for start in range(0, len(over_time), 2):
        _pair(over_time[start : start + 2])
    if over_time:
        st.caption(shell.plain(over_time[0].note))
    shell.chart(replace(charts.bottleneck(answer.here.where), key="bottleneck"))
    _downloads(answer)


def _pair(both: list[Chart]) -> None:
    """Side by side; what they have in common is said under them once."""
    for column, chart in zip(st.columns(2), both, strict=False):
        with column:
            shell.chart(replace(chart, note=""))


def _verdict(answer: Answer) -> None:
    point = answer.here.point
    title = f"**{shell.plain(_name(answer))}** at {count(point['request_rate_per_s'], '/s')}"
    if not point["promises"] and point["holds"]:
        st.info(f"{title}: nothing is promised; it keeps up.", icon=":material/check:")
    elif point["holds"]:
        st.success(f"{title} holds every promise.", icon=":material/check_circle:")
    else:
        st.error(f"{title} misses {shell.plain('; '.join(point['misses']))}.", icon=":material/cancel:")
    st.markdown(shell.calibration(point))


def _name(answer: Answer) -> str:
    where = answer.scenario.deployment
    formats = answer.setting.quantization if answer.setting.quantization != "none" else "bf16"
    return f"{where.gpu} {layout(where.model_dump())} {formats}"


def _figures(answer: Answer, baseline: Answer | None) -> list[shell.Figure]:
    here, before = answer.here.point, baseline.here.point if baseline else None
    money, cost_before = answer.money, baseline.money if baseline else None
    alike = baseline is None or _same_load(answer, baseline)
    more, less = (MORE, LESS) if alike else (None, None)
    return [
        _figure("p99 TTFT", "p99_ttft_ms", ms, here, before, LESS),
        _figure("p99 TPOT", "p99_tpot_ms", ms, here, before, LESS),
        _figure("Output tokens", "output_throughput", lambda v: count(v, "/s"), here, before, more),
        _figure("KV cache, peak", "peak_kv_cache_usage", share, here, before, less),
        _cost(money, cost_before),
        _figure("Utilisation", "utilisation", share, here, before, less, "Of what the closed form sustains."),
    ]


def _figure(
    label: str,
    name: str,
    written: Callable[[float | None], str],
    here: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    better: bool | None,
    said: str | None = None,
) -> shell.Figure:
    """``better``: whether more of it is."""
    low, high, value = here.get(f"{name}_lo90"), here.get(f"{name}_hi90"), here[name]
    outside = here["calibrated"] == "outside" and name.startswith("p99")
    interval = "" if low is None or high is None else f"{NINETY}: {written(low)} to {written(high)}"
    delta, good = _delta(value, None if before is None else before[name], written, better)
    return shell.Figure(label, written(value), interval, delta, good, outside, said)


def _delta(
    value: float | None, before: float | None, written: Callable[[float | None], str], more: bool | None
) -> tuple[str, bool | None]:
    """The change in words, and whether it is for the better."""
    if value is None or before is None or written(value) == written(before):
        return "", None
    change = value - before
    return f"{'+' if change > 0 else '-'}{written(abs(change))}", None if more is None else (change > 0) == more


def _cost(money: Mapping[str, Any], before: Mapping[str, Any] | None) -> shell.Figure:
    value = money.get("usd_per_month")
    if value is None:
        return shell.Figure("Cost", "no price", help=str(money["why"]))
    low, high = money["usd_per_month_low"], money["usd_per_month_high"]
    delta, good = _delta(value, None if before is None else before.get("usd_per_month"), usd, LESS)
    spread = f"offers: {usd(low)} to {usd(high)}" if low != high else "one offer"
    source = f"{money['origin']}: {money['source']}, {money['date']}"
    return shell.Figure("Per month", usd(value), spread, delta, good, help=shell.plain(source))


def _marked(chart: Chart, answer: Answer) -> Chart:
    """With the load that is shown, where that is not the planned one."""
    if answer.setting.load == 1.0:
        return chart
    rule = Rule("x", float(answer.here.point["request_rate_per_s"]), f"×{answer.setting.load:g}")
    return replace(chart, rules=(*chart.rules, rule))


def _downloads(answer: Answer) -> None:
    payload = {
        "setting": answer.setting.model_dump(mode="json"),
        **answer.here.point,
        "usd_per_month": answer.money.get("usd_per_month"),
        "load_curve": answer.curve,
        "timeline": answer.here.over_time,
        "explanation": answer.here.where,
    }
    shell.downloads(
        [
            shell.Download("Scenario", "what-if.yaml", answer.scenario.to_yaml(), "text/yaml"),
            shell.Download("Summary", "what-if.json", to_json(payload), "application/json"),
            shell.Download("Curve", "what-if.csv", _csv(answer.curve["points"]), "text/csv"),
        ]
    )


def _csv(points: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    columns = [name for name, value in points[0].items() if not isinstance(value, list)]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(points)
    return text.getvalue()
