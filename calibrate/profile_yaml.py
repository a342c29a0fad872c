"""A hardware profile as YAML that a person can read: one line per figure, one per row of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from twin.spec.hardware import HardwareProfile

LINE = 600  # characters that a mapping may take on one line


class _Dumper(yaml.SafeDumper):
    """Blocks for structure; one line for a list of numbers and for a mapping of plain values."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _plain(value: Any) -> bool:
    """A value, or a pair of them (an interval)."""
    if isinstance(value, list | tuple):
        return len(value) == 2 and all(not isinstance(item, dict | list | tuple | str) for item in value)
    return not isinstance(value, dict)


def _short(value: Any) -> bool:
    """A mapping of figures, or a list of numbers: what reads best on one line."""
    if isinstance(value, dict):
        return all(_plain(item) for item in value.values())
    return isinstance(value, list) and all(_plain(item) and not isinstance(item, str) for item in value)


def _mapping(dumper: _Dumper, data: dict[str, Any]) -> yaml.Node:
    values = data.values()
    one_line = all(_plain(value) or _short(value) for value in values)
    flow = bool(data) and one_line and len(str(data)) < LINE
    return dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=flow)


def _sequence(dumper: _Dumper, data: Sequence[Any]) -> yaml.Node:
    """Numbers and single words on one line, sentences one below the other."""
    long = any(isinstance(value, dict | list | tuple) or (isinstance(value, str) and " " in value) for value in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=not long)


def _float(dumper: _Dumper, value: float) -> yaml.Node:
    text = repr(int(value)) if value.is_integer() and abs(value) < 1e6 else f"{value:.12g}"
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float" if "." in text else "tag:yaml.org,2002:int", text)


def to_yaml(profile: HardwareProfile) -> str:
    """The profile as YAML: what is not given is left out."""
    _Dumper.add_representer(dict, _mapping)
    _Dumper.add_representer(list, _sequence)
    _Dumper.add_representer(float, _float)
    data = profile.model_dump(mode="json", exclude_none=True, exclude_defaults=False)
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=100_000, allow_unicode=True)
