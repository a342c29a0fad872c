"""The closed form: a replica in steady state, for every engine setting and number of replicas at once.

A replica that gets λ requests a second holds n decodes. A decode step of n sequences takes D(n); every
prompt adds P(n) seconds of prefill to the steps. Decodes leave as fast as they come when n steps' worth of
tokens are made per step:

    n · (1 - λ·P(n)) / D(n) = λ·O    ⇒    λ(n) = n / (O·D(n) + n·P(n)),    TPOT(n) = n / (λ(n)·O)

with O decode steps per request. λ rises with n up to what seats, KV cache and token budget admit; λ there
is the capacity, and utilisation is the peak rate over it. What is discarded on latency is discarded on a
bound: no request can be faster than it would be alone on the replica with every prefix hit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.cost.step import CONTEXT_NODES
from twin.search.limits import PURSE, Limits
from twin.search.space import MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS, Candidate, ReplicaKind
from twin.search.workload import Workload, bound_text, cached_tokens
from twin.spec.slo import Bound

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DECODES = np.unique(np.round(np.geomspace(1, max(MAX_NUM_SEQS), 41))).astype(np.int64)
"""Numbers of decodes at which a kind's curves are evaluated; between them they are linear."""

FULLER_BATCHES = tuple(range(1, 17))
SAMPLED_PROMPTS = 16
OVERLOADED = "overloaded at the busiest five minutes"
SPARE_REPLICAS = 8
MOST_SURPLUS = 3
MOST_REPLICAS = 4096
"""Nobody runs more of one kind; what needs more is overloaded with these."""


@dataclass(frozen=True)
class Curve:
    """A replica with one token budget, over ``DECODES``: requests per second that keep so many decodes, D
    and P.
    """

    rate_per_s: Floats
    decode_s: Floats
    prefill_s: Floats
    tpot_s: Floats


def curve(kind: ReplicaKind, load: Workload, max_num_batched_tokens: int) -> Curve:
    """The steady states of a replica of this kind. Prompts are prefilled in chunks of what the decodes
    leave.
    """
    step, budget = kind.step, max_num_batched_tokens
    linear, head = np.asarray(step.linear_s), np.asarray(step.head_s)
    n = DECODES
    context = max(load.mean_context, 1.0)
    attention = np.array([step.decode_attention_s(size, round(size * context)) for size in n.tolist()])
    decode_s = linear[n] + head[n] + attention
    quantiles = (np.arange(SAMPLED_PROMPTS) + 0.5) / SAMPLED_PROMPTS
    prompts = np.maximum(np.quantile(load.prefill_tokens, quantiles), 1.0)
    room = np.maximum(budget - n[:, None], 1)
    chunks = np.ceil(prompts / room)
    chunk = np.ceil(prompts / chunks).astype(np.int64)
    extra = chunks * (linear[np.minimum(n[:, None] + chunk, budget)] - linear[n][:, None])
    tokens = load.prefill_tokens.astype(np.float64)
    span = (tokens**2).mean() / tokens.mean()  # a prompt of this length has the mean pairs per token
    mean = max(round(tokens.mean()), 1)
    prefill_attention = step.prefill_attention_s([(None, mean, max(round((span - mean) / 2), 0))])
    prefill_s = np.maximum(extra.mean(axis=1), 0.0) + prefill_attention + (head[1] - head[0])
    mixed = zip(np.minimum(n + mean, budget).tolist(), (decode_s + prefill_s).tolist(), strict=True)
    prefill_s += np.array([step.throttle_s(tokens, prefill_attention, seconds) for tokens, seconds in mixed])
    rate = n / (load.mean_decodes * decode_s + n * prefill_s)
    tpot = decode_s + n * prefill_s / max(load.mean_decodes, 1e-9)
    return Curve(np.maximum.accumulate(rate), decode_s, prefill_s, np.maximum.accumulate(tpot))


def unloaded_s(kind: ReplicaKind, load: Workload) -> dict[str, Floats]:
    """Per request of the whole trace, the least TTFT, TPOT and E2EL: alone on the replica, every prefix hit granted.

    TPOT is NaN for one output token, as in the metrics. Measured tables wiggle, so a larger step can be a little faster
    than a smaller one: where that could help, the least over larger steps, smaller chunks and fuller batches counts.
    """
    step, host, trace = kind.step, kind.step.host, load.trace
    linear = np.asarray(step.linear_s)
    floor = np.minimum.accumulate(linear[::-1])[::-1]
    sizes, where = np.unique(np.maximum(trace.input_tokens - cached_tokens(trace), 1), return_inverse=True)
    prefill = np.array([_prefill_s(kind, size) for size in sizes.tolist()])
    single = sizes <= min(MAX_NUM_BATCHED_TOKENS)  # if split, then after a step that is full and so takes longer
    per_token = float((linear[1:] / np.arange(1, len(linear))).min())
    whole = floor[np.minimum(sizes, len(linear) - 1)]
    chunked = np.maximum(sizes * per_token, floor[min(MAX_NUM_BATCHED_TOKENS)])
    seconds = np.where(single, whole, np.minimum(whole, chunked)) + prefill + step.head_s[1]
    ttft = host.request_s + host.input_token_s * trace.input_tokens + seconds[where]
    contexts = np.asarray(CONTEXT_NODES)
    # Beside shorter sequences its cache is read by a fuller, and so at times a faster, kernel.
    batches = [
        [step.decode_attention_s(n, max(size, float(n))) + step.head_s[n] for size in contexts.tolist()]
        for n in FULLER_BATCHES
    ]
    tpot = np.interp(trace.input_tokens, contexts, np.min(batches, axis=0)) + floor[1]
    decodes = trace.output_tokens - 1
    return {"ttft": ttft, "tpot": np.where(decodes > 0, tpot, np.nan), "e2el": ttft + decodes * tpot}


def _prefill_s(kind: ReplicaKind, size: int) -> float:
    """The least attention of a prompt: in one piece, or in chunks of a token budget."""
    found = [kind.step.prefill_attention_s([(None, size, 0)])]
    for budget in MAX_NUM_BATCHED_TOKENS:
        starts = range(0, size, budget) if size > budget else ()
        pieces = [(None, min(budget, size - start), start) for start in starts]
        if pieces:
            found.append(sum(kind.step.prefill_attention_s([piece]) for piece in pieces))
    return min(found)


@dataclass(frozen=True, eq=False)
class Screen:
    """Every configuration after memory pruning, one row each, all columns (rows,).

    ``reason`` indexes ``reasons``; 0 is alive. ``ttft_s`` and ``tpot_s`` are estimated means at the busiest
    five minutes (infinite beyond capacity), ``utilisation`` the peak rate over capacity.
    """

    kinds: Sequence[ReplicaKind]
    reasons: tuple[str, ...]
    kind: Ints
    seqs: Ints
    tokens: Ints
    replicas: Ints
    usd_per_hour: Floats
    utilisation: Floats
    ttft_s: Floats
    tpot_s: Floats
    reason: Ints

    def __len__(self) -> int:
        return len(self.kind)

    def candidate(self, row: int) -> Candidate:
        kind = self.kinds[int(self.kind[row])]
        return kind.candidate(int(self.seqs[row]), int(self.tokens[row]), int(self.replicas[row]))

    def alive(self, *, within_limits: bool = True) -> Ints:
        """Rows that survive; without ``within_limits`` those too that only budget or --max-gpus rule out."""
        keep = self.reason == 0
        if not within_limits:
            keep |= np.isin(self.reason, [i for i, reason in enumerate(self.reasons) if reason in PURSE])
        return np.flatnonzero(keep)

    def rejected(self) -> Counter[str]:
        counts = np.bincount(self.reason, minlength=len(self.reasons))
        return Counter({self.reasons[i]: int(counts[i]) for i in range(1, len(self.reasons)) if counts[i]})


def screen(
    kinds: Sequence[ReplicaKind], load: Workload, bounds: Sequence[Bound], limits: Limits, headroom: float
) -> Screen:
    """Judge every engine setting × number of replicas. A budget is judged last, so that a row that it alone
    rules out is told from one that could not hold anyway.

    Replicas run from 1 to three times what the load needs, and at least to eight: more never helps.
    """
    columns: list[tuple[NDArray[Any], ...]] = []
    names = {"alive": 0}
    for index, kind in enumerate(kinds):
        missed = _missed_unloaded(kind, load, bounds)
        settings = np.argwhere(kind.num_gpu_blocks > 0)
        capacity, at = _capacities(kind, load, settings)
        least = np.ceil(load.peak_rate_per_s / max(float(capacity.max()), 1e-12))
        least = min(least, MOST_REPLICAS)
        replicas = np.arange(1, int(max(SPARE_REPLICAS, MOST_SURPLUS * least)) + 1)
        setting, count = (grid.ravel() for grid in np.meshgrid(np.arange(len(settings)), replicas, indexing="ij"))
        rate = load.peak_rate_per_s / count
        utilisation = rate / capacity[setting]
        ttft, tpot = estimates(kind, load, settings[setting, 1], rate / kind.batches, utilisation, at)
        gpus = count * kind.num_gpus
        reason = _bought(kind.profile.name, gpus, limits, names)
        above = f"utilisation above {1 - headroom:.0%} at the busiest five minutes"
        reason[utilisation > 1 - headroom] = names.setdefault(above, len(names))
        reason[utilisation >= 1] = names.setdefault(OVERLOADED, len(names))
        if missed:
            reason[:] = names.setdefault(missed, len(names))
        usd = gpus * limits.usd_per_gpu_hour[kind.profile.name]
        where = np.full(len(count), index)
        pair = settings[setting]
        columns.append((where, pair[:, 0], pair[:, 1], count, usd, utilisation, ttft, tpot, reason))
    joined = [np.concatenate(parts) for parts in zip(*columns, strict=True)] if columns else [np.zeros(0)] * 9
    kind_, seqs, tokens, replicas_ = (part.astype(np.int64) for part in joined[:4])
    usd_, use_, ttft_, tpot_ = joined[4:8]
    last = joined[8].astype(np.int64)
    return Screen(kinds, tuple(names), kind_, seqs, tokens, replicas_, usd_, use_, ttft_, tpot_, last)


def _missed_unloaded(kind: ReplicaKind, load: Workload, bounds: Sequence[Bound]) -> str | None:
    """The bound that a request misses even alone on a replica of this kind, as a reason."""
    least = unloaded_s(kind, load)
    for bound in bounds:
        if quantile_alone_s(least, load, bound) > bound.seconds:
            return f"{bound_text(bound)} is missed even by requests alone on the replica"
    return None


def quantile_alone_s(least: dict[str, Floats], load: Workload, bound: Bound) -> float:
    """A bound's quantile of :func:`unloaded_s` over the requests of its class; 0 where none defines it."""
    values = least[bound.metric]
    if bound.request_class is not None:
        values = values[np.asarray(load.trace.request_class == bound.request_class, dtype=bool)]
    values = values[~np.isnan(values)]
    return float(np.quantile(values, bound.quantile)) if values.size else 0.0


def _capacities(kind: ReplicaKind, load: Workload, settings: Ints) -> tuple[Floats, dict[int, Curve]]:
    """Requests per second of one replica for each engine setting (row of positions), and the curve per
    token budget.
    """
    curves = {j: curve(kind, load, MAX_NUM_BATCHED_TOKENS[j]) for j in np.unique(settings[:, 1]).tolist()}
    seats = np.array(kind.seats)[settings[:, 0]]
    blocks = kind.num_gpu_blocks[settings[:, 0], settings[:, 1]]
    most = most_decodes(kind, load, seats, blocks)
    capacity = np.empty(len(settings))
    for j, found in curves.items():
        rows = settings[:, 1] == j
        capacity[rows] = capacity_per_s(kind, found, most[rows])
    return capacity, curves


def most_decodes(kind: ReplicaKind, load: Workload, seats: Ints, num_gpu_blocks: Ints) -> Floats:
    """Decodes that a rank's seats and KV cache admit at once."""
    return np.asarray(np.minimum(seats, requests_held(kind, load, num_gpu_blocks)), dtype=np.float64)


def requests_held(kind: ReplicaKind, load: Workload, num_gpu_blocks: Ints) -> Floats:
    """Requests that a KV cache holds at once: a mean request's tokens stay, less what it may share; of windows and states
    less than its whole sequence.
    """
    if kind.memory is not None and len(kind.memory.kv_groups) > 1:
        return num_gpu_blocks / kind.memory.blocks_per_request(max(round(load.mean_resident_tokens), 1))
    return np.asarray((num_gpu_blocks - 1) * kind.block_size / max(load.mean_resident_tokens, 1.0), dtype=np.float64)


def capacity_per_s(kind: ReplicaKind, found: Curve, decodes: Floats) -> Floats:
    """Requests per second that one replica sustains with at most so many decodes; in proportion below one.

    ``decodes`` of each rank, as ranks have a KV cache each; pipeline stages share them out in as many batches.
    """
    each = decodes / kind.layout.pipeline_parallel_size
    rate = np.interp(each, DECODES, found.rate_per_s) * np.minimum(each, 1.0) * kind.batches
    return np.asarray(rate, dtype=np.float64)


def estimates(
    kind: ReplicaKind,
    load: Workload,
    tokens: Ints,
    rate: Floats,
    utilisation: Floats,
    curves: dict[int, Curve],
) -> tuple[Floats, Floats]:
    """Mean TTFT and TPOT: the prefill's own steps, half a step until it starts, and the queue of prefills
    (M/D/1).
    """
    host = kind.step.host
    ttft, tpot = np.full(len(rate), np.inf), np.full(len(rate), np.inf)
    prepare_s = host.request_s + host.input_token_s * float(load.busiest.input_tokens.mean())
    for j, found in curves.items():
        rows = (tokens == j) & (utilisation < 1)
        n = np.interp(rate[rows], found.rate_per_s, DECODES)
        tpot[rows] = np.interp(n, DECODES, found.tpot_s)
        decode_s, prefill_s = np.interp(n, DECODES, found.decode_s), np.interp(n, DECODES, found.prefill_s)
        busy = np.minimum(rate[rows] * prefill_s, 0.999)
        running = np.minimum(n, 1.0)
        queue_s = prefill_s * busy / (2 * (1 - busy)) + running * tpot[rows] / 2
        ttft[rows] = prepare_s + decode_s + prefill_s + queue_s
    return ttft, tpot


def _bought(gpu: str, gpus: Ints, limits: Limits, names: dict[str, int]) -> Ints:
    """Per number of GPUs, the position in ``names`` of why they may not be bought, added there; 0 if they
    may.
    """
    found = {size: limits.violation(gpu, size) for size in np.unique(gpus).tolist()}
    codes = {size: names.setdefault(reason, len(names)) if reason else 0 for size, reason in found.items()}
    return np.array([codes[size] for size in gpus.tolist()], dtype=np.int64)
