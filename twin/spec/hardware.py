"""Hardware profiles: facts of an accelerator, its fitted kernels, and what a running engine adds; one YAML each under
``hwprofiles/``. A profile knows no model.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PositiveInt, ValidationError, model_validator

from twin.base import Estimate, Frozen, InputError, Origin, data_dir, unknown_name
from twin.spec.kernels import Errors, Kernels


class Flops(Frozen):
    """Dense tensor-core peaks, FLOP/s; a precision that the hardware lacks is absent."""

    bf16: Estimate
    fp8: Estimate | None = None
    int8: Estimate | None = None
    nvfp4: Estimate | None = None
    fp32: Estimate | None = None


class Facts(Frozen):
    """What the device is.

    ``memory_bytes`` is the total that the device reports where known, else the datasheet's. ``num_sms`` counts
    streaming multiprocessors, or a CPU's cores; a CPU has no links and no power limit of its own.
    """

    memory_bytes: Estimate
    mem_bw_bytes_per_s: Estimate
    flops: Flops
    num_sms: Estimate
    board_power_w: Estimate | None = None
    intra_node_link_bytes_per_s: Estimate | None = None
    pcie_bytes_per_s: Estimate | None = None
    num_gpus_per_node: PositiveInt


class RunErrors(Frozen):
    """Mean absolute relative errors of whole runs' mean TPOT and TTFT, over ``n`` runs."""

    tpot: float
    ttft: float
    n: PositiveInt


class HostFit(Frozen):
    """What a running engine adds to its kernels, fitted from whole runs or from an engine's steps.

    The host: seconds per step, per sequence in it, per token in it, per request before its first token, per input token.
    ``async_overlap_s``: what asynchronous scheduling hides of a step's host time; ``step_s`` is what is left where it is on.
    The device: ``kernel_overlap_s``, what a launch inside a CUDA graph hides under the kernel before it, against kernels
    timed alone (negative where the host launches every kernel, as without graphs); ``compute_stretch``, how much longer
    a step of compute-bound kernels alone takes under the sustained power limit (others rest the device, and give it back);
    the other ``…_stretch``, how much longer the engine's own kernels of a family take than those that were timed.
    ``launch_s``: host time of each kernel, in layers with experts, of a step too large for CUDA graphs, which then takes at
    least as long as all its launches.
    The ranks: ``reduce_skew_s``, what each doubling of them adds to an all-reduce, as every rank waits for the last;
    ``cold_start_s``, what each doubling of them adds to the wait of an engine's very first requests, if nothing warmed it up.

    ``client_s``: what the benchmark's client saw of each request beside the server's time; no server clock has it.

    ``tpot_error`` and ``ttft_error`` are the root mean square log errors of whole runs on layouts, or where ``origin`` is
    assumed on GPUs, that the fit had not seen; ``runs`` holds the mean absolute ones: of the runs that were fitted, and with
    each layout (tensor-parallel size) and each GPU left out of the fit; this GPU's runs, or of all where it has none.
    ``steps`` holds the errors of single steps in runs that the fit had not
    seen, by how the engine was driven (``in_process``, ``server``). ``correlation`` (row by row, in the order of
    ``correlated``) ties the standard errors together.
    """

    step_s: Estimate
    sequence_s: Estimate
    request_s: Estimate
    input_token_s: Estimate
    kernel_overlap_s: Estimate
    compute_stretch: Estimate
    reduce_skew_s: Estimate | None = None
    launch_s: Estimate | None = None
    cold_start_s: Estimate | None = None
    client_s: Estimate | None = None
    token_s: Estimate | None = None
    async_overlap_s: Estimate | None = None
    gemm_stretch: Estimate | None = None
    elementwise_stretch: Estimate | None = None
    prefill_stretch: Estimate | None = None
    decode_stretch: Estimate | None = None
    vllm_version: str = ""
    tpot_error: float | None = None
    ttft_error: float | None = None
    runs: dict[Literal["fitted", "layout_left_out", "gpu_left_out"], RunErrors] | None = None
    steps: dict[Literal["in_process", "server"], Errors] | None = None
    correlated: tuple[str, ...] | None = None
    correlation: tuple[tuple[float, ...], ...] | None = None
    source: str = ""

    @model_validator(mode="after")
    def _check(self) -> HostFit:
        names, rows = self.correlated or (), self.correlation or ()
        if len(rows) != len(names) or any(len(row) != len(names) for row in rows):
            raise ValueError("correlation must have a row and a column for each name in correlated")
        return self


class HardwareProfile(Frozen):
    """One accelerator: ``facts``, fitted ``kernels``, and ``host`` once fitted from runs.

    ``older_host``: of engines before vLLM 0.16, where runs of those tell it apart.
    """

    schema_version: Literal[1] = 1
    name: str
    label: str
    device: Literal["gpu", "cpu"] = "gpu"
    facts: Facts
    kernels: Kernels
    host: HostFit | None = None
    older_host: HostFit | None = None
    fit_notes: tuple[str, ...] = Field(default=())

    @property
    def origin(self) -> Origin:
        """Where the device's speed comes from: that of its matrix products."""
        return self.kernels.gemm["bf16"].provenance.origin

    def host_of(self, *, older: bool = False) -> HostFit | None:
        """What an engine's host adds; an ``older`` engine's where it is known apart."""
        return self.older_host if older and self.older_host is not None else self.host

    @property
    def hosts(self) -> tuple[HostFit, ...]:
        """Of every generation of engines that is known apart, the newest first."""
        return tuple(host for host in (self.host, self.older_host) if host is not None)

    def digest(self) -> str:
        """sha256 of the content (not of the file's layout), for run manifests."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def profile_names() -> list[str]:
    """Names of the shipped profiles: YAML files that are hardware profiles, sorted."""
    return sorted(path.stem for path in data_dir("hwprofiles").glob("*.yaml") if path.stem != "prices")


def load_profile(name_or_path: str | Path) -> HardwareProfile:
    """A shipped profile by name, or one from a ``.yaml`` file.

    Raises :class:`InputError` for an unknown name (with the nearest), an unreadable file, or content that
    is not a profile (with file and field).
    """
    text = str(name_or_path)
    path = Path(text)
    if path.suffix not in (".yaml", ".yml"):
        if text not in profile_names():
            raise unknown_name("GPU", text, profile_names())
        path = data_dir("hwprofiles") / f"{text}.yaml"
    try:
        stamp = path.stat().st_mtime_ns
    except OSError as error:
        raise InputError(f"cannot read hardware profile: {error.strerror}", where=path.name) from None
    return _load(path.resolve(), stamp)


@lru_cache(maxsize=32)
def _load(path: Path, _stamp: int) -> HardwareProfile:
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
        return HardwareProfile.model_validate(data)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"not valid YAML: {getattr(error, 'problem', error)}", where=path.name + line) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise InputError(f"{first['msg']}", where=f"{path.name}:{field}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read hardware profile: {error}", where=path.name) from None
