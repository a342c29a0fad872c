"""What fixes the price of a step beside model and hardware: how a replica is laid out, and what its host adds."""

from __future__ import annotations

from dataclasses import dataclass, fields

from twin.cost.layer import Shard
from twin.spec.hardware import HardwareProfile
from twin.spec.kernels import Precision
from twin.spec.model import ModelSpec
from twin.spec.precision import kv_format, resolved_format
from twin.spec.versions import MODELLED_VLLM, VersionName


@dataclass(frozen=True)
class HostCosts:
    """What a running engine adds to its kernels, see :class:`twin.spec.hardware.HostFit`.

    A step's time is linear in each of them but ``compute_stretch`` (and ``kernel_overlap_s``, as far as it stays below half
    a layer), which is what the fit to an engine's steps rests on. ``cold_start_s`` and ``client_s`` are in no step: what the
    first requests of an engine wait that was not warmed up, and what a closed loop's client sees of every request besides.
    """

    step_s: float = 0.0
    sequence_s: float = 0.0
    request_s: float = 0.0
    input_token_s: float = 0.0
    kernel_overlap_s: float = 0.0
    compute_stretch: float = 1.0
    reduce_skew_s: float = 0.0
    launch_s: float = 0.0
    cold_start_s: float = 0.0
    client_s: float = 0.0
    token_s: float = 0.0
    gemm_stretch: float = 1.0
    elementwise_stretch: float = 1.0
    prefill_stretch: float = 1.0
    decode_stretch: float = 1.0

    @classmethod
    def of(cls, profile: HardwareProfile, *, async_scheduling: bool = True, older: bool = False) -> HostCosts:
        """The fitted host times of a profile, of an ``older`` engine (before vLLM 0.16) where asked; without effect where none
        were fitted.
        """
        host = profile.host_of(older=older)
        if host is None:
            return cls()
        fitted = {f.name: found.value for f in fields(cls) if (found := getattr(host, f.name)) is not None}
        if host.async_overlap_s is not None and not async_scheduling:
            fitted["step_s"] += host.async_overlap_s.value
        return cls(**fitted)


@dataclass(frozen=True)
class Layout:
    """What fixes the kernels of a replica beside model and hardware.

    Experts are cut over the GPUs of tensor parallelism like everything else, or with ``enable_expert_parallel`` spread whole
    over those of all ``data_parallel_size`` ranks. ``quantization`` None: as the checkpoint is.
    ``fuse_allreduce_rms``: vLLM's pass, by default on wherever the hardware has it (:func:`fused_reduce_s`).
    """

    tensor_parallel_size: int = 1
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    vllm_version: VersionName = MODELLED_VLLM
    fuse_allreduce_rms: bool = True
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False

    @property
    def kv(self) -> Precision:
        return kv_format(self.kv_cache_dtype).kernel

    @property
    def expert_parallel_size(self) -> int:
        """GPUs that whole experts are spread over; 1 where they are cut like the rest."""
        return self.tensor_parallel_size * self.data_parallel_size if self.enable_expert_parallel else 1

    def shard(self, model: ModelSpec, profile: HardwareProfile) -> Shard:
        return Shard(
            self.tensor_parallel_size,
            self.expert_parallel_size,
            resolved_format(profile, self.quantization or model.quantization),
            self.kv,
            self.vllm_version,
        )
