"""What is fitted for attention beyond the dense decoders': other head sizes, windows, MLA and linear attention.

The work is that of :mod:`twin.cost.attention` and its neighbours, so that fit and prediction cannot drift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calibrate import families
from calibrate import importers_attention as read
from calibrate.families import _f, _heads, _ids, _serving_heads
from calibrate.fit import FOLDS, Observations
from calibrate.grid import Candidate
from twin.base import Provenance
from twin.cost.attention import window_pairs
from twin.cost.latent import latent_coords, latent_decode_work, latent_prefill_work
from twin.cost.linear import conv_work, delta_decode_work, delta_prefill_work
from twin.cost.operators import prefill_coords, prefill_pairs, prefill_work
from twin.spec.kernels import AttentionVariant, Latent, Phase, Precision, Recurrent

if TYPE_CHECKING:
    from calibrate.profiles import Job

PHASES: tuple[Phase, ...] = ("decode", "prefill")
Part = Literal["conv", "rule"]
PARTS: tuple[Part, ...] = ("conv", "rule")

HEADS = {"heads": (1, 4, 16, 96), "kv_heads": (1, 2, 4, 96)}
GROUP = {"group": (1, 4, 16, 96)}
"""What a table has first, so that its text stays short; with few head configurations the group alone tells more."""
HEADS_FINE = {"heads": (1, 2, 4, 8, 16, 32, 96), "kv_heads": (1, 2, 4, 8, 16, 96)}
KEYS = (255, 9830)
"""Rows of prompts far beyond a window of 128 see 255 keys; the shortest prompt beyond one of 8192 has rows of 9830."""
DOUBLING = tuple(2.0**i for i in range(18))
FOURFOLD = DOUBLING[::2]
CHUNKS = (1, 64, 128, 256, 512, 2048, 8192, 32768)
STATES = (2, 8, 32, 64, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024, 2048, 4096)


def _by_heads(**axes: tuple[float, ...]) -> tuple[Candidate, ...]:
    return (({**HEADS, **axes}, 0.1), ({**GROUP, **axes}, 0.1), ({**GROUP, **axes}, 0.02))


FULL: dict[Phase, tuple[Candidate, ...]] = {
    "decode": _by_heads(context=families.CONTEXT, lanes=families.LANES),
    "prefill": _by_heads(span=families.SPAN, rows=families.ROWS),
}
WINDOWED: dict[Phase, tuple[Candidate, ...]] = {
    "decode": _by_heads(context=(), lanes=families.LANES),
    "prefill": (*_by_heads(keys=KEYS, rows=families.ROWS), ({**HEADS_FINE, "keys": KEYS, "rows": families.ROWS}, 0.1)),
}


def _configurations(rows: pd.DataFrame) -> NDArray[np.intp]:
    """Head configurations; where fewer than two would be in a fold, each batch of one."""
    heads = _ids(rows["num_heads"], rows["num_kv_heads"])
    if len(np.unique(heads)) >= 2 * FOLDS:
        return heads
    return _ids(rows["num_heads"], rows["num_kv_heads"], rows["batch"])


def windowed_decode(table: pd.DataFrame, kv: Precision, head_dim: int, provenance: Provenance) -> Observations:
    """As :func:`calibrate.families.decode`, with the context that the window leaves."""
    clipped = table.assign(context=np.minimum(table["context"], table["window"]))
    found = families.decode(clipped, kv, head_dim, provenance)
    return replace(found, name=f"windowed {found.name}")


def windowed_prefill(table: pd.DataFrame, kv: Precision, head_dim: int, provenance: Provenance) -> Observations:
    """As :func:`calibrate.families.prefill`, with the pairs inside the window."""
    rows = table[(table["kv"] == kv) & (table["head_dim"] == head_dim)]
    batch, chunk, heads = _f(rows["batch"]), _f(rows["chunk"]), _f(rows["num_heads"])
    tokens, kv_heads = batch * chunk, _f(rows["num_kv_heads"])
    windows, place = np.unique(rows["window"], return_inverse=True)
    each = np.array([window_pairs(chunk, 0, int(window)) for window in windows])
    pairs = batch * each[place, np.arange(len(chunk))]
    flops, bytes_moved = prefill_work(kv, tokens, pairs, tokens, heads, kv_heads, head_dim)
    return Observations(
        name=f"windowed prefill attention {kv} d{head_dim}",
        coords={**prefill_coords(tokens, pairs, heads), **_heads(heads, kv_heads)},
        flops=flops,
        bytes_moved=bytes_moved,
        seconds=_f(rows["seconds"]),
        shape=_configurations(rows),
        serving=_serving_heads(heads) & (chunk >= 128) & (tokens <= 32768),
        provenance=provenance,
    )


Observe = Callable[[pd.DataFrame, Precision, int, Provenance], Observations]
ATTENTION: tuple[tuple[Phase, bool, Observe], ...] = (
    ("decode", False, families.decode),
    ("prefill", False, families.prefill),
    ("decode", True, windowed_decode),
    ("prefill", True, windowed_prefill),
)


def _variants(job: Job, systems: Path) -> Iterator[AttentionVariant]:
    for phase, windowed, observe in ATTENTION:
        table = read.read_attention(systems, job.gpu, phase)
        provenance = Provenance(origin="fitted", source=table.attrs["source"], date=job.date)
        part = read.beyond_window(table) if windowed else read.other_heads(table)
        candidates = (WINDOWED if windowed else FULL)[phase]
        for kv, head_dim in sorted(set(zip(part["kv"], part["head_dim"], strict=True))):
            rows = part[(part["kv"] == kv) & (part["head_dim"] == head_dim)]
            seen = replace(observe(rows, kv, int(head_dim), provenance), shape=_configurations(rows))
            kernel = job.kernel(seen, candidates)
            yield AttentionVariant(kv=kv, head_dim=int(head_dim), kernel=kernel, phase=phase, windowed=windowed)


LATENT_HEADS = {"heads": (4, 8, 16, 32, 64)}
LATENT_CONTEXT = (64, 512, 2048, 8192, 32768)
LATENT: dict[Phase, tuple[Candidate, ...]] = {
    "decode": (
        ({**LATENT_HEADS, "context": LATENT_CONTEXT, "batch": FOURFOLD}, 0.05),
        ({**LATENT_HEADS, "context": LATENT_CONTEXT, "batch": DOUBLING}, 0.05),
    ),
    "prefill": (
        ({**LATENT_HEADS, "span": (64, 512, 1024, 2048, 8192), "tokens": FOURFOLD}, 0.05),
        ({**LATENT_HEADS, "span": (16, 64, 128, 256, 512, 1024, 2048, 8192), "tokens": DOUBLING}, 0.05),
    ),
}


def latent(table: pd.DataFrame, phase: Phase, kv: Precision, gemm: Precision, provenance: Provenance) -> Observations:
    """Held out by number of heads and batch together, all lengths at once.

    Serving: 8 or more heads; decode as :func:`calibrate.families.decode`, prefill as :func:`calibrate.families.prefill`.
    """
    rows = table[(table["kv"] == kv) & (table["gemm"] == gemm)]
    batch, heads, chunk, context = (_f(rows[name]) for name in ("batch", "num_heads", "chunk", "context"))
    tokens = batch * chunk
    if phase == "decode":
        work = latent_decode_work(kv, gemm, batch, context, heads)
        coords = {"batch": batch, "context": context}
        serving = (context >= 128) & (context <= 32768) & (batch <= 512)
    else:
        pairs = batch * prefill_pairs(chunk, 0)
        work = latent_prefill_work(kv, gemm, tokens, pairs, tokens, heads)
        coords = latent_coords(tokens, pairs)
        serving = (chunk >= 128) & (tokens <= 32768)
    return Observations(
        name=f"latent {phase} {kv} cache {gemm} weights",
        coords={**coords, "heads": heads},
        flops=work[0],
        bytes_moved=work[1],
        seconds=_f(rows["seconds"]),
        shape=_ids(rows["num_heads"], rows["batch"]),
        serving=serving & (heads >= 8),
        provenance=provenance,
    )


def _latent(job: Job, systems: Path) -> Iterator[Latent]:
    for phase in PHASES:
        if not read.has(systems, job.gpu, "mla", f"mla_{read.FILES[phase]}_module_perf.parquet"):
            continue
        table = read.read_latent(systems, job.gpu, phase)
        provenance = Provenance(origin="fitted", source=table.attrs["source"], date=job.date)
        for kv, gemm in sorted(set(zip(table["kv"], table["gemm"], strict=True))):
            rows = latent(table, phase, kv, gemm, provenance)
            if rows.serving.any():  # fp8 caches on some workstation GPUs were timed with a single head
                yield Latent(phase=phase, kv=kv, gemm=gemm, kernel=job.kernel(rows, LATENT[phase]))


VALUES = tuple(4.0**i for i in range(5, 20))
RECURRENT: dict[tuple[Phase, Part], tuple[Candidate, ...]] = {
    ("decode", "conv"): (({"values": VALUES}, 0.02),),
    ("prefill", "conv"): (({"values": VALUES}, 0.02),),
    ("decode", "rule"): (({"lanes": DOUBLING}, 0.02),),
    ("prefill", "rule"): (({"chunk": CHUNKS, "lanes": STATES}, 0.05),),
}


def recurrent(table: pd.DataFrame, phase: Phase, part: Part, provenance: Provenance) -> Observations:
    """Held out by number of value heads. Serving: up to 512 sequences; chunks of 128 or more, 32k tokens."""
    rows = table[table["part"] == part]
    batch, chunk, k_heads, v_heads = (_f(rows[name]) for name in ("batch", "chunk", "k_heads", "v_heads"))
    tokens, channels = batch * chunk, 2 * k_heads * _f(rows["k_dim"]) + v_heads * _f(rows["v_dim"])
    if part == "conv":
        work = conv_work(phase, tokens, channels)
    elif phase == "decode":
        work = delta_decode_work(batch, k_heads, v_heads)
    else:
        work = delta_prefill_work(tokens, batch, k_heads, v_heads)
    return Observations(
        name=f"recurrent {phase} {part}",
        coords={"lanes": batch * v_heads, "chunk": chunk, "values": tokens * channels},
        flops=work[0],
        bytes_moved=work[1],
        seconds=_f(rows["seconds"]),
        shape=_ids(rows["v_heads"]),
        serving=(batch <= 512) if phase == "decode" else (chunk >= 128) & (tokens <= 32768),
        provenance=provenance,
    )


def _recurrent(job: Job, systems: Path) -> Iterator[Recurrent]:
    if not read.has(systems, job.gpu, "linear_attention", "gdn_perf.parquet"):
        return
    for phase in PHASES:
        table = read.read_recurrent(systems, job.gpu, phase)
        provenance = Provenance(origin="fitted", source=table.attrs["source"], date=job.date)
        for part in PARTS:
            kernel = job.kernel(recurrent(table, phase, part, provenance), RECURRENT[phase, part])
            yield Recurrent(phase=phase, part=part, kernel=kernel)


def fit_mixers(job: Job, systems: Path) -> dict[str, tuple[Any, ...]]:
    """The families of :class:`twin.spec.kernels.Kernels` that are here, as far as the database measured them."""
    job.note(f"{job.gpu}: other head sizes, sliding windows, latent and linear attention")
    return {
        "attention_variants": tuple(_variants(job, systems)),
        "latent": tuple(_latent(job, systems)),
        "recurrent": tuple(_recurrent(job, systems)),
    }
