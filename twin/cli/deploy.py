"""``twin deploy``: an option of a plan as what starts and watches it."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from twin.cli.common import Format, emit, note

Target = Literal["vllm", "compose", "kubernetes"]


class Shape(StrEnum):
    """Files as they are, or in one JSON object."""

    text = "text"
    json = "json"


def deploy(
    run: Annotated[Path, typer.Argument(help="Run folder of twin plan.", show_default=False)],
    option: Annotated[str, typer.Argument(help="Id, recommended, cheapest or best_latency.")] = "recommended",
    target: Annotated[Target, typer.Option(help="What to write.")] = "vllm",
    out: Annotated[Path | None, typer.Option("--out", help="New folder for the files; stdout without it.")] = None,
    image: Annotated[str | None, typer.Option(help="Container image; vLLM's own of the release modelled.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Kubernetes namespace; kubectl's own unless given.")] = None,
    port: Annotated[int, typer.Option(help="Where requests arrive; the first, if several replicas need ports.")] = 8000,
    fmt: Annotated[Shape, typer.Option("--format", help="Output format.")] = Shape.text,
) -> None:
    """Write an option as commands, a compose file or Kubernetes manifests, with alerts from the plan's own figures."""
    from twin.base import InputError
    from twin.deploy.commands import Asked
    from twin.deploy.fleet import fleet_of
    from twin.deploy.targets import TARGETS
    from twin.results.run import read_run, write_folder

    for flag, given, targets in (
        ("--namespace", namespace, {"kubernetes"}),
        ("--image", image, {"compose", "kubernetes"}),
    ):
        if given is not None and target not in targets:
            raise InputError(f"{flag} means nothing to --target {target}", allowed=sorted(targets))
    if image is not None and (not image or any(letter.isspace() for letter in image)):
        raise InputError(f"--image {image!r} is no container image")
    found = read_run(run)
    for miss in found.option(option).get("misses", []):
        note(f"a near miss: {miss}")
    files = TARGETS[target](fleet_of(found, option), Asked(image=image, namespace=namespace, port=port))
    if out is not None:
        write_folder(out, files)
        note(f"written: {', '.join(str(out / name) for name in files)}")
    if fmt is Shape.json:
        emit({"target": target, "option": found.option(option)["id"], "files": files}, fmt=Format.json, table=str)
    elif out is None:
        sys.stdout.write(joined(files))


def joined(files: dict[str, str]) -> str:
    """Files one after the other under their names; YAML stays YAML, as ``kubectl apply -f -`` reads it."""
    if len(files) == 1:
        return next(iter(files.values()))
    mark = "---\n" if all(name.endswith(".yaml") for name in files) else "\n"
    return mark.join(f"# {name}\n{text}" for name, text in files.items())
