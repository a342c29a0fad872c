"""What a lever costs: weights left in the host's memory, kernels launched one by one, fusions switched off.

Pure functions beside the step model, in seconds and bytes of one GPU. Rules are vLLM 0.32's
(``model_executor/offloader/uva.py``, ``config/vllm.py``, ``config/compilation.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twin.base import Estimate, InputError
from twin.cost.operators import fp8_quant_s
from twin.spec.hardware import HardwareProfile
from twin.spec.model import ModelSpec
from twin.spec.precision import weight_format

Floats = NDArray[np.float64]

EAGER_LAUNCH_S = Estimate(
    value=3.06e-5,
    stderr=1.2e-5,
    n=7436,
    origin="measured",
    source="half the median of vLLM 0.24's fp8_block products (a quantisation and a product each) of at most 64×4096×4096, "
    "timed eagerly on H100 and H200: aiconfigurator-core 0.12.0, data/h[12]00_sxm/gemm/vllm/0.24.0/gemm_perf.parquet; "
    "stderr: to what vLLM's engine takes per kernel without graphs on an EPYC core (kernel_overlap_s of epyc_zen5_1c.yaml)",
    date="2026-11",
)
"""Host time of one kernel that Python launches through vLLM's and PyTorch's layers, seconds. Another host's differs."""

EAGER_MORE_LAUNCHES = 1
"""Kernels of a layer that the graphed price has inside another's: the cache write, which attention timings hold."""

PCIE_SHARE = Estimate(
    value=0.8,
    origin="assumed",
    source="kernels that read pinned host memory get four fifths of the link: packet headers take a tenth of PCIe's raw rate, "
    "outstanding reads limit the rest",
    date="2026-11",
)
"""Share of ``pcie_bytes_per_s`` that kernels reach when they read weights from the host."""


@dataclass(frozen=True)
class Levers:
    """How an engine runs its kernels, under vLLM's names; the defaults are vLLM's on a GPU.

    ``cpu_offload_bytes`` (``--cpu-offload-gb``, GiB there) is per GPU. The fusions are passes of the compiler, which
    ``enforce_eager`` switches off (compilation mode NONE), and both with it. By default vLLM fuses quantisation into norms and
    activation by its pass or by Inductor: False means by neither. That of all-reduce and norm is the layout's.
    """

    enforce_eager: bool = False
    cpu_offload_bytes: int = 0
    fuse_norm_quant: bool = True
    fuse_act_quant: bool = True

    @property
    def priced(self) -> bool:
        """Whether any of them changes a step beyond what :class:`twin.cost.layout.Layout` says."""
        fused = self.fuse_norm_quant and self.fuse_act_quant
        return self.enforce_eager or self.cpu_offload_bytes > 0 or not fused

    @property
    def fuses_norm_quant(self) -> bool:
        return self.fuse_norm_quant and not self.enforce_eager

    @property
    def fuses_act_quant(self) -> bool:
        return self.fuse_act_quant and not self.enforce_eager


def layer_parameter_bytes(
    model: ModelSpec, quantization: str | None = None, tp: int = 1, ep: int = 1
) -> Iterator[float]:
    """Bytes of the decoder layers' weights on one GPU, in the order of the layers: mixer, then MLP or experts of each."""
    stored = weight_format(quantization or model.quantization)
    for layer in model.in_order:
        for role, count in layer.weights(model.hidden_size, tp, ep).items():
            if role != "other":
                yield count * stored.bytes_each(role)


def offloaded_weight_bytes(parameter_bytes: Iterable[float], cpu_offload_bytes: float) -> int:
    """Bytes of weights that a GPU leaves in the host's memory: whole parameters, until ``cpu_offload_bytes`` is reached.

    ``parameter_bytes``: those of the decoder layers on one GPU, in the order of the layers (embeddings and head are never
    offloaded). The last one taken may go beyond the limit, as in vLLM.
    """
    taken = 0.0
    for size in parameter_bytes:
        if taken >= cpu_offload_bytes:
            break
        taken += size
    return int(taken)


def offload_s(profile: HardwareProfile, offloaded_bytes: float, kernel_s: ArrayLike) -> Floats:
    """Seconds that a step takes longer when products read ``offloaded_bytes`` of their weights over PCIe.

    ``kernel_s``: what those products take with their weights in GPU memory. Nothing is fetched ahead: each product reads
    its own weights while it runs (unified addressing), every step anew, so it takes as long as the slower of the two.
    Raises :class:`InputError` for a device whose profile has no ``pcie_bytes_per_s``.
    """
    inside = np.asarray(kernel_s, dtype=np.float64)
    if not offloaded_bytes:
        return np.zeros_like(inside)
    link = profile.facts.pcie_bytes_per_s
    if link is None:
        raise InputError(f"{profile.name} has no PCIe link to offload weights over", where="engine.cpu_offload_gb")
    return np.maximum(offloaded_bytes / (link.value * PCIE_SHARE.value) - inside, 0.0)


def eager_s(kernel_s: ArrayLike, launches: ArrayLike) -> Floats:
    """Seconds of a stretch of kernels that the host launches one by one: whichever of the two is slower sets the pace."""
    floor = np.asarray(launches, dtype=np.float64) * EAGER_LAUNCH_S.value
    return np.maximum(np.asarray(kernel_s, dtype=np.float64), floor)


def floored_segment(
    seconds: float, slope: float, context: float, limit: float, floor_s: float
) -> tuple[float, float, float]:
    """A decode segment (see :meth:`twin.engine.core.StepCost.decode_segment`) of a step that takes at least ``floor_s``.

    ``seconds`` at ``context``, rising by ``slope`` per token up to ``limit``. Below the floor the segment is flat, and ends
    where its line meets it.
    """
    if seconds >= floor_s:
        return seconds, slope, limit
    if slope <= 0.0:
        return floor_s, 0.0, limit
    return floor_s, 0.0, min(limit, context + (floor_s - seconds) / slope)


def unfused_quant_s(
    profile: HardwareProfile, levers: Levers, m: ArrayLike, hidden_size: float, intermediate_size: float
) -> tuple[Floats, int]:
    """Seconds and launches that a layer with 8-bit activations adds for ``m`` tokens when quantisation stands alone.

    A norm and the activation then write bf16, which a kernel of its own reads (2 bytes) and writes again (1 byte): two per
    layer of ``hidden_size`` behind the norms, one of ``intermediate_size`` (of one GPU) behind the activation.
    """
    widths = [hidden_size] * (0 if levers.fuses_norm_quant else 2)
    widths += [intermediate_size] * (0 if levers.fuses_act_quant else 1)
    rows = np.asarray(m, dtype=np.float64)
    return sum((fp8_quant_s(profile, rows, width) for width in widths), np.zeros_like(rows)), len(widths)
