"""Series can be told apart by the colour-blind, and on a print without colours."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from twin.show.chart import Axis, Chart, Series
from twin.show.draw import plotly_marks, svg_marks
from twin.show.draw.look import COLOURS, SOFT, looks

Floats = NDArray[np.float64]

# Machado, Oliveira and Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency", severity 1.0.
MACHADO = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
NEIGHBOURS, ANY = 35.0, 15.0
"""Least distances in CIELAB (ΔE*ab): 2.3 is a just noticeable difference, 10 is seen at a glance."""


def linear(colour: str) -> Floats:
    values = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: Floats) -> Floats:
    """CIELAB of linear sRGB under D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0.0, 1.0) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def seen(colour: str, sight: str) -> Floats:
    rgb = linear(colour)
    return lab(rgb if sight == "full" else np.array(MACHADO[sight]) @ rgb)


@pytest.mark.parametrize("sight", ["full", *MACHADO])
def test_colours_are_told_apart(sight: str) -> None:
    places = [seen(colour, sight) for colour in COLOURS]
    apart = {(a, b): float(np.linalg.norm(places[a] - places[b])) for a, b in combinations(range(len(places)), 2)}
    neighbours = {pair: size for pair, size in apart.items() if pair[1] - pair[0] == 1}
    assert min(neighbours.values()) > NEIGHBOURS, neighbours
    assert min(apart.values()) > ANY, min(apart, key=lambda pair: apart[pair])


def test_the_check_can_fail() -> None:
    red, green = "#CC0000", "#006B00"
    assert np.linalg.norm(seen(red, "full") - seen(green, "full")) > 50
    assert np.linalg.norm(seen("#996600", "deuteranopia") - seen("#808000", "deuteranopia")) < NEIGHBOURS


def test_without_colours_neighbours_differ_in_mark_dash_and_hatch() -> None:
    for kinds in (svg_marks.DASHES, svg_marks.MARKS, svg_marks.HATCHES, plotly_marks.DASHES, plotly_marks.SYMBOLS):
        assert len(set(map(str, kinds))) == len(kinds) >= 5
    assert len(set(plotly_marks.PATTERNS)) == len(plotly_marks.PATTERNS) == len(COLOURS)
    pairs = {(number % len(svg_marks.DASHES), number % len(svg_marks.MARKS)) for number in range(len(COLOURS))}
    assert len(pairs) == len(COLOURS), "no two series have the same dash and mark"
    assert svg_marks.BASELINE_DASH not in svg_marks.DASHES
    assert plotly_marks.BASELINE_DASH not in plotly_marks.DASHES


def test_a_baseline_takes_no_colour() -> None:
    names = ("now", "before", "then")
    series = tuple(Series(name, (1.0,), (1.0,), baseline=name == "before") for name in names)
    found = looks(Chart("c", "C", Axis("x"), Axis("y"), series))
    assert [look.colour for look in found] == [COLOURS[0], SOFT, COLOURS[1]]
    assert [look.number for look in found if look.colour != SOFT] == [0, 1]
