"""What a fleet can be written for."""

from __future__ import annotations

from collections.abc import Callable

from twin.deploy.commands import Asked, shell_scripts
from twin.deploy.compose import compose_files
from twin.deploy.fleet import Fleet
from twin.deploy.kubernetes import kubernetes_files

TARGETS: dict[str, Callable[[Fleet, Asked], dict[str, str]]] = {
    "vllm": shell_scripts,
    "compose": compose_files,
    "kubernetes": kubernetes_files,
}
"""File names and texts, by target."""
