"""Hardware profiles: facts of an accelerator and its fitted kernels, one YAML each under ``hwprofiles/``.

A profile knows no model. Kernels are a roofline times a table of corrections (see :mod:`twin.cost.tables`);
every coefficient says where it comes from, and every kernel carries the error it had on shapes it was not
fitted to.
"""

from __future__ import annotations

import hashlib
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, ValidationError, model_validator

from twin.base import Estimate, Frozen, InputError, Origin, Provenance, data_dir, unknown_name
from twin.spec.versions import VersionName

Precision = Literal[
    "bf16", "fp32", "fp8", "fp8_block", "int8", "w8a16", "w4a16", "mxfp4", "nvfp4", "bf16_2of4", "fp8_2of4"
]


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
    ``launch_s``: host time of each kernel of a step too large for CUDA graphs, which then takes at least as long as all its
    launches.
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
