"""The fitted kernels of a hardware profile: a roofline times a table of corrections each (see :mod:`twin.cost.tables`).

Every coefficient says where it comes from, and every kernel carries the error it had on shapes it was not fitted to.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt, model_validator

from twin.base import Estimate, Frozen, Provenance
from twin.spec.versions import VersionName

Precision = Literal[
    "bf16", "fp32", "fp8", "fp8_block", "int8", "w8a16", "w4a16", "mxfp4", "nvfp4", "bf16_2of4", "fp8_2of4"
]


class Errors(Frozen):
    """Relative error of predictions on ``n`` held-out measurements.

    ``interval90``: the 5 % and 95 % quantiles of measured / predicted, the bounds of a stated 90 % interval.
    ``coverage90``: the share of measurements inside such an interval that was set without their shapes.
    """

    mape: float
    bias: float
    n: PositiveInt
    interval90: tuple[float, float] | None = None
    coverage90: float | None = None


class HeldOut(Frozen):
    """Error on shapes left out of the fit, over all of them and over those that serving uses."""

    overall: Errors
    serving: Errors


class Table(Frozen):
    """Corrections on a grid: ``milli_log`` is 1000 · log(measured / roofline), row-major in ``axes``' order.

    One text row per node of the first axis. ``stderr`` is the typical standard error of an entry (in log).
    """

    axes: dict[str, tuple[float, ...]]
    stderr: float
    n: PositiveInt
    milli_log: tuple[str, ...]

    @model_validator(mode="after")
    def _check(self) -> Table:
        for name, nodes in self.axes.items():
            if len(nodes) < 2 or nodes[0] <= 0 or any(b <= a for a, b in pairwise(nodes)):
                raise ValueError(f"axis {name!r} needs two or more positive, rising nodes")
        want = int(np.prod([len(nodes) for nodes in self.axes.values()]))
        if self._flat.size != want:
            raise ValueError(f"milli_log holds {self._flat.size} numbers, the axes ask for {want}")
        return self

    def __eq__(self, other: object) -> bool:
        """Equal in its fields: the arrays kept beside them do not compare."""
        return isinstance(other, Table) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def _flat(self) -> NDArray[np.float64]:
        try:
            return np.fromstring(" ".join(self.milli_log), dtype=np.float64, sep=" ") / 1000.0
        except ValueError:
            raise ValueError("milli_log holds something that is no number") from None

    @cached_property
    def log_axes(self) -> tuple[NDArray[np.float64], ...]:
        return tuple(np.log(np.asarray(nodes, dtype=np.float64)) for nodes in self.axes.values())

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """log(measured / roofline), one dimension per axis."""
        return self._flat.reshape([len(nodes) for nodes in self.axes.values()])

    def covers(self, **coords: Any) -> NDArray[np.bool_]:
        """Where every coordinate lies inside its axis; ``coords`` are named as the axes and broadcast."""
        inside = [
            (np.asarray(coords[name]) >= nodes[0]) & (np.asarray(coords[name]) <= nodes[-1])
            for name, nodes in self.axes.items()
        ]
        return np.asarray(np.logical_and.reduce(np.broadcast_arrays(*inside)), dtype=np.bool_)


class Kernel(Frozen):
    """launch + p-norm(FLOPs / rate, bytes / bandwidth), times exp(table).

    Without own measurements there may be no table, and nothing counts as inside the measured range.
    """

    flops_per_s: Estimate
    bytes_per_s: Estimate
    launch_s: Estimate
    p: Estimate
    table: Table | None = None
    held_out: HeldOut
    provenance: Provenance

    def covers(self, **coords: Any) -> NDArray[np.bool_]:
        """Where the kernel was measured on this device; ``coords`` are named as the table's axes and broadcast."""
        if self.table is None or self.provenance.origin == "assumed":
            return np.zeros(np.broadcast_shapes(*(np.shape(x) for x in coords.values())), dtype=np.bool_)
        return self.table.covers(**coords)


class Attention(Frozen):
    """One kernel per KV-cache precision and head size, as they are different programs."""

    kv: Precision
    head_dim: PositiveInt
    kernel: Kernel


Phase = Literal["decode", "prefill"]


class AttentionVariant(Attention):
    """Other head sizes, and ``windowed``: contexts beyond a sliding window, of which the kernel reads the window alone."""

    phase: Phase
    windowed: bool = False

    @property
    def label(self) -> str:
        return f"{'windowed ' if self.windowed else ''}{self.phase} attention {self.kv} d{self.head_dim}"


class Latent(Frozen):
    """Multi-head latent attention of one layer with its projections, by KV-cache and weight precision."""

    phase: Phase
    kv: Precision
    gemm: Precision
    kernel: Kernel

    @property
    def label(self) -> str:
        return f"latent {self.phase} {self.kv} cache {self.gemm} weights"


class Recurrent(Frozen):
    """Linear attention's two kernels: the short convolution, and the delta rule that reads and writes the state."""

    phase: Phase
    part: Literal["conv", "rule"]
    kernel: Kernel

    @property
    def label(self) -> str:
        return f"recurrent {self.phase} {self.part}"


class ExpertKernel(Frozen):
    """The routed experts of one layer on one GPU (:mod:`twin.cost.moe`), one program per precision and backend.

    ``backend`` as vLLM names it (triton, marlin, flashinfer_cutlass, flashinfer_trtllm …); of several, vLLM picks the first
    that fits. ``spread``: only where whole experts are spread over GPUs (expert parallelism), or only where they are not.
    ``vllm_version``: the older release that alone picks it; else it holds for all others.
    """

    dtype: Precision
    backend: str
    spread: bool | None = None
    vllm_version: VersionName | None = None
    kernel: Kernel

    @property
    def label(self) -> str:
        return self.named(self.dtype, self.backend, self.spread, self.vllm_version)

    @staticmethod
    def named(dtype: Precision, backend: str, spread: bool | None, vllm_version: VersionName | None) -> str:
        where = {None: "", True: " spread", False: " cut"}[spread]
        return f"experts {dtype} {backend}{where}" + (f" (vLLM {vllm_version})" if vllm_version else "")


class Copy(Frozen):
    """Element-wise kernels: p-norm(launch, bytes / bandwidth) times exp(table over bytes moved).

    The table is where caches show; a profile without own measurements has none.
    """

    bytes_per_s: Estimate
    launch_s: Estimate
    p: Estimate
    table: Table | None = None
    held_out: HeldOut | None = None


class Segment(Frozen):
    """Message sizes that one algorithm serves, from its first point up to the next segment.

    Measured (bytes, µs).
    """

    algorithm: str
    message_bytes: tuple[float, ...]
    us: tuple[float, ...]

    @model_validator(mode="after")
    def _check(self) -> Segment:
        sizes = self.message_bytes
        if len(sizes) != len(self.us) or len(sizes) < 2:
            raise ValueError("message_bytes and us must be of one length, two or more")
        if any(b <= a for a, b in pairwise(sizes)) or min(self.us) <= 0:
            raise ValueError("message_bytes must rise and us be positive")
        return self


class Collective(Frozen):
    """All-reduce among ``num_gpus`` of one node: segments in rising order, linear in bytes within each.

    ``vllm_version``: the older release that alone runs this; else it holds for all others. ``fused``: with the norm that
    follows in it, up to the largest message listed (vLLM's pass ``fuse_allreduce_rms``).
    """

    num_gpus: PositiveInt
    vllm_version: VersionName | None = None
    fused: bool | None = None
    segments: tuple[Segment, ...]
    held_out: HeldOut
    provenance: Provenance


Operation = Literal[
    "all_gather", "reduce_scatter", "all_to_all", "ht_dispatch", "ht_combine", "ll_dispatch", "ll_combine"
]


class Exchange(Collective):
    """Another collective among ``num_gpus`` of one node.

    Messages are bytes of the array that is gathered, before it is scattered, or that one rank spreads; of DeepEP's kernels
    for experts (high throughput or low latency) what one rank's tokens weigh in bf16.
    """

    operation: Operation


class Kernels(Frozen):
    gemm: dict[Precision, Kernel]
    decode_attention: tuple[Attention, ...]
    prefill_attention: tuple[Attention, ...]
    all_reduce: tuple[Collective, ...]
    elementwise: Copy
    attention_variants: tuple[AttentionVariant, ...] = ()
    latent: tuple[Latent, ...] = ()
    recurrent: tuple[Recurrent, ...] = ()
    experts: tuple[ExpertKernel, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
