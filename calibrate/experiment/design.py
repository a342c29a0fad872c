"""What the experiment runs: prefills, decodes, mixtures and loads to fit to, and other loads to judge by.

A run is a list of ``[at_s, input_tokens, output_tokens]``. With a ``load`` its times are those of a Poisson process of rate
one, which the driver stretches to that share of the engine's measured capacity. A *sentinel*, the same small run each time,
stands between all others: it shows how fast the machine is just then. *Repeat* runs show how much identical steps differ.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

from twin.trust.live.shapes import SHAPES, VOCAB_SIZE

Kind = Literal["fit", "test", "sentinel", "repeat"]
Request = tuple[float, int, int]

MODELS = SHAPES

LOADS: dict[Kind, tuple[float, ...]] = {
    "fit": (0.15, 0.3, 0.5, 0.7, 0.9, 1.1),
    "test": (0.2, 0.4, 0.6, 0.8, 1.2),
}
"""Shares of the engine's capacity."""
MOST_ARRIVALS = 2000


@dataclass(frozen=True)
class Run:
    """``name`` is what runs that are alike share, ``run`` is unique; ``seconds`` limits the arrivals of a run with a load."""

    run: str
    name: str
    kind: Kind
    requests: tuple[Request, ...]
    load: float | None = None
    seconds: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Size:
    """What the device takes: the longest prompt and the most sequences of a run, cached tokens in all.

    Each load runs ``rounds`` × ``parts`` times for ``load_s``: short, so that sentinels follow a shared machine's drift.
    """

    prompt: int
    seqs: int
    cached: int
    load_s: float
    rounds: int
    parts: int = 1


SIZES = {
    ("cpu", False): Size(prompt=2048, seqs=64, cached=40_000, load_s=2.5, rounds=2, parts=2),
    ("cpu", True): Size(prompt=1024, seqs=32, cached=12_000, load_s=2.0, rounds=1),
    ("cuda", False): Size(prompt=8192, seqs=512, cached=600_000, load_s=8.0, rounds=3),
    ("cuda", True): Size(prompt=8192, seqs=256, cached=200_000, load_s=3.0, rounds=1),
}


def model_config(preset: str, vocab_size: int = VOCAB_SIZE) -> dict[str, Any]:
    """A Hugging Face config of a dense decoder in bf16 with the sizes of ``MODELS[preset]``."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
        "max_position_embeddings": 40960,
        "vocab_size": vocab_size,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        **MODELS[preset],
    }


def runs(device: str, *, quick: bool = False, closed: bool = True, seed: int = 0) -> list[Run]:
    """Every run in order, sentinels between them.

    Without ``closed`` only loads: behind a server batches do not form as told.
    """
    size = SIZES[device, quick]
    rng = np.random.default_rng(seed)
    found: list[Run] = []
    for turn in range(size.rounds):
        own = _closed(size, rng, turn) if closed else []
        loads = [
            _load(f"load {load:g} of {kind}, {turn}.{part}", kind, load, size, rng)
            for kind, levels in LOADS.items()
            for load in levels
            for part in range(size.parts)
        ]
        shuffled = [*own, *loads]
        found += [shuffled[i] for i in rng.permutation(len(shuffled))]
    watched: list[Run] = []
    for position, run in enumerate(found):
        watched += [_sentinel(position), run]
    return [*watched, _sentinel(len(found))]


def probe_lengths(device: str, *, quick: bool = False) -> list[list[int]]:
    """Lengths of as many requests as keep every seat taken for a while."""
    size = SIZES[device, quick]
    rng = np.random.default_rng(7)
    return [[*_lengths(size, rng)] for _ in range(4 * size.seqs)]


def _sentinel(position: int) -> Run:
    return Run(f"sentinel {position}", "sentinel", "sentinel", tuple((0.0, 48, 24) for _ in range(4)), seed=11)


def _closed(size: Size, rng: np.random.Generator, turn: int) -> list[Run]:
    """Batches that start together: what is in each step is known beforehand."""
    shapes: dict[str, list[Request]] = {}
    for tokens in (1, 16, 64, 128, 256, 512, 1024, size.prompt):
        shapes[f"prefill {tokens}"] = [(0.0, tokens, 2)]
    for count, tokens in ((4, 64), (8, 100), (3, 300)):
        shapes[f"prefill {count} x {tokens}"] = [(0.0, tokens, 2)] * count
    counts = [2**i for i in range(int(np.log2(size.seqs)) + 1)]
    for count, tokens in product(counts, (16, 256, 1024, size.prompt)):
        if count * tokens <= size.cached:
            shapes[f"decode {count} x {tokens}"] = [(0.0, tokens, 10)] * count
    for count in (4, 16, size.seqs):
        shapes[f"mixture of {count}"] = [(0.0, *_lengths(size, rng)) for _ in range(2 * count)]
    fits = [Run(f"{name}, {turn}", name, "fit", tuple(shape), seed=turn) for name, shape in shapes.items()]
    same = [(0.0, 100 + 40 * i, 12) for i in range(8)]
    return [*fits, *(Run(f"repeat {turn}.{i}", "repeat", "repeat", tuple(same), seed=3) for i in range(3))]


def _load(name: str, kind: Kind, load: float, size: Size, rng: np.random.Generator) -> Run:
    at = np.cumsum(rng.exponential(size=MOST_ARRIVALS))
    requests = tuple((float(round(t, 4)), *_lengths(size, rng)) for t in at)
    return Run(name, f"load {load:g}", kind, requests, load=load, seconds=size.load_s, seed=int(rng.integers(1 << 30)))


def _lengths(size: Size, rng: np.random.Generator) -> tuple[int, int]:
    """A prompt and an answer, log-normal as in conversations, to the device's measure."""
    prompt = min(4 + int(rng.lognormal(np.log(size.prompt / 14), 0.8)), size.prompt)
    return prompt, min(2 + int(rng.lognormal(np.log(24), 0.6)), 200)


def as_rows(found: list[Run]) -> list[dict[str, Any]]:
    """Runs as the driver takes them."""
    return [asdict(run) for run in found]
