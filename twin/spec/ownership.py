"""What owning costs: figures that people may edit, and the formulas (pure, a payment at the end of each month).

Every figure of a price book is a :class:`Figure`: a value with its spread and where it comes from. The formulas
follow the level payment of a loan, as in PyPSA's ``costs.py``: what is bought at the start and sold at the end of its
life costs the same each month.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import Field, ValidationInfo, field_validator, model_validator

from twin.base import HOURS_PER_MONTH, Estimate, Frozen, Origin

OWN_SOURCE = "the user's price book"


CAPITAL = ("depreciation", "interest")
"""The lines that pay for the hardware; the others are paid for running it."""


class Line(NamedTuple):
    """One line of a bill, and where its figure comes from. ``gpu``: whose line it is; empty for the fleet's own."""

    name: str
    usd_per_month: float
    origin: Origin
    source: str
    date: str = ""
    gpu: str = ""


class Figure(Estimate):
    """A figure and its spread ``low`` to ``high``, where known. In a file it may be a bare number."""

    value: float = Field(allow_inf_nan=False)
    low: float | None = Field(None, allow_inf_nan=False)
    high: float | None = Field(None, allow_inf_nan=False)
    origin: Origin = "assumed"
    source: str = OWN_SOURCE
    note: str = ""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, data: Any) -> Any:
        return {"value": data} if isinstance(data, int | float) and not isinstance(data, bool) else data

    @model_validator(mode="after")
    def _ordered(self) -> Figure:
        check_spread(self.low, self.value, self.high)
        return self

    def at(self, share: float) -> float:
        """The value that a ``share`` of the spread stays below: ``low`` at 0, ``value`` at 0.5, ``high`` at 1.

        >>> Figure(value=4.0, low=2.0, high=10.0).at(0.75)
        7.0
        """
        low, high = (self.value if end is None else end for end in (self.low, self.high))
        near, far = (low, self.value) if share < 0.5 else (self.value, high)
        return near + (far - near) * (2 * share - (share >= 0.5))


def check_spread(low: float | None, value: float, high: float | None) -> None:
    """Raises ``ValueError`` when ``value`` lies outside ``low`` to ``high``."""
    if (low is not None and low > value) or (high is not None and high < value):
        raise ValueError(f"{value:g} lies outside its own spread, low {low} to high {high}")


class Assets(Frozen):
    """What buying a GPU takes. ``all_in_kw``: provisioned at the meter for one GPU, its share of server, network and
    cooling included. ``published_usd_per_gpu_hour``: someone else's total cost of owning, only to compare with.
    """

    capex_usd_per_gpu: Figure | None = None
    capex_usd_per_node: Figure | None = None
    gpus_per_node: int = Field(8, ge=1)
    all_in_kw: Figure | None = None
    published_usd_per_gpu_hour: Figure | None = None

    @field_validator("capex_usd_per_gpu", "capex_usd_per_node", "all_in_kw", "published_usd_per_gpu_hour")
    @classmethod
    def _positive(cls, figure: Figure | None) -> Figure | None:
        if figure is not None and min(figure.at(0), figure.value) <= 0:
            raise ValueError(f"{figure.value:g} and its spread should be greater than 0")
        return figure


SENSIBLE: dict[str, tuple[float, float]] = {
    "lifetime_months": (1, 240),
    "residual_share": (0, 0.95),
    "interest_per_year": (0, 0.5),
    "electricity_usd_per_kwh": (0, 2),
    "pue": (1, 3),
    "server_power_ratio": (1, 5),
    "server_usd_per_gpu": (0, 1e6),
    "network_share": (0, 1),
    "space_usd_per_kw_month": (0, 5000),
    "staff_usd_per_month": (0, 1e8),
    "reserved_discount": (0, 0.95),
    "spot_interruptions_per_hour": (0, 60),
    "spot_restart_s": (0, 7 * 86400),
    "spot_lost_work_s": (0, 86400),
    "spot_availability": (0.5, 0.999999),
}
"""Outside of these a figure of :class:`Ownership` is a slip (8 for 8 %, cents for dollars)."""


class Ownership(Frozen):
    """What a book assumes beyond prices. Figures without a default are needed to price owning; the others, where
    absent, are listed as not priced. Shares, not percent.

    ``server_power_ratio``: of IT power to that of its boards; ``server_usd_per_gpu``: the server around a GPU bought
    alone; ``network_share``: switches and cables on top of all hardware; ``space``: of IT power, electricity not in it;
    ``residual_share``: of all hardware, when ``lifetime_months`` end. ``spot_restart_s``: from an interruption until a
    replica serves again; ``spot_lost_work_s``: served twice because of it; ``spot_availability``: how much of the time
    spot has to hold the replicas planned.
    """

    lifetime_months: Figure
    residual_share: Figure
    interest_per_year: Figure
    electricity_usd_per_kwh: Figure
    pue: Figure
    server_power_ratio: Figure | None = None
    server_usd_per_gpu: Figure | None = None
    network_share: Figure | None = None
    space_usd_per_kw_month: Figure | None = None
    staff_usd_per_month: Figure | None = None
    reserved_discount: Figure | None = None
    spot_interruptions_per_hour: Figure | None = None
    spot_restart_s: Figure | None = None
    spot_lost_work_s: Figure | None = None
    spot_availability: Figure | None = None

    @field_validator("*")
    @classmethod
    def _sensible(cls, figure: Figure | None, info: ValidationInfo) -> Figure | None:
        low, high = SENSIBLE[str(info.field_name)]
        for value in () if figure is None else (figure.value, figure.at(0), figure.at(1)):
            if not low <= value <= high:
                raise ValueError(f"{value:g} is not within {low:g} to {high:g}")
        return figure


def monthly_rate(interest_per_year: float) -> float:
    """The rate that compounds to the yearly one.

    >>> round((1 + monthly_rate(0.10)) ** 12, 12)
    1.1
    """
    return float((1 + interest_per_year) ** (1 / 12) - 1)


def annuity(usd: float, months: float, rate: float) -> float:
    """The level payment at the end of each month that pays ``usd`` off; without interest, equal parts.

    >>> annuity(1200.0, 12, 0.0)
    100.0
    >>> round(annuity(1000.0, 36, 0.01), 4)
    33.2143
    """
    return usd / months if rate == 0 else usd * rate / (1 - (1 + rate) ** -months)


def capital_usd_per_month(capex_usd: float, residual_share: float, months: float, rate: float) -> float:
    """The level cost of something bought now and sold for ``residual_share`` of its price after ``months``.

    >>> capital_usd_per_month(36_000.0, 0.0, 36, 0.0)
    1000.0
    >>> capital_usd_per_month(36_000.0, 0.25, 36, 0.0)
    750.0
    >>> round(capital_usd_per_month(36_000.0, 1.0, 36, 0.01), 9)  # what keeps its price costs its interest
    360.0
    """
    return annuity(capex_usd * (1 - residual_share * (1 + rate) ** -months), months, rate)


def capex_usd(assets: Assets, owning: Ownership) -> float | None:
    """What one GPU and its share of server and network cost to buy; ``None`` where nobody said. A node's price, where
    known, has the server in it.

    >>> own = dict(lifetime_months=36, residual_share=0, interest_per_year=0, electricity_usd_per_kwh=0.1, pue=1.2)
    >>> capex_usd(Assets(capex_usd_per_node=320_000), Ownership(**own))
    40000.0
    >>> capex_usd(Assets(capex_usd_per_gpu=30_000), Ownership(**own, server_usd_per_gpu=10_000, network_share=0.1))
    44000.0
    """
    network = 1 + _or_zero(owning.network_share)
    if assets.capex_usd_per_node is not None:
        return assets.capex_usd_per_node.value / assets.gpus_per_node * network
    if assets.capex_usd_per_gpu is None:
        return None
    return (assets.capex_usd_per_gpu.value + _or_zero(owning.server_usd_per_gpu)) * network


def owned_lines(assets: Assets, owning: Ownership, board_kwh_per_month: float | None = None) -> list[Line]:
    """What one owned GPU costs a month, line by line; empty where its price to buy is not known.

    Depreciation and interest add up to the level payment. Electricity is of the provisioned power for all hours; of what
    the board draws, with server and cooling on top, where ``board_kwh_per_month`` says so. Staff is the fleet's, not here.
    """
    capex = capex_usd(assets, owning)
    if capex is None:
        return []
    bought = assets.capex_usd_per_node or assets.capex_usd_per_gpu
    assert bought is not None
    months, residual = owning.lifetime_months.value, owning.residual_share.value
    capital = capital_usd_per_month(capex, residual, months, monthly_rate(owning.interest_per_year.value))
    wear = capex * (1 - residual) / months
    lines = [_line("depreciation", wear, bought), _line("interest", capital - wear, owning.interest_per_year)]
    power, kwh = assets.all_in_kw, kwh_at_the_meter(assets, owning, board_kwh_per_month)
    if kwh is not None:
        lines.append(_line("electricity", kwh * owning.electricity_usd_per_kwh.value, owning.electricity_usd_per_kwh))
    if power is not None and (space := owning.space_usd_per_kw_month) is not None:
        lines.append(_line("space", power.value / owning.pue.value * space.value, space))
    return lines


def kwh_at_the_meter(assets: Assets, owning: Ownership, board_kwh_per_month: float | None = None) -> float | None:
    """What is paid for one owned GPU a month, in kWh: what its board draws with server and cooling on top, where that is
    known, else its provisioned power for all hours; ``None`` where the book knows neither.
    """
    if board_kwh_per_month is not None and (ratio := owning.server_power_ratio) is not None:
        return board_kwh_per_month * ratio.value * owning.pue.value
    return None if assets.all_in_kw is None else assets.all_in_kw.value * HOURS_PER_MONTH


def lacking(assets: Assets, owning: Ownership) -> list[str]:
    """What the lines of an owned GPU leave out because nobody said what it costs."""
    gaps = {
        "server around the GPU": assets.capex_usd_per_node is None and owning.server_usd_per_gpu is None,
        "cluster network": owning.network_share is None,
        "electricity": assets.all_in_kw is None,
        "space": owning.space_usd_per_kw_month is None or assets.all_in_kw is None,
    }
    return [name for name, lacks in gaps.items() if lacks]


def _line(name: str, usd_per_month: float, figure: Figure) -> Line:
    return Line(name, usd_per_month, figure.origin, figure.source, figure.date)


def _or_zero(figure: Figure | None) -> float:
    return 0.0 if figure is None else figure.value
