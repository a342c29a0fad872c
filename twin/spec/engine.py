"""The settings of a vLLM engine, under vLLM's names: its defaults by GPU, and the combinations it refuses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, field_validator

from twin.base import Frozen, InputError
from twin.spec.hardware import HardwareProfile
from twin.spec.versions import MODELLED_VLLM, VERSIONS, VersionName

GIB = 2**30


class EngineSettings(Frozen):
    """``vllm serve``'s flags. ``None`` is vLLM's own default, which :meth:`resolved` fills in.

    ``max_model_len`` None: the model's. ``num_gpu_blocks`` None: as many as vLLM would allocate. ``block_size`` and
    ``async_scheduling`` None: 16 and on, on a CPU 128 and off. ``vllm_version`` is the release whose rules and defaults hold
    (:mod:`twin.spec.versions`).
    """

    max_num_seqs: PositiveInt | None = None
    max_num_batched_tokens: PositiveInt | None = None
    block_size: Literal[1, 8, 16, 32, 64, 128, 256] | None = None
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    max_model_len: PositiveInt | None = None
    num_gpu_blocks: int | None = Field(None, ge=2)
    long_prefill_token_threshold: int = Field(0, ge=0)
    long_prefill_token_threshold_adaptive: bool = False
    max_num_active_seqs: PositiveInt | None = None
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    async_scheduling: bool | None = None
    watermark: float = Field(0.0, ge=0, lt=1)
    scheduler_reserve_full_isl: bool = True
    vllm_version: VersionName = MODELLED_VLLM

    @field_validator("vllm_version", mode="before")
    @classmethod
    def _unquoted(cls, value: object) -> object:
        """YAML reads an unquoted 0.19 as a number."""
        return str(value) if isinstance(value, float) else value

    def resolved(self, profile: HardwareProfile, max_position_embeddings: int) -> EngineSettings:
        """With vLLM's defaults for this GPU and a model of this context (tokens) in place of every ``None``.

        ``num_gpu_blocks`` stays as it is: it follows from memory. Raises :class:`InputError`, at the field
        (``engine.max_model_len``), for what vLLM refuses.
        """
        length = self.max_model_len or max_position_embeddings
        default_tokens, default_seqs = batch_defaults(profile, self.vllm_version)
        seqs = self.max_num_seqs or default_seqs
        tokens = self.max_num_batched_tokens
        if tokens is None:
            tokens = default_tokens if self.enable_chunked_prefill else max(length, default_tokens)
            tokens = min(seqs * length, tokens)
        if self.max_num_seqs is None:
            seqs = min(seqs, tokens)
        update: dict[str, object] = {"max_num_seqs": seqs, "max_num_batched_tokens": tokens, "max_model_len": length}
        defaults: dict[str, object] = {
            "gpu_memory_utilization": VERSIONS[self.vllm_version].gpu_memory_utilization,
            "async_scheduling": profile.device == "gpu",
            "block_size": 16 if profile.device == "gpu" else 128,  # vllm/platforms/cpu.py
        }
        update |= {name: value for name, value in defaults.items() if getattr(self, name) is None}
        full = self.model_copy(update=update)
        if full.async_scheduling and profile.device == "cpu":
            raise InputError("vLLM has no asynchronous scheduling on a CPU", where="engine.async_scheduling")
        for field, wrong, what in _rules(full, tokens, seqs, length, max_position_embeddings):
            if wrong:
                raise InputError(what, where=f"engine.{field}")
        return full


def batch_defaults(profile: HardwareProfile, vllm_version: VersionName = MODELLED_VLLM) -> tuple[int, int]:
    """``(max_num_batched_tokens, max_num_seqs)`` of ``vllm serve`` on this device.

    Source: vllm/engine/arg_utils.py, ``get_batch_defaults``: by the device's memory, A100 and CPUs apart.
    """
    if profile.device == "cpu":
        return 2048, 128
    memory = profile.facts.memory_bytes.value
    if memory >= 160 * GIB and VERSIONS[vllm_version].large_memory_tier:
        return 16384, 1024
    if memory >= 70 * GIB and not profile.name.startswith("a100"):
        return 8192, 1024
    return 2048, 256


def _rules(settings: EngineSettings, tokens: int, seqs: int, length: int, context: int) -> list[tuple[str, bool, str]]:
    """What vLLM's own checks refuse (vllm/config/scheduler.py and model.py): field, whether, and why."""
    threshold = settings.long_prefill_token_threshold
    version, fields = settings.vllm_version, EngineSettings.model_fields
    return [
        *(
            (name, getattr(settings, name) != fields[name].default, f"vLLM {version} has no {name}")
            for name in sorted(VERSIONS[version].lacks)
        ),
        (
            "max_num_batched_tokens",
            tokens < seqs,
            f"max_num_batched_tokens {tokens} is below max_num_seqs {seqs}",
        ),
        (
            "max_model_len",
            length > context,
            f"max_model_len {length} is above the model's context of {context}",
        ),
        (
            "max_num_batched_tokens",
            tokens < length and not settings.enable_chunked_prefill,
            f"max_num_batched_tokens {tokens} is below max_model_len {length}, and chunked prefill is off",
        ),
        (
            "long_prefill_token_threshold",
            threshold > length,
            f"long_prefill_token_threshold {threshold} is above max_model_len {length}",
        ),
    ]
