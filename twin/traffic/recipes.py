"""The flags of ``twin traffic synth`` as a recipe, for the command line and for whoever asks in its words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twin.base import parse_duration
from twin.traffic.flags import parse_lengths, parse_numbers
from twin.traffic.synthetic import SyntheticTraffic, recipe_from

NUM_REQUESTS = 1000
"""Made up where neither a number nor a duration is asked for."""
_LENGTHS = {
    "input_len": "--input-len",
    "output_len": "--output-len",
    "turns": "--turns",
    "session_context": "--session-context",
}


def synth_recipe(flags: Mapping[str, Any]) -> SyntheticTraffic:
    """``flags`` as they are typed, ``None`` or absent where they are not. Raises :class:`InputError` naming the flag."""
    given = {name: value for name, value in flags.items() if value is not None}
    lengths = {name: parse_lengths(given.pop(name), what=flag) for name, flag in _LENGTHS.items() if name in given}
    data: dict[str, Any] = {"session_context_tokens" if k == "session_context" else k: v for k, v in lengths.items()}
    for name in ("duration", "turn_gap"):
        if name in given:
            data[f"{name}_s"] = parse_duration(given.pop(name), bare="s")
    if "daily_curve" in given:
        data["daily_curve"] = parse_numbers(given.pop("daily_curve"), what="--daily-curve")
    if "lengths_from" in given:
        data["lengths_from"] = str(given.pop("lengths_from"))
    if "duration_s" not in data:
        given.setdefault("num_requests", NUM_REQUESTS)
    return recipe_from({**given, **data}, where="traffic synth")
