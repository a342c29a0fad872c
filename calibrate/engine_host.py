"""The host section of a profile from an engine's step logs, judged on runs that the fit has not seen.

The logs come from ``twin calibrate engine``: *fit* runs are fitted, *test* runs only judge, *sentinel* runs show how the
machine drifted, and *repeat* runs how much identical steps differ. The engine in process and behind its server are fitted
apart, as the server's own work takes time from every step; a profile keeps the server's, which is what people deploy. Kernels
are the same in both: where there are runs in process, whose batches form as told, those tell how long the engine's take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calibrate.judge import Judged, round_to
from calibrate.step_log import StepLog
from calibrate.steps import (
    OVERLAP,
    StepFit,
    Steps,
    by_load,
    drift,
    fit_requests,
    fit_steps,
    noise_floor,
    price,
    usual_s,
)
from twin.base import Estimate, InputError
from twin.spec.hardware import HardwareProfile, HostFit
from twin.spec.kernels import Errors
from twin.spec.model import model_from_config

Floats = NDArray[np.float64]
Mode = Literal["in_process", "server"]
MODES: tuple[Mode, ...] = ("server", "in_process")
REQUIRED = ("step_s", "sequence_s", "request_s", "input_token_s", "kernel_overlap_s", "compute_stretch")
OVERLOAD = 0.8  # at higher loads a request's wait is the queue's, not the API's


@dataclass(frozen=True)
class EngineErrors:
    """How well one mode's fit does: whole steps of test runs, by load, beside what the machine itself does.

    ``run_error``: root mean square log error of whole test runs' total time.
    """

    mode: Mode
    fit: StepFit
    test: Errors
    run_error: float
    loads: list[dict[str, Any]]
    noise_floor: float
    drift: tuple[float, float]


def fit_engine(
    profile: HardwareProfile, logs: Sequence[StepLog], date: str, tell: Callable[[str], None] = lambda _: None
) -> tuple[HostFit, list[EngineErrors], list[Judged]]:
    """The host section, the errors by mode, and every test step for the report.

    Raises :class:`InputError` when the logs come from different machines or engine versions, or hold too few steps.
    """
    version = _same(logs, "vllm_version")
    _same(logs, "name")
    found: dict[Mode, tuple[EngineErrors, Judged]] = {}
    kernels: dict[str, float] = {}
    for mode in reversed(MODES):
        mine = [log for log in logs if log.engine["mode"] == mode]
        if mine:
            tell(f"{mode}: {sum(len(log.steps) for log in mine)} steps")
            found[mode] = _fit_mode(profile, mode, mine, kernels)
            kernels = found[mode][0].fit.of_kernels
    main = next(mode for mode in MODES if mode in found)
    fit = found[main][0].fit
    source = f"steps of vLLM {version} on {profile.label}, {main.replace('_', ' ')}"
    figures = {
        name: _estimate(value, error, fit.n, source, date)
        for name, value, error in zip(fit.names, fit.values, fit.stderr, strict=True)
    }
    figures |= {name: _known(found, name, date) for name in fit.known}
    if OVERLAP in figures:  # the profile's step is what asynchronous scheduling leaves
        net = fit.host(asynchronous=True).step_s
        figures["step_s"] = figures["step_s"].model_copy(update={"value": round_to(net)})
    server = [log for log in logs if log.engine["mode"] == "server"]
    if server:
        figures |= _request_estimates(server, source, date)
    for name in REQUIRED:
        neutral = 1.0 if name.endswith("stretch") else 0.0
        why = f"left at {neutral:g}: not told apart by these steps"
        figures.setdefault(name, Estimate(value=neutral, origin="assumed", source=why, date=date))
    host = HostFit(
        **figures,
        vllm_version=version,
        tpot_error=round_to(found[main][0].run_error, 3),
        steps={mode: item.test for mode, (item, _) in found.items()},
        correlated=fit.names,
        correlation=fit.correlation,
        source=source,
    )
    in_order = [found[mode] for mode in MODES if mode in found]
    return host, [item for item, _ in in_order], [judged for _, judged in in_order]


def _same(logs: Sequence[StepLog], key: str) -> str:
    values = sorted({str(log.engine.get(key, "")) for log in logs})
    if len(values) != 1:
        raise InputError(f"step logs of different engines or machines: {key} is {' and '.join(values)}")
    return values[0]


def corrected(logs: Sequence[StepLog]) -> list[tuple[Steps, Floats]]:
    """Each log's steps with the machine's drift taken out, and that drift at each step.

    What is usual is told by the sentinels of all logs of one model, as machines drift from one day to the next too.
    """
    by_model: dict[str, list[pd.DataFrame]] = {}
    for log in logs:
        by_model.setdefault(str(log.engine["model"]), []).append(sentinels_of(log))
    usual = {model: usual_s(parts) for model, parts in by_model.items()}
    found = []
    for log in logs:
        at_s = log.steps["start_s"].to_numpy(dtype=np.float64)
        slow = drift(sentinels_of(log), at_s, usual[str(log.engine["model"])])
        model = model_from_config(log.engine["model"], name="the engine's model")
        table = log.steps.assign(seconds=log.steps["seconds"] / slow)
        flags = bool(log.engine["cuda_graphs"]), bool(log.engine["async_scheduling"])
        found.append((Steps(model, table, *flags), slow))
    return found


def sentinels_of(log: StepLog) -> pd.DataFrame:
    return log.steps[log.steps["kind"] == "sentinel"]


def _known(found: Mapping[Mode, tuple[EngineErrors, Judged]], name: str, date: str) -> Estimate:
    """A coefficient of the kernels, as the engine in process told it."""
    fit = found["in_process"][0].fit
    place = fit.names.index(name)
    return _estimate(float(fit.values[place]), float(fit.stderr[place]), fit.n, "steps of the engine in process", date)


def _fit_mode(
    profile: HardwareProfile, mode: Mode, logs: Sequence[StepLog], kernels: Mapping[str, float]
) -> tuple[EngineErrors, Judged]:
    steps, slow = zip(*corrected(logs), strict=True)
    fit = fit_steps(profile, _kinds(steps, "fit", "repeat"), kernels)
    tests = [replace(part, padded=fit.padded) for part in _kinds(steps, "test")]
    if not tests:
        raise InputError(f"no test runs in the step logs of mode {mode}: the error of the fit cannot be told")
    predicted = np.concatenate([price(profile, part, fit.host(part.asynchronous)) for part in tests])
    table = pd.concat([part.table for part in tests], ignore_index=True)
    seconds = table["seconds"].to_numpy(dtype=np.float64)
    low, high = fit.held_out.interval90 or (0.0, np.inf)
    inside = (seconds / predicted >= low) & (seconds / predicted <= high)
    ratio = predicted / seconds
    test = Errors(
        mape=round_to(float(np.abs(ratio - 1).mean()), 3),
        bias=round_to(float(ratio.mean() - 1), 2),
        n=len(seconds),
        interval90=(round_to(low, 3), round_to(high, 3)),
        coverage90=round_to(float(inside.mean()), 3),
    )
    drifts = np.concatenate(slow)
    judged = Judged(
        gpu=profile.name,
        kernel=f"engine step ({mode.replace('_', ' ')})",
        size=(table["prefill_tokens"] + table["decodes"]).to_numpy(dtype=np.float64),
        measured_s=seconds,
        predicted_s=predicted,
        serving=np.ones(len(seconds), dtype=bool),
    )
    log = np.repeat(np.arange(len(tests)), [len(part.table) for part in tests])  # run names are unique within one
    sums = table[["run", "seconds"]].assign(predicted=predicted, log=log).groupby(["log", "run"]).sum()
    result = EngineErrors(
        mode=mode,
        fit=fit,
        test=test,
        run_error=float(np.sqrt((np.log(sums["predicted"] / sums["seconds"]) ** 2).mean())),
        loads=by_load(table, predicted),
        noise_floor=float(np.mean([noise_floor(sentinels_of(log)) for log in logs])),
        drift=(float(drifts.min()), float(drifts.max())),
    )
    return result, judged


def _kinds(steps: Sequence[Steps], *kinds: str) -> list[Steps]:
    """The runs of these kinds, of the engines that have some."""
    return [part for whole in steps if len((part := whole.of(*kinds)).table)]


def _request_estimates(logs: Sequence[StepLog], source: str, date: str) -> dict[str, Estimate]:
    requests = pd.concat([log.requests for log in logs], ignore_index=True)
    calm = requests[(requests["load"].isna() | (requests["load"] <= OVERLOAD)) & requests["outside_s"].notna()]
    values, stderr = fit_requests(calm)
    return {
        name: _estimate(value, error, len(calm), source, date)
        for name, value, error in zip(("request_s", "input_token_s"), values, stderr, strict=True)
    }


def _estimate(value: float, stderr: float | None, n: int, source: str, date: str) -> Estimate:
    """A cost that the fit left at its bound of zero is zero."""
    error = None if stderr is None else round_to(float(stderr), 2)
    shown = 0.0 if error is not None and 0.0 <= value < 1e-3 * error else round_to(float(value))
    return Estimate(value=shown, stderr=error, n=n, origin="fitted", source=source, date=date)
