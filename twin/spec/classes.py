"""Classes of requests, each with promises of its own: named, in order, the first that matches takes the request.

A class is known by what the trace itself calls its requests, by their input and output tokens, or both. Its name is written
into the trace's ``request_class`` (:func:`labelled`), so slices, repeats and resamples of the trace keep it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator

from twin.base import Frozen, InputError, unknown_name
from twin.spec.slo import LATENCIES, Bound, Slo, parse_bound
from twin.traffic.trace import Trace

Mask = NDArray[np.bool_]

NAME = r"^[A-Za-z0-9][\w.-]*$"
FLAG = "chat:input<=4000,ttft=500ms,tpot=p90:50ms"
_LIMIT = re.compile(r"(input|output)\s*(<=|>=|<|>)\s*(\d+)")


class RequestClass(Frozen):
    """Requests that the trace calls ``request_class`` and whose lengths lie within the limits given (both ends included).

    Without any of these: those that the trace calls by the name of the class, if it does that; else all that are left.
    """

    name: str = Field(pattern=NAME)
    request_class: str | None = None
    min_input_tokens: PositiveInt | None = None
    max_input_tokens: PositiveInt | None = None
    min_output_tokens: PositiveInt | None = None
    max_output_tokens: PositiveInt | None = None
    slo: Slo = Slo()

    @model_validator(mode="after")
    def _possible(self) -> RequestClass:
        for what in ("input", "output"):
            least, most = getattr(self, f"min_{what}_tokens"), getattr(self, f"max_{what}_tokens")
            if least is not None and most is not None and least > most:
                raise ValueError(f"class {self.name}: min_{what}_tokens {least} is above max_{what}_tokens {most}")
        return self

    @property
    def ruled(self) -> bool:
        """Whether it says which requests are its own."""
        return any(value is not None for name, value in self if name not in ("name", "slo"))

    @property
    def bounds(self) -> tuple[Bound, ...]:
        return tuple(bound.model_copy(update={"request_class": self.name}) for bound in self.slo.bounds)

    def of(self, trace: Trace) -> Mask | None:
        """Which requests match, shape (n,); ``None``: all of them, as it has no rule and the trace does not know its name."""
        own = trace.request_class
        if not self.ruled:
            named = None if own is None else np.array([value == self.name for value in own], dtype=bool)
            return named if named is not None and named.any() else None
        mask = np.ones(len(trace), dtype=bool)
        if self.request_class is not None:
            mask &= False if own is None else np.array([value == self.request_class for value in own], dtype=bool)
        for values, least, most in (
            (trace.input_tokens, self.min_input_tokens, self.max_input_tokens),
            (trace.output_tokens, self.min_output_tokens, self.max_output_tokens),
        ):
            mask &= (values >= (least or 0)) & (values <= (most or np.inf))
        return mask


def labelled(trace: Trace, classes: Sequence[RequestClass]) -> Trace:
    """The trace with each request's class in ``request_class``, ``None`` for those that no class takes; unchanged without
    classes. ``notes`` gain a sentence for each class without requests.

    Raises :class:`InputError` for a name that stands twice, a class by the trace's own column where the trace has none, and
    a class behind one that takes all that are left.
    """
    if not classes:
        return trace
    check_classes(classes, trace)
    names = np.full(len(trace), None, dtype=object)
    free = np.ones(len(trace), dtype=bool)
    greedy: str | None = None
    for item in classes:
        if greedy is not None:
            raise InputError(f"class {item.name} can have no request: {greedy} before it takes all that are left")
        mask = item.of(trace)
        greedy = item.name if mask is None else None
        names[free if mask is None else free & mask] = item.name
        free &= names == None  # noqa: E711  (elementwise)
    empty = [item.name for item in classes if not (names == item.name).any()]
    said = tuple(f"no request of this traffic is of class {name}: its promises hold for want of any" for name in empty)
    return replace(trace, request_class=names, notes=(*trace.notes, *said))


def check_classes(classes: Sequence[RequestClass], trace: Trace | None = None) -> None:
    """Raises :class:`InputError` for a name that stands twice, or a label of a ``trace`` that labels nothing."""
    names = [item.name for item in classes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"class {twice[0]} stands twice; the first that matches takes a request")
    asked = [item for item in classes if item.request_class is not None]
    if trace is None or not asked:
        return
    if trace.request_class is None:
        raise InputError(
            f"class {asked[0].name} is the trace's own {asked[0].request_class!r}, but the trace has no request_class",
            where=trace.name,
        )
    known = sorted({str(value) for value in trace.request_class if value is not None})
    for item in asked:
        if item.request_class not in known:
            raise unknown_name("request_class", str(item.request_class), known, where=f"class {item.name}")


def promised(slo: Slo, classes: Sequence[RequestClass]) -> Slo:
    """The promises of all requests, then those of each class."""
    return Slo(bounds=(*slo.bounds, *(bound for item in classes for bound in item.bounds)))


def parse_class(text: str) -> RequestClass:
    """``chat:input<=4000,ttft=500ms,tpot=p90:50ms``: a name, then which requests (``input``, ``output`` with ``<=``, ``>=``,
    ``<``, ``>``; ``class=`` what the trace calls them) and what they are promised.

    Raises :class:`InputError`.
    """
    name, _, rest = text.strip().partition(":")
    where = f"--class {name.strip()}"
    if not re.match(NAME, name.strip()):
        raise InputError(f"--class: {text!r} does not begin with a name and a colon", allowed=[FLAG])
    fields: dict[str, Any] = {"name": name.strip()}
    bounds: list[Bound] = []
    for part in filter(None, (part.strip() for part in rest.split(","))):
        limit = _LIMIT.fullmatch(part)
        key, sign, value = (side.strip() for side in part.partition("="))
        if limit:
            field, tokens = _limit(*limit.groups())
            fields[field] = tokens
        elif sign and key in LATENCIES:
            bounds.append(_bound(key, value, where))
        elif sign and value and key in ("class", "request_class"):
            fields["request_class"] = value
        else:
            raise InputError(f"{part!r} is not understood", where=where, allowed=[FLAG, "class=chat"])
    _check_limits(fields, where)
    return RequestClass(**fields, slo=Slo(bounds=tuple(bounds)))


def _limit(what: str, sign: str, tokens: str) -> tuple[str, int]:
    """``input``, ``<``, ``4000`` → ``max_input_tokens``, 3999."""
    side = "max" if sign[0] == "<" else "min"
    inside = int(tokens) + {"<": -1, ">": 1}.get(sign, 0)
    return f"{side}_{what}_tokens", inside


def _check_limits(fields: dict[str, Any], where: str) -> None:
    for what in ("input", "output"):
        least, most = fields.get(f"min_{what}_tokens"), fields.get(f"max_{what}_tokens")
        if most is not None and most < (least or 1):
            raise InputError(f"no request has at least {least or 1} and at most {most} {what} tokens", where=where)
        if least == 0:
            del fields[f"min_{what}_tokens"]


def _bound(metric: Any, text: str, where: str) -> Bound:
    try:
        return parse_bound(metric, text)
    except InputError as error:
        raise InputError(error.what.removeprefix("--"), where=where, allowed=error.allowed) from None
