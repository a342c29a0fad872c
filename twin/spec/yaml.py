"""YAML that people write: read with the line of every key, checked against a model, wrong in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from twin.base import InputError, unknown_name

MAX_NODES = 100_000
"""A file with more values than this (or with aliases that unfold to more) is refused."""

Loc = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


@dataclass
class Document:
    """Plain data, and where each value stands (``file.yaml:12``). Keys are paths from the root."""

    name: str
    data: dict[str, Any]
    places: dict[Loc, str] = field(default_factory=dict)

    def at(self, loc: Loc) -> str:
        """The place of ``loc``, or of the nearest value around it, or the file."""
        for size in range(len(loc), 0, -1):
            if loc[:size] in self.places:
                return self.places[loc[:size]]
        return self.name

    def set(self, override: str, *, flag: str = "--set") -> None:
        """Apply ``a.b=value`` (the value as YAML). Raises :class:`InputError` when it is not of that form."""
        key, sign, text = override.partition("=")
        where = f"{flag} {key}"
        if not sign or not all(key.split(".")):
            raise InputError(f"{flag} takes section.key=value, not {override!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"{text!r} is not a YAML value", where=where) from None
        *sections, last = key.split(".")
        here: Any = self.data
        for section in sections:
            if here.get(section) is None:
                here[section] = {}
            here = here[section]
            if not isinstance(here, dict):
                raise InputError(f"{section!r} holds one value, not keys", where=where)
        here[last] = value
        self.places[(*sections, last)] = where


def read_yaml(path: Path) -> Document:
    """A YAML mapping. Raises :class:`InputError` with file and line for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise InputError("the file is not UTF-8 text", where=path.name) from None
    document = Document(path.name, {})
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise InputError("the file holds no keys", where=path.name)
        document.data = _plain(loader, root, (), document, iter(range(MAX_NODES)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"not valid YAML: {getattr(error, 'problem', error)}", where=path.name + line) from None
    except RecursionError:
        raise InputError("not valid YAML: nested without end", where=path.name) from None
    finally:
        loader.dispose()
    return document


def check(document: Document, model: type[Model]) -> Model:
    """The document as ``model``. Raises :class:`InputError` for the first thing wrong, with file and line."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        wrong = error.errors()
        typos = [item for item in wrong if item["type"] == "extra_forbidden"]  # they also make a key missing
        first = (typos or wrong)[0]
        loc: Loc = first["loc"]
        where = document.at(loc)
        if first["type"] == "extra_forbidden":
            raise unknown_name("key", str(loc[-1]), _keys(model, loc[:-1]), where=where) from None
        what = _sentence(first["type"], first["msg"], first.get("input"))
        name = ".".join(str(part) for part in loc if isinstance(part, str) and part in _known(model, loc))
        raise InputError(f"{name}: {what}" if name else what, where=where) from None


def _plain(loader: yaml.SafeLoader, node: yaml.Node, loc: Loc, document: Document, budget: Iterator[int]) -> Any:
    """The value of a node as plain data; notes its line. ``budget`` ends where a file unfolds without end."""
    line = node.start_mark.line + 1
    if next(budget, None) is None:
        raise InputError(f"more than {MAX_NODES:,} values", where=document.name)
    document.places.setdefault(loc, f"{document.name}:{line}")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*loc, i), document, budget) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    loader.flatten_mapping(node)
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node))
        place = f"{document.name}:{key_node.start_mark.line + 1}"
        if key in data:
            raise InputError(f"key {key!r} stands here a second time", where=place)
        document.places[(*loc, key)] = place
        data[key] = _plain(loader, value_node, (*loc, key), document, budget)
    return data


def _sentence(kind: str, message: str, value: object) -> str:
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "missing":
        return "is missing"
    said = message.removeprefix("Input ")
    return f"{value!r} {said}" if said != message and not isinstance(value, dict | list) else message


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that an annotation may hold: itself, members of unions, values of containers."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, dict, list, tuple):
        for part in get_args(annotation):
            yield from _models(part)


def _descend(model: type[BaseModel], loc: Loc) -> Iterator[type[BaseModel]]:
    """The models met on the way along ``loc``, the outermost first."""
    yield model
    here: type[BaseModel] = model
    for part in loc:
        known = here.model_fields.get(str(part))
        inner = next(_models(known.annotation), None) if known else None
        if inner is not None:
            here = inner
            yield here


def _keys(model: type[BaseModel], loc: Loc) -> list[str]:
    """The keys that may stand at ``loc``."""
    return list([*_descend(model, loc)][-1].model_fields)


def _known(model: type[BaseModel], loc: Loc) -> set[str]:
    """Names of fields along ``loc``: pydantic also puts names of union members there, which nobody wrote."""
    return {name for met in _descend(model, loc) for name in met.model_fields}
