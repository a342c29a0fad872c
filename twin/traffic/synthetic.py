"""Made-up traffic: a recipe with the words of ``vllm bench serve``, and the trace that it and a seed give.

Arrivals follow vLLM's ``benchmarks/serve.py`` (get_request): gaps are Gamma(shape = burstiness, mean
1/rate), so burstiness 1 is Poisson, below 1 is burstier, ``inf`` is evenly spaced; rate ``inf`` sends
everything at once. With ``num_requests`` the arrivals are rescaled so that the last lands at
num_requests/rate after the client starts, as vLLM does; the trace's clock then starts at the first arrival.
With ``duration_s`` nothing is rescaled, so the number of requests varies with the seed as in the world.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, model_validator

from twin.base import Frozen, InputError, parse_duration, unknown_name
from twin.traffic.columns import Floats, Ints
from twin.traffic.lengths import Lengths
from twin.traffic.readers import read_trace
from twin.traffic.trace import MOONCAKE_BLOCK_TOKENS, Trace

MAX_REQUESTS = 20_000_000
_HOUR_S = 3600.0
MAX_DURATION_S = 366 * 24 * _HOUR_S


def _seconds(value: Any) -> Any:
    return parse_duration(value, bare="s") if isinstance(value, str) else value


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"


Seconds = Annotated[float, BeforeValidator(_seconds)]
# JSON has no infinity; the word is read back as the number
OrInf = Annotated[float, PlainSerializer(_json_number, when_used="json")]


class SyntheticTraffic(Frozen):
    """A recipe. One of ``num_requests`` and ``duration_s``; lengths from distributions or from a trace.

    ``request_rate`` requests per second (``inf``: all at once) and ``burstiness`` as vLLM's.
    ``daily_curve``: 24 multipliers of the rate, one an hour from midnight, normalised to mean 1, so that
    ``request_rate`` stays the mean over a day; the trace starts at ``start_hour``.

    ``turns`` per session: later turns arrive an exponential ``turn_gap_s`` on average after the one before,
    and their prompts hold everything said so far: ``input_len`` is then what a turn adds. A session brings
    ``session_context_tokens`` of its own (a repository, a document) with its first turn.
    ``shared_prefix_tokens`` (a system prompt, the same for all) come on top of ``input_len``, as vLLM's
    ``--random-prefix-len``.

    ``lengths_from`` draws (input, output) pairs of that trace file, with replacement; ``input_len`` and
    ``output_len`` then override one side.
    """

    request_rate: OrInf = Field(gt=0)
    burstiness: OrInf = Field(1.0, gt=0)
    num_requests: int | None = Field(None, ge=1, le=MAX_REQUESTS)
    duration_s: Seconds | None = Field(None, gt=0, le=MAX_DURATION_S)
    input_len: Lengths | None = None
    output_len: Lengths | None = None
    lengths_from: str | None = None
    daily_curve: tuple[float, ...] | None = None
    start_hour: float = Field(0.0, ge=0, lt=24)
    turns: Lengths = Lengths(len=1)
    turn_gap_s: Seconds = Field(30.0, ge=0, le=MAX_DURATION_S)
    session_context_tokens: Lengths | None = None
    shared_prefix_tokens: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> SyntheticTraffic:
        if (self.num_requests is None) == (self.duration_s is None):
            raise ValueError("give num_requests or duration_s, one of the two")
        if self.lengths_from is None and (self.input_len is None or self.output_len is None):
            raise ValueError("give input_len and output_len, or lengths_from")
        if math.isinf(self.request_rate) and (self.duration_s is not None or self.daily_curve is not None):
            raise ValueError("request_rate inf sends all at once: give num_requests, and no daily_curve")
        if self.duration_s is not None and self.request_rate * self.duration_s > MAX_REQUESTS:
            raise ValueError(f"request_rate × duration_s is more than {MAX_REQUESTS:,} requests")
        if (self.num_requests or 0) / self.request_rate > MAX_DURATION_S:
            raise ValueError("num_requests / request_rate is more than a year")
        if self.daily_curve is not None:
            _check_curve(self.daily_curve)
        return self

    @property
    def has_prefixes(self) -> bool:
        """Whether requests can share the beginning of their prompts."""
        return self.shared_prefix_tokens > 0 or self.turns.average() > 1


def _check_curve(curve: tuple[float, ...]) -> None:
    if len(curve) != 24:
        raise ValueError(f"daily_curve has {len(curve)} multipliers, not 24 (one an hour)")
    if not (all(math.isfinite(m) and m >= 0 for m in curve) and sum(curve) > 0):
        raise ValueError("daily_curve holds numbers of at least 0, not all of them 0")


def recipe_from(data: Mapping[str, Any], *, where: str = "synthetic traffic") -> SyntheticTraffic:
    """A recipe from plain data; the first thing wrong with it as one :class:`InputError`."""
    if unknown := [name for name in data if name not in SyntheticTraffic.model_fields]:
        raise unknown_name("field", unknown[0], SyntheticTraffic.model_fields, where=where)
    try:
        return SyntheticTraffic(**data)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":  # below the top level only lengths have fields
            raise unknown_name("field", str(first["loc"][-1]), Lengths.model_fields, where=where) from None
        field = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{field}: {what}" if field else what, where=where) from None


def synthesize(recipe: SyntheticTraffic, seed: int = 0, *, lengths_from: Trace | None = None) -> Trace:
    """The trace of ``recipe``; the same seed gives the same trace. Starts, turns and each kind of length
    draw from streams of their own, so changing one leaves the others as they were. ``lengths_from`` stands
    in for the recipe's file.

    A session's turns that would fall behind the end of the trace stand at its beginning instead, as a
    session that had begun before: the rate is steady from the first second, and the count exact.

    Raises :class:`InputError` when no request arrives within ``duration_s``.
    """
    if seed < 0:
        raise InputError(f"a seed is a whole number of at least 0, not {seed}")
    starts, turns, gaps, *lengths = np.random.default_rng(seed).spawn(7)
    start_s, per_session, end_s = _sessions(recipe, starts, turns)
    session = np.repeat(np.arange(start_s.size), per_session)
    first_row = np.cumsum(per_session) - per_session
    turn = np.arange(session.size) - first_row[session]
    waits = np.where(turn > 0, gaps.exponential(recipe.turn_gap_s, session.size), 0.0)
    arrival_s = start_s[session] + _sums_within(waits, first_row[session])
    late = (turn > 0) & (arrival_s >= end_s) & (end_s > 0)
    lap = np.where(late, arrival_s // (end_s or 1.0), 0.0).astype(np.int64)
    arrival_s = arrival_s - lap * end_s
    conversation = np.unique(np.stack([session, lap]), axis=1, return_inverse=True)[1].reshape(-1)
    inputs, output = _prompts(recipe, session, first_row, lengths, lengths_from)
    order = np.argsort(arrival_s, kind="stable")
    hashes = _hashes(recipe, conversation, inputs) if recipe.has_prefixes else None
    names = np.array([f"s{c}" for c in conversation[order].tolist()], dtype=object)
    return Trace(
        arrival_s[order],
        inputs[order],
        output[order],
        session=names if recipe.turns.average() > 1 else None,
        prefix_hashes=None if hashes is None else tuple(hashes[row] for row in order.tolist()),
        hash_block_tokens=MOONCAKE_BLOCK_TOKENS,
        name="synthetic",
    )


def _sums_within(values: NDArray[Any], first_row: Ints) -> NDArray[Any]:
    """Running sums that start anew with each session; ``first_row``: the row at which a row's session
    begins."""
    sums = np.cumsum(values)
    return np.asarray(sums - (sums - values)[first_row])


def _sessions(
    recipe: SyntheticTraffic, starts: np.random.Generator, turns: np.random.Generator
) -> tuple[Floats, Ints, float]:
    """Start of each session (s, ascending), its number of turns, and where the trace ends (s)."""
    rate = recipe.request_rate
    if recipe.num_requests is not None:
        per_session = recipe.turns.sample(recipe.num_requests, turns)
        count = int(np.searchsorted(np.cumsum(per_session), recipe.num_requests)) + 1
        per_session = per_session[:count]
        per_session[-1] -= per_session.sum() - recipe.num_requests
        end = recipe.num_requests / rate
        start = _arrivals(count, count / end if end else math.inf, recipe.burstiness, starts)
        return _at_clock(recipe, start), per_session, float(_at_clock(recipe, np.array([end]))[0])
    end_s = recipe.duration_s or 0.0
    end = _curve_integral(recipe, end_s)
    start = _arrivals_until(end, rate / recipe.turns.average(), recipe.burstiness, starts)
    if not start.size:
        raise InputError(f"no request arrives within {end_s:g} s at {rate:g} requests/s with this seed")
    return _at_clock(recipe, start), recipe.turns.sample(start.size, turns), end_s


def _gaps(n: int, rate: float, burstiness: float, rng: np.random.Generator) -> Floats:
    if math.isinf(burstiness):
        return np.full(n, 1.0 / rate)
    return rng.gamma(burstiness, 1.0 / (rate * burstiness), n)


def _arrivals(n: int, rate: float, burstiness: float, rng: np.random.Generator) -> Floats:
    """``n`` arrivals, the last at n/rate (vLLM's rescaling); all at 0 for an infinite rate."""
    if math.isinf(rate):
        return np.zeros(n)
    times = np.cumsum(_gaps(n, rate, burstiness, rng))
    return np.asarray(times * (n / rate / times[-1])) if times[-1] > 0 else times


def _arrivals_until(end: float, rate: float, burstiness: float, rng: np.random.Generator) -> Floats:
    """Arrivals of the unscaled process before ``end``."""
    batch = int(end * rate * 1.1) + 100
    times = np.zeros(0)
    while not times.size or times[-1] < end:
        if times.size > MAX_REQUESTS:
            raise InputError(f"more than {MAX_REQUESTS:,} requests arrive in a burst; raise burstiness")
        last = times[-1] if times.size else 0.0
        times = np.concatenate([times, last + np.cumsum(_gaps(batch, rate, burstiness, rng))])
    return times[: int(np.searchsorted(times, end))]


def _curve(recipe: SyntheticTraffic, hours: int) -> tuple[Floats, Floats]:
    """Hour edges (s since the trace's start) and the integral of the normalised multiplier up to each (s)."""
    curve = np.array(recipe.daily_curve)
    first = math.floor(recipe.start_hour)
    edges = np.asarray((np.arange(hours + 1) + first - recipe.start_hour) * _HOUR_S, dtype=np.float64)
    rates = curve[(first + np.arange(hours)) % 24] / curve.mean()
    integral = np.concatenate([[0.0], np.cumsum(rates * _HOUR_S)])
    return edges, np.asarray(integral - np.interp(0.0, edges, integral))


def _curve_integral(recipe: SyntheticTraffic, clock_s: float) -> float:
    if recipe.daily_curve is None:
        return clock_s
    return float(np.interp(clock_s, *_curve(recipe, int(clock_s / _HOUR_S) + 2)))


def _at_clock(recipe: SyntheticTraffic, steady: Floats) -> Floats:
    """Times of a steady process moved to where the daily curve has let as much through (a change of time):
    exact for any burstiness, and no arrival is thrown away."""
    if recipe.daily_curve is None:
        return steady
    # the multipliers average 1 over a day, so the clock is never more than a day ahead of or behind the
    # steady time
    edges, integral = _curve(recipe, int(steady[-1] / _HOUR_S) + 50)
    return np.interp(steady, integral, edges)


def _prompts(
    recipe: SyntheticTraffic,
    session: Ints,
    first_row: Ints,
    streams: Sequence[np.random.Generator],
    source: Trace | None,
) -> tuple[Ints, Ints]:
    """Prompt and output lengths per row; a turn's prompt holds all that its session said before it."""
    pairs, inputs, outputs, contexts = streams
    n = session.size
    if source is None and recipe.lengths_from is not None:
        source = read_trace(recipe.lengths_from)
    pick = np.zeros(0, np.int64) if source is None else pairs.integers(0, len(source), n)
    added = source.input_tokens[pick] if source is not None else np.zeros(n, np.int64)
    output = source.output_tokens[pick] if source is not None else np.zeros(n, np.int64)
    if recipe.input_len is not None:
        added = recipe.input_len.sample(n, inputs)
    if recipe.output_len is not None:
        output = recipe.output_len.sample(n, outputs)
    said = _sums_within(added + output, first_row[session]) - output
    context = recipe.session_context_tokens
    own = context.sample(first_row.size, contexts)[session] if context else 0
    return recipe.shared_prefix_tokens + own + said, output


def _hashes(recipe: SyntheticTraffic, conversation: Ints, inputs: Ints) -> list[tuple[int, ...]]:
    """Block ids: the full blocks of the shared prefix are everyone's, all after them are the conversation's
    own. (So the part of a block that the shared prefix ends in is not counted as shared.)"""
    blocks = -(-inputs // MOONCAKE_BLOCK_TOKENS)
    common = recipe.shared_prefix_tokens // MOONCAKE_BLOCK_TOKENS
    longest = np.zeros(int(conversation.max()) + 1, np.int64)
    np.maximum.at(longest, conversation, blocks - common)
    base = common + np.cumsum(longest) - longest
    head = tuple(range(common))
    return [
        head + tuple(range(first, first + own))
        for first, own in zip(base[conversation].tolist(), (blocks - common).tolist(), strict=True)
    ]
