"""``twin verify``: the plan on the engine that is here, measured, and the same requests simulated, side by side."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from twin.base import InputError, TwinError
from twin.cluster.deploy import fleet_of, prompts_of, trace_of
from twin.results.run import write_run
from twin.spec.scenario import Scenario
from twin.trust.live import traffic, verdict
from twin.trust.live.drive import Bench, Ended, Phase, client_plan, drive, phases, sentinel_s
from twin.trust.live.metrics import ServerFacts, server_facts
from twin.trust.live.runtime import Runtime, find_python, host_cpu, runtime
from twin.trust.live.server import SERVE, Server, check_port, free_port, terminate_as_interrupt
from twin.trust.live.target import Target, choose, running

DRIFTED = 0.15
"""A machine whose speed moved by more than this during a run cannot tell that a prediction fails."""
WARM_UP = 8
RESTLESS = "the machine's speed moved by {:.0%} during the run"


@dataclass(frozen=True)
class Asked:
    """What the command line says beside the scenario. ``loads`` are shares of capacity; none: the load that it has.

    ``weights``: a local checkpoint in place of made-up weights.
    """

    loads: tuple[float, ...] = ()
    duration_s: float = 60.0
    base_url: str | None = None
    port: int | None = None
    python: Path | None = None
    profile: str | None = None
    weights: Path | None = None
    out: Path = Path("runs")


@dataclass(frozen=True)
class Setting:
    """What the engine here is, and what it is asked."""

    target: Target
    facts: ServerFacts
    capacity: float
    slices: dict[str, traffic.Slice]
    steps: list[Phase]


def verify(scenario: Scenario, asked: Asked, tell: Callable[[str], None]) -> tuple[dict[str, Any], Path]:
    """The verdict and the run folder with it.

    Raises :class:`InputError` for what cannot be verified here, :class:`TwinError` for a server that does not start or is gone
    in mid-run, and ``KeyboardInterrupt``; what was measured until then is kept in a folder, labelled partial.
    """
    with terminate_as_interrupt(), tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        here: Runtime | None = None
        server: Server | None = None
        if asked.base_url is None:
            python = find_python(asked.python)
            here = runtime(python)
            (folder / "model").mkdir()
            target = choose(scenario, here, folder / "model", asked.profile)
            target.fleet()  # what cannot be simulated is not worth starting
            tell(f"vLLM {here.vllm_version} on {here.name}: {target.words}")
            server = stack.enter_context(_server(python, target, asked, folder))
            base_url = server.base_url
        else:
            base_url = asked.base_url.rstrip("/")
            target = running(scenario, server_facts(base_url), base_url, asked.profile)
        facts = server_facts(base_url)
        setting = _setting(scenario, target.known(facts), facts, asked)
        for part in setting.slices.values():
            load = "all at once" if np.isinf(part.load) else f"load {part.load:.0%}"
            tell(f"{load}: {len(part.trace)} requests, {part.trace.duration_s:.0f} s")
        body = {} if server is None or asked.weights else {"detokenize": False}
        vocabulary = setting.target.model.vocab_size
        cores: list[int] = []
        if server is not None and target.profile.device == "cpu":
            cores = server.give_cores(int(target.profile.facts.num_sms.value))
        plan = client_plan(
            base_url, facts.model, setting.steps, vocab_size=vocabulary, seed=scenario.seed, body=body, cores=cores
        )
        try:
            benches = drive(plan, folder, tell)
        except Ended as end:
            what = (server and server.died) or str(end)
            kept = _write(scenario, asked, here, _partial(setting, end.measured, what), end.measured)
            tell(f"partial measurements: {kept}")
            if end.interrupted:
                raise KeyboardInterrupt from None
            raise TwinError(f"{what}; what was measured is in {kept}, labelled partial") from None
    payload = judge(scenario, setting, benches)
    return payload, _write(scenario, asked, here, payload, benches)


def _server(python: Path, target: Target, asked: Asked, folder: Path) -> Server:
    port = free_port() if asked.port is None else check_port(asked.port)
    model = folder / "model" if asked.weights is None else asked.weights
    if asked.weights is not None and not (model / "config.json").is_file():
        raise InputError("no checkpoint: a folder with a config.json is meant", where=str(model))
    made_up = ["--load-format", "dummy", "--skip-tokenizer-init"] if asked.weights is None else []
    where = ["--host", "127.0.0.1", "--port", str(port)]
    return Server([python, SERVE, model, *made_up, *where, *target.flags()], port, target.env())


def _setting(scenario: Scenario, target: Target, facts: ServerFacts, asked: Asked) -> Setting:
    trace, factor = trace_of(scenario), 1.0
    engine = target.scenario.engine
    length = min(engine.max_model_len or 0, facts.max_model_len or sys.maxsize)
    if target.kind == "stand-in":
        trace, factor = traffic.fitted(trace, length, facts.block_size)
    else:
        trace, _ = trace.fit_context(length, scenario.traffic.too_long)
    traffic.check_holds(trace, facts.num_gpu_blocks, facts.block_size)
    fleet = target.fleet()
    capacity = traffic.capacity(trace, fleet)
    clients = scenario.client
    if clients is not None:
        found = [traffic.Slice(prompts_of(clients, trace), float("inf"), factor, 1.0)]
    elif asked.loads:
        found = [traffic.at_load(trace, load, capacity, asked.duration_s, factor) for load in asked.loads]
    else:
        rate = 1.0 / scenario.deployment.replicas
        if target.kind == "stand-in":
            rate *= capacity / traffic.capacity(trace_of(scenario), fleet_of(scenario)) * scenario.deployment.replicas
        found = [traffic.as_it_comes(trace, rate, capacity, asked.duration_s, factor)]
    slices = {f"load {part.load * 100:.3g} %": part for part in found}
    concurrency = None if clients is None else clients.concurrency
    loads = [(name, part.trace, concurrency) for name, part in slices.items()]
    warm_up = trace.take(np.arange(min(WARM_UP, len(trace))))
    return Setting(target, facts, capacity, slices, phases(loads, replace(warm_up, arrival_s=warm_up.arrival_s * 0.0)))


def judge(scenario: Scenario, setting: Setting, benches: Sequence[Bench]) -> dict[str, Any]:
    """Everything that was measured beside what is predicted for it, and whether it holds."""
    speeds = _speeds(setting.steps, benches, verdict.sentinel_prediction_s(setting.target.fleet()))
    known = [slow for slow in speeds if np.isfinite(slow)]
    moved = max(known) / min(known) - 1.0 if known else 0.0
    by_name = {bench["phase"]: bench for bench in benches}
    loads = [_judge_load(scenario, setting, by_name[name], part) for name, part in setting.slices.items()]
    for at, *around in zip(loads, speeds, speeds[1:], strict=False):
        at["sentinels_around"] = around
    failed = any(row["holds"] is False for load in loads for row in load["metrics"])
    result = "pass" if not failed else "inconclusive" if moved > DRIFTED else "fail"
    return {
        **_about(setting),
        "loads": loads,
        "drift": {"sentinels_against_profile": speeds, "moved": moved},
        "thresholds": scenario.verify.model_dump(),
        "verdict": result,
        "why": RESTLESS.format(moved) if result == "inconclusive" else None,
        "seed": scenario.seed,
    }


def _about(setting: Setting) -> dict[str, Any]:
    target, engine = setting.target, setting.target.scenario.engine
    return {
        "scenario": target.scenario.name,
        "verified": target.kind,
        "words": target.words,
        "changed": list(target.notes),
        "model": target.model.name,
        "profile": target.profile.name,
        "vllm_version": setting.facts.vllm_version,
        "vllm_version_modelled": engine.vllm_version,
        "num_gpu_blocks": setting.facts.num_gpu_blocks,
        "block_size": setting.facts.block_size,
        "capacity_request_rate": setting.capacity,
        "clock": "client",
        "judged": "predictions of the profile as it is; the machine's drift stands beside them",
    }


def _speeds(steps: Sequence[Phase], benches: Sequence[Bench], usual: float) -> list[float]:
    """How slow the machine was against the profile, at each place where sentinels stand: the median of its batches."""
    found: dict[str, list[float]] = {}
    for step, bench in zip(steps, benches, strict=False):
        if step.kind == "sentinel":
            found.setdefault(step.name.split()[1].partition(".")[0], []).append(sentinel_s(bench) / usual)
    return [float(np.median(values)) for values in found.values()]


def _judge_load(scenario: Scenario, setting: Setting, bench: Bench, part: traffic.Slice) -> dict[str, Any]:
    good = verdict.finished(bench)
    late = 1e3 * np.array(bench["late_s"])
    about: dict[str, Any] = {
        "name": bench["phase"],
        "load": None if np.isinf(part.load) else part.load,
        "concurrency": bench["max_concurrency"],
        "load_reached": None if np.isinf(part.load) else _rate(bench) / setting.capacity,
        "requests": len(bench["errors"]),
        "failed": len(bench["errors"]) - len(good),
        "first_error": next((error for error in bench["errors"] if error), None),
        "length_factor": part.length_factor,
        "rate_factor": part.rate_factor,
        "started_late_ms": {"p50": float(np.median(late)), "max": float(late.max())},
        "duration": bench["duration"],
    }
    if not good:
        raise TwinError(f"{bench['phase']}: no request was answered: {about['first_error']}")
    requests = verdict.sent(bench, part.trace)
    clients = bench["max_concurrency"]
    predicted = verdict.predictions(requests, setting.target.fleet(), clients)
    rows = verdict.rows(verdict.measured(bench), predicted, scenario.verify, part.load)
    return about | {"predicted_load_state": predicted["load"], "metrics": rows}


def _rate(bench: Bench) -> float:
    starts = bench["start_times"]
    return float((len(starts) - 1) / max(max(starts) - min(starts), 1e-9))


def _partial(setting: Setting, benches: Sequence[Bench], why: str) -> dict[str, Any]:
    return {**_about(setting), "partial": True, "verdict": None, "why": why, "measured": [b["phase"] for b in benches]}


def _write(
    scenario: Scenario, asked: Asked, here: Runtime | None, payload: dict[str, Any], benches: Sequence[Bench]
) -> Path:
    """The run folder: verdict, machine, and each load as the benchmark client would have written it."""
    name = f"verify-{scenario.name}"
    machine = here.model_dump() if here is not None else {"cpu": host_cpu(), "base_url": asked.base_url}
    document = payload | {"machine": machine, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    documents: dict[str, dict[str, Any]] = {"verdict.json": json.loads(json.dumps(document, default=float))}
    for bench in benches:
        if bench["phase"].startswith("load "):
            documents[f"measured_{bench['phase'].removesuffix(' %').replace(' ', '_')}.json"] = bench
    documents["sentinels.json"] = {b["phase"]: b for b in benches if b["phase"].startswith("sentinel ")}
    return write_run(
        asked.out,
        name,
        scenario_yaml=scenario.to_yaml(relative_to=asked.out / name),
        vllm_version=str(payload["vllm_version_modelled"]),
        manifest={"seed": scenario.seed, "profiles": {scenario.profile.name: scenario.profile.digest()}},
        documents=documents,
    )
