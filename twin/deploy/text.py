"""YAML as people keep it: keys in their order, text of several lines as a block, the same bytes every time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml


def yaml_text(*documents: Any, head: Iterable[str] = ()) -> str:
    """One or more YAML documents under comment lines."""

    class Dumper(yaml.SafeDumper):
        """Writes no anchors."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    Dumper.add_representer(str, _string)
    text = yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return "".join(f"# {line}\n" for line in head) + text


def _string(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)
