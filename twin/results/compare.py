"""Two runs side by side: what they answer, what they differ in, and whether they answer the same question."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twin.base import InputError
from twin.results.run import Run

QUESTION = ("model", "hf_overrides", "traffic", "client", "slo", "price", "budget")
"""Sections of a scenario that ask; ``deployment`` and ``engine`` answer."""
ASKS = ("model", "hf_overrides", "traffic", "client", "slo")
"""Those without which two answers cannot be compared."""

ANSWER = (
    "gpu",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "enable_expert_parallel",
    "replicas",
    "routing",
    "quantization",
    "kv_cache_dtype",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "num_gpu_blocks",
)

NESTED = ("risk", "money", "energy", "power")
"""Keys that plans may have beside their metrics; compared number by number where both sides have them."""


@dataclass(frozen=True)
class Row:
    """One figure of both sides; ``lower_is_better`` ``None``: neither is."""

    group: str
    name: str
    unit: str
    a: float | None
    b: float | None
    lower_is_better: bool | None

    def as_json(self, judge: bool = True) -> dict[str, Any]:
        """With ``difference`` b − a, ``relative`` to a, and which side is ``better`` (``None``: neither, or not to judge)."""
        difference = self.b - self.a if self.a is not None and self.b is not None else None
        better = None
        if judge and difference and self.lower_is_better is not None:
            better = "b" if (difference < 0) == self.lower_is_better else "a"
        relative = difference / abs(self.a) if difference is not None and self.a else None
        return {
            "group": self.group,
            "figure": self.name,
            "unit": self.unit,
            "a": self.a,
            "b": self.b,
            "difference": difference,
            "relative": relative,
            "better": better,
        }


FIGURES: tuple[tuple[str, str, str, bool | None], ...] = (
    ("cost", "num_gpus", "GPUs", True),
    ("cost", "usd_per_hour", "USD/h", True),
    ("cost", "usd_per_month", "USD/month", True),
    ("cost", "usd_per_mtok", "USD/Mtok", True),
    *(("latency", f"{q}_{m}_ms", "ms", True) for m in ("ttft", "tpot", "e2el") for q in ("p50", "p99")),
    ("throughput", "request_throughput", "requests/s", False),
    ("throughput", "output_throughput", "tokens/s", False),
    ("throughput", "request_goodput", "requests/s", False),
    ("throughput", "slo_attainment", "share", False),
    ("load", "peak_utilisation", "share", True),
    ("load", "peak_kv_cache_usage", "share", True),
    ("load", "num_preemptions", "count", True),
)
"""Group, key of an option or of its metrics, unit, and whether less is better."""


@dataclass(frozen=True)
class Side:
    """A run, and the option of it that is meant; of a simulation its summary stands for the option."""

    run: Run
    option: Mapping[str, Any]

    @property
    def metrics(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.option.get("metrics", self.option)
        return found

    def figure(self, key: str) -> float | None:
        """Of the option or of its metrics; ``None`` where neither has it."""
        value = self.option.get(key, self.metrics.get(key))
        return float(value) if isinstance(value, int | float) else None

    def as_json(self) -> dict[str, Any]:
        return {
            "run": self.run.name,
            "kind": self.run.kind,
            "option": self.option.get("id"),
            "names": list(self.option.get("names", [])),
            "twin_version": self.run.manifest["twin_version"],
            "vllm_version_modelled": self.run.manifest["vllm_version_modelled"],
        }


def side(run: Run, option: str | None = None) -> Side:
    """An option of a plan (the recommended one), or a simulation, which has none.

    Raises :class:`InputError` for an option of a simulation, and one that the plan does not have.
    """
    if run.plan is not None:
        return Side(run, run.option("recommended" if option is None else option))
    if option is not None:
        raise InputError(f"it holds a simulation, which has no option {option!r}", where=run.name)
    sections = {**run.scenario["deployment"], **run.scenario["engine"]}
    answer = {name: sections.get(name) for name in ANSWER}
    return Side(run, {**answer, **run.summary, "bounds": []})


def compare(a: Side, b: Side) -> dict[str, Any]:
    """What ``twin compare`` says, as JSON: the figures, what the answers differ in, and what the questions do."""
    question = _asked(a, b)
    work = _work(a, b)
    differing = sorted({item["field"].split(".")[0] for item in question} & set(ASKS))
    evidence = _evidence(a, b)
    warnings = []
    if differing:
        warnings.append(f"these do not answer the same question: {', '.join(differing)} differ")
    if work and "traffic" not in differing:
        warnings.append("the traffic is named alike, but its requests differ")
    warnings += [f"{item['field']} differs: part of the difference may come from that" for item in evidence]
    rows = [*_figures(a, b), *_promises(a, b), *_nested(a, b)]
    same = not differing and not work
    return {
        "a": a.as_json(),
        "b": b.as_json(),
        "same_question": same,
        "warnings": warnings,
        "figures": [row.as_json(judge=same) for row in rows],
        "answer": _unlike({k: a.option.get(k) for k in ANSWER}, {k: b.option.get(k) for k in ANSWER}),
        "question": [*question, *work],
        "evidence": evidence,
    }


def _figures(a: Side, b: Side) -> list[Row]:
    found = [Row(group, key, unit, a.figure(key), b.figure(key), less) for group, key, unit, less in FIGURES]
    return [row for row in found if row.a is not None or row.b is not None]


def _promises(a: Side, b: Side) -> list[Row]:
    """Each promised quantile, the worse of whole trace and busiest minutes; of a simulation that of the whole trace."""
    found = []
    for key in dict.fromkeys(_bound_key(bound) for one in (a, b) for bound in one.option["bounds"]):
        metric, quantile, request_class = key
        name = f"promised p{quantile * 100:g} {metric}" + (f" of {request_class}" if request_class else "")
        found.append(Row("promise", name, "ms", _promised(a, key), _promised(b, key), True))
    return found


BoundKey = tuple[str, float, str | None]


def _bound_key(bound: Mapping[str, Any]) -> BoundKey:
    return str(bound["metric"]), float(bound["quantile"]), bound.get("request_class")


def _promised(one: Side, key: BoundKey) -> float | None:
    for bound in one.option["bounds"]:
        if _bound_key(bound) == key:
            return float(bound["worst_s"]) * 1e3
    metric, quantile, request_class = key
    return None if request_class else one.figure(f"p{quantile * 100:g}_{metric}_ms")


def _nested(a: Side, b: Side) -> list[Row]:
    """Numbers of risk, money and power, by dotted name, that both sides have."""
    found = []
    for key in NESTED:
        left, right = (_flat(one.option.get(key), key) for one in (a, b))
        both = [name for name in left if name in right and all(_number(side[name]) for side in (left, right))]
        found += [Row(key, name.removeprefix(f"{key}."), "", left[name], right[name], None) for name in both]
    return found


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _asked(a: Side, b: Side) -> list[dict[str, Any]]:
    left, right = ({key: one.run.scenario.get(key) for key in QUESTION} for one in (a, b))
    return _unlike(_paths(left, a.run), _paths(right, b.run))


def _paths(question: dict[str, Any], run: Run) -> dict[str, Any]:
    """Files of the traffic as the same path from wherever a run folder lies."""
    traffic = dict(question.get("traffic") or {})
    if isinstance(traffic.get("trace"), str):
        place = os.path.normpath(run.path.resolve() / traffic["trace"])
        traffic["trace"] = _Place(place)
    return {**question, "traffic": traffic}


class _Place(str):
    """A path that is compared whole, and shown as the file's name."""

    __slots__ = ()


def _work(a: Side, b: Side) -> list[dict[str, Any]]:
    """How much there was to do, where it is not the same."""
    keys = ("completed", "total_input_tokens", "total_output_tokens")
    left, right = ({f"traffic.{key}": one.metrics.get(key) for key in keys} for one in (a, b))
    return _unlike(left, right)


def _evidence(a: Side, b: Side) -> list[dict[str, Any]]:
    """What the figures were computed with: versions, seed, and the profiles and prices of GPUs that both name."""
    left, right = (_sources(one) for one in (a, b))
    both = [name for name in left if name in right]
    return _unlike({name: left[name] for name in both}, {name: right[name] for name in both})


def _sources(one: Side) -> dict[str, Any]:
    manifest, gpu = one.run.manifest, one.option.get("gpu")
    found = {key: manifest[key] for key in ("twin_version", "vllm_version_modelled", "seed")}
    found |= {f"profile of {name}": digest for name, digest in manifest["profiles"].items()}
    price = (one.option.get("usd_per_gpu_hour") or {}).get("value")
    return found if gpu is None or price is None else found | {f"price of {gpu}": price}


def _unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Fields that both have and that differ, by dotted name; one that only one side has counts where it is not ``None``."""
    left, right = _flat(a), _flat(b)
    names = dict.fromkeys([*left, *right])
    return [
        {"field": name, "a": _shown(left.get(name)), "b": _shown(right.get(name))}
        for name in names
        if left.get(name) != right.get(name)
    ]


def _shown(value: Any) -> Any:
    return os.path.basename(value) if isinstance(value, _Place) else value


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value} if prefix else {}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found
