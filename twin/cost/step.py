"""How long one engine step takes: the sum of its kernels, layer by layer, plus what the host adds.

Everything that depends only on the number of tokens or sequences is tabulated once; decode attention is tabulated per
batch size at fixed mean contexts and linear between them, which is what lets the engine leap over equal steps in closed
form; prefill attention is interpolated in the logarithms of query tokens and span. A step's price is then a few look-ups.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from math import exp, log, log2

import numpy as np
from numpy.typing import NDArray

from twin.base import InputError
from twin.cost import operators as ops
from twin.cost.attention import window_pairs
from twin.cost.collectives import all_reduce_s, fused_reduce_s
from twin.cost.layer import LayerCost
from twin.cost.layout import HostCosts, Layout
from twin.spec.hardware import HardwareProfile
from twin.spec.layers import Attention, Layer
from twin.spec.model import ModelSpec

Floats = NDArray[np.float64]
Window = tuple[int | None, bool]

RESTING_POWER = 0.5
"""Share of the sustained power limit that a device draws in kernels that wait for memory or links (assumed: boards idle at a
tenth to a fifth and stream at a half to three quarters; left free, the fit to engine runs finds 0.65 and gains nothing)."""

EXPERT_LAUNCHES = 9
"""Kernels that the host launches for one layer's routed experts (vllm fused_experts: sort by expert, two for padding, two
quantisations, two products, activation, sum); they were timed as one."""

CONTEXT_NODES = (1.0, 2.0, *(float(round(2 ** (e / 2))) for e in range(3, 42)))
"""Mean contexts at which decode attention is evaluated: half-octaves from 1 to 1.5 M tokens."""


CAPTURED_TOKENS = 512
"""Steps of up to so many tokens run in CUDA graphs (``max_cudagraph_capture_size``, vllm/config/vllm.py)."""


@lru_cache(maxsize=8)
def _graph_padding(size: int, captured: int) -> NDArray[np.int64]:
    """Tokens computed for 0 … ``size``: vLLM pads to its captured CUDA-graph sizes (1, 2, 4, 8 … 256 by 8, then by 16)."""
    m = np.arange(size + 1)
    padded = np.where(m <= 4, np.array([0, 1, 2, 4, 4])[np.minimum(m, 4)], -(-m // 8) * 8)
    padded = np.where(m > 256, -(-m // 16) * 16, padded)
    return np.asarray(np.where(m > captured, m, padded), dtype=np.int64)


def unpriced(model: ModelSpec, profile: HardwareProfile, layout: Layout) -> str | None:
    """Why steps of this model cannot be priced on this device, in one clause; ``None`` if they can."""
    one = np.ones(1)
    try:
        shard = layout.shard(model, profile)
        for layer in model.layers:
            cost = LayerCost(layer, model.hidden_size, profile, shard)
            cost.per_token(one), cost.decode_s(1, one), cost.prefill_s(one, one)
            if cost.has_experts:
                cost.experts_s(one)
    except InputError as error:
        return error.what
    return None


class StepModel:
    """Prices the steps of one replica. Implements :class:`twin.engine.core.StepCost`.

    Args:
        max_tokens: the most tokens in a step (``max_num_batched_tokens``).
        host: host times; those of the profile unless given.
        scale: multiplies every GPU time; 1 is the central estimate.
        cuda_graphs: whether tokens are padded to captured sizes; on a GPU unless said otherwise.
        captured_tokens: the largest of those sizes.
        imbalance: how unevenly tokens choose experts (:func:`twin.cost.moe.moe_s`).
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
        captured_tokens: int = CAPTURED_TOKENS,
    ) -> None:
        self._padded = profile.device == "gpu" if cuda_graphs is None else cuda_graphs
        self._captured = captured_tokens if self._padded else max_tokens
        model.check_tensor_parallel(layout.tensor_parallel_size, enable_expert_parallel=layout.enable_expert_parallel)
        self.host = HostCosts.of(profile) if host is None else host
        self._model, self._profile, self._layout, self._scale = model, profile, layout, scale
        shard = layout.shard(model, profile)
        self._layers = [LayerCost(layer, model.hidden_size, profile, shard) for layer in model.layers]
        per_token = self.host.token_s * np.arange(max_tokens + 1)
        linear, compute = self._linear(max_tokens)
        self.linear_s = array("d", linear + per_token + self.host.step_s)
        self._compute_s = array("d", compute)
        rows = np.arange(max_tokens + 1, dtype=np.float64)
        self.head_s = array("d", self._head(rows) + self.host.sequence_s * rows)
        windows = dict.fromkeys(cost.window for cost in self._layers)
        self._log_span = (np.log(2.0) / 2 * np.arange(0, 43)).tolist()
        self._prefill = [(window, self._prefill_table(max_tokens, window)) for window in windows]
        self._segments: dict[int, tuple[list[float], list[float], list[float], list[float]]] = {}

    def _linear(self, max_tokens: int) -> tuple[Floats, Floats]:
        """Seconds of everything per token in all layers, for 0 … max_tokens tokens, and what of it computing bounds."""
        tokens = _graph_padding(max_tokens, self._captured) if self._padded else np.arange(max_tokens + 1)
        m = np.maximum(tokens.astype(np.float64), 1.0)
        seconds, compute = np.zeros_like(m), np.zeros_like(m)
        self._launches = self._expert_launches = 0.0
        for cost in self._layers:
            layer, bound, kernels = self._layer(cost, m)
            self._launches += cost.layer.count * kernels
            self._expert_launches += cost.layer.count * kernels * cost.has_experts
            seconds, compute = seconds + cost.layer.count * layer, compute + cost.layer.count * bound
        return seconds * self._scale, np.where(tokens > 0, compute, 0.0) * self._scale

    def _layer(self, cost: LayerCost, m: Floats) -> tuple[Floats, Floats, float]:
        """Seconds of one layer without attention, what of it computing bounds, and the kernels of its largest step."""
        host, work = self.host, cost.per_token(m)
        norms, kernels = self._norms(cost.layer, m)
        layer = work.products * host.gemm_stretch + work.light * host.elementwise_stretch + norms
        compute = work.compute * host.gemm_stretch
        if cost.has_experts:
            experts, bound = cost.experts_s(m)
            layer, compute, kernels = (
                layer + experts * host.gemm_stretch,
                compute + bound * host.gemm_stretch,
                kernels + 1,
            )
        kernels = kernels + work.kernels
        launched = float(kernels[-1]) + (EXPERT_LAUNCHES - 1) * cost.has_experts
        return layer - np.minimum(host.kernel_overlap_s * kernels, layer / 2), compute, launched

    def _norms(self, layer: Layer, m: Floats) -> tuple[Floats, Floats]:
        """Seconds of a layer's norms, each behind an all-reduce where there are several ranks, and their kernels.

        A norm reads input and residual and writes both. Mixer and MLP end in an all-reduce each; norms beyond (Gemma's before
        and after) stand alone.
        """
        ranks, version, hidden = self._layout.tensor_parallel_size, self._layout.vllm_version, self._model.hidden_size
        ends = (layer.mixer is not None) + (layer.mlp is not None)
        norm = ops.elementwise_s(self._profile, m * (8 * hidden)) * self.host.elementwise_stretch
        if ranks == 1:
            return layer.norms * norm, np.full_like(m, layer.norms)
        message = 2.0 * m * hidden
        skew = self.host.reduce_skew_s * log2(ranks)
        apart = norm + all_reduce_s(self._profile, ranks, message, version)
        fused = fused_reduce_s(self._profile, ranks, message)
        one = ~np.isnan(fused) & self._layout.fuse_allreduce_rms
        alone = layer.norms - ends
        across = np.zeros_like(m)
        if isinstance(layer.mixer, Attention) and layer.mixer.qk_norm == "all":
            # q and k are cut over the ranks, which add up their two fp32 sums of squares per token.
            across = all_reduce_s(self._profile, ranks, 8.0 * m, version) + skew
        return across + ends * (np.where(one, fused, apart) + skew) + alone * norm, ends * np.where(
            one, 1.0, 2.0
        ) + alone

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

    def _prefill_table(self, max_tokens: int, window: Window) -> list[list[float]]:
        """log seconds of prefill attention in all layers of this window over half-octaves of tokens and span."""
        tokens = 2.0 ** (np.arange(0, 2 * np.ceil(np.log2(max_tokens)) + 1) / 2)
        span = np.exp(self._log_span)
        t, s = np.meshgrid(tokens, span, indexing="ij")
        alike = [cost for cost in self._layers if cost.window == window]
        seconds = sum((cost.prefill_s(t, s) * cost.layer.count for cost in alike), np.zeros_like(t))
        # A stack without any mixer takes no time; the logarithm wants some.
        table = np.log(np.maximum(seconds * self._scale * self.host.prefill_stretch, 1e-12))
        return table.tolist()  # type: ignore[no-any-return]

    def prefill_attention_s(self, chunks: Sequence[tuple[object, int, int]]) -> float:
        """Seconds of prefill attention in all layers: the chunks of a step run as one kernel with summed work."""
        total = 0.0
        for (window, chunked), table in self._prefill:
            tokens, twice_pairs = 0, 0.0
            for _, chunk, context in chunks:
                tokens += chunk
                if window is None or context + chunk <= window:
                    twice_pairs += chunk * (2 * context + chunk)
                else:
                    twice_pairs += 2.0 * float(window_pairs(chunk, context, window, chunked=chunked))
            total += self._interpolated(table, tokens, twice_pairs / tokens)
        return total

    def _interpolated(self, table: list[list[float]], tokens: int, span: float) -> float:
        x, y = log(tokens) / _HALF_OCTAVE, log(span) / _HALF_OCTAVE
        i, j = min(int(x), len(table) - 2), min(int(y), len(self._log_span) - 2)
        low, high = table[i], table[i + 1]
        x, y = x - i, y - j
        a = low[j] + y * (low[j + 1] - low[j])
        b = high[j] + y * (high[j + 1] - high[j])
        return exp(a + x * (b - a))

    def _decode_nodes(self, n: int) -> tuple[list[float], list[float], list[float], list[float]]:
        """Per segment: context sum at its start, attention seconds there, slope, context sum at its end."""
        nodes = np.asarray(CONTEXT_NODES)
        seconds = np.zeros_like(nodes)
        for cost in self._layers:
            # A longer context never takes less time; measurement noise in the table may say otherwise.
            seconds = seconds + np.maximum.accumulate(cost.decode_s(n, nodes)) * cost.layer.count
        seconds = seconds * self._scale * self.host.decode_stretch
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
            seconds += self.throttle_s(tokens, attention, seconds) + self.launching_s(tokens, seconds)
        return seconds

    @property
    def profile(self) -> HardwareProfile:
        """The device that the steps run on."""
        return self._profile

    def computing_s(self, tokens: NDArray[np.int64]) -> Floats:
        """Of steps with so many tokens, the seconds in kernels that computing bounds; prefill attention not counted."""
        return np.frombuffer(self._compute_s)[np.minimum(tokens, len(self._compute_s) - 1)]

    def launching_s(self, tokens: int, seconds: float) -> float:
        """What a step of ``seconds`` waits for the host, which launches every kernel of a step too large for CUDA graphs.

        Layers with experts only: their runs tell this time, and those of dense models show none of it.
        """
        if tokens <= self._captured:
            return 0.0
        late = self._expert_launches * self.host.launch_s - (seconds - self.host.step_s)
        return late if late > 0.0 else 0.0

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
