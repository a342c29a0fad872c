"""How far engines were off on GPUs and layouts that a fit had not seen: ``hwprofiles/risk.json``, which risk is drawn from.

    python -m calibrate.risk ../shared/groundtruth/inferencex_vllm_dev.csv hwprofiles/risk.json

The host coefficients of the profiles are fitted again without a GPU, or without a layout, and the runs left out are predicted
with what the rest tells. The refit is linear about the full fit; where a GPU's errors then are not those that the full refit
of ``calibrate/host.py`` left in its profile, it is made in full here too. The runs left out are simulated. Spreads are widened
until promises made at 90 % hold in 90 % of those runs.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from calibrate.host import (
    KEPT,
    LEAST,
    NOISE,
    PRIOR,
    TTFT_WEIGHT,
    UNITS,
    JointFit,
    MeasuredRun,
    Runs,
    _of,
    _told,
    below_saturation,
    fit_jointly,
    log_errors,
    read_runs,
    run_errors,
)  # fmt: skip
from twin.cost.layout import HostCosts
from twin.spec.accuracy import Source
from twin.spec.engine_errors import Evidence, Held, RiskData, Spread
from twin.spec.hardware import load_profile
from twin.traffic.writers import write_atomic

Floats = NDArray[np.float64]
KINDS: dict[Evidence, Literal["layout_left_out", "gpu_left_out"]] = {
    "seen": "layout_left_out",
    "unseen": "gpu_left_out",
}
QUANTITIES: tuple[Literal["tpot", "ttft"], ...] = ("tpot", "ttft")
PROMISED = 0.9
Z80 = 1.2816
"""Standard deviations below which 90 % of a normal distribution lie."""
STEP = 0.05
AGREES = 0.25
"""The linear refit stands for the full one where mean absolute errors agree within this share of them."""

Kind = Literal["layout_left_out", "gpu_left_out"]


@dataclass(frozen=True)
class Generation:
    """Runs of one generation of engines, the profiles' fit to them, and how errors move with each coefficient.

    ``errors[gpu]`` (runs, 2), ``slopes[gpu]`` (runs, 2, coefficients) per :data:`calibrate.host.UNITS`.
    """

    runs: Runs
    fit: JointFit
    errors: Mapping[str, Floats]
    slopes: Mapping[str, Floats]
    older: bool

    def left_out(self, fold_of: Callable[[MeasuredRun], object], kind: Kind) -> dict[str, list[Floats]]:
        """log(measured / predicted), (runs, 2), by GPU, of each fold's runs predicted by a fit to the other folds."""
        found: dict[str, list[Floats]] = {}
        folds = sorted({fold_of(item) for items in self.runs.values() for item in items}, key=str)
        for fold in folds if len(folds) > 1 else ():
            without = self._without(fold, fold_of)
            unseen = {
                gpu: kept for gpu, items in self.runs.items() if (kept := [i for i in items if fold_of(i) == fold])
            }
            errors = {gpu: log_errors(items, without.host(gpu)) for gpu, items in unseen.items()}
            if kind == "gpu_left_out" and not all(self._as_kept(gpu, each) for gpu, each in errors.items()):
                rest = {
                    gpu: kept for gpu, items in self.runs.items() if (kept := [i for i in items if fold_of(i) != fold])
                }
                full = fit_jointly(rest, without, self.fit.known)
                errors = {gpu: log_errors(items, full.host(gpu)) for gpu, items in unseen.items()}
                print(f"refitted in full without {fold}", file=sys.stderr, flush=True)
            for gpu, each in errors.items():
                found.setdefault(gpu, []).append(-each)
        return found

    def _as_kept(self, gpu: str, errors: Floats) -> bool:
        """Whether errors of the GPU left out are those that the full refit left in its profile."""
        host = load_profile(gpu).host_of(older=self.older)
        kept = (host.runs or {}).get("gpu_left_out") if host is not None else None
        found = run_errors(errors)
        return kept is not None and all(
            abs(getattr(found, name) - getattr(kept, name)) <= AGREES * getattr(kept, name) for name in QUANTITIES
        )

    def _without(self, fold: object, fold_of: Callable[[MeasuredRun], object]) -> JointFit:
        keep = {gpu: np.array([fold_of(item) != fold for item in items]) for gpu, items in self.runs.items()}
        rest = {gpu: [i for i, k in zip(items, keep[gpu], strict=True) if k] for gpu, items in self.runs.items()}
        told = _told({gpu: items for gpu, items in rest.items() if items})
        at = [i for i, name in enumerate(self.fit.names) if name in told]
        kinds = [name if isinstance(name, str) else name[0] for name in (self.fit.names[i] for i in at)]
        units = np.array([UNITS[kind] for kind in kinds])
        begin = self.fit.values[at] / units
        errors = np.concatenate([self.errors[gpu][keep[gpu]] for gpu in self.runs])
        slopes = np.concatenate([self.slopes[gpu][keep[gpu]][:, :, at] for gpu in self.runs])

        def residuals(x: Floats) -> Floats:
            moved = errors + slopes @ (x - begin)
            belief = [NOISE * (x[kinds.index(k)] - mean) / s for k, (mean, s) in PRIOR.items() if k in kinds]
            return np.concatenate([moved[:, 0], TTFT_WEIGHT * moved[:, 1], belief])

        least = np.array([LEAST.get(kind, 0.0) for kind in kinds])
        found = least_squares(
            residuals, np.maximum(begin, least), bounds=(least - 1e-12, np.inf), loss="soft_l1", f_scale=NOISE
        )
        return replace(
            self.fit, names=tuple(self.fit.names[i] for i in at), values=found.x * units, covariance=np.eye(len(at))
        )


def generation(runs: Runs, *, older: bool) -> Generation | None:
    """The runs away from saturation of one generation, with the fit that the profiles hold."""
    own = {gpu: [item for item in items if _of(item.run, older=older)] for gpu, items in sorted(runs.items())}
    calm = {gpu: kept for gpu, items in own.items() if items and (kept := below_saturation(items))}
    if not calm:
        return None
    hosts = {gpu: HostCosts.of(load_profile(gpu), older=older) for gpu in calm}
    known = {} if older else {name: getattr(next(iter(hosts.values())), name) for name in KEPT}
    names = tuple(name for name in _told(calm) if name not in known)
    values = [
        getattr(hosts[name[1]], name[0]) if isinstance(name, tuple) else getattr(next(iter(hosts.values())), name)
        for name in names
    ]
    fit = JointFit(names, np.array(values), np.eye(len(names)), sum(map(len, calm.values())), known)
    errors = {gpu: log_errors(items, fit.host(gpu)) for gpu, items in calm.items()}
    slopes = {gpu: np.zeros((len(items), 2, len(names))) for gpu, items in calm.items()}
    for i, name in enumerate(names):
        step = STEP * max(values[i] / _unit(name), 1.0)
        moved = replace(fit, values=fit.values + step * _unit(name) * np.eye(len(names))[i])
        for gpu, items in calm.items():
            if isinstance(name, str) or name[1] == gpu:
                slopes[gpu][:, :, i] = (log_errors(items, moved.host(gpu)) - errors[gpu]) / step
    return Generation(calm, fit, errors, slopes, older)


def _unit(name: str | tuple[str, str]) -> float:
    return UNITS[name if isinstance(name, str) else name[0]]


def spread(groups: Mapping[str, Floats], own: Mapping[str, float]) -> Spread:
    """Of one quantity: ``groups`` of log(measured / predicted) that were left out, their spread, and what to widen it by.

    The spread is the root mean square with each group counted alike, so that a GPU with many runs does not decide; of a GPU
    with an error of its own (``own``, by group) that, if larger. The factor is the least at which a one-sided 90 % promise
    holds in 90 % of runs. ``checked``: a GPU's share under the spread and factor that the other GPUs alone give.
    """

    def sigma(names: Sequence[str]) -> float:
        return float(np.sqrt(np.mean([np.mean(groups[name] ** 2) for name in names])))

    def widen(names: Sequence[str]) -> float:
        needed = [groups[name] / max(sigma(names), own.get(name, 0.0)) for name in names]
        weights = np.concatenate([np.full(len(each), 1.0 / len(each)) for each in needed])
        values = np.concatenate(needed)
        order = np.argsort(values)
        share = np.cumsum(weights[order]) / weights.sum()
        return max(float(values[order][np.searchsorted(share, PROMISED - 1e-9)]) / Z80, 1.0)

    every, held = [*groups], {}
    for name, values in groups.items():
        others = [other for other in groups if other.partition(",")[0] != name.partition(",")[0]]
        alone = max(sigma(every), own.get(name, 0.0))
        theirs = max(sigma(others), own.get(name, 0.0)) * widen(others) if others else None
        before, after, checked = (
            None if limit is None else _short(float((values <= Z80 * limit).mean()))
            for limit in (alone, alone * widen(every), theirs)
        )
        bias, rms = _short(float(values.mean())), _short(float(np.sqrt((values**2).mean())))
        held[name] = Held(n=len(values), bias=bias, rms=rms, before=before or 0.0, after=after or 0.0, checked=checked)
    return Spread(sigma=_short(sigma(every)), widen=_short(widen(every)), groups=held)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def left_out_errors(runs: Runs) -> dict[Evidence, dict[str, Floats]]:
    """log(measured / predicted), shape (runs, 2): TPOT and TTFT of runs whose layout (seen), or whose GPU (unseen), no fit saw.

    By GPU, the runs of older engines in a group of their own.
    """
    groups: dict[Evidence, dict[str, Floats]] = {"seen": {}, "unseen": {}}
    folds: dict[Evidence, Callable[[MeasuredRun], object]] = {
        "seen": lambda item: item.run.tp_size, "unseen": lambda item: item.run.system
    }  # fmt: skip
    for older in (True, False):
        found = generation(runs, older=older)
        for evidence, fold_of in folds.items() if found is not None else ():
            assert found is not None
            for gpu, parts in found.left_out(fold_of, KINDS[evidence]).items():
                name = f"{gpu}, engines before vLLM 0.16" if older else gpu
                groups[evidence][name] = np.concatenate(parts)
    return groups


def summarized(groups: Mapping[Evidence, Mapping[str, Floats]], table: Path, gpus: Sequence[str]) -> RiskData:
    """Spreads and factors of the errors that :func:`left_out_errors` gives, as they are shipped."""
    spreads: dict[Evidence, dict[Literal["tpot", "ttft"], Spread]] = {}
    for evidence, by_group in groups.items():
        spreads[evidence] = {}
        for at, name in enumerate(QUANTITIES):
            values = {group: errors[:, at] for group, errors in by_group.items()}
            hosts = {group: load_profile(group.partition(",")[0]).host for group in values}
            own = {group: getattr(host, f"{name}_error") or 0.0 for group, host in hosts.items() if host is not None}
            spreads[evidence][name] = spread(values, own if evidence == "seen" else {})
    sha = hashlib.sha256(table.read_bytes()).hexdigest()
    dates = [figure.date for gpu in gpus for host in load_profile(gpu).hosts for figure in (host.step_s,)]
    notes = (
        "three GPUs of one maker have runs, and the newer engines' runs are of other models than the older ones'",
        "runs are of closed loops below saturation, and of means: a p99 may be further off than a mean",
        "a GPU left out keeps its measured kernels: of GPUs with assumed kernels nothing was seen",
    )
    kept = {evidence: {name: _pairs(errors) for name, errors in by.items()} for evidence, by in groups.items()}
    sources = (Source(file=table.name, sha256=sha),)
    return RiskData(date=max(dates), sources=sources, spreads=spreads, notes=notes, runs=kept)


def _pairs(errors: Floats) -> tuple[tuple[float, float], ...]:
    return tuple((round(tpot, 4), round(ttft, 4)) for tpot, ttft in errors.tolist())


def _written(data: RiskData) -> str:
    """JSON with the errors of a group on one line each."""
    plain = data.model_dump(mode="json")
    runs = plain.pop("runs")
    text = json.dumps(plain, indent=2).removesuffix("\n}")
    rows = [
        f'    "{evidence}": {{\n' + ",\n".join(f'      "{g}": {json.dumps(v)}' for g, v in by.items()) + "\n    }"
        for evidence, by in runs.items()
    ]
    return text + ',\n  "runs": {\n' + ",\n".join(rows) + "\n  }\n}"


def main(arguments: Sequence[str]) -> None:
    table, out = map(Path, arguments)
    runs = read_runs(table)
    groups = left_out_errors(runs)
    data = summarized(groups, table, sorted(runs))
    write_atomic(out, (_written(data) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
