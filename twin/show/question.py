"""The question that the Plan page asks: flags of ``twin plan`` as a value, in a URL, and on a command line.

The plan that runs is exactly ``twin plan`` with :meth:`Question.argv`; what is wrong with it, the command says.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from twin.base import Frozen, InputError, unknown_name

MADE_UP = ("request_rate", "users", "requests_per_user_hour", "input_len", "output_len", "burstiness", "num_requests")
"""Fields of traffic without a trace."""


START: dict[str, Any] = {
    "traffic": "chat.yaml",
    "model": "Qwen/Qwen3-32B",
    "ttft": "2s",
    "tpot": "50ms",
    "budget": "120k/month",
    "explain": "recommended",
}
"""What the page asks unless told otherwise, so that one click makes a plan; an explanation costs no simulation."""


MOST = 1e15
CHOICES: dict[str, tuple[str, ...]] = {
    "price": ("on_demand", "reserved", "spot", "owned"),
    "too_long": ("error", "drop", "truncate"),
}
LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("request_rate", "users", "requests_per_user_hour", "burstiness", "horizon", "seed"), (0, MOST)),
    "num_requests": (2, MOST),
    "max_gpus": (1, MOST),
    "node_size": (1, MOST),
    "worlds": (8, 4096),
}
"""Choices and ends of fields, those of the flags: a field of the page can hold no others."""


class Question(Frozen):
    """Fields are flags of ``twin plan`` with their defaults there, as people type them; ``traffic`` is a trace's name as
    the page shows it, never a path.
    """

    traffic: str | None = None
    rate: str | None = None
    request_rate: float | None = None
    users: float | None = None
    requests_per_user_hour: float | None = None
    input_len: str | None = None
    output_len: str | None = None
    burstiness: float | None = None
    num_requests: int | None = None
    too_long: str = "error"
    model: str | None = None
    ttft: str | None = None
    tpot: str | None = None
    e2el: str | None = None
    budget: str | None = None
    gpu: str | None = None
    max_gpus: int | None = None
    node_size: int = 1
    price: str | None = None
    region: str | None = None
    headroom: str = "20%"
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    max_accuracy_loss: str | None = None
    growth: str | None = None
    horizon: float = 0.0
    risk: bool = False
    worlds: int = 64
    confidence: str = "90%"
    explain: str | None = None
    seed: int = 0

    @classmethod
    def from_params(cls, params: Mapping[str, str]) -> Question:
        """From the query of a URL, its other parameters aside: :data:`START` with what it says; nothing after ``=`` takes away.

        A link that makes up its traffic need not say that it has no trace. Raises :class:`InputError` for a value of another
        kind.
        """
        question, faults = cls.of_link(params)
        if faults:
            raise faults[0]
        return question

    @classmethod
    def of_link(cls, params: Mapping[str, str]) -> tuple[Question, list[InputError]]:
        """As :meth:`from_params`, with what is valid of a link that is not, and a sentence for each fault in it."""
        said = {name: text for name, text in params.items() if name in cls.model_fields}
        if set(said) & set(MADE_UP) and "traffic" not in said:
            said["traffic"] = ""
        fields = {name: text if text != "" else cls.model_fields[name].default for name, text in said.items()}
        try:
            found, wrong = cls.model_validate({**START, **fields}), {}
        except ValidationError as error:
            wrong = {str(fault["loc"][0]): fault["msg"] for fault in error.errors()}
            found = cls.model_validate({**START, **fields, **{name: cls.model_fields[name].default for name in wrong}})
        wrong |= {name: why for name in said if (why := _beyond(name, getattr(found, name)))}
        faults = [
            InputError(f"{_flag(name)}: {why}, not {said[name]!r}", where="the link") for name, why in wrong.items()
        ]
        return found.model_copy(update={name: cls.model_fields[name].default for name in wrong}), faults

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any], folder: Path, files: Mapping[str, Path]) -> Question:
        """That of a run ``folder`` (its ``flags.json``), as far as the page can ask it; its trace by its name in ``files``, and
        without one where it is not among them."""
        known = {name: value for name, value in flags.items() if name in cls.model_fields}
        if file := known.get("traffic"):
            path = (folder / str(file)).resolve()
            known["traffic"] = next((name for name, one in files.items() if one.resolve() == path), None)
        return cls.model_validate(known)

    def to_params(self) -> dict[str, str]:
        """What differs from :data:`START`, for the query of a URL."""
        usual = type(self).model_validate(START)
        said = {name: _text(value) for name, value in self if value != getattr(usual, name)}
        return {"traffic": _text(self.traffic), **said} if set(said) & set(MADE_UP) else said

    def faults(self) -> dict[str, InputError]:
        """By field, the sentence of the command for a text that it does not read."""
        found = {name: fault_of(name, text) for name, text in self if isinstance(text, str)}
        return {name: fault for name, fault in found.items() if fault is not None}

    def argv(self, files: Mapping[str, Path]) -> list[str]:
        """The command line after ``twin``; ``files`` are the traces there are, by name.

        Raises :class:`InputError` for a trace that is not among them.
        """
        words = ["plan"]
        for name, value in self._asked().items():
            if name == "traffic":
                if value not in files:
                    raise unknown_name("trace", str(value), files)
                value = str(files[value])
            text = _text(value)
            if value is True:
                words.append(_flag(name))
            else:  # a text that begins as a flag does must not become one
                words += [f"{_flag(name)}={text}"] if text.startswith("-") else [_flag(name), text]
        return words

    def _asked(self) -> dict[str, Any]:
        fields = type(self).model_fields
        return {name: value for name, value in self if value != fields[name].default}


def fault_of(name: str, text: str) -> InputError | None:
    """What the command says of the ``text`` of a field, if it does not read it; nothing of an empty one."""
    try:
        if text and (read := _readers().get(name)):
            read(text)
    except InputError as error:
        return error
    return None


def _readers() -> dict[str, Callable[[str], object]]:
    """What the command reads texts with."""
    from twin.risk.growth import parse_growth
    from twin.spec.slo import LATENCIES, parse_bound, parse_budget
    from twin.traffic.flags import parse_lengths, parse_rate_factor

    return {
        **{metric: partial(parse_bound, metric) for metric in LATENCIES},
        "budget": parse_budget,
        "growth": parse_growth,
        "rate": parse_rate_factor,
        "input_len": partial(parse_lengths, what="--input-len"),
        "output_len": partial(parse_lengths, what="--output-len"),
    }


def _beyond(name: str, value: Any) -> str | None:
    """Why a field cannot hold a value of the right kind."""
    if name in CHOICES and value is not None and value not in CHOICES[name]:
        return f"one of {', '.join(CHOICES[name])}"
    least, most = LIMITS.get(name, (None, None))
    if least is None or most is None or value is None or least <= value <= most:
        return None
    return f"at least {least:g}" + (f" and at most {most:g}" if most < MOST else ", and a number")


def command(argv: Sequence[str], here: Path | None = None) -> str:
    """As one would type it, files below ``here`` named from there.

    >>> command(["plan", "--rate", "×2", "--budget", "120k/month"])
    "twin plan --rate '×2' --budget 120k/month"
    """
    return shlex.join(["twin", *(_near(word, here) for word in argv)])


def _near(word: str, here: Path | None) -> str:
    path = Path(word)
    return str(path.relative_to(here)) if here and path.is_absolute() and path.is_relative_to(here) else word


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
