"""Puts the program together: built-in commands, then those of plugins, then the arguments."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, NoReturn

import typer
from scripted_registry import get_plugin_manager

from scripted_core.cli.attach_command import attach
from scripted_core.cli.conformance_command import conformance
from scripted_core.cli.doctor_command import doctor
from scripted_core.cli.keys_command import keys
from scripted_core.cli.list_command import list_installed
from scripted_core.cli.run_command import run
from scripted_core.cli.serve_command import serve
from scripted_core.cli.signals import EndingSignals
from scripted_core.errors import PluginError, ScriptedError

PROGRAM = "scripted"
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE})
"""How writing to a full disk or a closed pipe fails."""


class ExitCode(IntEnum):
    """What the program's exit status means."""

    OK = 0
    FAILED = 1
    """A script ran and did not succeed."""
    USAGE = 2
    """Nothing ran: a mistake in what was asked for, or in what is installed."""
    PIPE_CLOSED = 141
    """Nobody reads the output any more (``| head``); as a shell says of a program that SIGPIPE ended."""
    INTERRUPTED = 130
    """Ctrl-C; after another signal it is 128 and the signal's number, as in a shell."""


def build_app() -> tuple[typer.Typer, PluginError | None]:
    """The typer application with the commands of this package and of every plugin.

    When plugins cannot be loaded it is without theirs, and the error comes with it: `doctor` has to
    run then too, and a command that needs plugins raises the error itself.
    """
    app = typer.Typer(
        name=PROGRAM,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback()(_about)
    app.command("run")(run)
    app.command("list")(list_installed)
    app.command("doctor")(doctor)
    app.command("serve")(serve)
    app.command("conformance")(conformance)
    app.command("keys")(keys)
    app.command("attach")(attach)
    try:
        get_plugin_manager().hook.scripted_register_commands(app=app)
    except PluginError as error:
        return app, error
    return app, None


def _print_version(wanted: bool) -> None:
    if wanted:
        from scripted_core.cli.version import version_line

        typer.echo(version_line())
        raise typer.Exit


def _about(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Show versions and exit."
        ),
    ] = False,
) -> None:
    """Scripts that drive an LLM serving engine's scheduler, one iteration per `yield`.

    Start with `scripted doctor`, which says what is there and what to type for what is missing; then
    `scripted run FILE` runs the scripts of a file and shows each iteration.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit. A mistake of the user's is a message and a hint, no traceback."""
    _have_streams()
    _never_fail_to_print()
    with EndingSignals() as signals:
        status = _status_of(arguments)
    if signals.received is not None and status != ExitCode.OK:
        typer.secho(f"ended by {signals.received.name}", fg="yellow", err=True)
        sys.exit(128 + signals.received)
    if status == ExitCode.INTERRUPTED:
        typer.secho("interrupted", fg="yellow", err=True)
    sys.exit(status)


def _status_of(arguments: Sequence[str] | None) -> int:
    broken: PluginError | None = None
    stdout = sys.stdout
    try:
        app, broken = build_app()
        try:
            app(None if arguments is None else list(arguments), prog_name=PROGRAM)
        finally:
            sys.stdout.flush()  # here a full disk is an error of ours, at exit it is a traceback
    except ScriptedError as error:
        print_error(error)
        return ExitCode.USAGE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        _give_up_printing(error)
        return ExitCode.PIPE_CLOSED if error.errno == errno.EPIPE else ExitCode.FAILED
    except SystemExit as end:
        if sys.stdout is not stdout:  # typer puts another there when nobody reads any more
            sys.stdout = stdout
            _give_up_printing(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
            return ExitCode.PIPE_CLOSED
        if end.code == ExitCode.USAGE and broken is not None:
            print_error(broken)  # the command that was asked for may be a plugin's
        return end.code if isinstance(end.code, int) else ExitCode.OK
    return ExitCode.OK


def print_error(error: ScriptedError) -> None:
    """Write the message in red and the hint below it to stderr (without colours when piped)."""
    typer.secho(f"error: {error.message}", fg="red", err=True)
    if error.hint is not None:
        typer.secho(f"hint: {error.hint}", fg="yellow", err=True)


def _give_up_printing(error: OSError) -> None:
    """Say why on stderr; what stdout still holds back is dropped, or Python's exit would fail on it."""
    if error.errno != errno.EPIPE:  # whoever closes a pipe has seen enough
        typer.secho(f"error: the output cannot be written: {error.strerror}", fg="red", err=True)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _have_streams() -> None:
    """Where a shell has closed stdout or stderr (`>&-`), Python has none: write to nowhere."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open for as long as the program runs
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _never_fail_to_print() -> None:
    """What a stream's encoding cannot hold (a lone surrogate in UTF-8) is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
