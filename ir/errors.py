"""Errors that a user can mend: each says what and where, and carries the exit code that the command line ends with."""

import sysconfig
import traceback

_HEAD, _TAIL = 6000, 2000


def printable(text: str) -> str:
    """Make a text fit for a terminal or a log: escape what isn't printable, and shorten a long text in the middle.

    Names in a model or a recipe are its author's, who may not be a friend.
    """
    if len(text) > _HEAD + _TAIL:
        text = f"{text[:_HEAD]} ... {len(text) - _HEAD - _TAIL:,} characters more ... {text[-_TAIL:]}"
    if text.replace("\n", "").isprintable():
        return text
    return "".join(it if it.isprintable() or it == "\n" else ascii(it)[1:-1] for it in text)


def describe(error: BaseException) -> str:
    """An exception in one line, with the file and line of the user's that raised it or called what did."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    libraries = ("<frozen", "site-packages", sysconfig.get_path("stdlib"))
    *_, frame = [it for it in frames if not any(part in it.filename for part in libraries)] or frames
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}{f': {first}' if first else ''} ({frame.filename}:{frame.lineno})"


class PlanishError(Exception):
    """The base of every error that isn't a bug of ours; as a text it is fit to print, whatever files it quotes."""

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class PassError(PlanishError):
    """A pass or a rule that isn't planish's own, and crashed: a bug of its author's. The cause is what it raised."""

    exit_code = 1


class UsageError(PlanishError):
    """A wrong option, an unknown pass, target or key, a bad recipe."""

    exit_code = 2


class ModelError(PlanishError):
    """A model or data that can't be used: a broken file, an unknown operator, a wrong shape, NaN weights."""

    exit_code = 3


class CheckError(PlanishError):
    """A graph that is malformed, or that no longer means what its source meant."""

    exit_code = 4


class BudgetError(PlanishError):
    """An artifact that is right, but misses a budget of its recipe, or a bound of a comparison."""

    exit_code = 5


class TargetError(PlanishError):
    """Something that the target or the backend can't run."""

    exit_code = 6
