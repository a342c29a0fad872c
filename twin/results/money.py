"""What a fleet costs. Pure formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

from twin.base import HOURS_PER_MONTH

SPARES_AT_MOST = 1000


def usd_per_hour(num_gpus: int, usd_per_gpu_hour: float) -> float:
    """
    >>> usd_per_hour(8, 2.5)
    20.0
    """
    return num_gpus * usd_per_gpu_hour


def usd_per_month(per_hour: float) -> float:
    """A month is 730 hours.

    >>> usd_per_month(20.0)
    14600.0
    """
    return per_hour * HOURS_PER_MONTH


def usd_per_mtok(per_hour: float, output_tokens_per_s: float) -> float:
    """Dollars per million output tokens at a sustained rate, idle time of the fleet included.

    >>> usd_per_mtok(36.0, 1000.0)
    10.0
    """
    return per_hour / (output_tokens_per_s * 3600.0) * 1e6


def up_share(interruptions_per_hour: float, lost_s: float) -> float:
    """The share of time a spot replica serves: it runs for 1/rate on average, then ``lost_s`` are lost: the restart, and
    the work that is done twice. (Alternating renewal: any distribution of the running time gives the same share.)

    >>> up_share(0.0, 900.0)
    1.0
    >>> up_share(1.0, 900.0)
    0.8
    """
    return 1.0 / (1.0 + interruptions_per_hour * lost_s / 3600.0)


def usd_per_serving_hour(usd_per_gpu_hour: float, share: float) -> float:
    """What an hour that serves costs, where a ``share`` of the hours paid for does (restarts are paid for).

    >>> usd_per_serving_hour(2.0, 0.8)
    2.5
    """
    return usd_per_gpu_hour / share


def held_share(replicas: int, spares: int, up: float) -> float:
    """How much of the time at least ``replicas`` of ``replicas + spares`` are up, each independently for a share ``up``.

    >>> held_share(4, 0, 0.5)
    0.0625
    >>> held_share(1, 1, 0.5)
    0.75
    """
    if up >= 1.0:
        return 1.0
    total = replicas + spares
    logs = (
        math.lgamma(total + 1) - math.lgamma(down + 1) - math.lgamma(total - down + 1)
        + down * math.log1p(-up) + (total - down) * math.log(up)
        for down in range(spares + 1)
    )  # fmt: skip
    return min(round(math.fsum(map(math.exp, logs)), 12), 1.0)


def spare_replicas(replicas: int, up: float, availability: float) -> int | None:
    """The fewest replicas on top that hold ``replicas`` for a share ``availability`` of the time; ``None``: over 1,000.

    >>> spare_replicas(4, 1.0, 0.999)
    0
    >>> spare_replicas(1, 0.9, 0.99)
    1
    """
    found = (spares for spares in range(SPARES_AT_MOST + 1) if held_share(replicas, spares, up) >= availability)
    return next(found, None)


def replicas_by_month(replicas: int, growth_per_month: float, months: int, room: float = 1.0) -> list[int]:
    """Replicas paid for each month while demand grows, compounding; they come whole, when they are needed: once the
    traffic is more than ``room`` times what the fleet was planned for. As demand shrinks they go.

    >>> replicas_by_month(2, 0.5, 3)  # 2, 3, 4.5
    [2, 3, 5]
    >>> replicas_by_month(2, 0.5, 3, room=2.0)  # 2, 2, 2.25
    [2, 2, 3]
    >>> replicas_by_month(2, -0.5, 3, room=2.0)
    [2, 1, 1]
    """
    traffic = [(1 + growth_per_month) ** month for month in range(months)]
    return [math.ceil(round(replicas * max(min(factor, 1.0), factor / room), 9)) for factor in traffic]


def payback_month(upfront_usd: float, saved_usd_per_month: float, rate: float) -> float | None:
    """After how many months savings, at a ``rate`` per month, have paid for what was bought; ``None``: never.

    >>> payback_month(1200.0, 100.0, 0.0)
    12.0
    >>> round(payback_month(1000.0, 100.0, 0.01), 3)
    10.589
    >>> payback_month(1000.0, 5.0, 0.01)  # the interest alone is 10 a month
    """
    if saved_usd_per_month <= upfront_usd * rate:
        return None
    if rate == 0:
        return upfront_usd / saved_usd_per_month
    return -math.log1p(-upfront_usd * rate / saved_usd_per_month) / math.log1p(rate)


def cash_by_month(
    bought: Sequence[float], running: Sequence[float], rented: Sequence[float], rate: float
) -> list[float]:
    """What buying takes, month by month: hardware at the start of the month that needs it, running it, and interest at a
    ``rate`` per month on what is still owed. What ``rented`` would have cost more than running pays the debt off.

    >>> cash_by_month([1000.0, 0.0], [10.0, 10.0], [520.0, 520.0], 0.01)
    [1020.0, 15.0]
    """
    owed, found = 0.0, []
    for new, run, rent in zip(bought, running, rented, strict=True):
        found.append(new + run + rate * max(owed + new, 0.0))
        owed += found[-1] - rent
    return found


def crossing_month(bought: Sequence[float], rented: Sequence[float], upfront_usd: float) -> float | None:
    """After how many months what was spent on buying is no more than on renting, straight between the ends of months;
    ``upfront_usd`` of the first month of ``bought`` is spent at its start. ``None``: never.

    >>> crossing_month([1000.0, 0.0, 0.0], [400.0, 400.0, 400.0], 1000.0)
    2.5
    >>> crossing_month([1000.0, 0.0], [400.0, 400.0], 1000.0)
    """
    gaps = [upfront_usd, *accumulate(ours - theirs for ours, theirs in zip(bought, rented, strict=True))]
    for month, (before, after) in enumerate(pairwise(gaps)):
        if after <= 0.0:
            return month + before / (before - after)
    return None


def crossover_utilisation(owned_usd: float, rented_usd: float) -> float | None:
    """The share of hours in use from which owning is cheaper than renting only those hours; ``None``: never.

    >>> crossover_utilisation(1.5, 3.0)
    0.5
    >>> crossover_utilisation(3.5, 3.0)
    """
    return owned_usd / rented_usd if owned_usd <= rented_usd else None
