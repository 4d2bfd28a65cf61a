"""From the command line to an exit status: errors become one line that says what to do."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NoReturn

import typer

from accord import is_follower, processes
from accord.cli.app import app
from accord.errors import AccordError

# The base of usage errors, whether this typer carries a copy of click or uses the package.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point: runs a command and turns errors into one line and an exit status."""
    try:
        _main(arguments)
    except SystemExit as leaving:
        if sys.modules.get("accord.training.distributed") and os.environ.get("WORLD_SIZE", "1") != "1":
            # Threads of the communication library that still wind down can abort Python's own shutdown.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(leaving.code or 0))
        raise


def _main(arguments: Sequence[str] | None) -> NoReturn:
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in given
    command = next((a for a in given if a != "--debug"), "--help")
    if not command.startswith("-") and command not in commands():
        print(_unknown(command), file=sys.stderr)
        sys.exit(2)
    try:
        with nullcontext() if command.startswith("-") else processes(command):
            status = app([a for a in given if a != "--debug"], prog_name="accord", standalone_mode=False)
    except Exception as error:
        line, status = _explain(error)
        if _told_elsewhere(error) and not debug:
            sys.exit(2)
        if not line:
            raise  # a defect of Accord: the traceback is what its report needs
        if debug:
            import traceback

            traceback.print_exception(error)
        print(f"accord: {line}", file=sys.stderr)
        sys.exit(status)
    if status == 130:  # typer's word for Ctrl-C
        print("accord: stopped", file=sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)


def commands() -> dict[str, str]:
    """Every command, with the one line that says what it does."""
    found = {}
    for command in app.registered_commands:
        assert command.callback is not None
        text = command.help or command.callback.__doc__ or ""
        found[command.name or command.callback.__name__] = text.strip().splitlines()[0]
    return found


def _unknown(command: str) -> str:
    """The one error of several lines: which commands there are, and the one that was meant first."""
    import difflib

    known = commands()
    close = difflib.get_close_matches(command.lower().replace("_", "-"), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "there are:"
    lines = [f"accord: no command {command!r}; {hint}", *(f"  {n:<14} {text}" for n, text in known.items())]
    return "\n".join(lines)


def _told_elsewhere(error: Exception) -> bool:
    """Whether another process of this run is the one that says what went wrong."""
    training = sys.modules.get("accord.training.distributed")
    if training is None:  # not even joined: all processes meet the same error
        return is_follower()
    return isinstance(error, training.PeerFailedError)


def _explain(error: Exception) -> tuple[str, int]:
    """One line that says what to do, and the exit status; an empty line for what no user can mend."""
    training = sys.modules.get("accord.training.run")  # without it nothing was there to interrupt
    if training is not None and isinstance(error, training.InterruptedRunError):
        return str(error), 130
    if isinstance(error, AccordError):
        return " ".join(str(error).split()), 2
    if isinstance(error, UsageError):
        where = error.ctx.command_path if getattr(error, "ctx", None) else "accord"  # type: ignore[attr-defined]
        return f"{error.format_message()} See `{where} --help`.", 2  # type: ignore[attr-defined]
    if isinstance(error, typer.Abort):
        if isinstance(error.__cause__, EOFError):
            return "the input ended; what was answered is kept, and the same command goes on from there", 2
        return "stopped", 130
    # safetensors reports a full disk as an error of its own kind
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        where = getattr(error, "filename", None) or "the disk"
        return f"{where}: no space left; make room and run the same command again", 2
    if isinstance(error, OSError):
        return (
            f"{error.filename or 'the system'}: {error.strerror or error}; check the path and its rights",
            2,
        )
    return "", 1
