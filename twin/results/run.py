"""The run folder: written complete or not at all, and read back as what it says."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from twin import __version__
from twin.base import InputError, TwinError, unknown_name
from twin.cluster.requests import COLUMNS, RequestTable
from twin.spec.scenario import Scenario, load_scenario
from twin.spec.yaml import read_yaml

SCHEMA_VERSION = 1
"""Of ``plan.json``; a folder of another one is refused."""

_OPTION_KEYS = frozenset({"id", "gpu", "num_gpus", "replicas", "usd_per_month", "metrics", "bounds", "vllm_command"})
_PLAN_KEYS = frozenset(
    (
        "model",
        "traffic",
        "options",
        "recommended",
        "near_misses",
        "rejected",
        "screened",
        "simulated",
        "binding",
        "seed",
    )
)
_MANIFEST_KEYS = frozenset({"twin_version", "vllm_version_modelled", "seed", "profiles"})


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
    files: Mapping[str, Path] = MappingProxyType({}),
) -> Path:
    """Write ``parent/name`` (then ``name-2``, ``name-3``) and return it.

    ``vllm_version`` is the release whose rules were simulated; ``documents`` maps file names to JSON objects,
    ``files`` to files that are copied. Raises :class:`TwinError` when the folder cannot be written; nothing half-written
    stays behind.
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
        for file, source in files.items():
            shutil.copyfile(source, draft / file)
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


@dataclass(frozen=True)
class Run:
    """A run folder as it was read: plain data, checked to be whole. ``plan`` is ``None`` for a simulation's; ``flags`` are
    those that a plan was asked with, as far as it keeps them. ``timeline`` (:mod:`twin.results.timeline`) is ``None`` where
    nothing held, and in folders written before there was one.
    """

    path: Path
    scenario: Mapping[str, Any]
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]
    plan: Mapping[str, Any] | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    timeline: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """Of the folder, without where it lies."""
        return self.path.resolve().name

    @property
    def kind(self) -> str:
        return "simulate" if self.plan is None else "plan"

    @cached_property
    def question(self) -> Scenario:
        """``scenario.yaml``, checked. Raises :class:`InputError` with file and line."""
        return load_scenario(self.path / "scenario.yaml")

    def option(self, name: str = "recommended") -> Mapping[str, Any]:
        """The option object of a plan, by id, by ``recommended``, ``cheapest`` or ``best_latency``, or a near miss by id.

        Raises :class:`InputError` for a run that is no plan's, a plan where nothing holds, and an unknown name (nearest).
        """
        if self.plan is None:
            raise InputError("it holds a simulation, and only a plan has options", where=self.name)
        held, missed = self.plan["options"], self.plan["near_misses"]
        known = {item["id"]: item for item in [*missed, *held]}
        known |= {alias: item for item in held for alias in item.get("names") or [item["name"]]}
        if name not in known and not held:
            ids = [item["id"] for item in missed]
            raise InputError("nothing holds in this plan; only a near miss can be named", where=self.name, allowed=ids)
        if name not in known:
            raise unknown_name("option", name, known, where=self.name)
        found: Mapping[str, Any] = known[name]
        return found


def read_run(path: Path) -> Run:
    """Read a run folder of ``twin plan`` or ``twin simulate``.

    Raises :class:`InputError` for no such folder, a file that is missing or torn, and one that another schema wrote.
    """
    if not path.is_dir():
        raise InputError(
            "no such run folder" if not path.exists() else "not a run folder: it is a file", where=str(path)
        )
    names = {item.name for item in path.iterdir()}
    missing = sorted({"scenario.yaml", "manifest.json", "summary.json"} - names)
    if "summary.json" in missing and "search.jsonl" in names:
        raise InputError("a search that did not end is in it; twin plan --resume goes on with it", where=str(path))
    if len(missing) == 3:
        raise InputError("not a run folder: it has no scenario.yaml, manifest.json and summary.json", where=str(path))
    if missing:
        raise InputError(f"half-written run folder: {' and '.join(missing)} is missing", where=str(path))
    scenario = read_yaml(path / "scenario.yaml").data
    manifest, summary = _read_json(path / "manifest.json"), _read_json(path / "summary.json")
    _check_keys(path / "manifest.json", manifest, _MANIFEST_KEYS)
    timeline = _read_json(path / "timeline.json") if "timeline.json" in names else None
    if "plan.json" not in names:
        _check_keys(path / "summary.json", summary, {"usd_per_hour", "deployment"})
        return Run(path, scenario, manifest, summary, timeline=timeline)
    plan = _read_json(path / "plan.json")
    if plan.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"written with schema {plan.get('schema_version')}, and this twin {__version__} reads schema {SCHEMA_VERSION}",
            where=str(path / "plan.json"),
        )
    _check_keys(path / "plan.json", plan, {"model", "traffic", "options", "near_misses", "recommended"})
    ranked = (plan.get("risk") or {}).get("sensitivity")
    if ranked and "text" not in ranked:  # which says why nothing is ranked
        _check_keys(path / "plan.json", ranked, {"cost", "tail"})
    for key in ("options", "near_misses"):
        if not isinstance(plan[key], list):
            raise InputError(f"another schema wrote this: {key} is no list", where=str(path / "plan.json"))
    for item in [*plan["options"], *plan["near_misses"]]:
        _check_keys(path / "plan.json", item, _OPTION_KEYS)
    _check_keys(path / "plan.json", plan, _PLAN_KEYS)
    flags = _read_json(path / "flags.json") if "flags.json" in names else {}
    return Run(path, scenario, manifest, summary, plan, flags, timeline)


def write_folder(target: Path, files: Mapping[str, str]) -> Path:
    """Write text files as the new folder ``target``, whole or not at all, and return it.

    Raises :class:`InputError` when something stands there already, :class:`TwinError` when it cannot be written.
    """
    if target.exists():
        raise InputError("exists already, and nothing is overwritten", where=str(target))
    draft = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        for name, text in files.items():
            (draft / name).write_text(text, encoding="utf-8")
            if text.startswith("#!"):
                (draft / name).chmod(0o755)
        draft.chmod(0o755)
        os.rename(draft, target)
    except OSError as error:
        raise TwinError(f"cannot write: {error.strerror}", where=str(target)) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
    return target


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        raise InputError("half-written run folder: this is not whole JSON", where=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if not isinstance(data, dict):
        raise InputError("another schema wrote this: no JSON object", where=str(path))
    return data


def _check_keys(path: Path, data: object, keys: frozenset[str] | set[str]) -> None:
    lacking = sorted(keys - set(data if isinstance(data, dict) else ()))
    if lacking:
        raise InputError(f"another schema wrote this: {', '.join(lacking)} is missing", where=str(path))


def _publish(draft: Path, parent: Path, name: str) -> Path:
    number = 1
    while True:
        target = parent / (name if number == 1 else f"{name}-{number}")
        if not target.exists():
            return draft.rename(target)
        number += 1
