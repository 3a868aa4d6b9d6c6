"""How a command ends: every error becomes one clear message on stderr and an exit code."""

import errno
import sys
import tempfile
import traceback
from importlib.metadata import version
from typing import Any

import typer
from typer.core import TyperCommand

from ..ir.errors import PassError, PlanishError, printable

INTERRUPTED = 130
_OPTIONAL = ("--print-ir-before", "--print-ir-after")
_NOT_OURS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
}
"""What a folder or a name is to blame for."""


class GuardedCommand(TyperCommand):
    """A command whose errors end it with the exit codes of docs/errors.md."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take a bare `--print-ir-after` for `--print-ir-after=*`: an option whose value may be left out."""
        return super().parse_args(ctx, [f"{arg}=*" if arg in _OPTIONAL else arg for arg in args])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except PassError as error:
            raise _ended(f"{error}\nThe traceback is in {_written(error)}.", error.exit_code) from error
        except PlanishError as error:
            raise _ended(str(error), error.exit_code) from error
        except KeyboardInterrupt as error:
            raise _ended("interrupted", INTERRUPTED) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read our output has gone; typer ends quietly
                raise
            if error.errno in _NOT_OURS:
                raise _ended(f"{error.filename or 'a file'}: {error.strerror}", 2) from error
            raise _bug(error) from error
        except Exception as error:
            raise _bug(error) from error


def _ended(message: str, code: int) -> typer.Exit:
    typer.echo(typer.style("error: ", fg="red", bold=True) + printable(message), err=True)
    return typer.Exit(code)


def _bug(error: Exception) -> typer.Exit:
    """Ask for what is needed to reproduce a bug of ours."""
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    return _ended(
        f"{type(error).__name__}: {error}{notes}\nThis is a bug in planish. Please report it with the file "
        f"{_written(error)}, which holds the command and the traceback.",
        PlanishError.exit_code,
    )


def _written(error: Exception) -> str:
    """The path of a file with the command and the traceback."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="planish-crash-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(f"planish {version('planish')}, Python {sys.version}\n{' '.join(sys.argv)}\n\n")
        file.write("".join(traceback.format_exception(error)))
    return file.name
