"""Traffic made up, on the Traffic page: the flags of ``twin traffic synth`` as a form whose state is in the URL."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import streamlit as st

from twin.base import InputError
from twin.traffic.recipes import synth_recipe
from twin.traffic.synthetic import SyntheticTraffic, synthesize
from twin.traffic.trace import Trace

MOST_REQUESTS = 2_000_000
"""That a page makes; more would take the memory of the server."""
OFFICE = "3,2,1,1,1,2,4,7,10,12,13,13,12,13,14,14,13,12,10,9,8,7,5,4"
CURVES = {"steady": None, "a working day": OFFICE}
FIELDS = {
    "request_rate": ("Requests per second", "8", "The mean, also over a day."),
    "input_len": ("Input tokens", "median=1200,p99=6000", "1200, or min=100,max=400, or median=1200,p99=6000."),
    "output_len": ("Output tokens", "200", "As for input tokens."),
    "duration": ("For", "1h", "90min, 1h, 2d."),
    "burstiness": ("Burstiness", "1", "Gamma shape of the gaps, as vllm bench serve: 1 is Poisson, below is burstier."),
    "turns": ("Turns of a session", "1", "1, or min=1,max=4: a later prompt holds all that was said."),
    "shared_prefix_tokens": ("Shared prefix, tokens", "0", "A system prompt, the same for all, on top."),
    "seed": ("Seed", "0", "The same seed makes the same requests."),
}
NUMBERS: dict[str, type[float] | type[int]] = {
    "request_rate": float,
    "burstiness": float,
    "shared_prefix_tokens": int,
    "seed": int,
}


@dataclass(frozen=True)
class MadeUp:
    """A recipe that was asked for; ``plan``: parameters of the Plan page that ask for the same, as far as it can."""

    key: str
    make: Callable[[], Trace]
    plan: Mapping[str, str]
    command: str


def ask() -> MadeUp:
    """The form. Raises :class:`InputError` with the sentence of ``twin traffic synth``."""
    columns = st.columns(4)
    typed = {
        name: columns[place % 4].text_input(label, default, key=name, bind="query-params", help=said)
        for place, (name, (label, default, said)) in enumerate(FIELDS.items())
    }
    curve = st.segmented_control(
        "Over the day", list(CURVES), default="steady", key="curve", bind="query-params", required=True
    )
    daily = CURVES[curve or "steady"]
    flags: dict[str, Any] = {name: text for name, text in typed.items() if text.strip()}
    seed = int(_number("seed", flags.pop("seed", "0")))
    recipe = recipe_of({**flags, **({"daily_curve": daily} if daily else {})})
    said = {**typed, **({"daily_curve": daily} if daily else {})}
    return MadeUp(
        key=f"{recipe.model_dump_json()}|{seed}",
        make=partial(synthesize, recipe, seed),
        plan={name: typed[name] for name in ("request_rate", "input_len", "output_len", "burstiness")},
        command="twin traffic synth " + " ".join(f"{_flag(k)} {shlex.quote(v)}" for k, v in said.items() if v.strip()),
    )


def recipe_of(typed: Mapping[str, Any]) -> SyntheticTraffic:
    """What was typed as a recipe, of as many requests as a page can make."""
    flags = {name: _number(name, value) if name in NUMBERS else value for name, value in typed.items()}
    recipe = synth_recipe(flags)
    if recipe.request_rate * (recipe.duration_s or 0.0) > MOST_REQUESTS:
        most = f"a page makes up to {MOST_REQUESTS:,} requests; twin traffic synth makes more"
        raise InputError(most, where=_flag("duration"))
    return recipe


def _number(name: str, text: str) -> float:
    try:
        return NUMBERS[name](text)
    except ValueError:
        kind = "whole number" if NUMBERS[name] is int else "number"
        raise InputError(f"{text!r} is not a {kind}", where=_flag(name)) from None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
