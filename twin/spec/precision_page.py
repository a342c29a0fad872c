"""``docs/precisions.md``: the table of number formats for readers. ``python -m twin.spec.precision_page`` writes it anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean

from twin.base import InputError
from twin.spec.hardware import HardwareProfile, load_profile, profile_names
from twin.spec.judged import Judged
from twin.spec.precision import WeightFormat, precision_table, resolved_format

_HEAD = """# Number formats

Made from `twin/spec/precisions.yaml` by `python -m twin.spec.precision_page`. A deployment names a format in
`quantization` and `kv_cache_dtype`, a plan tries those in `--quantization` and `--kv-cache-dtype`; embedding, router and
norms stay in 16 bits unless a row says otherwise. Rules are those of vLLM {vllm}.

*Expected loss* is the mean, over the evaluations below, of the share of the average benchmark score that was lost;
`--max-accuracy-loss` holds it against its limit, weights and cache added up, and rules out what nobody published a figure of.
"""


def page() -> str:
    """Markdown."""
    table = precision_table()
    parts = [
        _HEAD.format(vllm=table.vllm),
        "## Weights\n",
        _markdown(("format", "in it", "bits with scales", "activations", "in vLLM", "expected loss"), _weights()),
        "\n## KV cache\n",
        _markdown(
            ("format", "bits", "note", "expected loss"),
            [
                (f"`{name}`", f"{item.bits}", item.stands_in or item.note or "", _loss(item))
                for name, item in table.kv_cache.items()
            ],
        ),
        "\n## Which GPU runs what\n",
        "● its own products, ◐ emulated: weights stay narrow and vLLM computes in 16 bits (Marlin, for experts also Triton),"
        " – refused. A format"
        " whose kernels have neither measurements nor an assumption in a profile is refused there all the same.\n",
        _markdown(("GPUs", *(f"`{name}`" for name in table.formats)), _support()),
        "\n## Published evaluations\n",
        "Scores before and after; before is 100 where a source gives the share that was kept.\n",
        _markdown(("format", "model", "benchmark", "before", "after", "loss", "source"), _evaluations()),
        "\n## Sources of the rules\n",
        "\n".join(f"- {name}: {item.source}" for name, item in table.generations.items()),
    ]
    return "\n".join(parts) + "\n"


def _weights() -> Iterable[Sequence[str]]:
    precisions = precision_table().precisions
    for name, item in precision_table().formats.items():
        stored = dict.fromkeys(item.roles.values()) or {"bf16": None}
        bits = ", ".join(f"{precisions[precision].bytes_each * 8:.4g}" for precision in stored)
        activations = ", ".join(f"{precisions[precision].activation_bits} bits" for precision in stored)
        yield f"`{name}`", _roles(item), bits, activations, _in_vllm(item), _loss(item)


def _roles(item: WeightFormat) -> str:
    return "everything" if "embedding" in item.roles else ", ".join(item.roles) or "–"


def _in_vllm(item: WeightFormat) -> str:
    if item.absent or item.checkpoint:
        return item.absent or f"checkpoint: {item.checkpoint}"
    return f"`{' '.join(item.flags)}`" if item.flags else "as published"


def _loss(item: Judged) -> str:
    return f"{item.loss:.1%}" if item.loss is not None else f"unknown: {item.unknown}"


def _support() -> Iterable[Sequence[str]]:
    known = set(profile_names())
    for generation in precision_table().generations.values():
        profile = load_profile(next(name for name in generation.gpus if name in known))
        yield ", ".join(generation.gpus), *(_mark(profile, name) for name in precision_table().formats)


def _mark(profile: HardwareProfile, name: str) -> str:
    try:
        return "◐" if resolved_format(profile, name).emulated else "●"
    except InputError:
        return "–"


def _evaluations() -> Iterable[Sequence[str]]:
    judged: dict[str, Judged] = {**precision_table().formats}
    judged |= {f"{name} (KV cache)": item for name, item in precision_table().kv_cache.items()}
    for name, item in judged.items():
        for found in item.evaluations:
            scores = f"{mean(found.reference):.4g}", f"{mean(found.reached):.4g}", f"{found.loss:.1%}"
            yield name, found.model, found.benchmark, *scores, f"{found.source}, {found.date}"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    Path("docs/precisions.md").write_text(page(), encoding="utf-8")
