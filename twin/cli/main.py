"""The ``twin`` application: mounts the commands, and turns every way of ending into a sentence and a code.

0 done, 1 cannot go on, 2 bad input or usage, 3 infeasible, 4 outside a threshold, 130 interrupted.
"""

from __future__ import annotations

import errno
import itertools
import os
import sys
from collections.abc import Sequence
from types import TracebackType

import typer

from twin import __version__
from twin.base import InputError, TwinError
from twin.cli.accuracy import accuracy
from twin.cli.calibrate import calibrate_app
from twin.cli.catalog import model_app
from twin.cli.claims import claims
from twin.cli.common import Session, json_text, session
from twin.cli.compare import compare
from twin.cli.dashboard import dashboard
from twin.cli.deploy import deploy
from twin.cli.hardware import hardware_app
from twin.cli.plan import plan
from twin.cli.report import report
from twin.cli.simulate import simulate
from twin.cli.traffic import traffic_app
from twin.cli.validate import validate
from twin.cli.verify import verify

# Accepted anywhere on the line, before or after the subcommand, so they are taken out before parsing.
_GLOBAL_FLAGS = frozenset({"--debug", "--quiet"})


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"twin {__version__}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    quiet: bool = typer.Option(False, "--quiet", help="No notes and no progress on stderr."),
) -> None:
    """Plan LLM serving: for this traffic, model, SLO and budget, what to run and what it costs."""


def build_app() -> typer.Typer:
    """The whole application, every command mounted."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.callback()(_root)
    app.command("plan")(plan)
    app.command("simulate")(simulate)
    app.command("validate")(validate)
    app.command("verify")(verify)
    app.command("compare")(compare)
    app.command("deploy")(deploy)
    app.command("accuracy")(accuracy)
    app.command("claims")(claims)
    app.command("report")(report)
    app.command("dashboard")(dashboard)
    app.add_typer(traffic_app, name="traffic")
    app.add_typer(hardware_app, name="hardware")
    app.add_typer(model_app, name="model")
    app.add_typer(calibrate_app, name="calibrate")
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line on ``argv`` (default: the process's) and return the exit code.

    A command ends by returning, by returning its exit code, by ``typer.Exit(code)``, or by raising a
    :class:`~twin.base.TwinError`. Any other exception is a defect; it leaves through ``sys.excepthook``.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    current = Session(
        quiet=_has_flag(arguments, "--quiet"),
        debug=_has_flag(arguments, "--debug"),
        json=_wants_json(arguments),
    )
    token = session.set(current)
    sys.excepthook = lambda kind, error, trace: _report_defect(kind, error, trace, current)
    try:
        return _run(_without_global_flags(arguments) or ["--help"], current)
    except KeyboardInterrupt:
        return _fail(TwinError("interrupted"), current, code=130)
    finally:
        session.reset(token)


def _run(arguments: list[str], current: Session) -> int:
    command = typer.main.get_command(build_app())
    try:
        code = command.main(args=arguments, prog_name="twin", standalone_mode=False)
        sys.stdout.flush()
    except TwinError as error:
        return _fail(error, current)
    except typer.TyperException as error:
        if not error.format_message().strip():  # a group without its command: its help is on stdout already
            return error.exit_code
        return _fail(_usage_error(error), current)
    except typer.Abort:
        return 130
    except OSError as error:
        return _cannot_write(error, current)
    return code if isinstance(code, int) else 0


def _fail(error: TwinError, current: Session, *, code: int | None = None) -> int:
    """One sentence on stderr; with ``--format json`` an object on stdout too, unless the result is there."""
    if current.debug:
        sys.__excepthook__(type(error), error, error.__traceback__)
    else:
        print(f"error: {error}", file=sys.stderr)
    if current.json and not current.emitted:
        sys.stdout.write(json_text({"error": error.as_json()}))
        sys.stdout.flush()
    return error.exit_code if code is None else code


def _cannot_write(error: OSError, current: Session) -> int:
    """A full disk, a folder that cannot be read, or the reader of our pipe is gone (then nobody is told)."""
    if error.filename is None:  # stdout itself: let go of it, so that the interpreter's last flush is quiet
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        return 1
    return _fail(TwinError(error.strerror or str(error), where=error.filename or "output"), current)


def _usage_error(error: typer.TyperException) -> InputError:
    """The usage error of the parser as ours: the command, what is wrong, and the nearest option."""
    context = getattr(error, "ctx", None)
    near = getattr(error, "possibilities", None) or [None]
    commands = getattr(context.command, "commands", None) if context and "Missing command" in error.message else None
    message = error.message if near[0] else error.format_message()
    return InputError(
        message.rstrip(".").replace("Value error, ", ""),
        where=context.command_path if context else None,
        nearest=near[0],
        allowed=commands,
    )


def _report_defect(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None, current: Session
) -> None:
    """``sys.excepthook``: a defect is one line, the traceback only with ``--debug``; Python exits with 1."""
    if current.debug:
        sys.__excepthook__(kind, error, trace)
        return
    said = " ".join(str(error).split())
    _fail(TwinError(f"internal error: {kind.__name__}: {said}; run again with --debug"), current)


def _before_separator(arguments: Sequence[str]) -> list[str]:
    return list(arguments[: arguments.index("--")] if "--" in arguments else arguments)


def _has_flag(arguments: Sequence[str], flag: str) -> bool:
    return flag in _before_separator(arguments)


def _without_global_flags(arguments: Sequence[str]) -> list[str]:
    head = _before_separator(arguments)
    return [item for item in head if item not in _GLOBAL_FLAGS] + list(arguments[len(head) :])


def _wants_json(arguments: Sequence[str]) -> bool:
    head = _before_separator(arguments)
    return "--format=json" in head or any(pair == ("--format", "json") for pair in itertools.pairwise(head))
