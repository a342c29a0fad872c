"""``twin dashboard``: the pages, served to this machine."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from twin.cli.common import note


def dashboard(
    port: Annotated[int, typer.Option(help="Where it listens.", min=1, max=65535)] = 8501,
    address: Annotated[str, typer.Option(help="127.0.0.1 is this machine alone, 0.0.0.0 everybody.")] = "127.0.0.1",
    runs: Annotated[Path, typer.Option(help="Folder of run folders, read and written.")] = Path("runs"),
    traces: Annotated[Path | None, typer.Option(help="Folder of traces to choose from.")] = None,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = True,
) -> None:
    """Plan, try what-ifs, look at traffic, hardware and accuracy in a browser. Ctrl-C ends it; plans under way go on.

    Packages: pip install 'twin\\[dashboard]'.
    """
    from twin.base import InputError, not_installed

    if missing := [name for name in ("streamlit", "plotly", "jinja2") if find_spec(name) is None]:
        raise not_installed("the dashboard", missing[0], "dashboard")
    if traces is not None and not traces.is_dir():
        raise InputError("no such folder of traces", where=str(traces))
    if runs.exists() and not runs.is_dir():
        raise InputError("not a folder of runs: it is a file", where=str(runs))
    _check_free(address, port)
    shown = f"http://{'localhost' if _loopback(address) else address}:{port}"
    note(f"dashboard: {shown} (Ctrl-C ends it)")
    if not _loopback(address):
        note(
            f"warning: {address} lets everybody who reaches this machine read its runs and start plans; nobody logs in"
        )
    given = {"server.port": port, "server.address": address, "server.headless": not browser}
    flags = {**dict(_settings(_package() / "show" / "streamlit.toml")), **given, "logger.hideWelcomeMessage": True}
    os.environ["TWIN_RUNS"] = str(runs.resolve())
    if traces is not None:
        os.environ["TWIN_TRACES"] = str(traces.resolve())
    words = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in flags.items()]
    threading.Thread(target=_warm, daemon=True).start()
    from streamlit.web.cli import main

    main(["run", str(_script()), *words], prog_name="streamlit", standalone_mode=False)


def _warm() -> None:
    """Learn the first page while the browser starts: its first visitor waits a second less. What comes after it can wait."""
    from streamlit import runtime

    while not runtime.exists():  # pages that are learnt before would be told that nothing can be cached
        time.sleep(0.02)
    for name, later_s in (("plan", 0.0), ("plan_saved", 0.0), ("plan_result", 2.0)):
        time.sleep(later_s)
        import_module(f"twin.show.pages.{name}")


def _package() -> Path:
    return Path(__file__).resolve().parent.parent


def _script() -> Path:
    """``app.py``: inside the wheel, or at the top of a checkout. (Streamlit takes a folder ``pages`` beside its script for
    scripts, so that none of ``twin.show`` will do.)"""
    packed = _package() / "_data" / "app.py"
    return packed if packed.is_file() else _package().parent / "app.py"


def _settings(file: Path) -> Iterator[tuple[str, Any]]:
    import tomllib

    def flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return flat(tomllib.loads(file.read_text(encoding="utf-8")), "")


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _check_free(address: str, port: int) -> None:
    """Raises :class:`InputError` for a port that is taken, and an address that is not this machine's."""
    from twin.base import InputError

    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except PermissionError:
        raise InputError(f"port {port} is for the administrator; take one above 1023 with --port") from None
    except socket.gaierror:
        raise InputError(f"--address {address} is no address of this machine") from None
    except OverflowError:
        raise InputError(f"--port {port} is no port") from None
    except OSError as error:
        said = f"port {port} is taken" if error.errno == 98 else f"cannot listen at {address}: {error.strerror}"
        raise InputError(f"{said}; choose another with --port") from None
