"""A run as a report reads it: values that know their place, words in one language, and what was asked beside the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twin.results.run import Run
from twin.show.report.blocks import FORMULAS, Cell, Form, Part, Text
from twin.show.words import Say

MARK = "\x00"


@dataclass(frozen=True)
class Node:
    """A value of the run's JSON and its path. What is missing is a node too, whose value is ``None``: older runs and plans
    without ``--risk`` lack parts, and whoever reads asks ``there`` first, or shows a dash.
    """

    value: Any
    path: str

    def __getitem__(self, key: str | int) -> Node:
        found = None
        if isinstance(key, str) and isinstance(self.value, Mapping):
            found = self.value.get(key)
        elif isinstance(key, int) and isinstance(self.value, Sequence) and -len(self.value) <= key < len(self.value):
            found = self.value[key]
            key %= len(self.value)
        return Node(found, f"{self.path}[{key}]" if isinstance(key, int) else f"{self.path}.{key}")

    def __iter__(self) -> Iterator[Node]:
        return (self[at] for at in range(len(self.value or ())))

    def items(self) -> Iterator[tuple[str, Node]]:
        return ((key, self[key]) for key in (self.value or ()))

    @property
    def there(self) -> bool:
        """Whether there is anything in it."""
        return self.value is not None and self.value not in ("", [], {})

    def cell(self, form: Form) -> Cell:
        return Cell(self.value, form, self.path)


def derived(formula: str, form: Form, *of: Node) -> Cell:
    """A figure that follows from others by one of :data:`FORMULAS`; ``None`` where one of them is missing."""
    return follows(formula, *of).cell(form)


def follows(formula: str, *of: Node) -> Node:
    """As :func:`derived`, for what asks further."""
    known = all(node.value is not None for node in of)
    value = FORMULAS[formula](*(node.value for node in of)) if known else None
    return Node(value, f"{formula}({', '.join(node.path for node in of)})")


@dataclass(frozen=True)
class Talk:
    """Words in one language, figures let in where the text has a blank."""

    say: Say

    def __call__(self, text: str, /, **blanks: Part | Text) -> Text:
        said = self.say(text, **{name: f"{MARK}{name}{MARK}" for name in blanks})
        parts: list[Part] = []
        for at, piece in enumerate(said.split(MARK)):
            filled = blanks[piece] if at % 2 else piece
            parts += filled if isinstance(filled, tuple) else [filled]
        return tuple(part for part in parts if part != "")


def joined(texts: Sequence[Text], between: str) -> Text:
    """Texts one after the other."""
    parts: list[Part] = []
    for at, text in enumerate(texts):
        parts += [between, *text] if at else text
    return tuple(parts)


@dataclass(frozen=True)
class Matter:
    """All that a section may speak of. ``today``: the plan of what is deployed now, if it was named; ``asked``: ``rack_kw``
    (``rack_named``: whether anybody asked for it), ``start`` (month 0 as ``2027-01``) and the ``name`` of the service.
    """

    plan: Node
    manifest: Node
    flags: Node
    scenario: Node
    today: Node
    asked: Node
    timeline: Node
    t: Talk

    @property
    def say(self) -> Say:
        return self.t.say

    @property
    def fixed(self) -> bool:
        """Whether the run judges what is deployed, rather than searching."""
        return self.plan["fixed"].there

    @property
    def recommended(self) -> Node:
        """The recommended option; nothing where none holds."""
        named = (option for option in self.plan["options"] if option["id"].value == self.plan["recommended"].value)
        return next(named, Node(None, f"{self.plan.path}.recommended_option"))

    @property
    def subject(self) -> Node:
        """What figures are shown of in detail: the recommended option, else the nearest miss, else the first of anything."""
        if self.recommended.there:
            return self.recommended
        return self.plan["options"][0] if self.plan["options"].there else self.plan["near_misses"][0]

    @property
    def deployed(self) -> Node:
        """The option that is deployed now, of ``--today`` or of a run that judges it itself; it may miss its promises."""
        source = self.plan if self.fixed else self.today
        return source["options"][0] if source["options"].there else source["near_misses"][0]

    @property
    def judged(self) -> Node:
        """What the run of :attr:`deployed` says of it: ``holds`` and ``highest_rate_factor``."""
        return (self.plan if self.fixed else self.today)["fixed"]

    @property
    def gamble(self) -> bool:
        """Whether the recommended option holds in fewer worlds than the confidence that was asked for."""
        held, asked = self.recommended["risk"]["probability_held"]["value"], self.plan["risk"]["confidence"]
        return held.there and asked.there and held.value < asked.value


def matter_of(run: Run, today: Run | None, asked: Mapping[str, object], talk: Talk) -> Matter:
    """Nodes of a plan's run folder; the caller has made sure that ``run`` holds a plan."""
    return Matter(
        plan=Node(run.plan, "plan"),
        manifest=Node(run.manifest, "manifest"),
        flags=Node(run.flags, "flags"),
        scenario=Node(run.scenario, "scenario"),
        today=Node(None if today is None else today.plan, "today"),
        asked=Node(dict(asked), "asked"),
        timeline=Node(getattr(run, "timeline", None), "timeline"),
        t=talk,
    )
