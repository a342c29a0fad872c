"""The settings of a vLLM engine, under vLLM's names: its defaults by GPU, and the combinations it refuses."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field, PositiveInt, field_validator

from twin.base import Frozen, InputError, parse_duration
from twin.spec.batching import STEPWISE_ONLY, Batching, KvCache
from twin.spec.hardware import HardwareProfile
from twin.spec.versions import MODELLED_VLLM, VERSIONS, VersionName

GIB = 2**30

FUSIONS = ("fuse_norm_quant", "fuse_act_quant", "fuse_allreduce_rms")
"""Passes of vLLM's compiler (vllm/config/compilation.py, ``PassConfig``)."""


class EngineSettings(Frozen):
    """``vllm serve``'s flags. ``None`` is vLLM's own default, which :meth:`resolved` fills in.

    ``max_model_len`` None: the model's. ``num_gpu_blocks`` None: as many as vLLM would allocate. ``block_size`` and
    ``async_scheduling`` None: 16 and on, on a CPU 128 and off. ``vllm_version`` is the release whose rules and defaults hold
    (:mod:`twin.spec.versions`).

    ``cpu_offload_gb`` is GiB of weights per GPU; the fusions are vLLM's compiler passes. Not vLLM's own are the baselines that
    people come from (:mod:`twin.spec.batching`): ``batching``, with ``max_batch_wait`` (``50ms``) where it is dynamic, and
    ``kv_cache``.
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
    enforce_eager: bool = False
    cpu_offload_gb: float = Field(0.0, ge=0, allow_inf_nan=False)
    fuse_norm_quant: bool = True
    fuse_act_quant: bool = True
    fuse_allreduce_rms: bool = True
    batching: Batching = "continuous"
    max_batch_wait: str | None = None
    kv_cache: KvCache = "paged"

    @field_validator("max_batch_wait", mode="before")
    @classmethod
    def _duration(cls, value: object) -> object:
        """Kept as it was written, so that writing it again says the same."""
        if value is None:
            return None
        text = str(value)
        try:
            seconds = parse_duration(text, what="max_batch_wait")
        except InputError as error:
            raise ValueError(str(error)) from None
        if seconds < 0:
            raise ValueError(f"{text!r} is below 0")
        return text

    @property
    def max_batch_wait_s(self) -> float:
        """What the oldest request waits at most before its batch starts, seconds (0: not at all)."""
        return parse_duration(self.max_batch_wait) if self.max_batch_wait is not None else 0.0

    @property
    def baseline(self) -> str | None:
        """What of these settings is no vLLM engine's, in words."""
        if self.batching != "continuous":
            return f"{self.batching} batching"
        return None if self.kv_cache == "paged" else f"KV cache that is {self.kv_cache}"

    def lever_flags(self) -> list[str]:
        """The flags of ``vllm serve`` that pull its levers, as far as they differ from vLLM's defaults."""
        words = ["--enforce-eager"] if self.enforce_eager else []
        if self.cpu_offload_gb:
            words += ["--cpu-offload-gb", f"{self.cpu_offload_gb:g}"]
        off = {name: False for name in FUSIONS if not getattr(self, name) and not self.enforce_eager}
        return [*words, "--compilation-config", json.dumps({"pass_config": off})] if off else words

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
        for field, wrong, what in _baseline_rules(self):
            if wrong:
                raise InputError(what, where=f"engine.{field}")
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
        if self.batching != "continuous":
            update["async_scheduling"] = False
        if self.batching != "continuous" or self.kv_cache != "paged":
            update["enable_prefix_caching"] = False
        if self.enforce_eager:
            update |= dict.fromkeys(FUSIONS, False)
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


def _baseline_rules(settings: EngineSettings) -> list[tuple[str, bool, str]]:
    """What baselines and levers rule out, judged on what was given: field, whether, and why."""
    batches, asked = settings.batching != "continuous", settings.model_fields_set
    whole = f"{settings.batching} batching runs whole batches: it has no "
    given = [
        name for name in ("enable_prefix_caching", "async_scheduling") if name in asked and getattr(settings, name)
    ]
    return [
        *((name, batches and getattr(settings, name) != value, whole + name) for name, value in STEPWISE_ONLY.items()),
        *((name, batches, whole + name) for name in given),
        (
            "enable_prefix_caching",
            "enable_prefix_caching" in given and settings.kv_cache != "paged",
            f"only a paged KV cache shares prefixes, kv_cache is {settings.kv_cache}",
        ),
        (
            "max_num_seqs",
            batches and settings.max_num_seqs is None,
            f"{settings.batching} batching needs max_num_seqs, the size of a batch",
        ),
        (
            "max_batch_wait",
            settings.batching == "dynamic" and settings.max_batch_wait is None,
            "dynamic batching needs max_batch_wait, how long the oldest request waits at most",
        ),
        (
            "max_batch_wait",
            settings.batching != "dynamic" and settings.max_batch_wait is not None,
            f"only dynamic batching waits for max_batch_wait, batching is {settings.batching}",
        ),
        (
            "num_gpu_blocks",
            settings.num_gpu_blocks is not None and settings.kv_cache == "none",
            "there are no blocks where kv_cache is none",
        ),
        *(
            (
                name,
                settings.enforce_eager and name in asked and getattr(settings, name),
                f"enforce_eager leaves no {name}",
            )
            for name in FUSIONS
        ),
    ]
