"""What a fleet costs. Pure formulas."""

from __future__ import annotations

from twin.base import HOURS_PER_MONTH


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
