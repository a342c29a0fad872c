"""What is said, in the language that was asked for. English texts are the keys of ``zh.yaml``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Protocol

from twin.base import unknown_name
from twin.show.retold import retold
from twin.spec.yaml import read_yaml

LANGUAGES = ("en", "zh")


class Say(Protocol):
    """``say("{n} months", n=36)``: the text in a language, its blanks filled."""

    def __call__(self, text: str, /, **blanks: object) -> str: ...


def words(lang: str) -> Say:
    """Raises :class:`InputError` for an unknown language; a text without a translation stays English.

    A text that has no blanks may be a sentence of a run, and is told by the template that it was made from.
    """
    if lang not in LANGUAGES:
        raise unknown_name("language", lang, LANGUAGES)
    translated = {} if lang == "en" else catalogue(lang)

    def say(text: str, /, **blanks: object) -> str:
        if blanks:
            return translated.get(text, text).format(**blanks)
        return retold(text, translated) if translated else text

    return say


@cache
def catalogue(lang: str) -> dict[str, str]:
    """Texts of ``twin/show`` in a language, by the English ones."""
    return {str(key): str(value) for key, value in read_yaml(Path(__file__).parent / f"{lang}.yaml").data.items()}
