"""Fits of the two small families: element-wise kernels (a line) and all-reduce (measured points)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from calibrate import checks
from calibrate.families import HIDDEN_SIZES, SERVING_MAX_TOKENS
from calibrate.fit import FOLDS, Observations, Peaks, estimates, free_stderr, judge
from calibrate.grid import Axes, TableFit, as_table, fit_table, hat_matrix, within
from calibrate.judge import Judged, coverage90, errors, interval90, round_to, rounded
from twin.base import Provenance
from twin.cost.collectives import line_s
from twin.cost.tables import Floats, p_norm
from twin.spec.kernels import Collective, Copy, Errors, HeldOut, Segment

# One activation of a 7B model's token up to 8192 tokens of a 405B model's, in bf16.
SERVING_MESSAGE_BYTES = (3584 * 2, 8192 * 16384 * 2)


COPY_AXES: Axes = {"bytes": tuple(2.0**i for i in range(7, 34))}

# Where vLLM leaves an algorithm for the next (csrc/custom_all_reduce.cuh, custom_all_reduce.py, all_reduce_utils.py):
# every GPU reads all others (one_stage); reduce-scatter and all-gather; symmetric memory, by compute capability and up to
# and including a size; NCCL.
TWO_STAGE_FROM_BYTES = {4: 512 * 1024, 8: 256 * 1024}
OWN_BELOW_BYTES = 8 * 2**20
OWN_BELOW_IF_SYMMETRIC = {
    90: {2: 64 * 2**20, 4: 32 * 2**20, 8: 2**18},
    100: {2: 2 * 2**20, 4: 2 * 2**20, 8: 2**20},
    103: {2: 4 * 2**20, 4: 4 * 2**20, 8: 4 * 2**20},
}
SYMMETRIC_TO_BYTES = {
    90: {2: 64 * 2**20, 4: 32 * 2**20, 8: 64 * 2**20},
    100: {2: 8 * 2**20, 4: 32 * 2**20, 8: 128 * 2**20},
    103: {2: 4 * 2**20, 4: 32 * 2**20, 8: 64 * 2**20},
}

FUSED_TO_BYTES = {
    90: {2: 64 * 2**20, 4: 2 * 2**20, 8: 2**19},
    100: {2: 64 * 2**20, 4: 32 * 2**20, 8: 2**20},
    103: {2: 64 * 2**20, 4: 64 * 2**20, 8: 2**21},
}
"""Largest message of the fused all-reduce and norm, by compute capability and GPUs (vLLM 0.19 and 0.32,
compilation/passes/fusion/allreduce_rms_fusion.py: on Hopper and Blackwell alone; 0.32 goes to 4 MiB on eight of 10.3)."""

Starts = tuple[tuple[str, float], ...]
"""Algorithms in rising order, each with the message size in bytes from which it is used."""


def _copy_base(log_params: Floats, bytes_moved: Floats) -> Floats:
    bandwidth, launch, p = np.exp(log_params)
    return p_norm(launch, bytes_moved / bandwidth, p)


def _fit_copy_base(obs: Observations, peaks: Peaks) -> tuple[Floats, Floats]:
    """log of (bandwidth, launch, p) and their standard errors (NaN at a bound)."""

    def residual(log_params: Floats) -> Floats:
        log_ratio = np.log(_copy_base(log_params, obs.bytes_moved) / obs.seconds)
        return np.asarray(log_ratio * np.sqrt(obs.weight), dtype=np.float64)

    low, high = peaks.log_bounds()
    bounds = low[1:], high[1:]
    start = np.log([0.7 * peaks.bytes_per_s, 3e-6, 2.0])
    found = least_squares(residual, start, bounds=bounds, loss="soft_l1", f_scale=0.1)
    spread = 2.0 * found.cost / max(len(obs.seconds) - 3, 1)
    return np.asarray(found.x), float(np.sqrt(spread)) * free_stderr(found, bounds)


def _fit_copy_table(obs: Observations, log_params: Floats) -> TableFit:
    log_ratio = np.log(obs.seconds / _copy_base(log_params, obs.bytes_moved))
    return fit_table(obs.coords, obs.weight, log_ratio, within(COPY_AXES, obs.coords), smoothing=0.1)


def _copy_held_out(obs: Observations, peaks: Peaks) -> Floats:
    folds, predicted = obs.shape % FOLDS, np.zeros(len(obs.seconds))
    for fold in np.unique(folds):
        seen, unseen = obs.part(folds != fold), obs.part(folds == fold)
        log_params, _ = _fit_copy_base(seen, peaks)
        table = _fit_copy_table(seen, log_params)
        ratio = np.exp(hat_matrix(within(COPY_AXES, seen.coords), unseen.coords) @ table.values)
        predicted[folds == fold] = _copy_base(log_params, unseen.bytes_moved) * ratio
    return predicted


def copy_observations(rows: pd.DataFrame, provenance: Provenance, all_serving: bool = False) -> Observations:
    """Held out by row length ``k``. Serving: ``k`` a hidden size, up to 8192 rows; or whatever was measured."""
    bytes_moved, k = rows["bytes_moved"].to_numpy(float), rows["k"]
    serving = (k.isin(HIDDEN_SIZES) & (rows["m"] <= SERVING_MAX_TOKENS)).to_numpy()
    return Observations(
        name="element-wise",
        coords={"bytes": bytes_moved},
        flops=np.zeros(len(rows)),
        bytes_moved=bytes_moved,
        seconds=rows["seconds"].to_numpy(float),
        shape=k.factorize(sort=True)[0].astype(np.intp),
        serving=np.ones(len(rows), dtype=bool) if all_serving else serving,
        provenance=provenance,
    )


def fit_copy(obs: Observations, peaks: Peaks, gpu: str = "", judged: list[Judged] | None = None) -> Copy:
    """launch and bandwidth joined by a p-norm, and a table over bytes.

    Raises :class:`InputError` for too few points or row lengths, and for times that are not in seconds.
    """
    where = obs.provenance.source
    checks.enough(obs.name, len(obs.seconds), len(np.unique(obs.shape)), 3, where)
    checks.plausible(obs.name, obs.seconds, obs.bytes_moved / peaks.bytes_per_s, where, peaks.headroom)
    log_params, log_stderr = _fit_copy_base(obs, peaks)
    bandwidth, launch, p = estimates(np.exp(log_params), log_stderr, obs)
    predicted = _copy_held_out(obs, peaks)
    if judged is not None:
        judged.append(Judged(gpu, obs.name, obs.size, obs.seconds, predicted, obs.serving))
    return Copy(
        bytes_per_s=bandwidth,
        launch_s=launch,
        p=p,
        table=as_table(_fit_copy_table(obs, log_params), within(COPY_AXES, obs.coords), len(obs.seconds)),
        held_out=rounded(judge(obs, predicted, obs.shape % FOLDS)),
    )


@dataclass(frozen=True)
class Segments:
    """One number of GPUs: its segments, and every point inside one with what the others say it takes.

    ``told``: by size, the relative error of every point that two others of its segment tell, the ends too (drawn on from
    there): what decides between ways of splitting.
    """

    parts: tuple[Segment, ...]
    size: Floats
    measured_s: Floats
    predicted_s: Floats
    told: dict[float, float]


def algorithms(num_gpus: int, capability: int, fast_links: bool) -> list[Starts]:
    """What vLLM may have run, by compute capability (90 for 9.0): without and with symmetric memory.

    Its own kernel needs a direct link between all GPUs, or only two of them.
    """
    if num_gpus > 2 and not fast_links:
        return [(("nccl", 0.0),)]
    found = [_starts(num_gpus, OWN_BELOW_BYTES, ("nccl", OWN_BELOW_BYTES))]
    last = SYMMETRIC_TO_BYTES.get(capability, {}).get(num_gpus)
    if last is not None:
        own = min(OWN_BELOW_BYTES, OWN_BELOW_IF_SYMMETRIC[capability][num_gpus])
        found.append(_starts(num_gpus, own, ("symmetric", own), ("nccl", last + 1)))
    return found


def _starts(num_gpus: int, own_below: float, *others: tuple[str, float]) -> Starts:
    two_stage = TWO_STAGE_FROM_BYTES.get(num_gpus, own_below)
    own: Starts = (("one_stage", 0.0), ("two_stage", two_stage)) if two_stage < own_below else (("one_stage", 0.0),)
    return own + others


def fit_all_reduce(
    points: pd.DataFrame,
    provenance: Provenance,
    capability: int,
    fast_links: bool,
    link_bytes_per_s: float | None = None,
    gpu: str = "",
    judged: list[Judged] | None = None,
) -> list[Collective]:
    """Per number of GPUs: what vLLM runs in a CUDA graph, split where it changes the algorithm; of the ways it may have
    been set up, the one whose points predict each other best. Rows with a ``backend`` are of that one alone.

    Held out: every inner point of a segment, predicted from the others (where an algorithm begins or ends no other point
    tells). The 90 % interval is that of all numbers of GPUs together.
    """
    fits: dict[int, Segments] = {}
    for num_gpus in sorted({int(n) for n in points["num_gpus"]}):
        rows = points[points["num_gpus"] == num_gpus].sort_values("message_bytes")
        own: list[Starts] = algorithms(num_gpus, capability, fast_links)
        if "backend" in rows:
            own = [((str(rows["backend"].iloc[0]), 0.0),)]
        sizes, seconds = rows["message_bytes"].to_numpy(float), rows["seconds"].to_numpy(float)
        name = f"all-reduce {num_gpus} GPUs"
        checks.enough(name, len(rows), len(rows), 1, provenance.source)
        if link_bytes_per_s is not None:
            checks.plausible(name, seconds, sizes / link_bytes_per_s, provenance.source)
        fits[num_gpus] = best_segments([segments(sizes, seconds, starts) for starts in own])
        if judged is not None:
            one = fits[num_gpus]
            serving = _serving(one.size)
            judged.append(
                Judged(gpu, f"all-reduce {num_gpus} GPUs", one.size, one.measured_s, one.predicted_s, serving)
            )
    return _collectives(fits, provenance)


def _serving(size: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    inside = (size >= SERVING_MESSAGE_BYTES[0]) & (size <= SERVING_MESSAGE_BYTES[1])
    return inside if inside.any() else np.ones(len(size), dtype=bool)


def best_segments(found: Sequence[Segments]) -> Segments:
    """The one whose points tell each other best, judged on those that every way can tell; the first if none is better."""
    common = set.intersection(*(set(one.told) for one in found))

    def error(one: Segments) -> float:
        return float(np.mean([one.told[size] for size in common])) if common else 0.0

    return min(found, key=error)


def segments(sizes: Floats, seconds: Floats, starts: Starts) -> Segments:
    """``sizes`` (rising) and ``seconds`` split at ``starts``; a point alone in a segment joins the one before."""
    ends = [low for _, low in starts[1:]] + [np.inf]
    groups: list[tuple[str, np.ndarray[tuple[int], np.dtype[np.intp]]]] = []
    for (algorithm, low), high in zip(starts, ends, strict=True):
        own = np.flatnonzero((sizes >= low) & (sizes < high))
        if len(own) == 1 and groups:
            groups[-1] = (groups[-1][0], np.append(groups[-1][1], own))
        elif len(own) > 1:
            groups.append((algorithm, own))
    inner = np.concatenate([own[1:-1] for _, own in groups])
    predicted = np.concatenate([_left_out(sizes[own], seconds[own]) for _, own in groups])
    parts = tuple(
        Segment(
            algorithm=algorithm,
            message_bytes=tuple(float(size) for size in sizes[own]),
            us=tuple(round_to(value * 1e6) for value in without_strays(seconds[own])),
        )
        for algorithm, own in groups
    )
    told = {size: off for _, own in groups for size, off in _told(sizes[own], seconds[own]).items()}
    return Segments(parts, sizes[inner], seconds[inner], predicted, told)


def _left_out(sizes: Floats, seconds: Floats) -> Floats:
    """Every inner point from the others of its segment."""
    rest = [np.delete(np.arange(len(sizes)), i) for i in range(1, len(sizes) - 1)]
    return np.array(
        [float(line_s(sizes[i], without_strays(seconds[i]), sizes[at])) for at, i in enumerate(rest, start=1)]
    )


def _told(sizes: Floats, seconds: Floats) -> dict[float, float]:
    """Relative error of each point from a line through the two nearest others of its segment."""
    if len(sizes) < 3:
        return {}
    off = {}
    for i, size in enumerate(sizes):
        a, b = (i - 1, i + 1) if 0 < i < len(sizes) - 1 else (1, 2) if i == 0 else (i - 2, i - 1)
        guess = seconds[a] + (seconds[b] - seconds[a]) * (size - sizes[a]) / (sizes[b] - sizes[a])
        off[float(size)] = abs(float(guess / seconds[i]) - 1.0)
    return off


def _collectives(fits: dict[int, Segments], provenance: Provenance) -> list[Collective]:
    """With their errors; the interval is that of all together, as one number of GPUs has a dozen points."""

    def together(serving: bool) -> tuple[tuple[float, float], float | None]:
        ratios = [one.measured_s / one.predicted_s for one in fits.values()]
        kept = [
            ratio[_serving(one.size)] if serving else ratio for ratio, one in zip(ratios, fits.values(), strict=True)
        ]
        ratio = np.concatenate(kept)
        return interval90(ratio), coverage90(ratio, np.arange(len(ratio)))

    both = {serving: together(serving) for serving in (False, True)}

    def of(one: Segments, serving: bool) -> Errors:
        keep = _serving(one.size) if serving else np.ones(len(one.size), dtype=bool)
        interval, coverage = both[serving]
        found = errors(one.predicted_s[keep], one.measured_s[keep])
        return found.model_copy(update={"interval90": interval, "coverage90": coverage})

    return [
        Collective(
            num_gpus=num_gpus,
            segments=one.parts,
            held_out=rounded(HeldOut(overall=of(one, False), serving=of(one, True))),
            provenance=provenance,
        )
        for num_gpus, one in fits.items()
    ]


def without_strays(seconds: Floats) -> Floats:
    """A single point half as slow again as both its neighbours is a stray timing and becomes their mean."""
    clean = seconds.copy()
    for i in range(1, len(seconds) - 1):
        if seconds[i] > 1.5 * max(seconds[i - 1], seconds[i + 1]):
            clean[i] = (seconds[i - 1] + seconds[i + 1]) / 2
    return clean
