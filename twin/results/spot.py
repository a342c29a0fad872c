"""What spot GPUs need on top to keep a promise: interruptions take capacity away, spare replicas give it back."""

from __future__ import annotations

from dataclasses import dataclass, replace

from twin.base import InputError
from twin.results.money import SPARES_AT_MOST, held_share, spare_replicas, up_share, usd_per_serving_hour
from twin.spec.ownership import Ownership

INDEPENDENT = (
    "each replica is taken on its own, as if from separate pools; a pool that runs dry takes all of its replicas"
)


@dataclass(frozen=True)
class SpotFleet:
    """``replicas`` on spot. ``up_share``: of the time that one serves; ``usd_per_serving_hour``: a GPU's price by it.
    ``held_share_bare``, ``held_share``: of the time that all planned are up, without spares and with them. ``None``
    throughout: the book assumes nothing about interruptions.
    """

    gpu: str
    replicas: int
    usd_per_gpu_hour: float
    interruptions_per_hour: float | None = None
    lost_s: float | None = None
    availability: float | None = None
    up_share: float | None = None
    usd_per_serving_hour: float | None = None
    held_share_bare: float | None = None
    spare_replicas: int | None = None
    held_share: float | None = None
    assumed: str = INDEPENDENT


def spot_fleet(gpu: str, replicas: int, usd_per_gpu_hour: float, assumed: Ownership | None) -> SpotFleet:
    """Spares for ``replicas``. Raises :class:`InputError` when no number of them holds the availability asked for."""
    bare = SpotFleet(gpu, replicas, usd_per_gpu_hour)
    if assumed is None:
        return bare
    rate, restart, asked = assumed.spot_interruptions_per_hour, assumed.spot_restart_s, assumed.spot_availability
    if rate is None or restart is None or asked is None:
        return bare
    lost_s = restart.value + (assumed.spot_lost_work_s.value if assumed.spot_lost_work_s else 0.0)
    up = up_share(rate.value, lost_s)
    spares = spare_replicas(replicas, up, asked.value)
    if spares is None:
        raise InputError(
            f"spot replicas of {gpu} are up {up:.1%} of the time: {SPARES_AT_MOST:,} spares do not hold {replicas} for "
            f"{asked.value:.4%} of it"
        )
    return replace(
        bare,
        interruptions_per_hour=rate.value,
        lost_s=lost_s,
        availability=asked.value,
        up_share=up,
        usd_per_serving_hour=usd_per_serving_hour(usd_per_gpu_hour, up),
        held_share_bare=held_share(replicas, 0, up),
        spare_replicas=spares,
        held_share=held_share(replicas, spares, up),
    )
