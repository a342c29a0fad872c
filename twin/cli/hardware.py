"""``twin hardware``: the devices that can be planned with, one in full, or several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from twin.cli.catalog import FormatOption, names_table
from twin.cli.common import Format, emit

if TYPE_CHECKING:
    from twin.spec.hypothetical import Hypothetical

hardware_app = typer.Typer(help="GPUs that can be planned with.", no_args_is_help=True)

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a figure, for hardware that does not exist: mem_bw=×2, memory=282GB, …"),
]


@hardware_app.callback()
def _hardware() -> None:
    """GPUs that can be planned with."""


@hardware_app.command("list")
def list_hardware(fmt: FormatOption = Format.table) -> None:
    """Profiles by name, with the memory their device has and where their speed comes from."""
    from twin.cost.profile_payload import listed
    from twin.spec.hardware import load_profile, profile_names

    rows = [listed(load_profile(name)) for name in profile_names()]
    emit({"profiles": rows}, fmt=fmt, rows=rows, table=lambda: names_table(rows, {"memory_bytes": (2**30, "GiB")}))


@hardware_app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Profile, or a profile's YAML file.", show_default=False)],
    changes: SetOption = None,
    fmt: FormatOption = Format.table,
) -> None:
    """One profile: facts and their sources, what its kernels reach, how wrong they were, and what is assumed."""
    from twin.cli.hardware_table import profile_tables
    from twin.cost.profile_payload import described, figure_rows
    from twin.spec.hardware import load_profile
    from twin.spec.hypothetical import hypothetical

    profile = hypothetical(load_profile(name), changes_of(changes or []))
    payload = described(profile)
    emit(payload, fmt=fmt, rows=list(figure_rows(payload)), table=lambda: profile_tables(payload))


@hardware_app.command("compare")
def compare(
    names: Annotated[list[str], typer.Argument(help="Profiles; the first is what the others are compared to.")],
    changes: SetOption = None,
    fmt: FormatOption = Format.table,
) -> None:
    """Profiles side by side: facts, and standard operations priced on each with their 90 % interval.

    With --set the first profile with those changes stands beside the others.
    """
    from twin.base import InputError
    from twin.cli.hardware_table import comparison_tables
    from twin.cost.profile_payload import compared, comparison_rows
    from twin.spec.hardware import load_profile
    from twin.spec.hypothetical import hypothetical

    profiles = {name: load_profile(name) for name in dict.fromkeys(names)}
    if changes:
        first = next(iter(profiles))
        profiles[f"{first} what-if"] = hypothetical(profiles[first], changes_of(changes))
    if len(profiles) < 2:
        raise InputError("compare takes two profiles or more, or one and --set", where="twin hardware compare")
    payload = compared(profiles)
    emit(payload, fmt=fmt, rows=list(comparison_rows(payload)), table=lambda: comparison_tables(payload))


def changes_of(overrides: Sequence[str]) -> Hypothetical:
    """``mem_bw=×2`` and the like. Raises :class:`twin.base.InputError` naming the flag."""
    from twin.spec.hypothetical import Hypothetical
    from twin.spec.yaml import Document, check

    document = Document("--set", {})
    for override in overrides:
        document.set(override)
    return check(document, Hypothetical)
