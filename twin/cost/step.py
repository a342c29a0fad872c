"""How long one engine step takes: the sum of its kernels, layer by layer, plus what the host adds.

Everything that depends only on the number of tokens or sequences is tabulated once; decode attention is tabulated per
batch size at fixed mean contexts and linear between them, which is what lets the engine leap over equal steps in closed
form; prefill attention is interpolated in the logarithms of query tokens and span. A step's price is then a few look-ups.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from math import exp, log, log2

import numpy as np
from numpy.typing import NDArray

from twin.cost import operators as ops
from twin.cost.collectives import all_reduce_s, fused_reduce_s
from twin.spec.hardware import HardwareProfile, Precision
from twin.spec.model import ModelSpec
from twin.spec.versions import MODELLED_VLLM, VersionName

Floats = NDArray[np.float64]

RESTING_POWER = 0.5
"""Share of the sustained power limit that a device draws in kernels that wait for memory or links (assumed: boards idle at a
tenth to a fifth and stream at a half to three quarters; left free, the fit to engine runs finds 0.65 and gains nothing)."""

CONTEXT_NODES = (1.0, 2.0, *(float(round(2 ** (e / 2))) for e in range(3, 42)))
"""Mean contexts at which decode attention is evaluated: half-octaves from 1 to 1.5 M tokens."""


@dataclass(frozen=True)
class HostCosts:
    """What a running engine adds to its kernels, see :class:`twin.spec.hardware.HostFit`.

    A step's time is linear in each of them but ``compute_stretch`` (and ``kernel_overlap_s``, as far as it stays below half
    a layer), which is what the fit to an engine's steps rests on. ``cold_start_s`` is in no step: it is what the first
    requests of an engine wait that was not warmed up.
    """

    step_s: float = 0.0
    sequence_s: float = 0.0
    request_s: float = 0.0
    input_token_s: float = 0.0
    kernel_overlap_s: float = 0.0
    compute_stretch: float = 1.0
    reduce_skew_s: float = 0.0
    cold_start_s: float = 0.0
    token_s: float = 0.0
    gemm_stretch: float = 1.0
    elementwise_stretch: float = 1.0
    prefill_stretch: float = 1.0
    decode_stretch: float = 1.0

    @classmethod
    def of(cls, profile: HardwareProfile, *, async_scheduling: bool = True) -> HostCosts:
        """The fitted host times of a profile; without effect where none were fitted."""
        host = profile.host
        if host is None:
            return cls()
        fitted = {f.name: found.value for f in fields(cls) if (found := getattr(host, f.name)) is not None}
        if host.async_overlap_s is not None and not async_scheduling:
            fitted["step_s"] += host.async_overlap_s.value
        return cls(**fitted)


@dataclass(frozen=True)
class Layout:
    """What fixes the kernels of a replica beside model and hardware.

    ``fuse_allreduce_rms``: vLLM's pass, by default on wherever the hardware has it (:func:`fused_reduce_s`).
    """

    tensor_parallel_size: int = 1
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    vllm_version: VersionName = MODELLED_VLLM
    fuse_allreduce_rms: bool = True

    @property
    def weights(self) -> Precision:
        return "fp8" if self.quantization == "fp8" else "bf16"

    @property
    def kv(self) -> Precision:
        return "fp8" if self.kv_cache_dtype.startswith("fp8") else "bf16"


@lru_cache(maxsize=8)
def _graph_padding(size: int) -> NDArray[np.int64]:
    """Tokens computed for 0 … ``size``: vLLM pads to its captured CUDA-graph sizes (1, 2, 4, 8 … 256 by 8, … 512 by 16)."""
    m = np.arange(size + 1)
    padded = np.where(m <= 4, np.array([0, 1, 2, 4, 4])[np.minimum(m, 4)], -(-m // 8) * 8)
    padded = np.where(m > 256, -(-m // 16) * 16, padded)
    return np.asarray(np.where(m > 512, m, padded), dtype=np.int64)


class StepModel:
    """Prices the steps of one replica. Implements :class:`twin.engine.core.StepCost`.

    Args:
        max_tokens: the most tokens in a step (``max_num_batched_tokens``).
        host: host times; those of the profile unless given.
        scale: multiplies every GPU time; 1 is the central estimate.
        cuda_graphs: whether tokens are padded to captured sizes; on a GPU unless said otherwise.
    """

    def __init__(
        self,
        model: ModelSpec,
        profile: HardwareProfile,
        layout: Layout,
        *,
        max_tokens: int,
        host: HostCosts | None = None,
        scale: float = 1.0,
        cuda_graphs: bool | None = None,
    ) -> None:
        self._padded = profile.device == "gpu" if cuda_graphs is None else cuda_graphs
        model.check_tensor_parallel(layout.tensor_parallel_size)
        self.host = HostCosts.of(profile) if host is None else host
        self._model, self._profile, self._layout, self._scale = model, profile, layout, scale
        tp = layout.tensor_parallel_size
        self._heads = model.num_attention_heads // tp
        self._kv_heads = max(1, model.num_key_value_heads // tp)
        self._layers = model.num_hidden_layers
        per_token = self.host.token_s * np.arange(max_tokens + 1)
        linear, compute = self._linear(max_tokens)
        self.linear_s = array("d", linear + per_token + self.host.step_s)
        self._compute_s = array("d", compute)
        rows = np.arange(max_tokens + 1, dtype=np.float64)
        self.head_s = array("d", self._head(rows) + self.host.sequence_s * rows)
        self._log_tokens, self._log_span, self._log_prefill = self._prefill_table(max_tokens)
        self._segments: dict[int, tuple[list[float], list[float], list[float], list[float]]] = {}

    def _linear(self, max_tokens: int) -> tuple[Floats, Floats]:
        """Seconds of everything per token in all layers, for 0 … max_tokens tokens, and what of it computing bounds."""
        model, profile, layout = self._model, self._profile, self._layout
        tp, dtype = layout.tensor_parallel_size, layout.weights
        tokens = _graph_padding(max_tokens) if self._padded else np.arange(max_tokens + 1)
        m = np.maximum(tokens.astype(np.float64), 1.0)
        q, kv = self._heads * model.head_dim, self._kv_heads * model.head_dim
        inter, hidden = model.intermediate_size / tp, model.hidden_size
        gemms = [(q + 2 * kv, hidden), (hidden, q), (2 * inter, hidden), (hidden, inter)]
        products, compute = np.sum([self._gemm(dtype, m, n, k) for n, k in gemms], axis=0)
        # Norms read input and residual and write both; rotary rewrites q and k; the activation reads gate and up.
        # The cache write is part of the attention timings. Quantisation is fused into norms and activation, not into
        # attention.
        touched = [4 * (q + kv), 6 * inter]
        if model.qk_norm:
            touched.append(4 * (q + kv))
        light = sum((ops.elementwise_s(profile, m * size) for size in touched), np.zeros_like(m))
        if dtype == "fp8":
            light += ops.fp8_quant_s(profile, m, q)
        norms, kernels = self._norms(m, 8 * hidden, 2.0 * m * hidden)
        kernels += len(gemms) + len(touched) + (dtype == "fp8") + 1  # and one of attention
        layer = products + light * self.host.elementwise_stretch + norms
        layer -= np.minimum(self.host.kernel_overlap_s * kernels, layer / 2)
        whole = self._layers * self._scale
        return layer * whole, np.where(tokens > 0, compute, 0.0) * whole

    def _norms(self, m: Floats, norm_bytes: int, message_bytes: Floats) -> tuple[Floats, Floats]:
        """Seconds of a layer's two norms, each behind an all-reduce where there are several ranks, and their kernels."""
        ranks, version = self._layout.tensor_parallel_size, self._layout.vllm_version
        norm = ops.elementwise_s(self._profile, m * norm_bytes) * self.host.elementwise_stretch
        if ranks == 1:
            return 2 * norm, np.full_like(m, 2.0)
        skew = self.host.reduce_skew_s * log2(ranks)
        apart = norm + all_reduce_s(self._profile, ranks, message_bytes, version)
        fused = fused_reduce_s(self._profile, ranks, message_bytes)
        one = ~np.isnan(fused) & self._layout.fuse_allreduce_rms
        return 2 * (np.where(one, fused, apart) + skew), np.where(one, 2.0, 4.0)

    def _gemm(self, dtype: Precision, m: Floats, n: float, k: float) -> tuple[Floats, Floats]:
        """Seconds of a matrix product, and its share that computing bounds."""
        kernel = ops.gemm_kernel(self._profile, dtype)
        flops, moved = ops.gemm_work(dtype, m, n, k)
        compute_s, memory_s = flops / kernel.flops_per_s.value, moved / kernel.bytes_per_s.value
        seconds = ops.gemm_s(self._profile, dtype, m, n, k, in_engine=True) * self.host.gemm_stretch
        return seconds, seconds * compute_s / (compute_s + memory_s)

    def _head(self, rows: Floats) -> Floats:
        """Seconds to turn 0 … rows sampled positions into tokens: head, gather of the logits, softmax in fp32."""
        model, profile, tp = self._model, self._profile, self._layout.tensor_parallel_size
        at = np.maximum(rows, 1.0)
        vocab = model.padded_vocab_size
        seconds = ops.gemm_s(profile, "bf16", at, vocab / tp, model.hidden_size) * self.host.gemm_stretch
        seconds = seconds + 2 * ops.elementwise_s(profile, at * vocab * 6) * self.host.elementwise_stretch
        if tp > 1:
            # A gather moves half of a reduce.
            seconds = seconds + all_reduce_s(profile, tp, 2.0 * at * vocab, self._layout.vllm_version) / 2
        return np.asarray(np.where(rows > 0, seconds * self._scale, 0.0), dtype=np.float64)

    def _prefill_table(self, max_tokens: int) -> tuple[list[float], list[float], list[list[float]]]:
        """log seconds of prefill attention in all layers over half-octaves of tokens and span."""
        tokens = 2.0 ** (np.arange(0, 2 * np.ceil(np.log2(max_tokens)) + 1) / 2)
        span = 2.0 ** (np.arange(0, 43) / 2)
        t, s = np.meshgrid(tokens, span, indexing="ij")
        seconds = ops.prefill_batch_s(
            self._profile, self._layout.kv, t, t * s / 2, (t + s) / 2, self._heads, self._kv_heads, self._model.head_dim
        )
        table = np.log(seconds * self._layers * self._scale * self.host.prefill_stretch)
        return np.log(tokens).tolist(), np.log(span).tolist(), table.tolist()

    def prefill_attention_s(self, chunks: Sequence[tuple[object, int, int]]) -> float:
        """Seconds of prefill attention in all layers: the chunks of a step run as one kernel with summed work."""
        tokens, twice_pairs = 0, 0
        for _, chunk, context in chunks:
            tokens += chunk
            twice_pairs += chunk * (2 * context + chunk)
        x, y = log(tokens) / _HALF_OCTAVE, log(twice_pairs / tokens) / _HALF_OCTAVE
        table = self._log_prefill
        i, j = min(int(x), len(table) - 2), min(int(y), len(self._log_span) - 2)
        low, high = table[i], table[i + 1]
        x, y = x - i, y - j
        a = low[j] + y * (low[j + 1] - low[j])
        b = high[j] + y * (high[j + 1] - high[j])
        return exp(a + x * (b - a))

    def _decode_nodes(self, n: int) -> tuple[list[float], list[float], list[float], list[float]]:
        """Per segment: context sum at its start, attention seconds there, slope, context sum at its end."""
        nodes = np.asarray(CONTEXT_NODES)
        seconds = ops.decode_attention_s(
            self._profile, self._layout.kv, n, nodes, self._heads, self._kv_heads, self._model.head_dim
        )
        # A longer context never takes less time; measurement noise in the table may say otherwise.
        seconds = np.maximum.accumulate(seconds) * self._layers * self._scale * self.host.decode_stretch
        sums = nodes * n
        slope = np.diff(seconds) / np.diff(sums)
        entry = (sums[:-1].tolist(), seconds[:-1].tolist(), slope.tolist(), [*sums[1:-1].tolist(), _FAR])
        self._segments[n] = entry
        return entry

    def decode_attention_s(self, n: int, context: float) -> float:
        """Seconds of decode attention in all layers: ``n`` sequences, ``context`` tokens of cache between them."""
        starts, seconds, slopes, _ = self._segments.get(n) or self._decode_nodes(n)
        i = max(bisect_right(starts, context) - 1, 0)
        return seconds[i] + slopes[i] * (context - starts[i])

    def decode_segment(self, num_decodes: int, context: int) -> tuple[float, float, float]:
        """See :class:`twin.engine.core.StepCost`."""
        starts, seconds, slopes, ends = self._segments.get(num_decodes) or self._decode_nodes(num_decodes)
        i = bisect_right(starts, context) - 1
        slope = slopes[i]
        fixed = self.linear_s[num_decodes] + self.head_s[num_decodes]
        return fixed + seconds[i] + slope * (context - starts[i]), slope, ends[i]

    def step_s(self, chunks: Sequence[tuple[object, int, int]], num_decodes: int, context: int) -> float:
        """See :class:`twin.engine.core.StepCost`. Every prefill chunk counts as one sampled position."""
        tokens = num_decodes
        for chunk in chunks:
            tokens += chunk[1]
        seconds = self.linear_s[tokens] + self.head_s[num_decodes + len(chunks)]
        if num_decodes:
            seconds += self.decode_attention_s(num_decodes, context)
        if chunks:
            attention = self.prefill_attention_s(chunks)
            seconds += attention
            seconds += self.throttle_s(tokens, attention, seconds)
        return seconds

    def throttle_s(self, tokens: int, attention_s: float, seconds: float) -> float:
        """What the sustained power limit adds to a step of ``seconds`` with ``tokens`` tokens and that prefill attention.

        A device that computes all the time draws ``compute_stretch`` times its limit, one that waits for memory, links or
        the host ``RESTING_POWER`` times; the step takes as long as its mean must to be the limit. Decodes alone stay below it.
        """
        compute = self._compute_s[tokens] + attention_s
        over = (self.host.compute_stretch - RESTING_POWER) * compute - (1.0 - RESTING_POWER) * seconds
        return over if over > 0.0 else 0.0


_HALF_OCTAVE = log(2.0) / 2
_FAR = 1e18  # tokens: the last segment has no end
