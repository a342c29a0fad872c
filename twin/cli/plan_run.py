"""A plan's search kept on disk: its journal while it runs, its run folder when it is done, and taking it up again."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twin.cli.common import note

if TYPE_CHECKING:
    from twin.plan.fleet import Option
    from twin.plan.plan import Plan
    from twin.plan.request import PlanRequest
    from twin.search.journal import Journal
    from twin.spec.scenario import Scenario

FLAGS = "flags.json"
FILES = ("traffic", "price_book", "fixed")
HERE = ("out", "fmt", "resume", "explain", "jobs", "executor", "ray_address", "progress", "plot")
"""Flags of one run of the command, which another run of the same search need not share."""


@dataclass
class Search:
    """A search under way: its hidden folder and its journal, until it is ``published`` with a run folder."""

    folder: Path
    journal: Journal
    published: bool = False


def remembered(flags: Mapping[str, Any], defaults: Mapping[str, Any], resume: Path | None) -> dict[str, Any]:
    """``flags`` where they are not their defaults, else those of the search to go on with.

    Raises :class:`InputError` for a folder without a search.
    """
    from twin.base import InputError

    if resume is None:
        return dict(flags)
    try:
        kept = json.loads((resume / FLAGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no search to go on with: no {FLAGS} in it", where=str(resume)) from None
    except (OSError, ValueError):
        raise InputError("this record of the question is torn", where=str(resume / FLAGS)) from None
    unknown = [name for name in kept if name not in flags] if isinstance(kept, dict) else ["?"]
    if unknown:
        raise InputError(f"this is no record of a question: {unknown[0]}", where=str(resume / FLAGS))
    kept |= {name: Path(os.path.normpath(resume / kept[name])) for name in FILES if kept.get(name)}
    gone = [name for name in FILES if kept.get(name) and flags[name] == defaults[name] and not kept[name].exists()]
    if gone:
        flag = f"--{gone[0].replace('_', '-')}"
        raise InputError(
            f"its {gone[0]} was {kept[gone[0]].name}, no longer where it lay from here: name it by {flag}",
            where=str(resume),
        )
    if (model := kept.get("model")) and model.endswith(".json"):
        kept["model"] = os.path.normpath(resume / model)
    return {name: value if value != defaults[name] else kept.get(name, value) for name, value in flags.items()}


@contextmanager
def search_in(
    out: Path, flags: Mapping[str, Any], question: Mapping[str, object], resume: Path | None
) -> Iterator[Search]:
    """A search whose simulations are written down as they come. Its hidden folder goes when the run folder is there;
    after a crash it is what ``--resume`` takes.
    """
    from twin.base import TwinError
    from twin.search.journal import FILE, Journal

    # Read before anything is made, so that a search that cannot be gone on with leaves nothing behind.
    journal = Journal(question, resume=None if resume is None else resume / FILE)
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".plan-", dir=out))
        (folder / FLAGS).write_text(json.dumps(_portable(flags, folder), indent=2) + "\n", encoding="utf-8")
        journal.write_to(folder / FILE)
    except OSError as error:
        raise TwinError(f"cannot write to {out}: {error.strerror}") from error
    if journal.resumed:
        note(f"{journal.resumed} simulations of {resume} are known already")
    search = Search(folder, journal)
    try:
        yield search
    finally:
        journal.close()
        if search.published or len(journal) == journal.resumed:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            note(f"what was simulated is kept; go on with --resume {folder}")


def _portable(flags: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Flags as JSON, with files named from ``folder``, which may move as a whole."""
    kept = {name: value for name, value in flags.items() if name not in HERE and value is not None}
    kept |= {name: os.path.relpath(kept[name], folder) for name in FILES if kept.get(name)}
    if str(kept.get("model", "")).endswith(".json"):
        kept["model"] = os.path.relpath(kept["model"], folder)
    return kept


def write_plan(
    answer: Plan, request: PlanRequest, wanted: Scenario, flags: Mapping[str, Any], search: Search | None
) -> Path | None:
    """The run folder, of the recommended option or of what came nearest; where nothing could be simulated, of the answer
    alone. ``None`` for a search that was stopped before it had seen anything on the whole trace.

    ``plan.json`` holds the very bytes of ``--format json``.
    """
    from twin.plan.fleet import Pooled
    from twin.results.hashes import price_book_hash, traffic_hash
    from twin.results.run import write_run
    from twin.results.timeline import timeline
    from twin.search.evaluate import simulated
    from twin.search.journal import FILE

    outcome = answer.recommended or answer.nearest
    if outcome is None and answer.interrupted:
        return None
    happened = None
    if outcome is not None and answer.recommended is not None:
        trace = request.load.trace
        happened = outcome.simulated if isinstance(outcome, Pooled) else simulated(outcome.deployment, trace)
    out: Path = flags["out"]
    folder = write_run(
        out,
        "plan",
        scenario_yaml=_scenario(outcome, request, wanted).to_yaml(relative_to=out / "plan"),
        vllm_version=request.vllm_version,
        manifest={
            "seed": request.seed,
            "profiles": {p.name: p.digest() for p in request.profiles},
            "traffic": traffic_hash(wanted.traffic),
            "price_book": price_book_hash(flags["price_book"]),
        },
        documents={
            "summary.json": _nothing(answer) if outcome is None else outcome.summary,
            "plan.json": answer.payload,
            **({} if happened is None else {"timeline.json": timeline(happened)}),
        },
        requests=None if happened is None else happened.table,
        files={} if search is None else {name: search.folder / name for name in (FILE, FLAGS)},
    )
    if search is not None:
        search.published = True
    return folder


def _nothing(answer: Plan) -> dict[str, object]:
    """What there is to sum up where no configuration came as far as the whole trace."""
    return {name: answer.payload[name] for name in ("screened", "simulated", "simulated_on_whole_trace", "binding")}


def _scenario(found: Option | None, request: PlanRequest, wanted: Scenario) -> Scenario:
    """The question with the deployment that was found; without one, the place-holder that ``wanted`` came with stays."""
    from twin.plan.fleet import pools_of
    from twin.spec.engine import EngineSettings
    from twin.spec.scenario import Deployment

    if found is None:
        return wanted
    outcome = pools_of(found, request)[0][0]  # a scenario holds one pool; plan.json all
    candidate, config = outcome.candidate, outcome.deployment.config
    deployment = Deployment(
        gpu=candidate.gpu,
        tensor_parallel_size=candidate.tensor_parallel_size,
        pipeline_parallel_size=candidate.pipeline_parallel_size,
        data_parallel_size=candidate.data_parallel_size,
        enable_expert_parallel=candidate.enable_expert_parallel,
        replicas=candidate.replicas,
        quantization=candidate.quantization,
        kv_cache_dtype=candidate.kv_cache_dtype,
        routing="least_loaded" if outcome.deployment.routing == "least_loaded" else "round_robin",
    )
    engine = EngineSettings(
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=config.max_model_len,
        gpu_memory_utilization=request.gpu_memory_utilization,
        num_gpu_blocks=config.num_gpu_blocks,
        vllm_version=request.vllm_version,
    )
    return wanted.model_copy(update={"deployment": deployment, "engine": engine})
