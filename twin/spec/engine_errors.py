"""How far whole engines were off the model, by what was seen of their GPU: ``hwprofiles/risk.json``, which risk is drawn from.

``calibrate/risk.py`` writes the file from recorded runs, each predicted by a fit that had not seen its GPU or its layout.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from twin.base import Frozen, InputError, data_dir
from twin.spec.accuracy import Source
from twin.spec.hardware import HardwareProfile

Evidence = Literal["seen", "unseen"]
"""Whether runs of the GPU itself are in the fit of its host times."""


class Held(Frozen):
    """Share of ``n`` runs of a group inside the one-sided 90 % promise, before and after widening; ``checked`` with a spread
    that had not seen the group. ``bias`` and ``rms`` of log(measured / predicted).
    """

    n: int
    bias: float
    rms: float
    before: float
    after: float
    checked: float | None = None


class Spread(Frozen):
    """Of one quantity: ``sigma`` of log(measured / predicted) as the fits state it, what it is widened by, and what held."""

    sigma: float = Field(ge=0)
    widen: float = Field(ge=1)
    groups: dict[str, Held]

    @property
    def widened(self) -> float:
        return self.sigma * self.widen


class RiskData(Frozen):
    """Spreads of ``tpot`` and ``ttft`` by evidence, and what they do not cover.

    ``runs``: by evidence and group, log(measured / predicted) of TPOT and TTFT of each run that was left out.
    """

    schema_version: Literal[1] = 1
    date: str
    sources: tuple[Source, ...]
    spreads: dict[Evidence, dict[Literal["tpot", "ttft"], Spread]]
    notes: tuple[str, ...] = ()
    runs: dict[Evidence, dict[str, tuple[tuple[float, float], ...]]] = Field(default_factory=dict)


class EngineErrors(Frozen):
    """Standard deviations of log(measured / predicted) of whole engines on a GPU, widened, and where they come from."""

    tpot: float
    ttft: float
    evidence: Evidence
    source: str


def load_risk(path: Path | None = None) -> RiskData:
    """The shipped spreads. Raises :class:`InputError` for a missing file or another content."""
    path = data_dir("hwprofiles") / "risk.json" if path is None else path
    try:
        return RiskData.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=path.name) from None
    except (ValidationError, ValueError) as error:
        raise InputError(f"is not what risk is drawn from: {str(error).splitlines()[0]}", where=path.name) from None


def evidence_of(profile: HardwareProfile) -> Evidence:
    """Runs of a GPU were seen where its own host times were fitted on them."""
    return "seen" if profile.host is not None and profile.host.step_s.origin == "fitted" else "unseen"


def engine_errors(profile: HardwareProfile, data: RiskData | None = None) -> EngineErrors:
    """How far engines on this GPU may be off: a GPU with runs has its own error on layouts left out, if that is larger."""
    data = load_risk() if data is None else data
    evidence, host = evidence_of(profile), profile.host
    found = data.spreads[evidence]
    own = {"tpot": host.tpot_error, "ttft": host.ttft_error} if host is not None and evidence == "seen" else {}
    sigma = {name: max(spread.sigma, own.get(name) or 0.0) * spread.widen for name, spread in found.items()}
    seen = (
        "runs of this GPU, layouts left out" if evidence == "seen" else "runs of other GPUs, each left out as a whole"
    )
    files = ", ".join(source.file for source in data.sources)
    source = f"{seen}; {files}, hwprofiles/risk.json of {data.date}"
    return EngineErrors(tpot=sigma["tpot"], ttft=sigma["ttft"], evidence=evidence, source=source)
