"""The Hardware page: what there is to plan with, side by side, and what of a model fits on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from twin.base import InputError, TwinError
from twin.cost.profile_payload import compared, comparison_rows, described, figure_rows
from twin.cost.roofline import peaks, roofline
from twin.cost.standard import OPERATIONS
from twin.results.run import SCHEMA_VERSION, to_json
from twin.show import hardware_charts, shell
from twin.show.formats import NOTHING, share, usd
from twin.show.pages.model_fits import model_fits
from twin.show.units import LABELS, si
from twin.spec.hardware import HardwareProfile, load_profile, profile_names
from twin.spec.prices import PRICE_KINDS, PriceBook, load_price_book

VIEWS = ("GPUs side by side", "What fits of a model")
FIRST = ("h100_sxm", "h200_sxm", "b200_sxm")
MOST = 4
KERNELS = tuple(dict.fromkeys(operation.part for operation in OPERATIONS))


def page() -> None:
    shell.heading(
        "Hardware", "What can be planned with: where each figure comes from, and how wrong its model has been."
    )
    view = st.segmented_control("Show", VIEWS, default=VIEWS[0], key="view", bind="query-params", required=True)
    try:
        if view == VIEWS[1]:
            model_fits()
        else:
            _side_by_side()
    except TwinError as error:
        shell.failed(error)


def _side_by_side() -> None:
    profiles = {name: load_profile(name) for name in profile_names()}
    book = load_price_book()
    with st.expander(f"All {len(profiles)} profiles", expanded=True):
        st.dataframe([overview(profile, book) for profile in profiles.values()], hide_index=True, height="content")
        st.caption(
            "Speed: whether the kernels behind a plan were timed on this device and fitted, or assumed from others of its"
            " class."
        )
    chosen = st.multiselect(
        "Compare",
        list(profiles),
        list(FIRST),
        key="gpu",
        bind="query-params",
        max_selections=MOST,
        placeholder="up to four",
    )
    if not chosen:
        shell.nothing("No GPU is chosen", "Choose up to four above to see them side by side.")
        return
    _compared({name: profiles[name] for name in chosen}, book)


def overview(profile: HardwareProfile, book: PriceBook) -> dict[str, object]:
    """A row of the list: facts in words, and the price on demand."""
    facts = profile.facts
    power = facts.board_power_w
    offer = next(iter(price_rows(book, [profile.name], ("on_demand",))), None)
    return {
        "name": profile.name,
        "device": profile.label,
        "memory": si(facts.memory_bytes.value, "B"),
        "bandwidth": si(facts.mem_bw_bytes_per_s.value, "B/s"),
        **{f"dense {name}": _peak(profile, name) for name in ("bf16", "fp8", "nvfp4")},
        "board power": NOTHING if power is None else si(power.value, "W"),
        "speed": profile.origin,
        "on demand": NOTHING if offer is None else usd(offer["usd_per_gpu_hour"], "h"),
        "from – to": "" if offer is None or offer["low"] is None else f"{usd(offer['low'])} – {usd(offer['high'])}",
    }


def _peak(profile: HardwareProfile, name: str) -> str:
    peak = peaks(profile).get(name)
    return NOTHING if peak is None else si(peak, "FLOP/s")


def _compared(profiles: Mapping[str, HardwareProfile], book: PriceBook) -> None:
    payload = compared(profiles)
    full = {name: described(profile) for name, profile in profiles.items()}
    st.dataframe(fact_rows(payload), hide_index=True, height="content")
    for name, found in full.items():
        _head(name, found)
    shell.chart(hardware_charts.operations(payload))
    _roofline(profiles)
    rows = price_rows(book, list(profiles))
    shell.chart(hardware_charts.kernel_errors(list(full.values()), KERNELS))
    shell.chart(hardware_charts.prices(rows))
    with st.expander("Prices: source and date of each", icon=":material/payments:"):
        st.dataframe(rows, hide_index=True)
    with st.expander("Every figure with its source and date", icon=":material/source:"):
        st.dataframe(sources(full), hide_index=True)
    with st.expander("The same on the command line", icon=":material/terminal:"):
        names = " ".join(profiles)
        st.code(f"twin hardware {'show' if len(profiles) == 1 else 'compare'} {names}", language="bash")
    text = to_json({"schema_version": SCHEMA_VERSION, **payload})
    shell.downloads(
        [
            shell.Download("Comparison (JSON)", "hardware.json", text, "application/json"),
            shell.Download("Comparison (CSV)", "hardware.csv", _csv(list(comparison_rows(payload))), "text/csv"),
        ]
    )


def _head(name: str, found: Mapping[str, Any]) -> None:
    """What a profile is, and what of it nobody measured."""
    assumed = [LABELS.get(item, item) for item in found["assumed"]]
    st.markdown(
        f"**{shell.plain(name)}** {shell.plain(found['label'])} · speed {shell.origin(found['origin'])}"
        + (f" · {len(assumed)} of its parts {shell.origin('assumed')}" if assumed else ""),
        help=f"Assumed, not measured on it: {shell.plain(', '.join(assumed))}." if assumed else None,
    )


def fact_rows(payload: Mapping[str, Any]) -> list[dict[str, str]]:
    """The facts of ``twin hardware compare`` in words; what is assumed is marked with ``!``."""
    rows = []
    for item in payload["facts"]:
        row = {"": LABELS[item["fact"]]}
        for name, cell in item["values"].items():
            mark = "! " if cell and cell["origin"] == "assumed" else ""
            row[name] = NOTHING if cell is None else mark + si(cell["value"], item["unit"])
        rows.append(row)
    return rows


def _roofline(profiles: Mapping[str, HardwareProfile]) -> None:
    names = list(dict.fromkeys(name for profile in profiles.values() for name in peaks(profile)))
    precision = st.segmented_control("Precision", names, default=names[0], key="precision", required=True) or names[0]
    roofs = {name: roofline(profile, precision) for name, profile in profiles.items()}
    shell.chart(hardware_charts.roofline(roofs, precision))


def price_rows(book: PriceBook, gpus: Sequence[str], kinds: Sequence[str] = PRICE_KINDS) -> list[dict[str, Any]]:
    """What the price book says of these GPUs; kinds that it does not price are left out."""
    rows = []
    for gpu in gpus:
        for kind in PRICE_KINDS:
            if kind not in kinds:
                continue
            try:
                price = book.price(gpu, kind)
            except InputError:  # the book lacks it
                continue
            rows.append({"gpu": gpu, "kind": kind, "usd_per_gpu_hour": price.value, **_known(price)})
    return rows


def _known(price: Any) -> dict[str, Any]:
    names = ("low", "high", "origin", "n", "source", "date", "note")
    return {name: getattr(price, name) for name in names}


def sources(full: Mapping[str, Mapping[str, Any]]) -> list[dict[str, object]]:
    """One row per figure of each profile, as ``twin hardware show --format csv``; values in words."""
    rows = []
    for name, found in full.items():
        for row in figure_rows(found):
            value = row["value"]
            said = si(value, str(row.get("unit") or "")) if isinstance(value, int | float) else str(value)
            if str(row["figure"]).endswith(("of peak", "mape", "coverage90")) and isinstance(value, float):
                said = share(value, 1)
            shown = {key: row.get(key) for key in ("section", "name", "figure")}
            rows.append(
                {"profile": name, **shown, "value": said, **{k: row.get(k) for k in ("origin", "source", "date")}}
            )
    return rows


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    import pandas as pd

    return str(pd.DataFrame(list(rows)).to_csv(index=False, lineterminator="\n"))
