"""The sheet of inputs: every figure that formulas rest on, once, with its unit and where it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twin.base import HOURS_PER_MONTH
from twin.show.report.xlsx_sheet import COUNT, NUMBER, SHARE, USD, USD_HOUR, Sheet
from twin.show.words import Say

if TYPE_CHECKING:
    from openpyxl import Workbook

Key = tuple[str, ...]
Json = Mapping[str, Any]

HEAD = ("figure", "value", "unit", "low", "high", "origin", "source", "date", "note")
KINDS = ("on_demand", "reserved", "spot", "owned")
OWNING: dict[str, tuple[str, str, str]] = {
    "lifetime_months": ("lifetime of the hardware", "months", NUMBER),
    "residual_share": ("residual value, of the price", "share", SHARE),
    "interest_per_year": ("interest a year", "share", SHARE),
    "electricity_usd_per_kwh": ("electricity", "USD per kWh", '"$"0.000'),
    "pue": ("power usage effectiveness (PUE)", "factor", "0.00"),
    "server_power_ratio": ("power of the server over that of its boards", "factor", "0.00"),
    "server_usd_per_gpu": ("server around a GPU", "USD per GPU", USD),
    "network_share": ("cluster network, on top of the hardware", "share", SHARE),
    "space_usd_per_kw_month": ("space", "USD per kW of IT power and month", USD),
    "staff_usd_per_month": ("staff", "USD a month", USD),
    "reserved_discount": ("discount of a contract where no price is known", "share", SHARE),
}
"""What formulas take of the price book's ``ownership``: name, unit, format. Spot's figures are in the spare replicas."""
PRICES = {
    "on_demand": "rent on demand",
    "reserved": "rent reserved",
    "spot": "rent spot",
    "owned": "owning, all in",
}
ASSETS: dict[str, tuple[str, str, str]] = {
    "capex_usd_per_node": ("purchase price of a node", "USD per node", USD),
    "capex_usd_per_gpu": ("purchase price of a GPU", "USD per GPU", USD),
    "gpus_per_node": ("GPUs of a node", "GPUs", COUNT),
    "all_in_kw": ("provisioned power at the meter", "kW per GPU", "0.000"),
}


class Inputs:
    """Where each input stands, by what it is: ``("price", gpu, kind)``, ``("gpus", option id, group)``."""

    def __init__(self, sheet: Sheet, say: Say) -> None:
        self.sheet, self.say = sheet, say
        self.places: dict[Key, str] = {}
        sheet.widths(46, 14, 22, 10, 10, 12, 52, 12, 52)
        sheet.title(say("Inputs"))
        sheet.text(
            say(
                "Blue figures may be changed: the cost tree, the total over the horizon and the crossover follow. The"
                " others are known, and no sum of this plan takes them."
            )
        )
        sheet.head([say(name) for name in HEAD], right=(2, 4, 5))
        sheet.print_setup(sheet.at - 1)

    def __getitem__(self, key: Key) -> str:
        return self.places[key]

    def __contains__(self, key: Key) -> bool:
        return key in self.places

    def add(self, key: Key, name: str, figure: Json | float, unit: str, fmt: str, **known: str) -> None:
        """A figure of the price book, or a number with its ``origin`` and ``source``."""
        said: Json = figure if isinstance(figure, Mapping) else {"value": figure, **known}
        row = self.sheet.row(
            [
                name,
                said["value"],
                self.say(unit),
                said.get("low"),
                said.get("high"),
                self.say(said.get("origin", "")),
                said.get("source", ""),
                said.get("date", ""),
                said.get("note", ""),
            ],
            [None, fmt, None, fmt, fmt],
        )
        self.places[key] = self.sheet.cell(row, 2)

    def mark(self, book: Workbook) -> None:
        """Makes blue what a formula of ``book`` takes: changing anything else would change nothing."""
        own = re.escape(self.sheet.cell(1, 2).removesuffix("1"))
        for sheet in book.worksheets:
            for row in sheet.iter_rows():
                for square in row:
                    if square.data_type == "f":
                        for at in re.findall(rf"{own}(\d+)", str(square.value)):
                            self.sheet.editable(int(at), 2)


def fill_inputs(sheet: Sheet, plan: Json, options: Sequence[Json], rack_kw: float, say: Say) -> Inputs:
    """All inputs of the options that have a bill, and what is the plan's as a whole."""
    inputs = Inputs(sheet, say)
    book: Json = plan["price_book"]
    sheet.heading(say("Question"))
    growth = options[0]["money"]["tco"]["growth_per_month"]
    inputs.add(
        ("growth",), say("growth of the traffic a month"), growth, "share", "0.00%", origin="assumed", source="--growth"
    )
    hours = say("convention of this plan: 8,760 hours a year over 12 months")
    inputs.add(("hours",), say("hours of a month"), HOURS_PER_MONTH, "h", COUNT, origin="assumed", source=hours)
    inputs.add(("rack",), say("power of a rack"), rack_kw, "kW", NUMBER, origin="assumed", source="--rack-kw")
    for option in options:
        _option(inputs, option)
    for gpu, prices in book["prices"].items():
        _gpu(inputs, gpu, prices, book["assets"].get(gpu, {}), book["name"])
    if (owning := book["ownership"]) is not None:
        sheet.heading(say("Owning"))
        for key, (name, unit, fmt) in OWNING.items():
            if key in owning:
                inputs.add(("owning", key), say(name), owning[key], unit, fmt)
    if book["items"]:
        sheet.heading(say("What else is on the bill"))
        for name, figure in book["items"].items():
            inputs.add(("item", name), name, figure, "USD a month", USD)
    return inputs


def _option(inputs: Inputs, option: Json) -> None:
    say = inputs.say
    inputs.sheet.heading(say("Fleet of {name}", name=option["id"]))
    if (nodes := option.get("power", {}).get("nodes")) is not None:
        gpus = sum(group["num_gpus"] for group in option["money"]["groups"])
        text, source = say("GPUs in use of a node: nodes are whole in a rack"), say("the plan")
        inputs.add(("per_node", option["id"]), text, gpus / nodes, "GPUs", NUMBER, origin="", source=source)
    spares = {at: fleet.get("spare_replicas") for at, fleet in enumerate(option["money"]["spot"])}
    for at, group in enumerate(option["money"]["groups"]):
        key, gpu = (option["id"], str(at)), group["gpu"]

        def add(name: str, text: str, value: float, unit: str, fmt: str, source: str) -> None:
            inputs.add((name, *key), f"{gpu}: {say(text)}", value, unit, fmt, origin="", source=say(source))  # noqa: B023

        add("gpus", "GPUs", group["num_gpus"], "GPUs", COUNT, "the plan")
        add("replicas", "replicas", group["replicas"], "replicas", COUNT, "the plan")
        room = "the plan: the simulated head-room, with --risk; else the closed form's"
        add("room", "traffic that they hold, of the planned", group["room"], "factor", "0.00", room)
        if group["board_kwh_per_month"] is not None:
            each = group["board_kwh_per_month"] / group["num_gpus"]
            add("kwh", "drawn by a board", each, "kWh a month", NUMBER, "the plan's simulation")
        if spares.get(at):
            spare = "the plan: what interruptions and restarts of spot ask for, at the availability wanted"
            add("spares", "spare replicas on spot", spares[at], "replicas", COUNT, spare)


def _gpu(inputs: Inputs, gpu: str, prices: Json, assets: Json, source: str) -> None:
    say = inputs.say
    inputs.sheet.heading(say("Prices of {gpu}", gpu=gpu))
    for kind in KINDS:
        if kind in prices:
            inputs.add(("price", gpu, kind), f"{gpu}: {say(PRICES[kind])}", prices[kind], "USD per GPU hour", USD_HOUR)
    for key, (name, unit, fmt) in ASSETS.items():
        if key == "capex_usd_per_gpu" and "capex_usd_per_node" in assets:
            continue  # a node's price stands for it
        if key == "gpus_per_node" and "capex_usd_per_node" not in assets:
            continue
        if key in assets:
            inputs.add(
                ("asset", gpu, key), f"{gpu}: {say(name)}", assets[key], unit, fmt, origin="assumed", source=source
            )
