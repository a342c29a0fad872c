"""An option as the plan's JSON shows it: what runs, what it costs, what it does, how far to trust it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import numpy as np

from twin.base import Estimate
from twin.engine.config import EngineConfig
from twin.plan.asked import bounds_of, extras
from twin.plan.measured import kernel_mapes, outside
from twin.results.money import usd_per_month, usd_per_mtok
from twin.search.evaluate import Outcome
from twin.search.space import Candidate
from twin.search.workload import Workload
from twin.spec.accuracy import load_accuracy, quoted
from twin.spec.hardware import HardwareProfile
from twin.spec.model import ModelSpec
from twin.spec.precision import expected_loss, precision_notes, weight_format


def vllm_command(model: str, candidate: Candidate, config: EngineConfig, gpu_memory_utilization: float) -> str:
    """The command that starts one replica; the router in front of several is the user's."""
    words = ["vllm", "serve", model, "--tensor-parallel-size", str(candidate.tensor_parallel_size)]
    if candidate.pipeline_parallel_size > 1:
        words += ["--pipeline-parallel-size", str(candidate.pipeline_parallel_size)]
    if candidate.data_parallel_size > 1:
        words += ["--data-parallel-size", str(candidate.data_parallel_size)]
    if candidate.enable_expert_parallel:
        words.append("--enable-expert-parallel")
    words += weight_format(candidate.quantization).flags
    if candidate.kv_cache_dtype != "auto":
        words += ["--kv-cache-dtype", candidate.kv_cache_dtype]
    words += ["--max-num-seqs", str(config.max_num_seqs)]
    words += ["--max-num-batched-tokens", str(config.max_num_batched_tokens)]
    words += ["--max-model-len", str(config.max_model_len)]
    words += ["--gpu-memory-utilization", f"{gpu_memory_utilization:g}"]
    if not config.enable_prefix_caching:
        words.append("--no-enable-prefix-caching")
    return shlex.join(words)


def option(
    outcome: Outcome,
    *,
    model: ModelSpec,
    model_name: str,
    profile: HardwareProfile,
    load: Workload,
    price: Estimate,
    gpu_memory_utilization: float,
    names: tuple[str, ...] = (),
) -> dict[str, object]:
    """INTERFACE.md's option object of an outcome on the whole trace."""
    candidate, config, hourly = outcome.candidate, outcome.deployment.config, outcome.usd_per_hour
    trusted = extrapolations(model, profile, candidate, outcome, load)
    return {
        "id": candidate.id,
        "name": names[0] if names else None,
        "names": list(names),
        "gpu": candidate.gpu,
        "num_gpus": candidate.num_gpus,
        "tensor_parallel_size": candidate.tensor_parallel_size,
        "pipeline_parallel_size": candidate.pipeline_parallel_size,
        "data_parallel_size": candidate.data_parallel_size,
        "enable_expert_parallel": candidate.enable_expert_parallel,
        "replicas": candidate.replicas,
        "routing": outcome.deployment.routing,
        "quantization": candidate.quantization,
        "kv_cache_dtype": candidate.kv_cache_dtype,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": config.max_num_batched_tokens,
        "max_model_len": config.max_model_len,
        "num_gpu_blocks": config.num_gpu_blocks,
        "usd_per_hour": hourly,
        "usd_per_month": usd_per_month(hourly),
        "usd_per_mtok": usd_per_mtok(hourly, float(str(outcome.summary["output_throughput"]))),
        "usd_per_gpu_hour": price.model_dump(mode="json"),
        "metrics": outcome.summary,
        "bounds": bounds_of(outcome),
        "load": outcome.load,
        "peak_utilisation": outcome.deployment.utilisation,
        "slo_met": outcome.slo_met,
        "calibrated": "outside" if trusted else "inside",
        "outside_because": trusted,
        "accuracy": accuracy(model, profile, candidate),
        "precision": precision(model, profile, candidate),
        "vllm_command": vllm_command(model_name, candidate, config, gpu_memory_utilization),
        **extras(outcome),
    }


def extrapolations(
    model: ModelSpec, profile: HardwareProfile, candidate: Candidate, outcome: Outcome, load: Workload
) -> list[str]:
    """Where the typical operating point lies outside what was measured; empty inside the calibrated range.

    The point: the mean number of running requests per replica at their mean context, and a prompt of mean
    length.
    """
    running = max(float(str(outcome.summary["mean_num_running"])) / candidate.replicas, 1.0)
    prompt = float(np.clip(load.prefill_tokens.mean(), 1, candidate.max_num_batched_tokens))
    return outside(model, profile, candidate.layout, running=running, context=load.mean_context, prompt=prompt)


def accuracy(model: ModelSpec, profile: HardwareProfile, candidate: Candidate) -> Mapping[str, object]:
    """The errors that the profile keeps: of its kernels on held-out serving shapes, and of whole runs from
    the model. ``quoted``: what measurements of this GPU, and GPUs left out of fits, say (:mod:`twin.spec.accuracy`).
    """
    host = profile.host
    return {
        "tpot_error": host.tpot_error if host else None,
        "ttft_error": host.ttft_error if host else None,
        "host_origin": host.step_s.origin if host else None,
        "kernel_mape": kernel_mapes(model, profile, candidate.layout),
        "quoted": quoted(load_accuracy(), profile),
    }


def precision(model: ModelSpec, profile: HardwareProfile, candidate: Candidate) -> Mapping[str, object]:
    """The formats: what vLLM does where the GPU lacks them, the checkpoint that they need, and the expected loss of average
    benchmark score (a share; ``None``: unknown) with its source.
    """
    stored, kv = weight_format(candidate.quantization or model.quantization), candidate.kv_cache_dtype
    loss = expected_loss(candidate.quantization, kv, checkpoint=model.quantization)
    notes = precision_notes(profile, quantization=stored.name, kv_cache_dtype=kv)
    if candidate.quantization is not None and stored.checkpoint is not None:
        notes.append(f"--quantization does not make it: serve a checkpoint of it ({stored.checkpoint})")
    return {
        "weights": stored.name,
        "kv_cache": kv,
        "expected_accuracy_loss": loss.value,
        "accuracy_loss_source": loss.source,
        "notes": notes,
    }
