"""Checks of a trace's columns, shared by its table and its readers."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twin.base import InputError

MAX_TOKENS = 2**31 - 1

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Objects = NDArray[np.object_]


def first_row(mask: NDArray[np.bool_]) -> int:
    return int(np.argmax(mask))


def bad_count(values: Floats) -> int | None:
    """Index of the first value that is not a whole number in 0 … 2³¹-1, or ``None``. NaN and inf are not."""
    bad = ~((values >= 0) & (values <= MAX_TOKENS) & (values == np.floor(values)))
    return first_row(bad) if bad.any() else None


def whole_numbers(values: ArrayLike, column: str, name: str) -> Ints:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{column} is not a column of numbers", where=name) from None
    if (row := bad_count(numbers)) is not None:
        raise InputError(f"{column} of request {row} is {numbers[row]:g}, not a whole number of tokens", where=name)
    return numbers.astype(np.int64)


def token_counts(values: ArrayLike, column: str, name: str) -> Ints:
    whole = whole_numbers(values, column, name)
    if (zero := whole < 1).any():
        raise InputError(f"{column} of request {first_row(zero)} is 0; a request has at least 1", where=name)
    return whole
