"""How a command ends: every error becomes one clear message on stderr and an exit code."""

import errno
import os
import sys
import tempfile
import traceback
from importlib.metadata import version
from typing import Any

import typer
from typer.core import TyperCommand

from ..ir.errors import PassError, PlanishError, UsageError, printable
from ..ir.files import NOT_OURS, refusal
from . import interrupts
from .output import set_verbosity

INTERRUPTED = 130
_OPTIONAL = ("--print-ir-before", "--print-ir-after")
_VERBOSITY = {"-q": -1, "--quiet": -1, "-v": 1, "--verbose": 1}


class GuardedCommand(TyperCommand):
    """A command whose errors end it with the exit codes of docs/errors.md."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take a bare `--print-ir-after` for `--print-ir-after=*`, and the program's `-q` and `-v` behind a command."""
        for arg in args:
            if arg in _VERBOSITY:
                set_verbosity(_VERBOSITY[arg])
        rest = [f"{arg}=*" if arg in _OPTIONAL else arg for arg in args if arg not in _VERBOSITY]
        return super().parse_args(ctx, rest)

    def invoke(self, ctx: Any) -> Any:
        with interrupts.noted():
            try:
                return super().invoke(ctx)
            except (typer.Exit, typer.Abort):
                raise
            except Exception as error:
                raise _told(error) from error
            except KeyboardInterrupt as error:
                raise _ended("interrupted", INTERRUPTED) from error


def _told(error: Exception) -> Exception:
    """Tell an error; return the exception that ends the command in its place."""
    if interrupts.is_interrupted():
        return _ended("interrupted", INTERRUPTED)
    if isinstance(error, PassError):
        return _ended(f"{error}\n{_written(error)}", error.exit_code)
    if isinstance(error, PlanishError):
        return _ended(str(error), error.exit_code)
    if (
        isinstance(error, OSError) and error.errno == errno.EPIPE
    ):  # whoever read our output has gone; typer ends quietly
        return error
    if isinstance(error, OSError) and error.errno in NOT_OURS:
        return _ended(refusal(error, "a file"), UsageError.exit_code)
    return _bug(error)


def _ended(message: str, code: int) -> typer.Exit:
    head = "error: " if os.environ.get("NO_COLOR") else typer.style("error: ", fg="red", bold=True)
    typer.echo(head + printable(message), err=True)
    return typer.Exit(code)


def _bug(error: Exception) -> typer.Exit:
    """Ask for what is needed to reproduce a bug of ours."""
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    return _ended(
        f"{type(error).__name__}: {error}{notes}\n"
        f"This is a bug in planish. Please report it with the command. {_written(error)}",
        PlanishError.exit_code,
    )


def _written(error: Exception) -> str:
    """A text that says which file holds the command and the traceback, or holds both if none can be written."""
    text = f"planish {version('planish')}, Python {sys.version}\n{' '.join(sys.argv)}\n\n"
    text += "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="planish-crash-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
    except OSError as failure:
        return f"No file could be written with the traceback ({failure.strerror}):\n{text}"
    return f"The traceback is in {file.name}."
