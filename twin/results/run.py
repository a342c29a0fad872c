"""The run folder: written complete or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from twin import __version__
from twin.base import TwinError
from twin.cluster.requests import COLUMNS, RequestTable


def to_json(payload: Mapping[str, object]) -> str:
    """JSON as it stands on stdout and in run folders: keys in order of insertion, no NaN."""
    return json.dumps(payload, indent=2, allow_nan=False, default=float) + "\n"


def write_run(
    parent: Path,
    name: str,
    *,
    scenario_yaml: str,
    vllm_version: str,
    manifest: Mapping[str, object],
    documents: Mapping[str, Mapping[str, object]],
    requests: RequestTable | None = None,
) -> Path:
    """Write ``parent/name`` (then ``name-2``, ``name-3``) and return it.

    ``vllm_version`` is the release whose rules were simulated; ``documents`` maps file names to JSON objects. Raises
    :class:`TwinError` when the folder cannot be written; nothing half-written stays behind.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
    except OSError as error:
        raise TwinError(f"cannot write to {parent}: {error.strerror}") from error
    try:
        (draft / "scenario.yaml").write_text(scenario_yaml, encoding="utf-8")
        full = {"twin_version": __version__, "vllm_version_modelled": vllm_version, **manifest}
        (draft / "manifest.json").write_text(to_json(full), encoding="utf-8")
        for file, document in documents.items():
            (draft / file).write_text(to_json(document), encoding="utf-8")
        if requests is not None:
            write_requests(draft / "requests.parquet", requests)
        draft.chmod(0o755)
        return _publish(draft, parent, name)
    except OSError as error:
        raise TwinError(f"cannot write the run folder {parent / name}: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_requests(path: Path, table: RequestTable) -> None:
    """Write the request table as parquet, whole numbers as integers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = {"input_tokens", "output_tokens", "cached_tokens", "preemptions", "replica"}
    columns = {name: table[name].astype(np.int64) if name in whole else table[name] for name in COLUMNS}
    pq.write_table(pa.table(columns), path)


def _publish(draft: Path, parent: Path, name: str) -> Path:
    number = 1
    while True:
        target = parent / (name if number == 1 else f"{name}-{number}")
        if not target.exists():
            return draft.rename(target)
        number += 1
