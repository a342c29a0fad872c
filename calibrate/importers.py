"""The measured-kernel database of NVIDIA's aiconfigurator-core (Apache-2.0) as tidy tables in SI.

Layout: ``systems/<gpu>.yaml`` (datasheet) and ``systems/data/<gpu>/<family>/<backend>/<version>/*.parquet``
with latency in ms and message sizes in elements. Nothing else of the package is read.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from twin.base import InputError, unknown_name

KV = {"bfloat16": "bf16", "fp8": "fp8"}
GEMM = {
    "bf16": "bfloat16",
    "fp8": "fp8",
}  # the fp8_block table was timed eagerly, launch gaps included: not used
BF16_BYTES = 2
REDUCE_FILE = "custom_allreduce_perf.parquet"
REDUCE = {"num_gpus": "num_gpus", "message_size": "elements", "allreduce_dtype": "dtype"}


def find_database(path: Path | None = None) -> Path:
    """Folder ``systems`` of the database: ``path`` (it, its parent or the package), or the installed package.

    Raises :class:`InputError` when there is none.
    """
    if path is None:
        spec = importlib.util.find_spec("aiconfigurator_core")
        if spec is None or not spec.submodule_search_locations:
            raise InputError("no measured-kernel database: pip install aiconfigurator-core, or give --database FOLDER")
        path = Path(next(iter(spec.submodule_search_locations)))
    for folder in (path, path / "systems", path / "aiconfigurator_core" / "systems"):
        if (folder / "data").is_dir():
            return folder
    raise InputError("no measured-kernel database here: a folder with data/ and <gpu>.yaml is needed", where=str(path))


def database_label(systems: Path) -> str:
    """Name and version for provenance; the version comes from the wheel's metadata where it lies beside."""
    for info in systems.parent.parent.glob("aiconfigurator_core-*.dist-info"):
        return "aiconfigurator-core " + info.name.split("-")[1].removesuffix(".dist")
    try:
        return "aiconfigurator-core " + importlib.metadata.version("aiconfigurator-core")
    except importlib.metadata.PackageNotFoundError:
        return "aiconfigurator-core (version unknown)"


def gpu_names(systems: Path) -> list[str]:
    """GPUs for which vLLM's matrix multiplications were measured."""
    return sorted(path.parts[-3] for path in (systems / "data").glob("*/gemm/vllm"))


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", folder.name))


def _newest(systems: Path, gpu: str, family: str, backend: str, file: str, release: str = "*") -> Path:
    """The file of the newest version (of ``release``) that has it."""
    if gpu not in gpu_names(systems):
        raise unknown_name("GPU", gpu, gpu_names(systems))
    folder = systems / "data" / gpu / family / backend
    found = sorted(folder.glob(f"{release}/{file}"), key=lambda path: _version(path.parent))
    if not found:
        raise InputError(f"the database has no {file}", where=f"data/{gpu}/{family}/{backend}")
    return found[-1]


def _read(systems: Path, path: Path, columns: dict[str, str], optional: tuple[str, ...] = ()) -> pd.DataFrame:
    """``columns`` of a parquet file, renamed.

    ``latency`` becomes ``seconds``. Refuses absent columns and bad numbers.
    """
    where = str(path.relative_to(systems))
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"not a readable parquet file ({type(error).__name__})", where=where) from None
    wanted = {**columns, "latency": "latency"}
    missing = [name for name in wanted if name not in table.columns and name not in optional]
    if missing:
        raise InputError(f"column {missing[0]!r} is missing", where=where, allowed=map(str, table.columns))
    table = table[[name for name in wanted if name in table.columns]].rename(columns=wanted)
    numbers = table.select_dtypes("number")
    if "latency" not in numbers:
        raise InputError("column 'latency' does not hold numbers", where=where)
    bad = ~np.isfinite(numbers.to_numpy(dtype=float)).all(axis=1) | (table["latency"] <= 0).to_numpy()
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{int(bad.sum())} rows hold a number that is not finite, or a latency that is not positive; "
            f"the first is row {row} ({', '.join(f'{k}={v}' for k, v in table.iloc[row].items())})",
            where=where,
        )
    table["seconds"] = table.pop("latency") * 1e-3
    table.attrs["source"] = f"{database_label(systems)}, {where}"
    return table


def _median(table: pd.DataFrame) -> pd.DataFrame:
    """One row per point: repeated measurements become their median."""
    keys = [name for name in table.columns if name != "seconds"]
    merged = table.groupby(keys, sort=True)["seconds"].median().reset_index()
    merged.attrs = dict(table.attrs)
    return merged


def _nonempty(table: pd.DataFrame, what: str) -> pd.DataFrame:
    if table.empty:
        raise InputError(f"the database has no rows of {what}", where=table.attrs.get("source"))
    return table


def read_gemm(systems: Path, gpu: str) -> pd.DataFrame:
    """``dtype`` (bf16, fp8), ``m``, ``n``, ``k``, ``seconds``."""
    path = _newest(systems, gpu, "gemm", "vllm", "gemm_perf.parquet")
    table = _read(systems, path, {"gemm_dtype": "dtype", "m": "m", "n": "n", "k": "k"})
    table["dtype"] = table["dtype"].map({theirs: ours for ours, theirs in GEMM.items()})
    return _nonempty(_median(table.dropna(subset="dtype")), "bf16 or fp8 matrix multiplications")


def read_products(systems: Path, gpu: str, backend: str, name: str, dtype: str) -> pd.DataFrame | None:
    """:func:`read_gemm` of one precision, ``name`` in the newest table of ``backend``; ``None`` where it was not measured."""
    if not any((systems / "data" / gpu / "gemm" / backend).glob("*/gemm_perf.parquet")):
        return None
    path = _newest(systems, gpu, "gemm", backend, "gemm_perf.parquet")
    table = _read(systems, path, {"gemm_dtype": "dtype", "m": "m", "n": "n", "k": "k"})
    table = _median(table[table["dtype"] == name].assign(dtype=dtype))
    return None if table.empty else table


def _read_attention(systems: Path, gpu: str, file: str) -> pd.DataFrame:
    path = _newest(systems, gpu, "attention", "vllm", file)
    columns = {
        "batch_size": "batch",
        "isl": "chunk",
        "step": "step",
        "num_heads": "num_heads",
        "num_key_value_heads": "num_kv_heads",
        "head_dim": "head_dim",
        "kv_cache_dtype": "kv",
        "window_size": "window",
    }
    table = _read(systems, path, columns, optional=("window_size",))
    if "window" in table:
        table = table[table["window"] == 0].drop(columns="window")
    table = table[table["head_dim"].isin([64, 128])].assign(kv=table["kv"].map(KV))
    return _nonempty(_median(table.dropna(subset="kv")), "full attention with head size 64 or 128")


def read_decode(systems: Path, gpu: str) -> pd.DataFrame:
    """``batch``, ``context`` (cached tokens, the new one too), heads, ``head_dim``, ``kv``, ``seconds``."""
    table = _read_attention(systems, gpu, "generation_attention_perf.parquet")
    table["context"] = table.pop("step") + 1
    return table.drop(columns="chunk")


def read_prefill(systems: Path, gpu: str) -> pd.DataFrame:
    """``batch`` prompts of ``chunk`` tokens with an empty cache, heads, ``head_dim``, ``kv``, ``seconds``."""
    return _read_attention(systems, gpu, "context_attention_perf.parquet").drop(columns="step")


def read_all_reduce(systems: Path, gpu: str, release: str = "") -> pd.DataFrame:
    """``num_gpus``, ``message_bytes``, ``seconds`` of what vLLM (``release`` 0.19, or the newest) runs in a CUDA graph.

    From 8 MiB that is NCCL; the rows then agree with NCCL's own table, and they alone reach 1 GiB.
    """
    path = _newest(systems, gpu, "comm", "vllm", REDUCE_FILE, f"{release}*")
    table = _read(systems, path, {**REDUCE, "backend": "backend"})
    table = table[(table["backend"] == "vllm_graph") & (table["dtype"] == "bfloat16")]
    table = table.assign(message_bytes=table["elements"] * BF16_BYTES)[["num_gpus", "message_bytes", "seconds"]]
    return _nonempty(_median(table), "all-reduce in a CUDA graph")


def read_fused_reduce(systems: Path, gpu: str) -> pd.DataFrame:
    """The same columns, and ``backend``, of TensorRT-LLM's all-reduce, the kernel that FlashInfer fuses the norm into."""
    table = _read(systems, _newest(systems, gpu, "comm", "trtllm", REDUCE_FILE), REDUCE)
    table = table[table["dtype"] == "bfloat16"].assign(backend="fused")
    table["message_bytes"] = table.pop("elements") * BF16_BYTES
    return _nonempty(_median(table.drop(columns="dtype")), "TensorRT-LLM's all-reduce")


def has_reduce(systems: Path, gpu: str, backend: str, release: str = "") -> bool:
    """Whether all-reduce was measured with this backend (vllm, trtllm), of this release."""
    return any((systems / "data" / gpu / "comm" / backend).glob(f"{release}*/{REDUCE_FILE}"))


def has_elementwise(systems: Path, gpu: str) -> bool:
    """Whether element-wise kernels of this GPU were measured (A100's were not)."""
    return any((systems / "data" / gpu / "quantize" / "vllm").glob("*/scale_matrix_perf.parquet"))


def read_elementwise(systems: Path, gpu: str) -> pd.DataFrame:
    """``bytes_moved`` and ``seconds`` of static fp8 quantisation: 2 bytes read and 1 written per element."""
    path = _newest(systems, gpu, "quantize", "vllm", "scale_matrix_perf.parquet")
    table = _read(systems, path, {"m": "m", "k": "k", "kernel_source": "kernel"})
    table = table[table["kernel"] == "static_scaled_fp8_quant"].drop(columns="kernel")
    table["bytes_moved"] = 3.0 * table["m"] * table["k"]
    return _nonempty(table, "static_scaled_fp8_quant")


def read_datasheet(systems: Path, gpu: str) -> dict[str, dict[str, Any]]:
    """Sections ``gpu`` and ``node`` of ``<gpu>.yaml``.

    Mem_bw, bfloat16_tc_flops, power, intra_node_bw, … in SI.
    """
    path = systems / f"{gpu}.yaml"
    if not path.is_file():
        raise InputError("the database has no datasheet", where=path.name)
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    missing = [section for section in ("gpu", "node") if not isinstance((data or {}).get(section), dict)]
    if missing:
        raise InputError(f"section {missing[0]!r} is missing", where=path.name)
    return {section: data[section] for section in ("gpu", "node")}
