"""The flags of ``twin plan`` about classes of requests, objectives and limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twin.search.space import Settings
    from twin.spec.classes import RequestClass
    from twin.spec.objectives import Objectives
    from twin.spec.scenario import Scenario


def classes_of(flags: Mapping[str, Any], today: Scenario | None) -> tuple[RequestClass, ...]:
    """``--class``, once for each, else those of the deployment to judge. Raises :class:`InputError`."""
    from twin.spec.classes import check_classes, parse_class

    classes = tuple(parse_class(text) for text in flags["request_class"] or ())
    check_classes(classes)
    return classes or (today.classes if today else ())


def objectives_of(flags: Mapping[str, Any], today: Scenario | None) -> Objectives:
    """``--objective`` and ``--weights``, the latter once for each window. Raises :class:`InputError`."""
    from twin.base import InputError
    from twin.spec.objectives import Objectives, parse_objectives, parse_weights

    text, windows = flags["objective"], flags["weights"] or ()
    if text is None and not windows:
        return today.objectives if today else Objectives()
    weights = tuple(parse_weights(window) for window in windows)
    whens = [item.when for item in weights]
    if twice := [when for when in whens if whens.count(when) > 1]:
        raise InputError(f"--weights {twice[0]} stands twice")
    return Objectives(minimise=() if text is None else parse_objectives(text), weights=weights)


def settings_of(flags: Mapping[str, Any]) -> Settings:
    """``--max-num-seqs`` and ``--tensor-parallel-size``. Raises :class:`InputError`."""
    from twin.base import InputError
    from twin.search.space import TENSOR_PARALLEL_SIZES, Settings

    text = flags["tensor_parallel_size"]
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if wrong := [part for part in parts if not part.isdecimal()]:
        raise InputError(f"--tensor-parallel-size: {wrong[0]!r} is not a size", allowed=TENSOR_PARALLEL_SIZES)
    return Settings(flags["max_num_seqs"], tuple(sorted({int(part) for part in parts})))
