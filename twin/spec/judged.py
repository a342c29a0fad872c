"""What has been published of the accuracy that a number format loses."""

from __future__ import annotations

from statistics import mean
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveFloat, field_validator

from twin.base import Frozen


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) else value


Scores = Annotated[tuple[PositiveFloat, ...], BeforeValidator(_several), Field(min_length=1)]


class Evaluation(Frozen):
    """Published scores: of the model before, and of the same model in a format. Several are those of tasks, and averaged;
    a ``reference`` of 100 stands where a source gives the share that was kept.
    """

    model: str
    benchmark: str
    reference: Scores
    reached: Scores
    source: str
    date: str

    @field_validator("date", mode="before")
    @classmethod
    def _text(cls, value: object) -> str:
        return str(value)

    @property
    def loss(self) -> float:
        """Share of the score that is lost; below 0 where the format scored better."""
        return 1.0 - mean(self.reached) / mean(self.reference)


class Judged(Frozen):
    """What may be said of a format's accuracy: evaluations, why it loses nothing, or why nothing is known."""

    evaluations: tuple[Evaluation, ...] = ()
    lossless: str | None = None
    unknown: str | None = None
    note: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def loss(self) -> float | None:
        """Expected share of the average score lost: the mean of the evaluations, at least 0. ``None`` if unknown."""
        if self.lossless is not None:
            return 0.0
        losses = [found.loss for found in self.evaluations]
        return max(0.0, mean(losses)) if losses else None

    @property
    def loss_source(self) -> str:
        if self.evaluations:
            said = [f"{e.loss:.1%} {e.model} ({e.benchmark}; {e.source}, {e.date})" for e in self.evaluations]
            return "; ".join([*said, *([self.note] if self.note else [])])
        return str(self.lossless or self.unknown)
