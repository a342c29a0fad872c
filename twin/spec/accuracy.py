"""How wrong the twin was, as shipped beside the profiles: ``hwprofiles/accuracy.json``, which every plan quotes.

``twin accuracy`` writes the file from recorded measurements. It stands in this room so that plans can read it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from twin.base import Frozen, InputError, data_dir
from twin.spec.hardware import HardwareProfile

PAGE = "docs/accuracy.md"
METRICS = ("tpot", "ttft", "e2el")
Kind = Literal["runs", "request logs"]


class Source(Frozen):
    """A file that figures were made from: its name, and the sha256 of its content."""

    file: str
    sha256: str


class Errors(Frozen):
    """Errors of ``n`` runs or request logs, relative to what was measured.

    ``tpot``, ``ttft``, ``e2el``: mean absolute errors of a run's means. ``inside_90``: the share of the measured inside the
    predicted 90 % bounds, by metric.
    ``fitted``: whether host times were fitted on these very measurements.
    """

    n: int
    kind: Kind = "runs"
    fitted: bool = False
    tpot: float | None = None
    ttft: float | None = None
    e2el: float | None = None
    inside_90: dict[str, float] | None = None


class Accuracy(Frozen):
    """Errors by GPU and of what was not fitted. ``profiles``: digests of those that the figures hold for."""

    schema_version: Literal[1] = 1
    date: str
    sources: tuple[Source, ...]
    profiles: dict[str, str]
    gpus: dict[str, tuple[Errors, ...]]
    saturated: Errors | None = None
    unseen_gpu: Errors | None = None
    unseen_layout: Errors | None = None


def load_accuracy(path: Path | None = None) -> Accuracy | None:
    """The shipped figures, or those of ``path``; ``None`` without a file. Raises :class:`InputError` for another content."""
    path = data_dir("hwprofiles") / "accuracy.json" if path is None else path
    try:
        return Accuracy.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValidationError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise InputError(f"is not what twin accuracy writes: {said}", where=path.name) from None


def quoted(accuracy: Accuracy | None, profile: HardwareProfile) -> dict[str, object] | None:
    """What measurements say of a profile: ``measured`` on this GPU, ``unseen_gpu``, and both in ``text``.

    ``None`` where the figures hold for another profile (one that was changed or is the user's own), for a CPU, or where
    nothing was measured that bears on it.
    """
    if accuracy is None or profile.device != "gpu" or accuracy.profiles.get(profile.name) != profile.digest():
        return None
    measured, unseen = accuracy.gpus.get(profile.name, ()), accuracy.unseen_gpu
    said = [sentence for errors in measured if (sentence := _sentence(errors))]
    if unseen is not None and (sizes := _sizes(unseen)):
        said.append(f"on GPUs left out of the fit {sizes}" if said else _never(unseen, profile))
    if not said:
        return None
    return {
        "measured": [errors.model_dump(mode="json") for errors in measured],
        "unseen_gpu": None if unseen is None else unseen.model_dump(mode="json"),
        "text": f"{'; '.join(said)}. {PAGE}",
    }


def _sentence(errors: Errors) -> str:
    fit = "its host times were fitted on them" if errors.fitted else "not used in any fit"
    sizes = _sizes(errors)
    measured = "measured runs" if errors.kind == "runs" else "recorded request logs"
    return sizes and f"on {errors.n} {measured} of this GPU {sizes} off (mean absolute; {fit})"


def _never(unseen: Errors, profile: HardwareProfile) -> str:
    """The sentence for a GPU without a measured run."""
    more = ""
    if profile.origin == "assumed":
        more = "; those had measured kernels, this one's speed is assumed, so expect more"
    return f"no run of this GPU was measured; on GPUs left out of the fit {_sizes(unseen)} off (mean absolute{more})"


def _sizes(errors: Errors) -> str:
    found = {name: getattr(errors, name) for name in METRICS[:2]}
    said = [f"{name.upper()} {size:.0%}" for name, size in found.items() if size is not None]
    return " and ".join(said).replace(" ", " was ", 1)
